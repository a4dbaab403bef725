//! The backend and its one device.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use hal::{
    Backend, Buffer, BufferDesc, CompileOptions, Device, DeviceInfo, Error, ErrorKind, Limits,
    MemoryReport, Op, OpenOptions, Plan, Program, Queue, QueueKind, Result, SharedBytes, Weight,
    WeightSource, WeightSpec, WeightSupport,
};

use crate::memory::{Ledger, NullBuffer};
use crate::plan::NullPlan;
use crate::queue::NullQueue;
use crate::{table, weight};

/// Memory the device claims to have. Nothing is taken from the host until it is written.
const MEMORY_BYTES: u64 = 1 << 40;

/// The null device as a kind of hardware: one device, always there. It has no settings.
#[derive(Clone, Copy, Debug, Default)]
pub struct NullBackend;

fn info() -> DeviceInfo {
    DeviceInfo {
        backend: "null",
        name: "executes nothing".into(),
        ordinal: 0,
        memory_bytes: MEMORY_BYTES,
    }
}

impl Backend for NullBackend {
    fn name(&self) -> &'static str {
        "null"
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        Ok(vec![info()])
    }

    fn doctor(&self) -> Vec<String> {
        vec!["the null device executes nothing: its answers mean nothing".into()]
    }

    fn open(&self, ordinal: u32, options: &OpenOptions) -> Result<Arc<dyn Device>> {
        if ordinal != 0 {
            let text = format!("null:{ordinal}: there is one null device, null:0");
            return Err(Error::new(ErrorKind::NotFound, text));
        }
        if let Some((name, _)) = options.settings.first() {
            return Err(Error::invalid(format!("the null device has no setting {name}")));
        }
        let ledger = Arc::new(Ledger::new(MEMORY_BYTES));
        Ok(Arc::new(NullDevice { info: info(), ledger, queues: AtomicU32::new(0) }))
    }
}

struct NullDevice {
    info: DeviceInfo,
    ledger: Arc<Ledger>,
    queues: AtomicU32,
}

/// WebGPU's defaults, the narrowest there are: what runs here fits anywhere.
const LIMITS: Limits = Limits { binding_bytes_max: 1 << 27, bindings_max: 8, plans_max: 4096 };

impl Device for NullDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
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
        let raw = NullBuffer::zeroed(desc.label, desc.size_bytes, &self.ledger)?;
        Ok(Buffer::Real(Arc::new(raw)))
    }

    fn constant(&self, label: &str, bytes: SharedBytes) -> Result<Buffer> {
        let raw = NullBuffer::filled(label, bytes.bytes(), &self.ledger)?;
        Ok(Buffer::Real(Arc::new(raw)))
    }

    fn load_weight(&self, source: &mut dyn WeightSource) -> Result<Weight> {
        weight::load(source, &self.ledger)
    }

    fn compile(&self, program: &Program, _options: &CompileOptions) -> Result<Arc<dyn Plan>> {
        Ok(Arc::new(NullPlan::compile(program)?))
    }

    fn queue(&self, _kind: QueueKind) -> Result<Arc<dyn Queue>> {
        Ok(Arc::new(NullQueue::new(self.queues.fetch_add(1, Ordering::Relaxed))))
    }

    fn memory(&self) -> MemoryReport {
        self.ledger.report()
    }

    fn arithmetic(&self) -> String {
        "null".into()
    }
}
