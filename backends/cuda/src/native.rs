//! NVIDIA's driver, through cudarc's bindings, opened when first asked for.
//!
//! All of the crate's calls into the driver are here, one operation a block. No call is made before the
//! library is known to be there: a machine without it has no devices and says so.
//!
//! **Nothing here has run on hardware yet.** It is written to the driver's documentation; the layers
//! above it are tested on another driver.

use std::collections::HashMap;
use std::ffi::{CString, c_int, c_uint, c_void};
use std::path::PathBuf;
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::sys::{self, CUresult};
use hal::{Error, ErrorKind, Result};

use crate::cache::Cache;
use crate::driver::{
    Address, Driver, Event, EventKind, Facts, Function, Graph, Launch, Platform, Stream,
};
use crate::nvrtc::{Nvrtc, text_at};
use crate::source::Unit;

/// Oldest driver interface, CUDA 12.0.
const VERSION_MIN: i32 = 12_000;
/// Oldest architecture: Ampere.
const COMPUTE_MIN: (u32, u32) = (8, 0);
/// From where on launches can overlap, in graphs, too.
const VERSION_OVERLAP: i32 = 12_030;
const COMPUTE_OVERLAP: (u32, u32) = (9, 0);
/// From where on there are bulk copies.
const COMPUTE_BULK: (u32, u32) = (9, 0);
/// The one architecture with products of a warp group, and what they are compiled for.
const COMPUTE_WIDE: (u32, u32) = (9, 0);
const ARCH_WIDE: &str = "sm_90a";

/// NVIDIA's GPUs.
#[derive(Clone, Debug, Default)]
pub struct Native {
    /// Where compiled kernels are kept and those compiled ahead are found, unless a setting says otherwise.
    pub kernels: Option<PathBuf>,
    /// The compiler's library, likewise.
    pub nvrtc: Option<PathBuf>,
    /// A kernel may get ready while the one before it runs, likewise. From Hopper and CUDA 12.3 on.
    pub overlap: bool,
    /// Products of a warp group for many rows, likewise. On Hopper alone.
    pub wgmma: bool,
    /// Weights of few rows come by bulk copies, likewise. From Hopper on.
    pub bulk: bool,
}

/// A driver's answer.
fn check(call: &str, code: CUresult) -> Result<()> {
    if code == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let mut text = ptr::null();
    // SAFETY: the place is ours; the library is there, it gave the code.
    let named = unsafe { sys::cuGetErrorName(code, &raw mut text) };
    let name = match named {
        CUresult::CUDA_SUCCESS => text_at(text),
        _ => None,
    };
    let message = format!("{call}: {}", name.unwrap_or_else(|| "unknown error".into()));
    Err(match code {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::out_of_memory(message),
        _ => Error::driver(code as i64, message),
    })
}

/// Version of the driver as 12040; an error says why there is none.
fn initialise() -> Result<i32> {
    let none = |text: &str| Err(Error::new(ErrorKind::NotFound, text.to_owned()));
    // SAFETY: only opens a library, whose initialisers touch nothing of ours.
    if !unsafe { sys::is_culib_present() } {
        return none(
            "libcuda is not installed: it comes with NVIDIA's driver, no toolkit is needed",
        );
    }
    // SAFETY: the library is there.
    check("cuInit", unsafe { sys::cuInit(0) })?;
    let mut version = 0;
    // SAFETY: the place is ours.
    check("cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&raw mut version) })?;
    if version < VERSION_MIN {
        return none(&format!(
            "the driver speaks CUDA {}.{}, 12.0 or newer is needed: update NVIDIA's driver",
            version / 1000,
            version % 1000 / 10
        ));
    }
    Ok(version)
}

/// A compute capability as architectures are named.
fn number((major, minor): (u32, u32)) -> u32 {
    major * 10 + minor
}

/// The major version in a driver's number.
fn major_of(version: i32) -> u32 {
    version.unsigned_abs() / 1000
}

fn attribute(device: c_int, what: sys::CUdevice_attribute) -> Result<u32> {
    let mut value = 0;
    // SAFETY: the device's number came from the driver, the place is ours.
    check("cuDeviceGetAttribute", unsafe {
        sys::cuDeviceGetAttribute(&raw mut value, what, device)
    })?;
    Ok(value.unsigned_abs())
}

/// What device `ordinal` is, usable or not.
fn facts(ordinal: u32) -> Result<(c_int, Facts)> {
    use sys::CUdevice_attribute_enum::*;
    let mut device = 0;
    // SAFETY: the place is ours; an ordinal out of range is an error.
    check("cuDeviceGet", unsafe { sys::cuDeviceGet(&raw mut device, ordinal as c_int) })?;
    let mut name = [0u8; 128];
    // SAFETY: the buffer has the length given.
    check("cuDeviceGetName", unsafe {
        sys::cuDeviceGetName(name.as_mut_ptr().cast(), name.len() as c_int, device)
    })?;
    let length = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    let mut memory = 0;
    // SAFETY: the place is ours.
    check("cuDeviceTotalMem", unsafe { sys::cuDeviceTotalMem_v2(&raw mut memory, device) })?;
    let compute = (
        attribute(device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        attribute(device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    );
    let name = String::from_utf8_lossy(&name[..length]).into_owned();
    let facts = Facts {
        name: format!("{name}, sm_{}{}", compute.0, compute.1),
        ordinal,
        memory_bytes: memory as u64,
        compute,
        processors: attribute(device, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        shared_bytes_max: attribute(device, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        wide: false,
        bulk: false,
    };
    Ok((device, facts))
}

/// Every device, also those that are too old.
fn all() -> Result<Vec<Facts>> {
    initialise()?;
    let mut count = 0;
    // SAFETY: the place is ours.
    check("cuDeviceGetCount", unsafe { sys::cuDeviceGetCount(&raw mut count) })?;
    (0..count.unsigned_abs()).map(|ordinal| facts(ordinal).map(|(_, facts)| facts)).collect()
}

fn usable(facts: &Facts) -> bool {
    facts.compute >= COMPUTE_MIN
}

/// Settings of `open`.
struct Settings {
    cache: Cache,
    nvrtc: Option<PathBuf>,
    overlap: bool,
    wgmma: bool,
    bulk: bool,
}

impl Settings {
    fn parse(native: &Native, settings: &[(String, String)]) -> Result<Settings> {
        let usual = || Cache::usual();
        let cache = native.kernels.clone().map_or_else(usual, |folder| Cache::new(Some(folder)));
        let Native { nvrtc, overlap, wgmma, bulk, .. } = native.clone();
        let mut parsed = Settings { cache, nvrtc, overlap, wgmma, bulk };
        for (name, value) in settings {
            match name.as_str() {
                "cache" if value == "off" => parsed.cache = Cache::new(None),
                "cache" => parsed.cache = Cache::new(Some(value.into())),
                "nvrtc" => parsed.nvrtc = Some(value.into()),
                "overlap" if value == "on" || value == "off" => parsed.overlap = value == "on",
                "wgmma" if value == "on" || value == "off" => parsed.wgmma = value == "on",
                "bulk" if value == "on" || value == "off" => parsed.bulk = value == "on",
                _ => {
                    return Err(Error::invalid(format!(
                        "cuda has no setting {name}={value}; it has cache (a folder, or off), nvrtc (a file), \
                         join, overlap, wgmma and bulk (on or off)"
                    )));
                }
            }
        }
        Ok(parsed)
    }
}

impl Platform for Native {
    fn devices(&self) -> Result<Vec<Facts>> {
        match all() {
            Ok(devices) => Ok(devices.into_iter().filter(usable).collect()),
            // No driver, or one without a device: no devices. `findings` says why.
            Err(_) => Ok(Vec::new()),
        }
    }

    fn findings(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let version = match initialise() {
            Ok(version) => version,
            Err(error) => return vec![error.to_string()],
        };
        lines.push(format!(
            "driver for CUDA {}.{}; this backend has never run on hardware",
            version / 1000,
            version % 1000 / 10
        ));
        match all() {
            Ok(devices) if devices.is_empty() => lines.push("the driver sees no GPU".into()),
            Ok(devices) => {
                lines.extend(devices.iter().filter(|facts| !usable(facts)).map(|facts| {
                    format!("{} is too old: compute capability 8.0 or newer is needed", facts.name)
                }))
            }
            Err(error) => lines.push(error.to_string()),
        }
        let major = major_of(version);
        lines.push(match Nvrtc::open(self.nvrtc.as_deref(), major) {
            Ok(nvrtc) => format!(
                "NVRTC {}.{} at {}",
                nvrtc.version().0,
                nvrtc.version().1,
                nvrtc.place().display()
            ),
            Err(error) => {
                format!(
                    "{error}; or `hadal kernels` on another machine compiles what this one needs"
                )
            }
        });
        lines
    }

    fn open(&self, ordinal: u32, settings: &[(String, String)]) -> Result<Arc<dyn Driver>> {
        let settings = Settings::parse(self, settings)?;
        let version = initialise()?;
        let (device, mut facts) = facts(ordinal)?;
        if !usable(&facts) {
            let text = format!("{}: compute capability 8.0 or newer is needed", facts.name);
            return Err(Error::new(ErrorKind::NotFound, text));
        }
        facts.wide = settings.wgmma;
        if facts.wide && facts.compute != COMPUTE_WIDE {
            return Err(Error::invalid(format!("wgmma=on needs Hopper; this is {}", facts.name)));
        }
        facts.bulk = settings.bulk;
        if facts.bulk && facts.compute < COMPUTE_BULK {
            return Err(Error::invalid(format!(
                "bulk=on needs compute capability 9.0; this is {}",
                facts.name
            )));
        }
        let overlap = settings.overlap;
        if overlap && (version < VERSION_OVERLAP || facts.compute < COMPUTE_OVERLAP) {
            return Err(Error::invalid(format!(
                "overlap=on needs a driver for CUDA 12.3 and compute capability 9.0; this is {}, CUDA {}.{}",
                facts.name,
                version / 1000,
                version % 1000 / 10
            )));
        }
        let mut context = ptr::null_mut();
        // SAFETY: the place is ours; released when the device is dropped.
        check("cuDevicePrimaryCtxRetain", unsafe {
            sys::cuDevicePrimaryCtxRetain(&raw mut context, device)
        })?;
        let modules = Mutex::default();
        let cache = settings.cache;
        let (nvrtc, major) = (settings.nvrtc, major_of(version));
        let driver = NativeDriver { device, context, facts, modules, cache, nvrtc, major, overlap };
        Ok(Arc::new(driver))
    }
}

/// An open GPU: its primary context, and the modules loaded into it.
#[derive(Debug)]
struct NativeDriver {
    device: c_int,
    context: sys::CUcontext,
    facts: Facts,
    modules: Mutex<HashMap<&'static str, Module>>,
    cache: Cache,
    nvrtc: Option<PathBuf>,
    /// Newest CUDA the driver speaks.
    major: u32,
    /// Launches overlap.
    overlap: bool,
}

#[derive(Clone, Copy, Debug)]
struct Module(sys::CUmodule);

// SAFETY: the driver's handles may be used from any thread that has the context current; `bind` sees to
// that before each call.
unsafe impl Send for NativeDriver {}
// SAFETY: as above; the driver's calls are thread-safe.
unsafe impl Sync for NativeDriver {}
// SAFETY: as above.
unsafe impl Send for Module {}

impl NativeDriver {
    /// Makes the context current for this thread.
    fn bind(&self) -> Result<()> {
        // SAFETY: the context is retained as long as this lives.
        check("cuCtxSetCurrent", unsafe { sys::cuCtxSetCurrent(self.context) })
    }

    /// The image of a unit: from the cache, or compiled; without a compiler what was compiled ahead.
    fn image(&self, unit: &Unit) -> Result<Vec<u8>> {
        let nvrtc = match Nvrtc::open(self.nvrtc.as_deref(), self.major) {
            Ok(nvrtc) => nvrtc,
            Err(error) => return self.ahead(unit).ok_or(error),
        };
        let arch = self.arch(&nvrtc);
        let known = nvrtc.architectures();
        let has_bulk = known.is_empty() || known.iter().any(|&arch| arch >= number(COMPUTE_BULK));
        if self.facts.bulk && !has_bulk {
            return Err(Error::unsupported(format!(
                "bulk=on needs an NVRTC that compiles for Hopper; {} does not",
                nvrtc.place().display()
            )));
        }
        if let Some(image) = self.cache.get(unit, &arch, nvrtc.version()) {
            return Ok(image);
        }
        let image = nvrtc.compile(unit, &arch, &[])?.image;
        self.cache.put(unit, &arch, nvrtc.version(), &image);
        Ok(image)
    }

    /// What was compiled ahead: for the device itself, or PTX of the newest architecture up to it.
    fn ahead(&self, unit: &Unit) -> Option<Vec<u8>> {
        let own = number(self.facts.compute);
        // PTX of older ones has no bulk copies.
        let oldest = if self.facts.bulk { number(COMPUTE_BULK) } else { number(COMPUTE_MIN) };
        let ptx = (oldest..=own).rev().map(|arch| format!("compute_{arch}"));
        let others = std::iter::once(format!("sm_{own}")).chain(ptx);
        // What has no products of a warp group does not do where they are wanted.
        let others = others.filter(|_| !self.facts.wide);
        let all = std::iter::once(self.own_arch()).chain(others);
        all.into_iter().find_map(|arch| self.cache.any(unit, &arch))
    }

    /// What has everything the device can do.
    fn own_arch(&self) -> String {
        if self.facts.compute == COMPUTE_WIDE {
            return ARCH_WIDE.into();
        }
        format!("sm_{}{}", self.facts.compute.0, self.facts.compute.1)
    }

    /// What to compile for: the device itself, or PTX of the newest architecture that a compiler older
    /// than the device knows.
    fn arch(&self, nvrtc: &Nvrtc) -> String {
        let own = number(self.facts.compute);
        let known = nvrtc.architectures();
        if known.is_empty() || known.contains(&own) {
            return self.own_arch();
        }
        match known.into_iter().filter(|&arch| arch <= own).max() {
            Some(arch) => format!("compute_{arch}"),
            None => self.own_arch(),
        }
    }

    fn module(&self, unit: &Unit) -> Result<Module> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = modules.get(unit.name) {
            return Ok(*module);
        }
        let image = self.image(unit)?;
        let mut raw = ptr::null_mut();
        // SAFETY: the image is a cubin or zero-terminated PTX, which the driver copies.
        check("cuModuleLoadData", unsafe {
            sys::cuModuleLoadData(&raw mut raw, image.as_ptr().cast())
        })?;
        modules.insert(unit.name, Module(raw));
        Ok(Module(raw))
    }
}

impl Drop for NativeDriver {
    fn drop(&mut self) {
        if self.bind().is_ok() {
            let modules = self.modules.get_mut().unwrap_or_else(PoisonError::into_inner);
            for module in modules.values() {
                // SAFETY: loaded once, and every plan that used it is gone: plans hold the driver.
                unsafe { sys::cuModuleUnload(module.0) };
            }
        }
        // SAFETY: retained once in `open`.
        unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

fn stream_of(stream: Stream) -> sys::CUstream {
    stream.0 as sys::CUstream
}

fn event_of(event: Event) -> sys::CUevent {
    event.0 as sys::CUevent
}

impl Driver for NativeDriver {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn alloc(&self, bytes: u64) -> Result<Address> {
        self.bind()?;
        let mut address = 0;
        // SAFETY: the place is ours.
        check("cuMemAlloc", unsafe { sys::cuMemAlloc_v2(&raw mut address, bytes as usize) })?;
        Ok(address)
    }

    unsafe fn free(&self, address: Address) {
        if self.bind().is_ok() {
            // SAFETY: the caller's promise.
            unsafe { sys::cuMemFree_v2(address) };
        }
    }

    fn host_alloc(&self, bytes: usize) -> Result<NonNull<u8>> {
        self.bind()?;
        let mut memory = ptr::null_mut();
        // SAFETY: the place is ours.
        check("cuMemHostAlloc", unsafe { sys::cuMemHostAlloc(&raw mut memory, bytes, 0) })?;
        let memory = NonNull::new(memory.cast::<u8>())
            .ok_or_else(|| Error::out_of_memory("cuMemHostAlloc gave nothing"))?;
        // SAFETY: just allocated with this size.
        unsafe { ptr::write_bytes(memory.as_ptr(), 0, bytes) };
        Ok(memory)
    }

    unsafe fn host_free(&self, memory: NonNull<u8>, _bytes: usize) {
        if self.bind().is_ok() {
            // SAFETY: the caller's promise.
            unsafe { sys::cuMemFreeHost(memory.as_ptr().cast()) };
        }
    }

    fn function(&self, unit: &Unit, name: &str) -> Result<Function> {
        use sys::CUfunction_attribute_enum::*;
        self.bind()?;
        let module = self.module(unit)?;
        let text = CString::new(name).expect("kernels have plain names");
        let mut raw = ptr::null_mut();
        // SAFETY: the module is loaded, the name ends in a zero.
        check(&format!("cuModuleGetFunction of {name}"), unsafe {
            sys::cuModuleGetFunction(&raw mut raw, module.0, text.as_ptr())
        })?;
        let mut fixed = 0;
        // SAFETY: the function was just given.
        check("cuFuncGetAttribute", unsafe {
            sys::cuFuncGetAttribute(&raw mut fixed, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, raw)
        })?;
        let dynamic = self.facts.shared_bytes_max as c_int - fixed;
        // SAFETY: as above.
        check("cuFuncSetAttribute", unsafe {
            sys::cuFuncSetAttribute(raw, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, dynamic)
        })?;
        Ok(Function(raw as u64))
    }

    fn stream_create(&self) -> Result<Stream> {
        self.bind()?;
        let mut stream = ptr::null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as c_uint;
        // SAFETY: the place is ours.
        check("cuStreamCreate", unsafe { sys::cuStreamCreate(&raw mut stream, flags) })?;
        Ok(Stream(stream as u64))
    }

    fn stream_destroy(&self, stream: Stream) {
        if self.bind().is_ok() {
            // SAFETY: created once, destroyed once; the caller has waited for it.
            unsafe { sys::cuStreamDestroy_v2(stream_of(stream)) };
        }
    }

    fn synchronize(&self, stream: Stream) -> Result<()> {
        self.bind()?;
        // SAFETY: the stream is alive.
        check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(stream_of(stream)) })
    }

    fn event_create(&self, kind: EventKind) -> Result<Event> {
        self.bind()?;
        let flags = match kind {
            EventKind::Order => sys::CUevent_flags::CU_EVENT_DISABLE_TIMING,
            EventKind::Timing => sys::CUevent_flags::CU_EVENT_DEFAULT,
        };
        let mut event = ptr::null_mut();
        // SAFETY: the place is ours.
        check("cuEventCreate", unsafe { sys::cuEventCreate(&raw mut event, flags as c_uint) })?;
        Ok(Event(event as u64))
    }

    fn event_destroy(&self, event: Event) {
        if self.bind().is_ok() {
            // SAFETY: created once, destroyed once; the driver keeps what is still under way.
            unsafe { sys::cuEventDestroy_v2(event_of(event)) };
        }
    }

    fn record(&self, event: Event, stream: Stream) -> Result<()> {
        self.bind()?;
        // SAFETY: both are alive.
        check("cuEventRecord", unsafe { sys::cuEventRecord(event_of(event), stream_of(stream)) })
    }

    fn wait_event(&self, stream: Stream, event: Event) -> Result<()> {
        self.bind()?;
        // SAFETY: both are alive.
        check("cuStreamWaitEvent", unsafe {
            sys::cuStreamWaitEvent(stream_of(stream), event_of(event), 0)
        })
    }

    fn query(&self, event: Event) -> Result<bool> {
        self.bind()?;
        // SAFETY: the event is alive.
        match unsafe { sys::cuEventQuery(event_of(event)) } {
            CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            code => check("cuEventQuery", code).map(|()| true),
        }
    }

    fn elapsed_ns(&self, begin: Event, end: Event) -> Result<u64> {
        self.bind()?;
        let mut milliseconds = 0.0f32;
        // SAFETY: both are alive timing events.
        check("cuEventElapsedTime", unsafe {
            sys::cuEventElapsedTime(&raw mut milliseconds, event_of(begin), event_of(end))
        })?;
        Ok((f64::from(milliseconds) * 1e6) as u64)
    }

    unsafe fn zero(&self, stream: Stream, target: Address, bytes: u64) -> Result<()> {
        self.bind()?;
        // SAFETY: the caller's promise.
        check("cuMemsetD8Async", unsafe {
            sys::cuMemsetD8Async(target, 0, bytes as usize, stream_of(stream))
        })
    }

    unsafe fn copy_in(
        &self,
        stream: Stream,
        target: Address,
        source: *const u8,
        bytes: usize,
    ) -> Result<()> {
        self.bind()?;
        // SAFETY: the caller's promise.
        check("cuMemcpyHtoDAsync", unsafe {
            sys::cuMemcpyHtoDAsync_v2(target, source.cast(), bytes, stream_of(stream))
        })
    }

    unsafe fn copy_out(
        &self,
        stream: Stream,
        target: *mut u8,
        source: Address,
        bytes: usize,
    ) -> Result<()> {
        self.bind()?;
        // SAFETY: the caller's promise.
        check("cuMemcpyDtoHAsync", unsafe {
            sys::cuMemcpyDtoHAsync_v2(target.cast(), source, bytes, stream_of(stream))
        })
    }

    unsafe fn launch(&self, stream: Stream, launch: &Launch) -> Result<()> {
        self.bind()?;
        let [x, y, z] = launch.grid;
        // The driver copies the argument before it returns.
        let mut params = [launch.args.as_ptr().cast_mut().cast::<c_void>()];
        let mut overlap = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = sys::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: launch.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: launch.shared_bytes,
            hStream: stream_of(stream),
            attrs: &raw mut overlap,
            numAttrs: self.overlap.into(),
        };
        let function = launch.function.0 as sys::CUfunction;
        // SAFETY: the caller's promise; the function takes this one struct. Where launches overlap, every kernel waits
        // for all before it (`begin` of common.cuh).
        check("cuLaunchKernelEx", unsafe {
            sys::cuLaunchKernelEx(&raw const config, function, params.as_mut_ptr(), ptr::null_mut())
        })
    }

    fn capture_begin(&self, stream: Stream) -> Result<()> {
        self.bind()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is alive.
        check("cuStreamBeginCapture", unsafe {
            sys::cuStreamBeginCapture_v2(stream_of(stream), mode)
        })
    }

    fn capture_end(&self, stream: Stream) -> Result<Graph> {
        self.bind()?;
        let mut graph = ptr::null_mut();
        // SAFETY: the stream is recording, the place is ours.
        check("cuStreamEndCapture", unsafe {
            sys::cuStreamEndCapture(stream_of(stream), &raw mut graph)
        })?;
        let mut runnable = ptr::null_mut();
        // SAFETY: the graph was just made.
        let made = unsafe { sys::cuGraphInstantiateWithFlags(&raw mut runnable, graph, 0) };
        // SAFETY: what is runnable does not need it any more.
        unsafe { sys::cuGraphDestroy(graph) };
        check("cuGraphInstantiate", made)?;
        Ok(Graph(runnable as u64))
    }

    unsafe fn graph_launch(&self, stream: Stream, graph: Graph) -> Result<()> {
        self.bind()?;
        // SAFETY: the caller's promise.
        check("cuGraphLaunch", unsafe {
            sys::cuGraphLaunch(graph.0 as sys::CUgraphExec, stream_of(stream))
        })
    }

    fn graph_free(&self, graph: Graph) {
        if self.bind().is_ok() {
            // SAFETY: instantiated once, freed once; the caller has waited for it.
            unsafe { sys::cuGraphExecDestroy(graph.0 as sys::CUgraphExec) };
        }
    }
}
