//! Plans: a program as calls with fixed addresses, owning memory, descriptors and executors.
//!
//! Phase one of every call runs here, so what an operator refuses is an error of compiling. Submitting
//! is phase two alone, or a replay of the captured graph.

use std::any::Any;
use std::ptr;
use std::sync::{Arc, Mutex};

use hal::capture::{Capturable, Capture};
use hal::{CompileOptions, Error, Mode, Plan, PlanStats, Profile, Program, Result};

use crate::communicator::Exchange;
use crate::memory::{DeviceMemory, memory_of};
use crate::objects::Prepared;
use crate::runtime::{Runtime, lock};
use crate::sys::acl::{aclmdlRI, aclmdlRICaptureMode, aclrtStream};
use crate::table;
use crate::tape::{Item, Tape};

/// One thing a plan does, in order.
enum Step {
    Call(Prepared),
    Exchange(Exchange),
}

/// A compiled program.
pub(crate) struct AscendPlan {
    pub(crate) label: String,
    pub(crate) runtime: Arc<Runtime>,
    /// Keeps buffers and weights alive (law 4).
    _program: Program,
    inner: Mutex<Inner>,
    stats: PlanStats,
}

struct Inner {
    mode: Mode,
    capture: Capture,
    /// Declared before the memory it writes to: dropped first.
    steps: Vec<Step>,
    graph: aclmdlRI,
    workspace: DeviceMemory,
    _temp: DeviceMemory,
    _tables: Vec<Arc<DeviceMemory>>,
}

// SAFETY: handles and addresses, used under the plan's lock with the context bound.
unsafe impl Send for Inner {}

impl AscendPlan {
    /// Records every op, then prepares every call.
    ///
    /// # Errors
    /// `InvalidProgram` for operands of another device, `Unsupported` for an op without an entry,
    /// `OutOfMemory` for scratch and workspace, `Driver` where an operator refuses its operands.
    pub(crate) fn compile(
        program: &Program,
        options: &CompileOptions,
        runtime: &Arc<Runtime>,
    ) -> Result<AscendPlan> {
        runtime.alive()?;
        if options.profile == Profile::Ops {
            return Err(Error::unsupported("ascend: op timings are not measured yet"));
        }
        let mut tape = Tape::new(runtime);
        for node in program.nodes() {
            let at = |error: Error| error.context(format!("{} {}", node.site, node.op.name()));
            operands_are_ours(&node.op, runtime).map_err(at)?;
            tape.begin();
            let entry = table::entry(&node.op, runtime.soc);
            let entry = entry.ok_or_else(|| at(Error::unsupported("no composition for it")))?;
            (entry.record)(&mut tape, &node.op).map_err(at)?;
        }
        let inner = prepare(tape, options.mode, runtime)?;
        let stats = PlanStats {
            launches: inner.steps.len() as u32,
            workspace_bytes: inner.workspace.bytes + inner._temp.bytes,
        };
        Ok(AscendPlan {
            label: options.label.clone(),
            runtime: Arc::clone(runtime),
            _program: program.clone(),
            inner: Mutex::new(inner),
            stats,
        })
    }

    /// Enqueues one run on `stream`. The context is bound.
    pub(crate) fn run(&self, stream: aclrtStream) -> Result<()> {
        let mut inner = lock(&self.inner);
        let mut capture = std::mem::take(&mut inner.capture);
        let mut issue = Issue { inner: &mut inner, runtime: &self.runtime, stream };
        let ran = match issue.inner.mode {
            Mode::Eager => issue.issue(),
            Mode::Replay => capture.run(&mut issue).map(|_| ()),
        };
        inner.capture = capture;
        ran
    }
}

fn operands_are_ours(op: &hal::Op, runtime: &Arc<Runtime>) -> Result<()> {
    let mut fault = Ok(());
    op.operands(&mut |_, tensor| {
        if fault.is_ok() {
            fault = memory_of(tensor, runtime).map(|_| ());
        }
    });
    op.weights(&mut |weight| {
        if fault.is_ok() {
            fault = crate::weight::raw_of(weight, runtime).map(|_| ());
        }
    });
    fault
}

fn prepare(tape: Tape, mode: Mode, runtime: &Arc<Runtime>) -> Result<Inner> {
    let temp = DeviceMemory::new("scratch of a plan", tape.temp_bytes, runtime)?;
    runtime.bind()?;
    let mut steps = Vec::with_capacity(tape.items.len());
    let mut workspace_bytes = 0;
    for item in tape.items {
        steps.push(match item {
            Item::Call(call) => {
                let prepared = Prepared::new(&call, temp.address, runtime)?;
                workspace_bytes = workspace_bytes.max(prepared.workspace_bytes);
                Step::Call(prepared)
            }
            Item::Exchange(exchange) => Step::Exchange(exchange),
        });
    }
    let workspace = DeviceMemory::new("workspace of a plan", workspace_bytes, runtime)?;
    let graph = ptr::null_mut();
    Ok(Inner {
        mode,
        capture: Capture::new(),
        steps,
        graph,
        workspace,
        _temp: temp,
        _tables: tape.tables,
    })
}

impl Plan for AscendPlan {
    fn stats(&self) -> PlanStats {
        self.stats
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// One run on one stream.
struct Issue<'a> {
    inner: &'a mut Inner,
    runtime: &'a Runtime,
    stream: aclrtStream,
}

impl Capturable for Issue<'_> {
    fn warm(&mut self) -> Result<()> {
        self.issue()
    }

    fn begin(&mut self) -> Result<()> {
        let mode = aclmdlRICaptureMode::ACL_MODEL_RI_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is alive and not the default one.
        let code = unsafe { self.runtime.acl().aclmdlRICaptureBegin(self.stream, mode) };
        self.runtime.check(code, "aclmdlRICaptureBegin")
    }

    fn issue(&mut self) -> Result<()> {
        let workspace = self.inner.workspace.address;
        for step in &mut self.inner.steps {
            match step {
                Step::Call(call) => call.run(workspace, self.stream, self.runtime)?,
                Step::Exchange(exchange) => exchange.run(self.stream, self.runtime)?,
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        // SAFETY: same stream and thread as `begin`.
        let code =
            unsafe { self.runtime.acl().aclmdlRICaptureEnd(self.stream, &mut self.inner.graph) };
        self.runtime.check(code, "aclmdlRICaptureEnd")
    }

    fn replay(&mut self) -> Result<()> {
        // SAFETY: the graph and all it touches belong to the plan.
        let code =
            unsafe { self.runtime.acl().aclmdlRIExecuteAsync(self.inner.graph, self.stream) };
        self.runtime.check(code, "aclmdlRIExecuteAsync")
    }

    fn retire(&mut self) {
        // SAFETY: captured once, destroyed once, not in flight.
        let code = unsafe { self.runtime.acl().aclmdlRIDestroy(self.inner.graph) };
        if let Err(error) = self.runtime.check(code, "aclmdlRIDestroy") {
            self.runtime.lose(error.to_string());
        }
    }
}

impl Drop for AscendPlan {
    fn drop(&mut self) {
        if let Err(error) = self.runtime.bind() {
            self.runtime.lose(error.to_string());
            return;
        }
        let inner = self.inner.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut capture = std::mem::take(&mut inner.capture);
        let stream = ptr::null_mut();
        capture.retire(&mut Issue { inner, runtime: &self.runtime, stream });
    }
}
