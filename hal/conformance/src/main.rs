//! The kit over the in-tree backends that run without special hardware: `hadal-conformance cpu --coverage`.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::sync::Arc;

use conformance::{Expectations, Suite};
use hal::Registry;

fn expectations(backend: &str) -> Expectations {
    if backend != "null" {
        return Expectations::none();
    }
    let reason = "the null device executes nothing";
    let computing = Suite::ALL.into_iter().filter(|suite| *suite != Suite::Device);
    computing.fold(Expectations::none(), |list, suite| list.excluded(suite, reason))
}

fn main() -> ExitCode {
    let registry = Registry::new(vec![
        Arc::new(backend_cpu::CpuBackend),
        Arc::new(backend_null::NullBackend),
        Arc::new(backend_wgpu::WgpuBackend),
    ]);
    conformance::cli::main(&registry, expectations, std::env::args().skip(1))
}
