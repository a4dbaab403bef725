//! Plans: a program as calls with fixed addresses, owning memory, descriptors and executors.
//!
//! Phase one of every call runs here, so what an operator refuses is an error of compiling; a fused
//! operator that refuses gives way to its composition. Submitting is phase two alone, or a replay of the
//! captured graph. A plan that measures runs eagerly.

use std::any::Any;
use std::ops::Range;
use std::ptr;
use std::sync::{Arc, Mutex};

use hal::capture::{Capturable, Capture};
use hal::{
    CompileOptions, Error, ErrorKind, Mode, Plan, PlanStats, Profile, Program, Result, Site,
};

use crate::communicator::Exchange;
use crate::memory::{DeviceMemory, memory_of};
use crate::objects::Prepared;
use crate::runtime::{Runtime, lock};
use crate::sys::acl::{aclmdlRI, aclmdlRICaptureMode, aclrtStream};
use crate::table;
use crate::tape::{Item, Tape};
use crate::timing::Timing;

/// One thing a plan does, in order.
enum Step {
    Call(Prepared),
    Exchange(Exchange),
}

/// The steps of one op.
pub(crate) struct Span {
    pub(crate) site: Site,
    pub(crate) op: &'static str,
    steps: Range<usize>,
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
    spans: Vec<Span>,
    timing: Option<Timing>,
    graph: aclmdlRI,
    workspace: Arc<DeviceMemory>,
    _temp: Arc<DeviceMemory>,
    /// What of both this plan needs.
    needed_bytes: u64,
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
        let mut tape = Tape::new(runtime);
        for node in program.nodes() {
            let at = |error: Error| error.context(format!("{} {}", node.site, node.op.name()));
            operands_are_ours(&node.op, runtime).map_err(at)?;
            let entry = table::entry(&node.op, runtime);
            let entry = entry.ok_or_else(|| at(Error::unsupported("no composition for it")))?;
            (entry.record)(&mut tape, &node.op).map_err(at)?;
            tape.end(node);
        }
        let mut inner = prepare(tape, options.mode, runtime)?;
        if options.profile == Profile::Ops {
            inner.timing = Timing::new(runtime, inner.spans.len())?;
        }
        let stats =
            PlanStats { launches: inner.steps.len() as u32, workspace_bytes: inner.needed_bytes };
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
        if inner.timing.is_some() {
            return inner.run_timed(stream, &self.runtime);
        }
        let mut capture = std::mem::take(&mut inner.capture);
        let mut issue = Issue { inner: &mut inner, runtime: &self.runtime, stream };
        let ran = match issue.inner.mode {
            Mode::Eager => issue.issue(),
            Mode::Replay => capture.run(&mut issue).map(|_| ()),
        };
        inner.capture = capture;
        ran
    }

    /// A submission has passed.
    pub(crate) fn passed(&self) {
        let Inner { timing, spans, .. } = &mut *lock(&self.inner);
        if let Some(timing) = timing {
            timing.deliver(spans);
        }
    }
}

impl Inner {
    /// Enqueues these steps.
    fn issue(&mut self, steps: Range<usize>, stream: aclrtStream, runtime: &Runtime) -> Result<()> {
        let workspace = self.workspace.address;
        for step in &mut self.steps[steps] {
            match step {
                Step::Call(call) => call.run(workspace, stream, runtime)?,
                Step::Exchange(exchange) => exchange.run(stream, runtime)?,
            }
        }
        Ok(())
    }

    /// Enqueues one run with a mark behind every op.
    fn run_timed(&mut self, stream: aclrtStream, runtime: &Runtime) -> Result<()> {
        let Inner { timing, spans, .. } = self;
        timing.as_mut().expect("asked by the caller").begin(spans, stream)?;
        for number in 0..self.spans.len() {
            self.issue(self.spans[number].steps.clone(), stream, runtime)?;
            let timing = self.timing.as_ref().expect("as above");
            timing.mark(number + 1, stream)?;
        }
        Ok(())
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
    let temp =
        DeviceMemory::shared("scratch of a plan", tape.temp_bytes, &runtime.scratch, runtime)?;
    runtime.bind()?;
    let mut steps = Vec::new();
    let mut spans = Vec::with_capacity(tape.pieces.len());
    for piece in tape.pieces {
        let first = steps.len();
        prepare_items(piece.items, temp.address, runtime, &mut steps)
            .map_err(|error| error.context(format!("{} {}", piece.site, piece.op)))?;
        spans.push(Span { site: piece.site, op: piece.op, steps: first..steps.len() });
    }
    let wanted = |step: &Step| match step {
        Step::Call(call) => call.workspace_bytes,
        Step::Exchange(_) => 0,
    };
    let workspace_bytes = steps.iter().map(wanted).max().unwrap_or(0);
    let label = "workspace of a plan";
    let workspace = DeviceMemory::shared(label, workspace_bytes, &runtime.workspace, runtime)?;
    let graph = ptr::null_mut();
    Ok(Inner {
        mode,
        capture: Capture::new(),
        steps,
        spans,
        timing: None,
        graph,
        workspace,
        needed_bytes: workspace_bytes + tape.temp_bytes,
        _temp: temp,
        _tables: tape.tables,
    })
}

/// Phase one of everything.
fn prepare_items(
    items: Vec<Item>,
    temp: u64,
    runtime: &Runtime,
    steps: &mut Vec<Step>,
) -> Result<()> {
    for item in items {
        match item {
            Item::Call(call) => steps.push(Step::Call(Prepared::new(&call, temp, runtime)?)),
            Item::Exchange(exchange) => steps.push(Step::Exchange(exchange)),
            Item::Either(fused, otherwise) => match Prepared::new(&fused, temp, runtime) {
                Ok(prepared) => steps.push(Step::Call(prepared)),
                Err(error) if error.kind() == ErrorKind::Driver => {
                    prepare_items(otherwise, temp, runtime, steps)?;
                }
                Err(error) => return Err(error),
            },
        }
    }
    Ok(())
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
        let all = 0..self.inner.steps.len();
        self.inner.issue(all, self.stream, self.runtime)
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
