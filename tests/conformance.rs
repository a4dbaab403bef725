//! The conformance kit on every in-tree backend that runs without special hardware.

use std::sync::Arc;
use std::time::Duration;

use backend_cpu::CpuBackend;
use backend_null::NullBackend;
use conformance::{Bed, Expectations, Settings, Suite, run_on};
use hal::op::{Communicator, Gather, GatherSource};
use hal::{
    Backend, Builder, CompileOptions, DType, Device, Mode, OpenOptions, Profile, Queue, Result,
    RowCodec, Shape, Tensor,
};

/// A CPU device that has just been lost to an index past the end of its table.
fn lost_cpu() -> Result<(Arc<dyn Device>, Arc<dyn Queue>)> {
    let device = CpuBackend.open(0, &OpenOptions::default())?;
    let bed = Bed::new(&device)?;
    let tensor = |dims: &[u32], dtype| {
        Tensor::new(bed.alloc(64)?, 0, Shape::new(dims), dtype, RowCodec::Plain)
    };
    let (out, source) = (tensor(&[1, 4], DType::F32)?, tensor(&[2, 4], DType::F32)?);
    let index = tensor(&[1], DType::I32)?;
    bed.upload(&index, &9i32.to_le_bytes())?;
    let mut builder = Builder::new();
    let source = GatherSource::Rows { source, more: None };
    builder.push(Gather { out, source, index, per: 1 })?;
    let options =
        CompileOptions { label: "fault".into(), mode: Mode::Eager, profile: Profile::Off };
    let plan = hal::compile(&*device, &builder.finish()?, None, &options)?;
    let point = bed.queue.submit(&plan, &[])?;
    let fault = bed.queue.wait(&point, Duration::from_secs(60));
    assert!(fault.is_err(), "an index past the end must fault");
    Ok((device, bed.queue))
}

/// Devices with their communicators, by rank.
type Group = Vec<(Arc<dyn Device>, Arc<dyn Communicator>)>;

/// CPU devices that act together.
fn cpu_ranks(size: u32) -> Result<Group> {
    let settings = vec![("threads".to_owned(), "1".to_owned())];
    let options = OpenOptions { settings, ..OpenOptions::default() };
    let rank = |communicator| Ok((CpuBackend.open(0, &options)?, communicator));
    backend_cpu::ranks(size)?.into_iter().map(rank).collect()
}

#[test]
fn the_cpu_conforms() {
    let device = CpuBackend.open(0, &OpenOptions::default()).unwrap();
    let settings =
        Settings { lost: Some(&lost_cpu), ranks: Some(&cpu_ranks), ..Settings::default() };
    let report = run_on(&device, &settings, &Expectations::none());
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
