//! One opened device: its libraries, its context, what it costs, and whether it still lives.
//!
//! A context is current per thread, so every entry of the backend calls [`Runtime::bind`] first. The
//! vendor says nothing about threads inside one context, so enqueuing is serialised by the queues' lock.
//! Codes from 507000 on are failures of the device: they make it lost for good, timeouts excepted.

use std::collections::HashMap;
use std::ffi::{CStr, c_char};
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use hal::{DeviceInfo, Error, ErrorKind, MemoryReport, OpenOptions, Result, Sink};

use crate::load::{Libraries, Search};
use crate::memory::DeviceMemory;
use crate::queue::Line;
use crate::sys::acl::{self, aclSysParamOpt};
use crate::sys::operators::Operator;

/// Generations of the hardware that matter to the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Soc {
    /// Ascend 910B.
    A2,
    /// Ascend 910C.
    A3,
    /// Ascend 950.
    A5,
}

impl Soc {
    /// By the name the runtime gives.
    fn from_name(name: &str) -> Option<Soc> {
        [("Ascend910_93", Soc::A3), ("Ascend910B", Soc::A2), ("Ascend950", Soc::A5)]
            .into_iter()
            .find_map(|(prefix, soc)| name.starts_with(prefix).then_some(soc))
    }

    /// True if it has 8- and 4-bit floats.
    pub(crate) fn has_small_floats(self) -> bool {
        self == Soc::A5
    }
}

/// The initialised vendor runtime of this process.
pub(crate) struct Driver {
    pub(crate) libraries: Libraries,
}

// SAFETY: the libraries' functions may be called from any thread; contexts are bound per thread.
unsafe impl Send for Driver {}
// SAFETY: as above.
unsafe impl Sync for Driver {}

impl Driver {
    /// Opens the libraries and initialises the runtime.
    pub(crate) fn open(search: &Search) -> std::result::Result<Driver, String> {
        let driver = Driver { libraries: Libraries::open(search)? };
        // SAFETY: a null path means no configuration file.
        let code = unsafe { driver.libraries.acl.aclInit(ptr::null()) };
        match code {
            0 | acl::ACL_ERROR_REPEAT_INITIALIZE => Ok(driver),
            code => Err(format!(
                "aclInit answers {code}{}; is the driver there (`npu-smi info`), and in a container its \
                 devices (/dev/davinci*, /dev/davinci_manager, /usr/local/Ascend/driver)?",
                driver.message()
            )),
        }
    }

    /// What the runtime says about the last failure on this thread, with a colon in front.
    pub(crate) fn message(&self) -> String {
        // SAFETY: takes nothing.
        let text: *const c_char = unsafe { self.libraries.acl.aclGetRecentErrMsg() };
        if text.is_null() {
            return String::new();
        }
        // SAFETY: the runtime's strings end in 0 and live until the next call on this thread.
        format!(": {}", unsafe { CStr::from_ptr(text) }.to_string_lossy().trim())
    }

    /// Turns a code into an error that keeps it.
    pub(crate) fn check(&self, code: i32, what: &str) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        let text = format!("{what}{}", self.message());
        Err(match code as u32 {
            acl::ACL_ERROR_RT_MEMORY_ALLOCATION => Error::out_of_memory(text),
            acl::ACL_ERROR_RT_STREAM_SYNC_TIMEOUT | acl::ACL_ERROR_RT_EVENT_SYNC_TIMEOUT => {
                Error::new(ErrorKind::Timeout, text)
            }
            507_000..=507_999 => Error::device_lost(format!("{text} (code {code})")),
            _ => Error::driver(code.into(), text),
        })
    }

    pub(crate) fn soc_name(&self) -> String {
        // SAFETY: takes nothing; the string is the library's own.
        let name = unsafe { self.libraries.acl.aclrtGetSocName() };
        if name.is_null() {
            return String::new();
        }
        // SAFETY: it ends in 0.
        unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
    }

    /// `major.minor.patch` of the runtime's interface.
    pub(crate) fn version(&self) -> Result<String> {
        let (mut major, mut minor, mut patch) = (0, 0, 0);
        // SAFETY: three places to write to.
        let code =
            unsafe { self.libraries.acl.aclrtGetVersion(&mut major, &mut minor, &mut patch) };
        self.check(code, "aclrtGetVersion")?;
        Ok(format!("{major}.{minor}.{patch}"))
    }

    pub(crate) fn device_count(&self) -> Result<u32> {
        let mut count = 0;
        // SAFETY: a place to write to.
        let code = unsafe { self.libraries.acl.aclrtGetDeviceCount(&mut count) };
        self.check(code, "aclrtGetDeviceCount")?;
        Ok(count)
    }

    /// (free, total) bytes of the current device.
    pub(crate) fn memory_info(&self) -> Result<(u64, u64)> {
        let (mut free, mut total) = (0, 0);
        let attribute = acl::aclrtMemAttr::ACL_HBM_MEM;
        // SAFETY: two places to write to.
        let code = unsafe { self.libraries.acl.aclrtGetMemInfo(attribute, &mut free, &mut total) };
        self.check(code, "aclrtGetMemInfo")?;
        Ok((free as u64, total as u64))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // SAFETY: every object of this process was dropped before: they hold the driver.
        unsafe { self.libraries.acl.aclFinalize() };
    }
}

/// An open device.
pub(crate) struct Runtime {
    pub(crate) driver: Arc<Driver>,
    pub(crate) soc: Soc,
    pub(crate) info: DeviceInfo,
    /// Where op timings go.
    pub(crate) sink: Option<Arc<dyn Sink>>,
    /// Begin of the device's clock.
    pub(crate) begin: Instant,
    /// Whether the vendor's fused operators are used.
    fused: bool,
    device: i32,
    context: acl::aclrtContext,
    limit_bytes: u64,
    report: Mutex<MemoryReport>,
    lost: Mutex<Option<String>>,
    /// All queues; whoever enqueues holds the lock.
    pub(crate) lines: Mutex<HashMap<u32, Line>>,
    /// What plans share, which keep it: scratch of compositions, workspace of operators.
    pub(crate) scratch: Mutex<Weak<DeviceMemory>>,
    pub(crate) workspace: Mutex<Weak<DeviceMemory>>,
    /// Tables on the device by name, made once and kept.
    pub(crate) tables: Mutex<HashMap<String, Arc<DeviceMemory>>>,
}

// SAFETY: the context is a handle; whoever uses it binds it to the thread first.
unsafe impl Send for Runtime {}
// SAFETY: as above.
unsafe impl Sync for Runtime {}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A new context, current on this thread.
fn context(driver: &Driver, device: i32) -> Result<acl::aclrtContext> {
    let mut context = ptr::null_mut();
    // SAFETY: a place to write to.
    let code = unsafe { driver.libraries.acl.aclrtCreateContext(&mut context, device) };
    driver.check(code, "aclrtCreateContext")?;
    Ok(context)
}

impl Runtime {
    /// Makes a context on device `ordinal`, in deterministic and position-independent arithmetic.
    pub(crate) fn open(
        driver: &Arc<Driver>,
        ordinal: u32,
        options: &OpenOptions,
        fused: bool,
    ) -> Result<Runtime> {
        let device = ordinal as i32;
        let acl = &driver.libraries.acl;
        // SAFETY: the number was taken from the device count.
        driver.check(unsafe { acl.aclrtSetDevice(device) }, "aclrtSetDevice")?;
        let name = driver.soc_name();
        let made = Soc::from_name(&name)
            .ok_or_else(|| {
                let known = "only Ascend910B, Ascend910_93 and Ascend950 are known";
                Error::unsupported(format!("{name}: {known}"))
            })
            .and_then(|soc| Ok((soc, context(driver, device)?)));
        let (soc, context) = made.inspect_err(|_| {
            // SAFETY: pairs with `aclrtSetDevice`.
            unsafe { acl.aclrtResetDevice(device) };
        })?;
        let mut runtime = Runtime {
            driver: Arc::clone(driver),
            soc,
            info: DeviceInfo { backend: "ascend", name, ordinal, memory_bytes: 0 },
            sink: options.sink.clone(),
            begin: Instant::now(),
            fused,
            device,
            context,
            limit_bytes: 0,
            report: Mutex::default(),
            lost: Mutex::default(),
            lines: Mutex::default(),
            scratch: Mutex::default(),
            workspace: Mutex::default(),
            tables: Mutex::default(),
        };
        for (option, name) in [
            (aclSysParamOpt::ACL_OPT_DETERMINISTIC, "deterministic"),
            (aclSysParamOpt::ACL_OPT_STRONG_CONSISTENCY, "strong consistency"),
        ] {
            // SAFETY: options of the context just made.
            let code = unsafe { runtime.acl().aclrtCtxSetSysParamOpt(option, 1) };
            driver.check(code, &format!("aclrtCtxSetSysParamOpt, {name}"))?;
        }
        runtime.limit_bytes = driver.memory_info()?.1;
        runtime.info.memory_bytes = runtime.limit_bytes;
        Ok(runtime)
    }

    /// Whether a fused operator may be used: it is there, and nobody asked to do without.
    pub(crate) fn has(&self, operator: Operator) -> bool {
        self.fused && self.driver.libraries.operators.has(operator)
    }

    pub(crate) fn acl(&self) -> &acl::Acl {
        &self.driver.libraries.acl
    }

    pub(crate) fn report(&self) -> MemoryReport {
        *lock(&self.report)
    }

    /// Makes the context current on this thread.
    pub(crate) fn bind(&self) -> Result<()> {
        // SAFETY: the context lives as long as `self`.
        let code = unsafe { self.acl().aclrtSetCurrentContext(self.context) };
        self.check(code, "aclrtSetCurrentContext")
    }

    /// `Driver::check`, which also remembers that the device is lost.
    pub(crate) fn check(&self, code: i32, what: &str) -> Result<()> {
        self.driver.check(code, what).inspect_err(|error| {
            if error.kind() == ErrorKind::DeviceLost {
                self.lose(error.to_string());
            }
        })
    }

    /// From now on every call fails with the first reason.
    pub(crate) fn lose(&self, why: String) {
        lock(&self.lost).get_or_insert(why);
    }

    pub(crate) fn alive(&self) -> Result<()> {
        match &*lock(&self.lost) {
            Some(why) => Err(Error::device_lost(why.clone())),
            None => Ok(()),
        }
    }

    /// Counts memory, or refuses.
    pub(crate) fn take(&self, label: &str, bytes: u64) -> Result<()> {
        let mut report = lock(&self.report);
        let free = self.limit_bytes - report.used_bytes;
        if bytes > free {
            return Err(Error::out_of_memory(format!(
                "{label}: {bytes} bytes wanted, {free} of {} are free",
                self.limit_bytes
            )));
        }
        report.used_bytes += bytes;
        report.peak_bytes = report.peak_bytes.max(report.used_bytes);
        Ok(())
    }

    pub(crate) fn give(&self, bytes: u64) {
        lock(&self.report).used_bytes -= bytes;
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let acl = &self.driver.libraries.acl;
        // SAFETY: streams, events and memory hold the runtime, so they are gone.
        unsafe { acl.aclrtDestroyContext(self.context) };
        // SAFETY: pairs with the `aclrtSetDevice` of `open`.
        unsafe { acl.aclrtResetDevice(self.device) };
    }
}
