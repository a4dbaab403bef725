//! A simulated machine per test: a copy of the simulator's library, opened through the backend as a vendor's
//! would be, and asked at the end whether anything was done wrong.
#![allow(dead_code, reason = "not every test file uses all of it")]

use std::ffi::c_char;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use backend_ascend::sys::operators::Operator;
use backend_ascend::{AscendBackend, Search};
use hal::{Backend, Device, OpenOptions};
use libloading::Library;

/// The simulated generations, by the number the simulator knows them by.
pub const SOCS: [(&str, u32); 3] = [("910B", 0), ("910C", 1), ("950", 2)];
/// Memory of a simulated device.
pub const MEMORY_BYTES: u64 = 4 << 30;

/// A simulated machine of its own.
pub struct Sim {
    path: PathBuf,
    library: Library,
}

/// Where cargo puts the simulator: beside the test.
fn built() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let folder = test.parent().expect("a file has a folder");
    let name = format!("{}acl_sim{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let path = folder.join(&name);
    assert!(path.is_file(), "{} was not built beside {}", name, test.display());
    path
}

impl Sim {
    /// A machine with `devices` devices of a generation.
    pub fn new(soc: u32, devices: u32) -> Sim {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("acl-sim-{}-{number}.so", std::process::id());
        let path = std::env::temp_dir().join(name);
        // A library is opened once per process and path; a copy has globals of its own.
        fs::copy(built(), &path).expect("the temporary folder is writable");
        // SAFETY: the simulator's initialisers do nothing.
        let library = unsafe { Library::new(&path) }.expect("the simulator opens");
        let sim = Sim { path, library };
        sim.call("acl_sim_configure", |configure: extern "C" fn(u32, u32, u64)| {
            configure(soc, devices, MEMORY_BYTES);
        });
        sim
    }

    fn call<F: Copy, R>(&self, name: &str, with: impl FnOnce(F) -> R) -> R {
        // SAFETY: the simulator declares them so.
        let function = unsafe { self.library.get::<F>(name.as_bytes()) };
        with(*function.expect("the simulator exports it"))
    }

    /// The backend over it.
    pub fn backend(&self) -> AscendBackend {
        AscendBackend::new(Search { only: Some(self.path.clone()), ..Search::default() })
    }

    /// Device 0 of a new backend. The backend goes with its last device.
    pub fn device(&self, settings: &[(&str, &str)]) -> Arc<dyn Device> {
        self.device_to(settings, None)
    }

    /// As [`Sim::device`], with op timings going to `sink`.
    pub fn device_to(
        &self,
        settings: &[(&str, &str)],
        sink: Option<Arc<dyn hal::Sink>>,
    ) -> Arc<dyn Device> {
        let settings = settings.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
        let options = OpenOptions { settings, sink };
        self.backend().open(0, &options).expect("the simulated device opens")
    }

    /// The call after `calls` more fails as a device does.
    pub fn fail_in(&self, calls: u64) {
        self.call("acl_sim_fail_in", |fail: extern "C" fn(u64)| fail(calls));
    }

    /// Phase one of an operator answers as where its kernels are not installed.
    pub fn remove(&self, operator: Operator) {
        let number =
            Operator::ALL.iter().position(|other| *other == operator).expect("in the table");
        self.call("acl_sim_remove", |remove: extern "C" fn(u32)| remove(number as u32));
    }

    /// Where the library lies, for a program that loads it by itself.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// A symbol of the simulator.
    pub fn symbol<F: Copy>(&self, name: &str) -> F {
        self.call(name, |function: F| function)
    }

    /// What was wrong since the last call.
    pub fn violations(&self) -> Vec<String> {
        self.call("acl_sim_violations", |get: unsafe extern "C" fn(*mut c_char, usize) -> usize| {
            let mut text = vec![0u8; 1 << 20];
            // SAFETY: the buffer has this length.
            let bytes = unsafe { get(text.as_mut_ptr().cast(), text.len()) };
            assert!(bytes <= text.len(), "{bytes} bytes of violations");
            let text = String::from_utf8_lossy(&text[..bytes]).into_owned();
            text.lines().map(str::to_owned).collect()
        })
    }

    /// Nothing was wrong, and after the last device is gone nothing was leaked.
    pub fn assert_clean(&self) {
        let violations = self.violations();
        assert!(violations.is_empty(), "{} violations: {violations:#?}", violations.len());
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
