//! The backend and its devices: adapters opened with what they have, or with the least there is.

use std::sync::Arc;

use hal::{
    Backend, Buffer, BufferDesc, CompileOptions, Device, DeviceInfo, Error, ErrorKind, Limits,
    MemoryReport, Op, OpenOptions, Plan, Program, Queue, QueueKind, Result, SharedBytes, Weight,
    WeightSource, WeightSpec, WeightSupport,
};

use crate::plan::WgpuPlan;
use crate::queue::WgpuQueue;
use crate::shared::{Opened, Shared};
use crate::{adapter, table, weight};

/// Every GPU that wgpu reaches.
///
/// Settings of [`Backend::open`]: `limits=strict` asks for WebGPU's default limits and no feature, as if
/// the adapter had no more; `weight_bytes=N` cuts weights into parts of at most N bytes, `window_bytes=N`
/// lays tables and caches in windows of at most N bytes where there are bindings for it (default of both:
/// what the adapter binds).
#[derive(Clone, Copy, Debug, Default)]
pub struct WgpuBackend;

/// How a device is opened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Settings {
    strict: bool,
    pub(crate) weight_bytes_max: Option<u64>,
    pub(crate) window_bytes_max: Option<u64>,
}

impl Settings {
    fn parse(options: &OpenOptions) -> Result<Settings> {
        let mut settings = Settings::default();
        for (name, value) in &options.settings {
            match (name.as_str(), value.as_str()) {
                ("limits", "strict") => settings.strict = true,
                ("limits", "adapter") => settings.strict = false,
                ("limits", _) => {
                    return Err(Error::invalid(format!(
                        "limits={value}: strict or adapter is wanted"
                    )));
                }
                ("weight_bytes", _) => settings.weight_bytes_max = Some(bytes(name, value)?),
                ("window_bytes", _) => settings.window_bytes_max = Some(bytes(name, value)?),
                _ => {
                    return Err(Error::invalid(format!(
                        "wgpu has no setting {name}; it has limits, weight_bytes and window_bytes"
                    )));
                }
            }
        }
        Ok(settings)
    }
}

/// The number of bytes that a setting has.
fn bytes(name: &str, value: &str) -> Result<u64> {
    let bytes = value.parse().ok().filter(|&bytes: &u64| bytes > 0);
    bytes.ok_or_else(|| Error::invalid(format!("{name}={value}: a number above 0 is wanted")))
}

impl Backend for WgpuBackend {
    fn name(&self) -> &'static str {
        "wgpu"
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        let adapters = adapter::adapters();
        let info = |(ordinal, adapter)| adapter::info(adapter, ordinal, adapter::features(adapter));
        Ok((0..).zip(adapters).map(info).collect())
    }

    fn doctor(&self) -> Vec<String> {
        adapter::findings()
    }

    fn open(&self, ordinal: u32, options: &OpenOptions) -> Result<Arc<dyn Device>> {
        Ok(Arc::new(WgpuDevice { shared: open(ordinal, options)? }))
    }
}

/// Opens an adapter.
pub(crate) fn open(ordinal: u32, options: &OpenOptions) -> Result<Arc<Shared>> {
    let settings = Settings::parse(options)?;
    let adapters = adapter::adapters();
    let adapter = adapters.get(ordinal as usize).ok_or_else(|| {
        let text = format!("wgpu:{ordinal}: there are {} adapters", adapters.len());
        Error::new(ErrorKind::NotFound, text)
    })?;
    let (features, limits) = match settings.strict {
        true => (wgpu::Features::empty(), wgpu::Limits::default()),
        false => (adapter::features(adapter), adapter.limits()),
    };
    let info = adapter::info(adapter, ordinal, features);
    let request = adapter.request_device(&wgpu::DeviceDescriptor {
        label: Some("hadal"),
        required_features: features,
        required_limits: limits,
        ..Default::default()
    });
    let (device, queue) = pollster::block_on(request).map_err(|error| {
        Error::new(ErrorKind::Driver, format!("{}: {error}", info.name)).with_source(error)
    })?;
    let arithmetic = format!("wgpu/{}", adapter::name(adapter));
    Ok(Arc::new(Shared::new(Opened {
        device,
        queue,
        info,
        arithmetic,
        settings,
        sink: options.sink.clone(),
    })))
}

/// An open adapter.
pub(crate) struct WgpuDevice {
    pub(crate) shared: Arc<Shared>,
}

impl Device for WgpuDevice {
    fn info(&self) -> &DeviceInfo {
        &self.shared.info
    }

    fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    fn supports(&self, op: &Op) -> bool {
        table::entry(op).is_some()
    }

    fn weight_support(&self, spec: &WeightSpec) -> WeightSupport {
        weight::support(spec)
    }

    fn alloc(&self, desc: &BufferDesc<'_>) -> Result<Buffer> {
        Ok(Buffer::Real(Arc::new(self.shared.alloc(desc.label, desc.size_bytes)?)))
    }

    fn constant(&self, label: &str, bytes: SharedBytes) -> Result<Buffer> {
        Ok(Buffer::Real(Arc::new(self.shared.filled(label, bytes.bytes())?)))
    }

    fn load_weight(&self, source: &mut dyn WeightSource) -> Result<Weight> {
        weight::load(&self.shared, source)
    }

    fn compile(&self, program: &Program, options: &CompileOptions) -> Result<Arc<dyn Plan>> {
        self.shared.alive()?;
        Ok(Arc::new(WgpuPlan::compile(&self.shared, program, options)?))
    }

    fn queue(&self, _kind: QueueKind) -> Result<Arc<dyn Queue>> {
        Ok(Arc::new(WgpuQueue::new(&self.shared)?))
    }

    fn memory(&self) -> MemoryReport {
        self.shared.ledger.report()
    }

    fn arithmetic(&self) -> String {
        self.shared.arithmetic.clone()
    }
}
