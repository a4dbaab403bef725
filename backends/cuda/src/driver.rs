//! The driver interface: the few calls the safe layer makes of a GPU driver.
//!
//! Everything above it (device, memory, queues, plans) is the same for NVIDIA's driver (`native`), for
//! the one in the tests that executes the same kernels on the CPU, and for one that only writes down
//! what it is asked. So plan, capture and queue logic is tested where there is no GPU.
//!
//! It refuses to know ops, tensors or models: addresses, bytes, streams, events, functions, graphs.

use std::fmt::Debug;
use std::ptr::NonNull;
use std::sync::Arc;

use hal::Result;

use crate::source::Unit;

/// An address in device memory.
pub type Address = u64;

/// An ordered line of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stream(pub u64);

/// A place on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Event(pub u64);

/// A loaded kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Function(pub u64);

/// A captured and instantiated graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Graph(pub u64);

/// What an event is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Order only; cheapest.
    Order,
    /// Time between two of them, too.
    Timing,
}

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Name of the hardware, and what executes it if that is no GPU.
    pub name: String,
    /// Number among the devices.
    pub ordinal: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Compute capability, major and minor.
    pub compute: (u32, u32),
    /// Number of multiprocessors.
    pub processors: u32,
    /// Shared memory one block may ask for, in bytes.
    pub shared_bytes_max: u32,
    /// Products of a warp group (`wgmma`) are there and wanted; a probe decides whether they are used.
    pub wide: bool,
    /// Bulk copies to shared memory are there and wanted.
    pub bulk: bool,
}

/// A resolved kernel launch. All threads lie along x.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The kernel.
    pub function: Function,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
    /// The kernel's one argument, a struct, as 8-byte words.
    pub args: Box<[u64]>,
}

/// Where devices come from.
pub trait Platform: Send + Sync + Debug {
    /// The devices; none where there is no driver.
    ///
    /// # Errors
    /// `Driver` if there is a driver and it fails.
    fn devices(&self) -> Result<Vec<Facts>>;

    /// Why there is none, or what is odd about those there are.
    fn findings(&self) -> Vec<String>;

    /// Opens the device of this number; `settings` are the platform's own.
    ///
    /// # Errors
    /// `NotFound`, `InvalidProgram` for an unknown setting, `Driver`.
    fn open(&self, ordinal: u32, settings: &[(String, String)]) -> Result<Arc<dyn Driver>>;
}

/// An open device. Calls may come from any thread. Errors are `Driver` with the driver's number, unless
/// a call says otherwise; work that was queued fails at `query` and `synchronize`.
#[allow(clippy::missing_errors_doc, reason = "the trait's doc says it once")]
pub trait Driver: Send + Sync + Debug {
    /// What it is.
    fn facts(&self) -> &Facts;

    /// Device memory, aligned to 256 bytes, its content undefined. `OutOfMemory` if there is too little.
    fn alloc(&self, bytes: u64) -> Result<Address>;

    /// Frees what `alloc` gave.
    ///
    /// # Safety
    /// Nothing queued uses it.
    unsafe fn free(&self, address: Address);

    /// Zeroed host memory that transfers are fastest from, aligned to 8 bytes. `OutOfMemory`.
    fn host_alloc(&self, bytes: usize) -> Result<NonNull<u8>>;

    /// Frees what `host_alloc` gave for as many bytes.
    ///
    /// # Safety
    /// Nothing queued uses it.
    unsafe fn host_free(&self, memory: NonNull<u8>, bytes: usize);

    /// Makes a unit of kernels ready (compiles it or takes it from a cache) and gives one of them. A launch
    /// of it may ask for as much dynamic shared memory as the device has for a block.
    fn function(&self, unit: &Unit, name: &str) -> Result<Function>;

    /// A new stream.
    fn stream_create(&self) -> Result<Stream>;

    /// Destroys a stream; work on it is finished first.
    fn stream_destroy(&self, stream: Stream);

    /// Waits for everything on a stream.
    fn synchronize(&self, stream: Stream) -> Result<()>;

    /// A new event, counted as passed until it is recorded.
    fn event_create(&self, kind: EventKind) -> Result<Event>;

    /// Destroys an event.
    fn event_destroy(&self, event: Event);

    /// Puts an event behind everything on a stream.
    fn record(&self, event: Event, stream: Stream) -> Result<()>;

    /// Lets a stream wait for the last place an event was put.
    fn wait_event(&self, stream: Stream, event: Event) -> Result<()>;

    /// True once an event has passed.
    fn query(&self, event: Event) -> Result<bool>;

    /// Nanoseconds between two timing events that have passed.
    fn elapsed_ns(&self, begin: Event, end: Event) -> Result<u64>;

    /// Queues zeros.
    ///
    /// # Safety
    /// The bytes are allocated and stay so until the work is done.
    unsafe fn zero(&self, stream: Stream, target: Address, bytes: u64) -> Result<()>;

    /// Queues a copy from the host.
    ///
    /// # Safety
    /// Both sides have the bytes, stay alive and are used by nobody else until the work is done.
    unsafe fn copy_in(
        &self,
        stream: Stream,
        target: Address,
        source: *const u8,
        bytes: usize,
    ) -> Result<()>;

    /// Queues a copy to the host.
    ///
    /// # Safety
    /// As for `copy_in`.
    unsafe fn copy_out(
        &self,
        stream: Stream,
        target: *mut u8,
        source: Address,
        bytes: usize,
    ) -> Result<()>;

    /// Queues a kernel.
    ///
    /// # Safety
    /// Every address in the arguments is allocated and stays so until the work is done.
    unsafe fn launch(&self, stream: Stream, launch: &Launch) -> Result<()>;

    /// From here on what is queued on `stream` is recorded and not executed.
    fn capture_begin(&self, stream: Stream) -> Result<()>;

    /// Stops recording and makes the recording runnable. Recording stops also if this fails.
    fn capture_end(&self, stream: Stream) -> Result<Graph>;

    /// Queues a recording.
    ///
    /// # Safety
    /// As for `launch`, for every launch recorded.
    unsafe fn graph_launch(&self, stream: Stream, graph: Graph) -> Result<()>;

    /// Frees a recording that is not under way.
    fn graph_free(&self, graph: Graph);
}
