//! The whole surface a backend implements: backend, device, plan, queue.
//!
//! Plain data goes in, trait objects come out. `hal` has validated, lowered and placed every program
//! before [`Device::compile`] sees it: backends assume valid input and check nothing twice.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::op::Op;
use crate::profile::Sink;
use crate::program::Program;
use crate::tensor::{Buffer, Tensor};
use crate::weight::{SharedBytes, Weight, WeightSource, WeightSpec, WeightSupport};

/// A kind of hardware.
pub trait Backend: Send + Sync {
    /// Name in device names: `cpu`, `cuda`, `wgpu`, `ascend`.
    fn name(&self) -> &'static str;

    /// The devices there are. An absent driver is an empty list, not an error.
    ///
    /// # Errors
    /// `Driver` if a driver is there and fails.
    fn devices(&self) -> Result<Vec<DeviceInfo>>;

    /// Why there are no devices, or what is odd about those there are; one finding per line, for
    /// `hadal doctor`.
    fn doctor(&self) -> Vec<String>;

    /// Opens one.
    ///
    /// # Errors
    /// `NotFound` for an ordinal out of range, `InvalidProgram` for an unknown setting.
    fn open(&self, ordinal: u32, options: &OpenOptions) -> Result<Arc<dyn Device>>;
}

/// An open device. All methods may be called from any thread.
pub trait Device: Send + Sync {
    /// What it is.
    fn info(&self) -> &DeviceInfo;

    /// Its bounds.
    fn limits(&self) -> &Limits;

    /// True if it executes this op natively. Looks at dtypes, widths, codecs and encodings, never at
    /// the number of rows: a fused op for decode and its lowering for prefill would break state
    /// exactness.
    fn supports(&self, op: &Op) -> bool;

    /// What it does with a weight of this spec.
    fn weight_support(&self, spec: &WeightSpec) -> WeightSupport;

    /// Allocates zeroed memory.
    ///
    /// # Errors
    /// `OutOfMemory` naming the label and the size.
    fn alloc(&self, desc: &BufferDesc<'_>) -> Result<Buffer>;

    /// A read-only buffer with these bytes: embedding tables, gains, biases. A device that shares
    /// the host's memory keeps them in place.
    ///
    /// # Errors
    /// `OutOfMemory` naming the label and the size.
    fn constant(&self, label: &str, bytes: SharedBytes) -> Result<Buffer>;

    /// Loads a weight into the layout the device likes.
    ///
    /// # Errors
    /// `Unsupported` if `weight_support` says so, `OutOfMemory`, `Io` from the source.
    fn load_weight(&self, source: &mut dyn WeightSource) -> Result<Weight>;

    /// Compiles a program of supported ops in real buffers. Called by [`crate::compile`] only.
    ///
    /// # Errors
    /// `OutOfMemory` for workspaces, `Driver` from a kernel compiler.
    fn compile(&self, program: &Program, options: &CompileOptions) -> Result<Arc<dyn Plan>>;

    /// A queue of its own timeline.
    ///
    /// # Errors
    /// `Driver` if the device has no further queue of the kind.
    fn queue(&self, kind: QueueKind) -> Result<Arc<dyn Queue>>;

    /// Host memory that transfers are fastest from.
    ///
    /// # Errors
    /// `OutOfMemory`.
    fn host_slot(&self, bytes: u64) -> Result<HostSlot> {
        Ok(HostSlot::new(Box::new(vec![0u8; bytes as usize])))
    }

    /// Waits until what the device does by itself behind a load is done. Nothing needs it but who measures.
    fn settle(&self) {}

    /// Memory in use.
    fn memory(&self) -> MemoryReport;

    /// The arithmetic class of this device (law 8): two devices whose strings differ may differ in
    /// bits; snapshots are loaded only where it is equal.
    fn arithmetic(&self) -> String;
}

/// A compiled program. Owns (by `Arc`) every buffer, weight, workspace and launch parameter it will
/// ever touch: the caller may drop its own handles.
pub trait Plan: Send + Sync {
    /// What compiling gave.
    fn stats(&self) -> PlanStats;
    /// For the backend's own downcast.
    fn as_any(&self) -> &dyn Any;
}

/// An ordered timeline of work. Every submission sees the results of the one before it.
///
/// `after` may name points of other queues of the same device; a point exists only once its work is
/// submitted, so nothing can wait for a signal nobody has sent.
pub trait Queue: Send + Sync {
    /// Queues `plan` behind everything already submitted here and returns at once.
    ///
    /// # Errors
    /// `DeviceLost` only. Every other mistake was rejected when the plan was compiled.
    fn submit(&self, plan: &Arc<dyn Plan>, after: &[Point]) -> Result<Point>;

    /// Copies the slot's bytes to the contiguous rows of `target`; the slot comes back through
    /// [`Queue::reclaim`].
    ///
    /// # Errors
    /// `DeviceLost`; `InvalidProgram` if sizes differ or the rows are strided.
    fn upload(&self, target: &Tensor, source: HostSlot, after: &[Point]) -> Result<Point>;

    /// Copies the contiguous rows of `source` to the slot.
    ///
    /// # Errors
    /// As [`Queue::upload`].
    fn download(&self, source: &Tensor, target: HostSlot, after: &[Point]) -> Result<Point>;

    /// True once everything up to `point` is done.
    ///
    /// # Errors
    /// `DeviceLost`, or the fault of the work, with the plan's label.
    fn poll(&self, point: &Point) -> Result<bool>;

    /// Blocks until everything up to `point` is done.
    ///
    /// # Errors
    /// `Timeout`; `DeviceLost`, or the fault of the work, with the plan's label.
    fn wait(&self, point: &Point, timeout: Duration) -> Result<()>;

    /// Gives the slot that travelled with `point` back.
    ///
    /// # Errors
    /// `InvalidProgram` if the point has not passed or carried no slot.
    fn reclaim(&self, point: &Point) -> Result<HostSlot>;
}

/// A place on a queue's timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Point {
    /// Number of the queue on its device.
    pub queue: u32,
    /// Place on its timeline; the first submission is 1.
    pub value: u64,
}

/// Host bytes, moved into a transfer and moved back out: no mapped pointers.
#[derive(Debug)]
pub struct HostSlot {
    raw: Box<dyn HostMemory>,
}

impl HostSlot {
    /// Wraps a backend's memory.
    pub fn new(raw: Box<dyn HostMemory>) -> Self {
        HostSlot { raw }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.raw.bytes()
    }

    /// The bytes, to fill.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.raw.bytes_mut()
    }
}

/// Memory behind a [`HostSlot`].
pub trait HostMemory: Send + fmt::Debug {
    /// The bytes.
    fn bytes(&self) -> &[u8];
    /// The bytes, to fill.
    fn bytes_mut(&mut self) -> &mut [u8];
}

impl HostMemory for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
    fn bytes_mut(&mut self) -> &mut [u8] {
        self
    }
}

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Name of the backend.
    pub backend: &'static str,
    /// Name of the hardware, and what of it is used (instruction set, driver).
    pub name: String,
    /// Number among the backend's devices.
    pub ordinal: u32,
    /// Memory in bytes; 0 if unknown.
    pub memory_bytes: u64,
}

/// How a device is opened.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Where op timings go.
    pub sink: Option<Arc<dyn Sink>>,
    /// Backend-specific settings by name; an unknown one is an error.
    pub settings: Vec<(String, String)>,
}

/// Bounds of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes one tensor may span.
    pub binding_bytes_max: u64,
    /// Most tensors an op may have (a weight counts 2).
    pub bindings_max: u32,
    /// Most plans alive.
    pub plans_max: u32,
}

/// What memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryKind {
    /// Read and written by plans.
    Device,
    /// Read and written by transfers only.
    Staging,
}

/// A request for memory.
#[derive(Clone, Copy, Debug)]
pub struct BufferDesc<'a> {
    /// Name in errors and reports.
    pub label: &'a str,
    /// Size.
    pub size_bytes: u64,
    /// What it is for.
    pub kind: MemoryKind,
}

/// How a plan is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Every submission resolves its launches anew.
    Eager,
    /// Launches are resolved once and replayed (a captured graph where the device has them).
    Replay,
}

/// Whether a plan measures its ops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// No timing.
    Off,
    /// Begin and end of every op go to the device's sink.
    Ops,
}

/// How a program is compiled.
#[derive(Clone, Debug)]
pub struct CompileOptions {
    /// Name in errors and traces.
    pub label: String,
    /// How the plan is run.
    pub mode: Mode,
    /// Whether it measures.
    pub profile: Profile,
}

/// What a queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueKind {
    /// Plans.
    Compute,
    /// Transfers beside plans.
    Transfer,
}

/// What compiling gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlanStats {
    /// Kernel launches a submission makes.
    pub launches: u32,
    /// Bytes of the plan's own workspaces.
    pub workspace_bytes: u64,
}

/// Memory in use on a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryReport {
    /// Now.
    pub used_bytes: u64,
    /// At the most.
    pub peak_bytes: u64,
}

/// Lowers `program` for `device`, places its temporaries in `arena` (or in one of its own), and
/// compiles it.
///
/// # Errors
/// `Unsupported` naming op, dtypes and site; `OutOfMemory`; `InvalidProgram` if the arena is too small.
pub fn compile(
    device: &dyn Device,
    program: &Program,
    arena: Option<&Buffer>,
    options: &CompileOptions,
) -> Result<Arc<dyn Plan>> {
    let lowered = program.lower(&|op| device.supports(op))?;
    let own;
    let arena = match arena {
        Some(arena) => arena,
        None => {
            let label = format!("scratch of {}", options.label);
            own = device.alloc(&BufferDesc {
                label: &label,
                size_bytes: lowered.arena_bytes().max(1),
                kind: MemoryKind::Device,
            })?;
            &own
        }
    };
    let bound = lowered.bind(arena)?;
    device.compile(&bound, options).map_err(|error| error.context(options.label.clone()))
}

impl Point {
    /// True once `done`, the last finished value of the same queue, has reached this point.
    pub fn passed(&self, done: u64) -> bool {
        self.value <= done
    }
}

/// Checks the size of a transfer; for backends.
///
/// # Errors
/// `InvalidProgram` if the tensor is strided or its bytes are not the slot's.
pub fn check_transfer(tensor: &Tensor, slot: &HostSlot) -> Result<()> {
    let bytes = u64::from(tensor.rows()) * tensor.row_bytes();
    if !tensor.is_contiguous() || bytes != slot.bytes().len() as u64 {
        return Err(Error::invalid(format!(
            "transfer of {} bytes for a tensor of {bytes}{}",
            slot.bytes().len(),
            if tensor.is_contiguous() { "" } else { " in strided rows" }
        )));
    }
    Ok(())
}
