//! The list of backends a program was built with, and device names such as `cpu` or `cuda:1`.
//!
//! Which backends exist is decided by whoever fills the registry (the binary, a test, a third
//! party); nothing here knows their names. A name that fits nothing is answered with what there is.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::device::{Backend, Device, DeviceInfo, OpenOptions};
use crate::error::{Error, ErrorKind, Result};

/// A device by name: `backend` or `backend:ordinal`; without a number it is number 0.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DeviceName {
    /// Name of the backend.
    pub backend: String,
    /// Number among the backend's devices.
    pub ordinal: u32,
}

impl FromStr for DeviceName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let malformed = || {
            Error::new(
                ErrorKind::NotFound,
                format!(
                    "{text:?} is not a device name; write backend or backend:number, as cuda:0"
                ),
            )
        };
        let (backend, ordinal) = match text.split_once(':') {
            None => (text, 0),
            // A sign would parse: "cpu:+1" is not how a device is named.
            Some((backend, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
                (backend, number.parse().map_err(|_| malformed())?)
            }
            Some(_) => return Err(malformed()),
        };
        let letters = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if backend.is_empty() || !letters(backend) {
            return Err(malformed());
        }
        Ok(DeviceName { backend: backend.to_owned(), ordinal })
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.backend, self.ordinal)
    }
}

/// Backends in the order in which they are offered.
#[derive(Clone, Default)]
pub struct Registry {
    backends: Vec<Arc<dyn Backend>>,
}

impl Registry {
    /// A registry of these backends, the preferred one first.
    pub fn new(backends: Vec<Arc<dyn Backend>>) -> Self {
        Registry { backends }
    }

    /// Adds one behind the others.
    ///
    /// # Errors
    /// `InvalidProgram` if there is one of that name.
    pub fn add(&mut self, backend: Arc<dyn Backend>) -> Result<()> {
        let name = backend.name();
        if self.backends.iter().any(|other| other.name() == name) {
            return Err(Error::invalid(format!("there are two backends named {name}")));
        }
        self.backends.push(backend);
        Ok(())
    }

    /// The backends.
    pub fn backends(&self) -> &[Arc<dyn Backend>] {
        &self.backends
    }

    /// The backend of this name.
    ///
    /// # Errors
    /// `NotFound` naming the backends there are.
    pub fn backend(&self, name: &str) -> Result<&Arc<dyn Backend>> {
        self.backends.iter().find(|backend| backend.name() == name).ok_or_else(|| {
            let names: Vec<&str> = self.backends.iter().map(|backend| backend.name()).collect();
            let names = if names.is_empty() { "none".into() } else { names.join(", ") };
            Error::new(ErrorKind::NotFound, format!("no backend {name}; this build has: {names}"))
        })
    }

    /// Every device of every backend. A backend whose driver fails gives its error in its place, so
    /// that one broken driver does not hide the others.
    pub fn list(&self) -> Vec<(&'static str, Result<Vec<DeviceInfo>>)> {
        self.backends.iter().map(|backend| (backend.name(), backend.devices())).collect()
    }

    /// Opens a device by name.
    ///
    /// # Errors
    /// `NotFound` for an unknown backend or a number out of range, naming what exists; whatever
    /// opening says.
    pub fn open(&self, name: &str, options: &OpenOptions) -> Result<Arc<dyn Device>> {
        let name: DeviceName = name.parse()?;
        let backend = self.backend(&name.backend)?;
        let devices = backend.devices()?;
        if !devices.iter().any(|device| device.ordinal == name.ordinal) {
            return Err(absent(&name, &devices, &backend.doctor()));
        }
        backend
            .open(name.ordinal, options)
            .map_err(|error| error.context(format!("opening {name}")))
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.backends.iter().map(|backend| backend.name())).finish()
    }
}

fn absent(name: &DeviceName, devices: &[DeviceInfo], findings: &[String]) -> Error {
    let there: Vec<String> = devices
        .iter()
        .map(|device| format!("{}:{} ({})", name.backend, device.ordinal, device.name))
        .collect();
    let message = match there.as_slice() {
        [] if findings.is_empty() => format!("no device {name}; {} has none", name.backend),
        [] => format!("no device {name}; {} has none: {}", name.backend, findings.join("; ")),
        there => format!("no device {name}; there is {}", there.join(", ")),
    };
    Error::new(ErrorKind::NotFound, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::testing::Memory;

    fn registry() -> Registry {
        Registry::new(vec![
            Arc::new(Memory::backend("one", 1)),
            Arc::new(Memory::backend("two", 2)),
        ])
    }

    #[test]
    fn names_parse_or_are_explained() {
        for (text, backend, ordinal) in
            [("cpu", "cpu", 0), ("cuda:0", "cuda", 0), ("a-b:12", "a-b", 12)]
        {
            let name: DeviceName = text.parse().unwrap();
            assert_eq!((name.backend.as_str(), name.ordinal), (backend, ordinal), "{text}");
        }
        for text in [
            "",
            ":",
            ":0",
            "cuda:",
            "cuda:x",
            "cuda:-1",
            "cuda:+1",
            "cu da",
            "a:1:2",
            "a:4294967296",
        ] {
            let error = text.parse::<DeviceName>().map(|name| name.to_string());
            // An empty number is all digits, so it must fail in the parse.
            assert_eq!(error.map_err(|e| e.kind()), Err(ErrorKind::NotFound), "{text:?}");
        }
    }

    #[test]
    fn what_is_not_there_is_answered_with_what_is() {
        let registry = registry();
        for (name, words) in [
            ("cuda:0", "no backend cuda; this build has: one, two"),
            ("two:2", "no device two:2; there is two:0 (memory), two:1 (memory)"),
        ] {
            let error = registry.open(name, &OpenOptions::default()).err().unwrap();
            assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::NotFound, words));
        }
        let none = Registry::new(vec![Arc::new(Memory::backend("gone", 0))]);
        let error = none.open("gone", &OpenOptions::default()).err().unwrap();
        assert_eq!(error.to_string(), "no device gone:0; gone has none: no driver");
    }

    #[test]
    fn a_device_opens_by_name() {
        let device = registry().open("two:1", &OpenOptions::default()).unwrap();
        assert_eq!((device.info().backend, device.info().ordinal), ("two", 1));
    }

    #[test]
    fn two_backends_cannot_share_a_name() {
        let mut registry = registry();
        assert!(registry.add(Arc::new(Memory::backend("one", 1))).is_err());
        registry.add(Arc::new(Memory::backend("three", 1))).unwrap();
        assert_eq!(format!("{registry:?}"), r#"["one", "two", "three"]"#);
    }
}
