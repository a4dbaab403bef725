//! The backend and its devices.
//!
//! Settings: `weights` is `bf16` (the default: exact) or `int8`, what FP8 and FP4 weights become on
//! hardware without these types; `operators` is `fused` (the default: the vendor's V4 operators where
//! they are there) or `composed`.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use hal::{
    Backend, Buffer, BufferDesc, CompileOptions, Device, DeviceInfo, Error, ErrorKind, HostSlot,
    Limits, MemoryReport, Op, OpenOptions, Plan, Program, Queue, QueueKind, Result, SharedBytes,
    Weight, WeightSource, WeightSpec, WeightSupport,
};

use crate::communicator::{self, AscendCommunicator};
use crate::field;
use crate::load::Search;
use crate::memory::{AscendBuffer, DeviceMemory, Pinned};
use crate::plan::AscendPlan;
use crate::queue::AscendQueue;
use crate::runtime::{Driver, Runtime};
use crate::sys::operators::Operator;
use crate::table;
use crate::weight::{self, Transcode};

/// Ascend NPUs as a kind of hardware. Libraries are opened when first asked for.
pub struct AscendBackend {
    search: Search,
    driver: OnceLock<std::result::Result<Arc<Driver>, String>>,
}

impl AscendBackend {
    /// A backend that looks for its libraries there.
    pub fn new(search: Search) -> AscendBackend {
        AscendBackend { search, driver: OnceLock::new() }
    }

    fn driver(&self) -> std::result::Result<&Arc<Driver>, &str> {
        let driver = self.driver.get_or_init(|| Driver::open(&self.search).map(Arc::new));
        driver.as_ref().map_err(String::as_str)
    }

    /// What is said about this host.
    fn host(&self) -> Vec<String> {
        let Search { toolkit, environment, .. } = &self.search;
        field::notes(Path::new("/"), toolkit.as_deref(), environment)
    }

    /// A group of these devices, one end each in their order, for the collective ops.
    ///
    /// # Errors
    /// `Unsupported` without the collective library, `NotFound` without any, `Driver`.
    pub fn communicators(&self, ordinals: &[u32]) -> Result<Vec<Arc<AscendCommunicator>>> {
        let driver =
            self.driver().map_err(|why| Error::new(ErrorKind::NotFound, why.to_owned()))?;
        communicator::group(driver, ordinals)
    }
}

fn info(driver: &Driver, ordinal: u32) -> Result<DeviceInfo> {
    let acl = &driver.libraries.acl;
    // SAFETY: the number is below the count.
    driver.check(unsafe { acl.aclrtSetDevice(ordinal as i32) }, "aclrtSetDevice")?;
    let memory = driver.memory_info();
    let name = driver.soc_name();
    // SAFETY: pairs with the call above.
    driver.check(unsafe { acl.aclrtResetDevice(ordinal as i32) }, "aclrtResetDevice")?;
    Ok(DeviceInfo { backend: "ascend", name, ordinal, memory_bytes: memory?.1 })
}

impl Backend for AscendBackend {
    fn name(&self) -> &'static str {
        "ascend"
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        let Ok(driver) = self.driver() else { return Ok(Vec::new()) };
        (0..driver.device_count()?).map(|ordinal| info(driver, ordinal)).collect()
    }

    fn doctor(&self) -> Vec<String> {
        let driver = match self.driver() {
            Ok(driver) => driver,
            Err(why) => {
                let mut findings = vec![
                    why.to_owned(),
                    "CANN 9.0 or newer is needed; `source .../set_env.sh` sets ASCEND_TOOLKIT_HOME, \
                     ASCEND_OPP_PATH and the loader's path"
                        .into(),
                ];
                findings.extend(self.host());
                return findings;
            }
        };
        let mut findings = vec!["this backend has never run on hardware (docs/ascend.md)".into()];
        findings.push(match driver.version() {
            Ok(version) => format!("runtime interface {version}"),
            Err(error) => error.to_string(),
        });
        findings.extend(driver.libraries.notes.iter().cloned());
        findings.extend(self.host());
        findings
    }

    fn open(&self, ordinal: u32, options: &OpenOptions) -> Result<Arc<dyn Device>> {
        let missing = |text: String| Error::new(ErrorKind::NotFound, text);
        let Settings { transcode, fused } = settings(options)?;
        let driver = self.driver().map_err(|why| missing(why.to_owned()))?;
        let count = driver.device_count()?;
        if ordinal >= count {
            return Err(missing(format!("ascend:{ordinal}: there are {count} devices")));
        }
        let runtime = Arc::new(Runtime::open(driver, ordinal, options, fused)?);
        let version = driver.version()?;
        Ok(Arc::new(AscendDevice { runtime, queues: AtomicU32::new(0), transcode, version }))
    }
}

/// What `weights` may be, the most accurate first.
pub const WEIGHT_FORMS: [&str; 2] = ["bf16", "int8"];

struct Settings {
    transcode: Transcode,
    fused: bool,
}

/// What the settings say; an unknown one is refused.
fn settings(options: &OpenOptions) -> Result<Settings> {
    let mut settings = Settings { transcode: Transcode::Bf16, fused: true };
    for (name, value) in &options.settings {
        match (name.as_str(), value.as_str()) {
            ("weights", "bf16") => settings.transcode = Transcode::Bf16,
            ("weights", "int8") => settings.transcode = Transcode::Int8,
            ("weights", other) => {
                let forms = WEIGHT_FORMS.join(" and ");
                return Err(Error::invalid(format!("weights={other}: {forms} are possible")));
            }
            ("operators", "fused") => settings.fused = true,
            ("operators", "composed") => settings.fused = false,
            ("operators", other) => {
                let message = format!("operators={other}: fused and composed are possible");
                return Err(Error::invalid(message));
            }
            _ => return Err(Error::invalid(format!("an Ascend device has no setting {name}"))),
        }
    }
    Ok(settings)
}

struct AscendDevice {
    runtime: Arc<Runtime>,
    queues: AtomicU32,
    transcode: Transcode,
    /// Of the runtime's interface.
    version: String,
}

/// Operators take any number of operands; a plan is bounded by streams and host memory.
const LIMITS: Limits = Limits { binding_bytes_max: 1 << 40, bindings_max: 64, plans_max: 1024 };

impl Device for AscendDevice {
    fn info(&self) -> &DeviceInfo {
        &self.runtime.info
    }

    fn limits(&self) -> &Limits {
        &LIMITS
    }

    fn supports(&self, op: &Op) -> bool {
        table::entry(op, &self.runtime).is_some()
    }

    fn weight_support(&self, spec: &WeightSpec) -> WeightSupport {
        weight::support(spec, &self.runtime, self.transcode)
    }

    fn alloc(&self, desc: &BufferDesc<'_>) -> Result<Buffer> {
        let memory = DeviceMemory::zeroed(desc.label, desc.size_bytes, &self.runtime)?;
        Ok(Buffer::Real(Arc::new(AscendBuffer(memory))))
    }

    fn constant(&self, label: &str, bytes: SharedBytes) -> Result<Buffer> {
        let memory = DeviceMemory::filled(label, bytes.bytes(), &self.runtime)?;
        Ok(Buffer::Real(Arc::new(AscendBuffer(memory))))
    }

    fn load_weight(&self, source: &mut dyn WeightSource) -> Result<Weight> {
        weight::load(source, &self.runtime, self.transcode)
    }

    fn compile(&self, program: &Program, options: &CompileOptions) -> Result<Arc<dyn Plan>> {
        Ok(Arc::new(AscendPlan::compile(program, options, &self.runtime)?))
    }

    fn queue(&self, _kind: QueueKind) -> Result<Arc<dyn Queue>> {
        let number = self.queues.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(AscendQueue::new(number, &self.runtime)?))
    }

    fn host_slot(&self, bytes: u64) -> Result<HostSlot> {
        Ok(HostSlot::new(Box::new(Pinned::new(bytes, &self.runtime)?)))
    }

    fn memory(&self) -> MemoryReport {
        self.runtime.report()
    }

    fn arithmetic(&self) -> String {
        let weights = match (self.runtime.soc.has_small_floats(), self.transcode) {
            (true, _) => "as stored",
            (false, Transcode::Bf16) => "bf16",
            (false, Transcode::Int8) => "int8",
        };
        let has = |operator: &&Operator| self.runtime.has(**operator);
        let fused: Vec<String> =
            Operator::FUSED.iter().filter(has).map(|operator| format!("+{operator:?}")).collect();
        let (soc, version) = (self.runtime.soc, &self.version);
        format!("ascend {soc:?} {version} composed{}, weights {weights}", fused.concat())
    }
}

impl Drop for AscendDevice {
    fn drop(&mut self) {
        // Tables hold the runtime that holds them.
        crate::runtime::lock(&self.runtime.tables).clear();
    }
}
