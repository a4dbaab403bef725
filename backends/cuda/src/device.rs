//! The backend, and a device: what is shared by its buffers, plans and queues.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Instant;

use hal::{
    Backend, Buffer, BufferDesc, CompileOptions, Device, DeviceInfo, Error, ErrorKind, HostSlot,
    Limits, MemoryReport, Op, OpenOptions, Plan, Program, Queue, QueueKind, Result, SharedBytes,
    Sink, Weight, WeightSource, WeightSpec, WeightSupport,
};

use crate::driver::{Driver, Facts, Function, Platform, Stream};
use crate::memory::{CudaBuffer, Ledger, Pinned};
use crate::native::Native;
use crate::plan::CudaPlan;
use crate::queue::{CudaQueue, Line};
use crate::source::UNITS;
use crate::transfer::Transfer;
use crate::workspace::Workspace;
use crate::{probe, table, weight};

/// NVIDIA GPUs as a kind of hardware.
///
/// Settings of [`Backend::open`]: `cache=FOLDER` where compiled kernels are kept (`cache=off`: nowhere) and those
/// of [`compile_ahead`](crate::compile_ahead) are found, `nvrtc=FILE` the compiler's library, `overlap=on` lets a
/// kernel get ready while the one before it runs, `join=off` leaves every small launch its own, `wgmma=on` Hopper's
/// products of a warp group, where they give the bits of the others, `bulk=on`, from Hopper on, bulk copies of weights.
#[derive(Clone, Debug)]
pub struct CudaBackend {
    platform: Arc<dyn Platform>,
    joins: bool,
}

impl Default for CudaBackend {
    /// On NVIDIA's driver.
    fn default() -> Self {
        CudaBackend::on(Arc::new(Native::default()))
    }
}

impl CudaBackend {
    /// On another driver: how the layers above it are tested.
    pub fn on(platform: Arc<dyn Platform>) -> Self {
        CudaBackend { platform, joins: true }
    }

    /// Whether small launches are joined to the products before them, unless a setting says otherwise: they are. The
    /// bits are the same.
    pub fn joining(self, joins: bool) -> Self {
        CudaBackend { joins, ..self }
    }
}

/// Settings of the backend itself, and those of its platform.
fn own_settings(
    usual: bool,
    settings: &[(String, String)],
) -> Result<(bool, Vec<(String, String)>)> {
    let (own, others): (Vec<_>, Vec<_>) =
        settings.iter().cloned().partition(|(name, _)| name == "join");
    let joins = own.iter().try_fold(usual, |_, (_, value)| match value.as_str() {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(Error::invalid(format!("cuda has no setting join={value}; it is on or off"))),
    })?;
    Ok((joins, others))
}

fn info(facts: &Facts) -> DeviceInfo {
    DeviceInfo {
        backend: "cuda",
        name: facts.name.clone(),
        ordinal: facts.ordinal,
        memory_bytes: facts.memory_bytes,
    }
}

impl Backend for CudaBackend {
    fn name(&self) -> &'static str {
        "cuda"
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        Ok(self.platform.devices()?.iter().map(info).collect())
    }

    fn doctor(&self) -> Vec<String> {
        self.platform.findings()
    }

    fn open(&self, ordinal: u32, options: &OpenOptions) -> Result<Arc<dyn Device>> {
        if !self.platform.devices()?.iter().any(|facts| facts.ordinal == ordinal) {
            let why = self.platform.findings().join("; ");
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("no device cuda:{ordinal}: {why}"),
            ));
        }
        let (joins, settings) = own_settings(self.joins, &options.settings)?;
        let driver = self.platform.open(ordinal, &settings)?;
        let facts = driver.facts().clone();
        let wide = facts.wide;
        let machine = Machine {
            info: info(&facts),
            ledger: Ledger::new(facts.memory_bytes),
            kernels: load(&*driver)?,
            home: Mutex::new(driver.stream_create()?),
            transfer: Mutex::new(Transfer::new(&driver)?),
            workspace: Mutex::default(),
            lines: Mutex::default(),
            wide: AtomicBool::new(false),
            joins,
            lost: OnceLock::new(),
            sink: options.sink.clone(),
            begin: Instant::now(),
            facts,
            driver,
        };
        let machine = Arc::new(machine);
        if wide {
            probe::widen(&machine)?;
        }
        Ok(Arc::new(CudaDevice { machine }))
    }
}

/// Every kernel there is, so that none is missing later.
fn load(driver: &dyn Driver) -> Result<HashMap<&'static str, Function>> {
    let mut kernels = HashMap::new();
    for unit in &UNITS {
        for &name in unit.kernels {
            kernels.insert(name, driver.function(unit, name)?);
        }
    }
    Ok(kernels)
}

/// What buffers, weights, plans and queues share of their device.
pub(crate) struct Machine {
    pub(crate) info: DeviceInfo,
    pub(crate) facts: Facts,
    pub(crate) driver: Arc<dyn Driver>,
    pub(crate) ledger: Ledger,
    kernels: HashMap<&'static str, Function>,
    /// For what must be done at once: zeros, constants, weights.
    pub(crate) home: Mutex<Stream>,
    /// What weights pass through, kept from one to the next.
    pub(crate) transfer: Mutex<Transfer>,
    /// What plans share; they keep it.
    pub(crate) workspace: Mutex<Weak<Workspace>>,
    /// Every queue there has been, by number.
    pub(crate) lines: Mutex<Vec<Arc<Line>>>,
    /// Many rows go through products of a warp group.
    wide: AtomicBool,
    /// Small launches are joined to the products before them.
    pub(crate) joins: bool,
    lost: OnceLock<String>,
    pub(crate) sink: Option<Arc<dyn Sink>>,
    /// Zero of the device's clock.
    pub(crate) begin: Instant,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cuda:{} {}", self.info.ordinal, self.info.name)
    }
}

impl Machine {
    /// A kernel by name.
    pub(crate) fn kernel(&self, name: &str) -> Function {
        *self.kernels.get(name).expect("the table names kernels of the units, all are loaded")
    }

    pub(crate) fn is_wide(&self) -> bool {
        self.wide.load(Ordering::Relaxed)
    }

    /// Whether many rows go through products of a warp group: while the device is opened, before any plan.
    pub(crate) fn widen(&self, wide: bool) {
        self.wide.store(wide, Ordering::Relaxed);
    }

    /// # Errors
    /// `DeviceLost`, with what lost it, once work has failed.
    pub(crate) fn alive(&self) -> Result<()> {
        match self.lost.get() {
            Some(reason) => Err(Error::device_lost(reason.clone())),
            None => Ok(()),
        }
    }

    /// Remembers that the device is lost, and says so. The first reason stays.
    pub(crate) fn lose(&self, reason: String) -> Error {
        Error::device_lost(self.lost.get_or_init(|| reason).clone())
    }

    /// Passes a driver's answer on: a failure that is not of memory loses the device.
    pub(crate) fn survive<T>(&self, result: Result<T>, what: impl Fn() -> String) -> Result<T> {
        result.map_err(|error| match error.kind() {
            ErrorKind::OutOfMemory => error.context(what()),
            _ => self.lose(format!("{}: {error}", what())),
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let home = *self.home.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.driver.stream_destroy(home);
    }
}

struct CudaDevice {
    machine: Arc<Machine>,
}

/// Raised with every change of a kernel that shows in bits, so that no state saved before it is continued (law 8).
/// 2: attention and index scores on tensor cores.
const ARITHMETIC: u32 = 2;

/// A tensor may span what an allocation may; plans are bounded by the graphs a driver keeps well.
const LIMITS: Limits =
    Limits { binding_bytes_max: i64::MAX as u64, bindings_max: u32::MAX, plans_max: 4096 };

impl Device for CudaDevice {
    fn info(&self) -> &DeviceInfo {
        &self.machine.info
    }

    fn limits(&self) -> &Limits {
        &LIMITS
    }

    fn supports(&self, op: &Op) -> bool {
        table::entry(op).is_some()
    }

    fn weight_support(&self, spec: &WeightSpec) -> WeightSupport {
        weight::support(spec)
    }

    fn alloc(&self, desc: &BufferDesc<'_>) -> Result<Buffer> {
        self.machine.alive()?;
        let raw = CudaBuffer::zeroed(desc.label, desc.size_bytes, &self.machine)?;
        Ok(Buffer::Real(Arc::new(raw)))
    }

    fn constant(&self, label: &str, bytes: SharedBytes) -> Result<Buffer> {
        self.machine.alive()?;
        let raw = CudaBuffer::filled(label, bytes.bytes(), &self.machine)?;
        Ok(Buffer::Real(Arc::new(raw)))
    }

    fn load_weight(&self, source: &mut dyn WeightSource) -> Result<Weight> {
        self.machine.alive()?;
        weight::load(source, &self.machine)
    }

    fn compile(&self, program: &Program, options: &CompileOptions) -> Result<Arc<dyn Plan>> {
        self.machine.alive()?;
        Ok(Arc::new(CudaPlan::compile(&self.machine, program, options)?))
    }

    fn queue(&self, _kind: QueueKind) -> Result<Arc<dyn Queue>> {
        Ok(Arc::new(CudaQueue::start(&self.machine)?))
    }

    fn host_slot(&self, bytes: u64) -> Result<HostSlot> {
        self.machine.alive()?;
        Ok(HostSlot::new(Box::new(Pinned::new(bytes as usize, &self.machine.driver)?)))
    }

    fn memory(&self) -> MemoryReport {
        self.machine.ledger.report()
    }

    fn arithmetic(&self) -> String {
        let (major, minor) = self.machine.facts.compute;
        format!("cuda/{ARITHMETIC}/sm_{major}{minor}")
    }
}
