//! The backends of this tree. The only place that knows which were compiled in.
//!
//! A program with a backend of its own does not come through here: it opens its device and hands it
//! to the engine.

use std::sync::Arc;

use hal::registry::{DeviceName, Registry};
use hal::{DeviceInfo, Error, ErrorKind, Result};

/// Every backend in this binary, the one that is always there first.
pub fn registry() -> Registry {
    Registry::new(vec![
        Arc::new(backend_cpu::CpuBackend),
        #[cfg(feature = "cuda")]
        Arc::new(backend_cuda::CudaBackend::default()),
    ])
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
