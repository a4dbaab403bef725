//! The backends of this tree. The only place that knows which were compiled in.
//!
//! A program with a backend of its own does not come through here: it opens its device and hands it
//! to the engine.

use std::sync::Arc;

use hal::registry::{DeviceName, Registry};
use hal::{DeviceInfo, Error, ErrorKind, Result};

/// Every backend in this binary, the one that is always there first.
pub fn registry() -> Registry {
    #[allow(unused_mut, reason = "without features there is one backend")]
    let mut backends: Vec<Arc<dyn hal::Backend>> = vec![Arc::new(backend_cpu::CpuBackend)];
    #[cfg(feature = "cuda")]
    backends.push(cuda());
    #[cfg(feature = "ascend")]
    backends.push(ascend());
    #[cfg(feature = "wgpu")]
    backends.push(Arc::new(backend_wgpu::WgpuBackend));
    Registry::new(backends)
}

/// `HADAL_CUDA_KERNELS` names the folder of compiled kernels, `HADAL_NVRTC` the compiler's library;
/// `HADAL_CUDA_OVERLAP=on` lets launches overlap, `HADAL_CUDA_WGMMA=on` uses Hopper's products of a warp group,
/// `HADAL_CUDA_BULK=on` has weights of few rows come by bulk copies, `HADAL_CUDA_JOIN=off` leaves every small
/// launch its own.
#[cfg(feature = "cuda")]
fn cuda() -> Arc<dyn hal::Backend> {
    let kernels = std::env::var_os("HADAL_CUDA_KERNELS").map(Into::into);
    let is = |name, wanted| std::env::var_os(name).is_some_and(|value| value == wanted);
    let on = |name| is(name, "on");
    let native = backend_cuda::Native {
        kernels,
        nvrtc: nvrtc(),
        overlap: on("HADAL_CUDA_OVERLAP"),
        wgmma: on("HADAL_CUDA_WGMMA"),
        bulk: on("HADAL_CUDA_BULK"),
    };
    let backend = backend_cuda::CudaBackend::on(Arc::new(native));
    Arc::new(backend.joining(!is("HADAL_CUDA_JOIN", "off")))
}

/// NVIDIA's run-time compiler, where the environment names it.
#[cfg(feature = "cuda")]
pub fn nvrtc() -> Option<std::path::PathBuf> {
    std::env::var_os("HADAL_NVRTC").map(Into::into)
}

/// One for the whole program: its libraries are initialised once. `ASCEND_TOOLKIT_HOME` says where they
/// lie, as the vendor's `set_env.sh` sets it.
#[cfg(feature = "ascend")]
fn ascend() -> Arc<dyn hal::Backend> {
    use std::sync::OnceLock;
    static BACKEND: OnceLock<Arc<backend_ascend::AscendBackend>> = OnceLock::new();
    let backend = BACKEND.get_or_init(|| {
        let toolkit = std::env::var_os("ASCEND_TOOLKIT_HOME").map(Into::into);
        let theirs = |name: &str| {
            name == "LD_LIBRARY_PATH" || name.starts_with("ASCEND") || name.starts_with("HCCL")
        };
        let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        let environment = std::env::vars_os()
            .map(|(name, value)| (text(name), text(value)))
            .filter(|(name, _)| theirs(name))
            .collect();
        let search = backend_ascend::Search { toolkit, only: None, environment };
        Arc::new(backend_ascend::AscendBackend::new(search))
    });
    Arc::clone(backend) as _
}

/// What a device may make of FP8 and FP4 weights where its hardware lacks these numbers, the most accurate
/// first: values of the setting `weights`. None where weights stay as they are.
pub fn weight_forms(device: &str) -> &'static [&'static str] {
    match device.split(':').next() {
        #[cfg(feature = "ascend")]
        Some("ascend") => &backend_ascend::WEIGHT_FORMS,
        _ => &[],
    }
}

/// The name a device is asked for by: `cpu`, `cuda:1`.
pub fn name_of(device: &DeviceInfo) -> String {
    match device.ordinal {
        0 => device.backend.to_owned(),
        ordinal => format!("{}:{ordinal}", device.backend),
    }
}

/// What the device called `name` is, without opening it.
///
/// # Errors
/// `NotFound` for an unknown backend or number, naming what there is; `Driver`.
pub fn find(name: &str) -> Result<DeviceInfo> {
    let name: DeviceName = name.parse()?;
    let registry = registry();
    let backend = registry.backend(&name.backend)?;
    let devices = backend.devices()?;
    let names = match devices.is_empty() {
        true => format!("none: {}", backend.doctor().join("; ")),
        false => devices.iter().map(name_of).collect::<Vec<_>>().join(", "),
    };
    devices.into_iter().find(|device| device.ordinal == name.ordinal).ok_or_else(|| {
        let message = format!("no device {name}; {} has {names}", name.backend);
        Error::new(ErrorKind::NotFound, message)
    })
}
