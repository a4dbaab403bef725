//! Plans: a program resolved to closures over raw views, and everything those views point into.

use std::any::Any;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use hal::{
    Access, CompileOptions, DeviceInfo, Error, Mode, Node, OpEvent, Plan, PlanStats, Profile,
    Program, Result, Sink,
};
use kernels::common::isa::Isa;
use kernels::common::pool::Pool;

use crate::huge::Promoter;
use crate::memory::{CpuBuffer, Ledger, buffer_of};
use crate::record::{Record, Room, Scope};
use crate::table::{self, Entry};
use crate::weight;

/// What plans need of their device.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) info: DeviceInfo,
    pub(crate) isa: Isa,
    pub(crate) pool: Arc<Pool>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) promoter: Promoter,
    pub(crate) sink: Option<Arc<dyn Sink>>,
    /// Zero of the device's clock.
    pub(crate) begin: Instant,
}

/// A compiled program.
pub(crate) struct CpuPlan {
    label: String,
    mode: Mode,
    /// Keeps buffers and weights alive; what `Eager` resolves anew.
    program: Program,
    entries: Vec<&'static Entry>,
    records: Vec<Record>,
    scope: Scope,
    workspace: CpuBuffer,
    machine: Arc<Machine>,
    profiled: bool,
    /// Held while the plan runs, by one queue at a time: its workspace has one user. Room for the
    /// events of one submission.
    turn: Mutex<Vec<OpEvent>>,
    /// Op being run, for the message of a fault.
    current: AtomicUsize,
}

impl CpuPlan {
    pub(crate) fn compile(
        machine: &Arc<Machine>,
        program: &Program,
        options: &CompileOptions,
    ) -> Result<CpuPlan> {
        let mut entries = Vec::with_capacity(program.nodes().len());
        let mut scope =
            Scope { isa: machine.isa, pool: Arc::clone(&machine.pool), room: Room::NONE };
        let mut bytes = 0;
        for node in program.nodes() {
            check_memory(node)?;
            let entry = table::entry(&node.op)
                .ok_or_else(|| Error::unsupported(format!("{}: no kernel", place(node))))?;
            bytes = bytes.max((entry.workspace_bytes)(&node.op, &scope));
            entries.push(entry);
        }
        let label = format!("workspace of {}", options.label);
        let workspace = CpuBuffer::zeroed(&label, bytes, &machine.ledger)?;
        scope.room = Room::of(&workspace);
        let records = match options.mode {
            Mode::Eager => Vec::new(),
            Mode::Replay => {
                let pairs = entries.iter().zip(program.nodes());
                pairs.map(|(entry, node)| (entry.record)(&node.op, &scope)).collect()
            }
        };
        let profiled = options.profile == Profile::Ops && machine.sink.is_some();
        let events = Vec::with_capacity(if profiled { entries.len() } else { 0 });
        Ok(CpuPlan {
            label: options.label.clone(),
            mode: options.mode,
            program: program.clone(),
            entries,
            records,
            scope,
            workspace,
            machine: Arc::clone(machine),
            profiled,
            turn: Mutex::new(events),
            current: AtomicUsize::new(0),
        })
    }

    /// Runs every op in order, on this thread and the pool.
    pub(crate) fn run(&self) {
        let mut events = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        match self.profiled {
            true => self.run_profiled(&mut events),
            false => (0..self.entries.len()).for_each(|index| self.run_op(index)),
        }
    }

    fn run_op(&self, index: usize) {
        self.current.store(index, Ordering::Relaxed);
        match self.mode {
            Mode::Replay => self.records[index](),
            Mode::Eager => {
                let op = &self.program.nodes()[index].op;
                (self.entries[index].record)(op, &self.scope)();
            }
        }
    }

    fn run_profiled(&self, events: &mut Vec<OpEvent>) {
        events.clear();
        let clock = || self.machine.begin.elapsed().as_nanos() as u64;
        for (index, node) in self.program.nodes().iter().enumerate() {
            let begin_ns = clock();
            self.run_op(index);
            let op = self.entries[index].kernel;
            events.push(OpEvent { site: node.site, op, begin_ns, end_ns: clock() });
        }
        if let Some(sink) = &self.machine.sink {
            sink.batch(&self.machine.info, events, 0);
        }
    }

    /// Where the plan is: label, site and op.
    pub(crate) fn place(&self) -> String {
        let index = self.current.load(Ordering::Relaxed);
        match self.program.nodes().get(index) {
            Some(node) => format!("{}: {}", self.label, place(node)),
            None => self.label.clone(),
        }
    }
}

impl Plan for CpuPlan {
    fn stats(&self) -> PlanStats {
        PlanStats { launches: self.entries.len() as u32, workspace_bytes: self.scope.room.bytes() }
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl std::fmt::Debug for CpuPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CpuPlan({}, {} ops, {:?})", self.label, self.entries.len(), self.workspace)
    }
}

fn place(node: &Node) -> String {
    format!("{} {}", node.site, node.op.name())
}

/// Every operand lies on this device, and none that is written is a constant: those may be pages of
/// a file that is mapped for reading only.
fn check_memory(node: &Node) -> Result<()> {
    let mut fault = Ok(());
    node.op.operands(&mut |access, tensor| {
        let check = buffer_of(tensor).and_then(|buffer| {
            if access == Access::Read || buffer.is_writable() {
                return Ok(());
            }
            Err(Error::invalid(format!("{tensor:?} is a constant and would be written")))
        });
        if let (Err(error), true) = (check, fault.is_ok()) {
            fault = Err(error);
        }
    });
    node.op.weights(&mut |weight| {
        if let (Err(error), true) = (weight::raw_of(weight).map(|_| ()), fault.is_ok()) {
            fault = Err(error);
        }
    });
    fault.map_err(|error| error.context(place(node)))
}
