//! The backend and its one device.

use std::sync::Arc;
use std::time::Instant;

use hal::ErrorKind;
use hal::{
    Backend, Buffer, BufferDesc, CompileOptions, Device, DeviceInfo, Error, Limits, MemoryReport,
    Op, OpenOptions, Plan, Program, Queue, QueueKind, Result, SharedBytes, Weight, WeightSource,
    WeightSpec, WeightSupport,
};
use kernels::common::isa::{Isa, Level};
use kernels::common::pool::{Pool, THREADS_MAX};

use crate::huge::Promoter;
use crate::memory::{CpuBuffer, Ledger};
use crate::plan::{CpuPlan, Machine};
use crate::queue::{CpuQueue, Shared};
use crate::{machine, table, weight};

/// The CPU as a kind of hardware: one device.
///
/// Settings of [`Backend::open`]: `threads=N` (default: all the process may use), `isa=scalar`,
/// `isa=avx2`, … (default: the strongest the processor has), `huge_pages=auto` (default), `on`, `off`: whether
/// mapped files of weights are moved to huge pages behind a load, up to half of the memory. `auto` does so where
/// there is one memory node: on more, one thread would move all weights to its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuBackend;

/// How the device is opened.
struct Settings {
    isa: Isa,
    threads: usize,
    /// Bytes of weights that may be moved to huge pages.
    huge_bytes: u64,
}

impl Settings {
    fn parse(options: &OpenOptions) -> Result<Settings> {
        let threads = machine::threads().clamp(1, THREADS_MAX);
        let huge_bytes = machine::huge_bytes(false);
        let mut settings = Settings { isa: Isa::best(), threads, huge_bytes };
        for (name, value) in &options.settings {
            match name.as_str() {
                "threads" => settings.threads = parse_threads(value)?,
                "isa" => settings.isa = parse_isa(value)?,
                "huge_pages" => settings.huge_bytes = parse_huge_pages(value)?,
                _ => {
                    return Err(Error::invalid(format!(
                        "the cpu has no setting {name}; it has threads, isa and huge_pages"
                    )));
                }
            }
        }
        Ok(settings)
    }
}

fn parse_threads(value: &str) -> Result<usize> {
    let threads = value.parse().ok().filter(|threads| (1..=THREADS_MAX).contains(threads));
    threads.ok_or_else(|| {
        Error::invalid(format!("threads={value}: a number from 1 to {THREADS_MAX} is wanted"))
    })
}

fn parse_huge_pages(value: &str) -> Result<u64> {
    match value {
        "auto" => Ok(machine::huge_bytes(false)),
        "on" => Ok(machine::huge_bytes(true)),
        "off" => Ok(0),
        _ => Err(Error::invalid(format!("huge_pages={value}: auto, on or off is wanted"))),
    }
}

fn parse_isa(value: &str) -> Result<Isa> {
    let names: Vec<&str> = Isa::all().map(Isa::name).collect();
    let isa = Level::from_name(value).and_then(Isa::force);
    isa.ok_or_else(|| {
        Error::invalid(format!("isa={value}: this processor has {}", names.join(", ")))
    })
}

fn info(settings: &Settings) -> DeviceInfo {
    let Settings { isa, threads, .. } = settings;
    DeviceInfo {
        backend: "cpu",
        name: format!("{}, {isa}, {threads} threads", machine::processor()),
        ordinal: 0,
        memory_bytes: machine::memory_bytes(),
    }
}

impl Backend for CpuBackend {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        Ok(vec![info(&Settings::parse(&OpenOptions::default())?)])
    }

    fn doctor(&self) -> Vec<String> {
        machine::findings()
    }

    fn open(&self, ordinal: u32, options: &OpenOptions) -> Result<Arc<dyn Device>> {
        if ordinal != 0 {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("cpu:{ordinal}: there is one cpu device, cpu:0"),
            ));
        }
        let settings = Settings::parse(options)?;
        let info = info(&settings);
        let ledger = Arc::new(Ledger::new(info.memory_bytes));
        let machine = Machine {
            info,
            isa: settings.isa,
            pool: Arc::new(Pool::new(settings.threads)),
            ledger,
            promoter: Promoter::new(settings.huge_bytes),
            sink: options.sink.clone(),
            begin: Instant::now(),
        };
        Ok(Arc::new(CpuDevice { machine: Arc::new(machine), shared: Arc::default() }))
    }
}

struct CpuDevice {
    machine: Arc<Machine>,
    shared: Arc<Shared>,
}

/// Nothing here is bound by a descriptor or a table of slots.
const LIMITS: Limits =
    Limits { binding_bytes_max: isize::MAX as u64, bindings_max: u32::MAX, plans_max: u32::MAX };

impl Device for CpuDevice {
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
        self.shared.alive()?;
        let raw = CpuBuffer::zeroed(desc.label, desc.size_bytes, &self.machine.ledger)?;
        Ok(Buffer::Real(Arc::new(raw)))
    }

    fn constant(&self, label: &str, bytes: SharedBytes) -> Result<Buffer> {
        self.shared.alive()?;
        let raw = CpuBuffer::shared(label, bytes, &self.machine.ledger)?;
        Ok(Buffer::Real(Arc::new(raw)))
    }

    fn load_weight(&self, source: &mut dyn WeightSource) -> Result<Weight> {
        self.shared.alive()?;
        weight::load(source, &self.machine)
    }

    fn compile(&self, program: &Program, options: &CompileOptions) -> Result<Arc<dyn Plan>> {
        self.shared.alive()?;
        Ok(Arc::new(CpuPlan::compile(&self.machine, program, options)?))
    }

    fn queue(&self, _kind: QueueKind) -> Result<Arc<dyn Queue>> {
        Ok(Arc::new(CpuQueue::start(&self.shared)?))
    }

    fn settle(&self) {
        self.machine.promoter.settle();
    }

    fn memory(&self) -> MemoryReport {
        self.machine.ledger.report()
    }

    fn arithmetic(&self) -> String {
        format!("cpu/{}", self.machine.isa)
    }
}
