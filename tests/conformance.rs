//! The conformance kit on every in-tree backend that runs without special hardware.

use backend_cpu::CpuBackend;
use backend_null::NullBackend;
use conformance::{Expectations, Suite};

#[test]
fn the_cpu_conforms() {
    let report = conformance::run(&CpuBackend, &Expectations::none());
    println!("{}\n{report}", report.coverage());
    report.assert_green();
}

#[test]
fn the_null_device_keeps_the_device_contract() {
    let reason = "the null device executes nothing";
    let computing = Suite::ALL.into_iter().filter(|suite| *suite != Suite::Device);
    let expectations =
        computing.fold(Expectations::none(), |list, suite| list.excluded(suite, reason));
    let report = conformance::run(&NullBackend, &expectations);
    println!("{report}");
    report.assert_green();
}
