//! The simulated machine: what exists, what happened before what, what was done wrong.
//!
//! Memory knows which of its bytes were written: a task that reads others fails, poison or not.
//!
//! Device addresses are numbers no process can follow (bit 55 is set), so a host that dereferences one
//! faults, and a host pointer given as a device pointer is found by its range. Memory lies in vectors of
//! the simulator. Order is tracked by vector clocks: every task has a place on its stream, events carry
//! clocks from stream to stream, synchronising carries them to the host. Two tasks that touch the same
//! bytes, one of them writing, must be ordered by these clocks, however they happened to run.
//!
//! Whatever is wrong is written down, and the call that did it answers with the vendor's code.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use backend_ascend::sys::acl::{aclDataType, aclFormat};
use backend_ascend::sys::operators::Operator;

use crate::mutation::Order;
use crate::stream::{Body, StreamState};

/// First device address. Bit 55 set: no user-space pointer of x86-64 or aarch64 is one.
const FIRST_ADDRESS: u64 = 1 << 55;
/// What fresh and freed memory holds: a NaN in every float type, -1 in integers.
pub const POISON: u8 = 0xff;

/// Generations of hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Soc {
    /// Ascend 910B.
    A2,
    /// Ascend 910C.
    A3,
    /// Ascend 950.
    A5,
}

/// How far each stream has come, as somebody knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clock(HashMap<usize, u64>);

impl Clock {
    pub fn of(&self, stream: usize) -> u64 {
        self.0.get(&stream).copied().unwrap_or(0)
    }
    pub fn set(&mut self, stream: usize, value: u64) {
        self.0.insert(stream, value);
    }
    pub fn join(&mut self, other: &Clock) {
        for (&stream, &value) in &other.0 {
            let own = self.0.entry(stream).or_insert(0);
            *own = (*own).max(value);
        }
    }
}

/// A task's use of some bytes.
#[derive(Clone, Debug)]
struct Use {
    stream: usize,
    sequence: u64,
    range: (u64, u64),
    writes: bool,
    what: String,
}

/// Bytes that know whether they were written.
#[derive(Default)]
pub struct Cells {
    bytes: Vec<u8>,
    /// 0 where nobody wrote.
    written: Vec<u8>,
}

thread_local! {
    /// Whether this thread's task read bytes that nobody wrote.
    static UNWRITTEN: Cell<bool> = const { Cell::new(false) };
}

/// Whether a read since the last call met bytes that nobody wrote.
pub fn read_unwritten() -> bool {
    UNWRITTEN.with(|flag| flag.replace(false))
}

impl Cells {
    fn new(size: u64) -> Cells {
        Cells { bytes: vec![POISON; size as usize], written: vec![0; size as usize] }
    }

    /// These bytes; that some were never written is remembered for the task.
    pub fn read(&self, range: Range<usize>) -> &[u8] {
        if self.written[range.clone()].contains(&0) {
            UNWRITTEN.with(|flag| flag.set(true));
        }
        &self.bytes[range]
    }

    pub fn write(&mut self, first: usize, from: &[u8]) {
        self.bytes[first..first + from.len()].copy_from_slice(from);
        self.written[first..first + from.len()].fill(1);
    }
}

/// A block of device memory, or of pinned host memory (whose bytes are the host's).
pub struct Block {
    pub address: u64,
    pub size: u64,
    /// Device it belongs to; none of pinned memory.
    pub device: Option<i32>,
    pub cells: Mutex<Cells>,
    pub freed: Mutex<bool>,
    uses: Mutex<Vec<Use>>,
}

/// Some bytes of a block.
#[derive(Clone)]
pub struct Span {
    pub block: Arc<Block>,
    /// First and one past the last, from the block's begin.
    pub range: (u64, u64),
}

/// A tensor descriptor.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub dims: Vec<i64>,
    pub strides: Vec<i64>,
    pub offset: i64,
    pub dtype: aclDataType,
    pub format: aclFormat,
    pub storage: Vec<i64>,
    pub data: u64,
}

/// A host value.
#[derive(Clone, Copy, Debug)]
pub struct Scalar {
    pub dtype: aclDataType,
    pub value: f64,
}

/// Handles of the operator library.
pub enum Object {
    Tensor(Tensor),
    Scalar(Scalar),
    Ints(Vec<i64>),
    /// Handles of its tensors, which it owns.
    List(Vec<usize>),
    Executor(Arc<crate::executor::Executor>),
}

/// An event: what its last record was.
#[derive(Clone, Default)]
pub struct EventState {
    pub flags: u32,
    pub record: Option<Arc<crate::stream::Mark>>,
    pub clock: Clock,
    pub stream: usize,
}

/// A captured graph.
pub struct Graph {
    pub device: i32,
    pub tasks: Vec<crate::stream::Task>,
}

/// Everything there is.
pub struct Machine {
    pub soc: Soc,
    pub device_count: u32,
    pub memory_bytes: u64,
    pub initialised: bool,
    next: usize,
    next_address: u64,
    /// Device of each context.
    pub contexts: HashMap<usize, i32>,
    pub set_devices: HashMap<i32, u32>,
    pub used_bytes: HashMap<i32, u64>,
    pub streams: HashMap<usize, StreamState>,
    pub events: HashMap<usize, EventState>,
    pub graphs: HashMap<usize, Arc<Graph>>,
    pub objects: HashMap<usize, Object>,
    pub blocks: BTreeMap<u64, Arc<Block>>,
    pub groups: HashMap<usize, Arc<crate::hccl::End>>,
    /// What the host knows to be done.
    pub host: Clock,
    pub violations: Vec<String>,
    /// A file that gets every violation, a line each.
    report: Option<PathBuf>,
    /// Calls until one fails by order of a test.
    pub fail_in: Option<u64>,
    /// A mistake by order of a test.
    pub order: Order,
    /// An operator that answers, by order of a test, as one whose kernels are not installed.
    pub absent: Option<Operator>,
}

static MACHINE: LazyLock<Mutex<Machine>> = LazyLock::new(|| Mutex::new(Machine::new()));

/// The machine, locked.
pub fn machine() -> MutexGuard<'static, Machine> {
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Machine {
    fn new() -> Machine {
        Machine {
            soc: match std::env::var("ACL_SIM_SOC").as_deref() {
                Ok("910c") => Soc::A3,
                Ok("950") => Soc::A5,
                _ => Soc::A2,
            },
            device_count: 1,
            memory_bytes: std::env::var("ACL_SIM_MEMORY_BYTES")
                .ok()
                .and_then(|bytes| bytes.parse().ok())
                .unwrap_or(4 << 30),
            report: std::env::var_os("ACL_SIM_REPORT").map(PathBuf::from),
            initialised: false,
            next: 0,
            next_address: FIRST_ADDRESS,
            contexts: HashMap::new(),
            set_devices: HashMap::new(),
            used_bytes: HashMap::new(),
            streams: HashMap::new(),
            events: HashMap::new(),
            graphs: HashMap::new(),
            objects: HashMap::new(),
            blocks: BTreeMap::new(),
            groups: HashMap::new(),
            host: Clock::default(),
            violations: Vec::new(),
            fail_in: None,
            order: Order::default(),
            absent: None,
        }
    }

    /// Writes down what is wrong.
    pub fn violation(&mut self, what: impl Into<String>) {
        let what = what.into();
        self.note_down(&what);
        self.violations.push(what);
    }

    /// Adds a line to the report, if there is to be one; what cannot be written is on standard error.
    pub fn note_down(&self, line: &str) {
        let Some(path) = &self.report else { return };
        let file = File::options().create(true).append(true).open(path);
        let written = file.and_then(|mut file| writeln!(file, "{line}"));
        if let Err(error) = written {
            eprintln!("{}: {error}: {line}", path.display());
        }
    }

    /// A new handle: never null, never an address, never used twice.
    pub fn handle(&mut self) -> usize {
        self.next += 1;
        0x5100_0000 + self.next * 16
    }

    /// Device memory full of poison.
    pub fn allocate(&mut self, device: i32, size: u64) -> u64 {
        let address = self.next_address;
        // A gap follows every block: what runs past its end is found.
        self.next_address += (size + 4096).next_multiple_of(4096);
        self.insert(address, size, Some(device), Cells::new(size));
        address
    }

    /// Registers pinned host memory.
    pub fn pin(&mut self, address: u64, size: u64) {
        self.insert(address, size, None, Cells::default());
    }

    fn insert(&mut self, address: u64, size: u64, device: Option<i32>, cells: Cells) {
        let block = Block {
            address,
            size,
            device,
            cells: Mutex::new(cells),
            freed: Mutex::new(false),
            uses: Mutex::new(Vec::new()),
        };
        self.blocks.insert(address, Arc::new(block));
    }

    /// The block that holds `bytes` bytes at `address`.
    pub fn find(&self, address: u64, bytes: u64) -> Option<Span> {
        let (_, block) = self.blocks.range(..=address).next_back()?;
        let first = address - block.address;
        let inside = first + bytes <= block.size;
        inside.then(|| Span { block: Arc::clone(block), range: (first, first + bytes) })
    }

    /// Device memory at `address`, or what is wrong with it.
    pub fn device_span(&self, address: u64, bytes: u64, device: i32) -> Result<Span, String> {
        let span = self.find(address, bytes).filter(|span| span.block.device.is_some());
        let Some(span) = span else {
            let kind = if address < FIRST_ADDRESS { "a host pointer" } else { "no live memory" };
            return Err(format!("{address:#x}+{bytes} is {kind}, device memory is due"));
        };
        if span.block.device != Some(device) {
            return Err(format!("{address:#x} lies on device {:?}", span.block.device));
        }
        Ok(span)
    }

    /// Frees a block: whatever still uses it must be known to be done.
    pub fn free(&mut self, address: u64, pinned: bool) -> bool {
        let block = self.blocks.get(&address).filter(|block| block.device.is_none() == pinned);
        let Some(block) = block.cloned() else {
            self.violation(format!("{address:#x} is freed but was not allocated, or twice"));
            return false;
        };
        self.blocks.remove(&address);
        *lock(&block.freed) = true;
        lock(&block.cells).bytes.fill(POISON);
        if let Some(device) = block.device {
            *self.used_bytes.entry(device).or_default() -= block.size;
        }
        let uses = lock(&block.uses);
        let open = uses.iter().find(|one| self.host.of(one.stream) < one.sequence);
        let text = open.map(|one| format!("memory is freed while {} may still use it", one.what));
        drop(uses);
        match text {
            Some(text) => {
                self.violation(text);
                false
            }
            None => true,
        }
    }

    /// Notes that a task at `sequence` of `stream`, which knows `clock`, uses `spans`; says what is not
    /// ordered before it.
    pub fn note(
        &mut self,
        (stream, sequence): (usize, u64),
        clock: &Clock,
        spans: &[(Span, bool)],
        what: &str,
    ) -> Result<(), String> {
        for (span, writes) in spans {
            let mut uses = lock(&span.block.uses);
            uses.retain(|one| self.host.of(one.stream) < one.sequence);
            for one in uses.iter().filter(|one| one.stream != stream && (one.writes || *writes)) {
                let meets = one.range.0 < span.range.1 && span.range.0 < one.range.1;
                if meets && clock.of(one.stream) < one.sequence {
                    return Err(format!(
                        "{what} and {} on another stream touch the same bytes and nothing orders them",
                        one.what
                    ));
                }
            }
            let same = |one: &&mut Use| {
                one.stream == stream && one.range == span.range && one.writes == *writes
            };
            match uses.iter_mut().find(same) {
                Some(one) => one.sequence = sequence,
                None => uses.push(Use {
                    stream,
                    sequence,
                    range: span.range,
                    writes: *writes,
                    what: what.to_owned(),
                }),
            }
        }
        Ok(())
    }

    /// What was never destroyed, for finalize.
    pub fn leaks(&self) -> Vec<String> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for object in self.objects.values() {
            let kind = match object {
                Object::Tensor(_) => "tensors",
                Object::Scalar(_) => "scalars",
                Object::Ints(_) => "arrays",
                Object::List(_) => "lists",
                Object::Executor(_) => "executors",
            };
            *counts.entry(kind).or_default() += 1;
        }
        counts.insert("contexts", self.contexts.len());
        counts.insert("streams", self.streams.len());
        counts.insert("events", self.events.len());
        counts.insert("graphs", self.graphs.len());
        counts.insert("blocks of memory", self.blocks.len());
        counts.insert("communicators", self.groups.len());
        counts.retain(|_, count| *count > 0);
        counts.iter().map(|(kind, count)| format!("{count} {kind} leaked")).collect()
    }
}

impl Span {
    pub fn read(&self) -> Vec<u8> {
        lock(&self.block.cells).read(self.range.0 as usize..self.range.1 as usize).to_vec()
    }

    pub fn write(&self, from: &[u8]) {
        debug_assert_eq!(from.len() as u64, self.range.1 - self.range.0);
        lock(&self.block.cells).write(self.range.0 as usize, from);
    }

    /// A task that does nothing to it but fill it.
    pub fn filling(self, value: u8) -> Body {
        Arc::new(move || {
            let size = (self.range.1 - self.range.0) as usize;
            self.write(&vec![value; size]);
            Ok(())
        })
    }
}
