//! Plans: a program resolved to launches, everything they touch, and the graph they are captured in.

use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use hal::capture::{Capturable, Capture};
use hal::{
    Access, CompileOptions, Error, Mode, Node, OpEvent, Plan, PlanStats, Profile, Program, Result,
    Site,
};

use crate::device::Machine;
use crate::driver::{EventKind, Graph, Launch, Stream};
use crate::memory::{buffer_of, lock};
use crate::queue::Mark;
use crate::record::Scope;
use crate::record::join::{Joiner, Room};
use crate::table;
use crate::weight;
use crate::workspace::{Turn, Workspace};

/// An op and its launches.
struct Step {
    site: Site,
    op: &'static str,
    launches: Range<usize>,
}

/// Marks around every op of a plan that measures.
struct Timing {
    marks: Vec<Mark>,
    /// Times of a submission not yet given to the sink; when it was made.
    pending: Option<u64>,
    /// Room for the events of one submission.
    events: Vec<OpEvent>,
}

/// What changes from one submission to the next.
struct State {
    capture: Capture,
    graph: Option<Graph>,
    timing: Option<Timing>,
}

/// A compiled program.
pub(crate) struct CudaPlan {
    label: String,
    mode: Mode,
    launches: Vec<Launch>,
    steps: Vec<Step>,
    state: Mutex<State>,
    workspace: Arc<Workspace>,
    /// What of it this plan needs.
    workspace_bytes: u64,
    /// Keeps buffers and weights alive (law 4).
    _program: Program,
    machine: Arc<Machine>,
}

impl CudaPlan {
    /// Resolves every op to its launches.
    ///
    /// # Errors
    /// `InvalidProgram` for operands of another device, `OutOfMemory` for the workspace.
    pub(crate) fn compile(
        machine: &Arc<Machine>,
        program: &Program,
        options: &CompileOptions,
    ) -> Result<CudaPlan> {
        let mut entries = Vec::with_capacity(program.nodes().len());
        let joins = machine.joins;
        let mut scope = Scope { machine, workspace: 0, joins, counters: 0, rounded: None };
        let mut bytes = 0;
        for node in program.nodes() {
            check_memory(node, machine)?;
            let entry = table::entry(&node.op)
                .ok_or_else(|| Error::unsupported(format!("{}: no kernel", place(node))))?;
            bytes = bytes.max((entry.workspace_bytes)(&node.op, &scope));
            entries.push(entry);
        }
        let room = Room::of(program.nodes(), &scope, bytes);
        bytes += room.bytes();
        let label = format!("workspace of {}", options.label);
        let workspace = Workspace::of(&label, bytes, machine)?;
        scope.counters = workspace.address();
        scope.workspace = workspace.address() + room.bytes();
        let (mut launches, mut steps) = (Vec::new(), Vec::with_capacity(entries.len()));
        let mut joiner = Joiner::new(program.nodes(), &entries, scope, room);
        for (at, node) in program.nodes().iter().enumerate() {
            let first = launches.len();
            // A kernel of no blocks is no launch.
            let made = joiner.record(at).into_iter();
            launches.extend(made.filter(|launch| !launch.grid.contains(&0)));
            let range = first..launches.len();
            steps.push(Step { site: node.site, op: node.op.name(), launches: range });
        }
        let timing = match options.profile {
            Profile::Ops if machine.sink.is_some() => Some(Timing::new(machine, steps.len())?),
            _ => None,
        };
        let capture = Capture::new();
        Ok(CudaPlan {
            label: options.label.clone(),
            mode: options.mode,
            launches,
            steps,
            state: Mutex::new(State { capture, graph: None, timing }),
            workspace,
            workspace_bytes: bytes,
            _program: program.clone(),
            machine: Arc::clone(machine),
        })
    }

    /// Name in errors.
    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    pub(crate) fn is_of(&self, machine: &Arc<Machine>) -> bool {
        Arc::ptr_eq(&self.machine, machine)
    }

    /// The right to run on a queue: behind the last run of any plan that shares its workspace.
    pub(crate) fn turn(&self, queue: u32, stream: Stream) -> Result<Turn<'_>> {
        self.workspace.take(queue, stream, &self.machine)
    }

    /// Queues the plan once, eagerly or from its graph. The caller has the turn, and holds the plan until it has
    /// passed.
    pub(crate) fn issue_on(&self, stream: Stream) -> Result<()> {
        let mut state = lock(&self.state);
        if state.timing.is_some() {
            return self.issue_timed(&mut state, stream);
        }
        if self.mode == Mode::Eager || self.launches.is_empty() {
            return self.issue(stream, 0..self.launches.len());
        }
        let State { capture, graph, .. } = &mut *state;
        capture.run(&mut Session { plan: self, stream, graph }).map(|_| ())
    }

    /// A submission has passed: its times go to the sink.
    pub(crate) fn passed(&self) {
        let mut state = lock(&self.state);
        if let Some(timing) = &mut state.timing {
            timing.deliver(self);
        }
    }

    fn issue(&self, stream: Stream, range: Range<usize>) -> Result<()> {
        for launch in &self.launches[range] {
            // SAFETY: addresses in the arguments lie in buffers and weights that the program and the
            // workspace keep, and the queue holds the plan until the work has passed.
            unsafe { self.machine.driver.launch(stream, launch)? };
        }
        Ok(())
    }

    fn issue_timed(&self, state: &mut State, stream: Stream) -> Result<()> {
        let driver = &self.machine.driver;
        let timing = state.timing.as_mut().expect("asked by the caller");
        if timing.pending.is_some() {
            // Its marks are in use: measuring is not meant to be fast.
            driver.synchronize(stream)?;
            timing.deliver(self);
        }
        driver.record(timing.marks[0].event(), stream)?;
        for (step, mark) in self.steps.iter().zip(&timing.marks[1..]) {
            self.issue(stream, step.launches.clone())?;
            driver.record(mark.event(), stream)?;
        }
        timing.pending = Some(self.machine.begin.elapsed().as_nanos() as u64);
        Ok(())
    }
}

impl Timing {
    fn new(machine: &Machine, steps: usize) -> Result<Timing> {
        let mark = |_| Mark::new(EventKind::Timing, &machine.driver);
        let marks = (0..=steps).map(mark).collect::<Result<Vec<_>>>()?;
        Ok(Timing { marks, pending: None, events: Vec::with_capacity(steps) })
    }

    fn deliver(&mut self, plan: &CudaPlan) {
        let (Some(begin), Some(sink)) = (self.pending.take(), &plan.machine.sink) else { return };
        let since = |mark: &Mark| {
            let elapsed = plan.machine.driver.elapsed_ns(self.marks[0].event(), mark.event());
            elapsed.map(|elapsed| begin + elapsed)
        };
        self.events.clear();
        let mut dropped = 0;
        for (step, marks) in plan.steps.iter().zip(self.marks.windows(2)) {
            match (since(&marks[0]), since(&marks[1])) {
                (Ok(begin_ns), Ok(end_ns)) => {
                    self.events.push(OpEvent { site: step.site, op: step.op, begin_ns, end_ns });
                }
                _ => dropped += 1,
            }
        }
        sink.batch(&plan.machine.info, &self.events, dropped);
    }
}

/// A plan being captured or replayed on a stream.
struct Session<'a> {
    plan: &'a CudaPlan,
    stream: Stream,
    graph: &'a mut Option<Graph>,
}

impl Capturable for Session<'_> {
    fn warm(&mut self) -> Result<()> {
        // Modules and workspaces were made when the plan was compiled.
        self.issue()
    }

    fn begin(&mut self) -> Result<()> {
        self.plan.machine.driver.capture_begin(self.stream)
    }

    fn issue(&mut self) -> Result<()> {
        self.plan.issue(self.stream, 0..self.plan.launches.len())
    }

    fn end(&mut self) -> Result<()> {
        *self.graph = Some(self.plan.machine.driver.capture_end(self.stream)?);
        Ok(())
    }

    fn replay(&mut self) -> Result<()> {
        let graph = self.graph.expect("captured before it is replayed");
        // SAFETY: as in `CudaPlan::issue`.
        unsafe { self.plan.machine.driver.graph_launch(self.stream, graph) }
    }

    fn retire(&mut self) {
        if let Some(graph) = self.graph.take() {
            self.plan.machine.driver.graph_free(graph);
        }
    }
}

impl Drop for CudaPlan {
    fn drop(&mut self) {
        // Queues hold a plan until it has passed: the graph is not under way.
        if let Some(graph) = lock(&self.state).graph.take() {
            self.machine.driver.graph_free(graph);
        }
    }
}

impl Plan for CudaPlan {
    fn stats(&self) -> PlanStats {
        PlanStats { launches: self.launches.len() as u32, workspace_bytes: self.workspace_bytes }
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl fmt::Debug for CudaPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CudaPlan({}, {} launches)", self.label, self.launches.len())
    }
}

fn place(node: &Node) -> String {
    format!("{} {}", node.site, node.op.name())
}

/// Every operand lies here, and what is written may be.
fn check_memory(node: &Node, machine: &Arc<Machine>) -> Result<()> {
    let mut fault = Ok(());
    node.op.operands(&mut |access, tensor| {
        let check = buffer_of(tensor, machine).and_then(|buffer| {
            let allowed = access == Access::Read || buffer.is_writable();
            let constant =
                || Error::invalid(format!("{tensor:?} is a constant and would be written"));
            allowed.then_some(()).ok_or_else(constant)
        });
        if let (Err(error), true) = (check, fault.is_ok()) {
            fault = Err(error);
        }
    });
    node.op.weights(&mut |weight| {
        if let (Err(error), true) = (weight::raw_of(weight, machine).map(|_| ()), fault.is_ok()) {
            fault = Err(error);
        }
    });
    fault.map_err(|error| error.context(place(node)))
}
