//! The conformance kit on the backend's own device, plan and queue code, its kernels executed by the CPU.

mod emulated;

use std::sync::Arc;
use std::time::Duration;

use backend_cuda::CudaBackend;
use conformance::{Bed, Expectations, Settings, run_on};
use emulated::Emulated;
use hal::op::{Gather, GatherSource};
use hal::{
    Backend, Builder, CompileOptions, DType, Device, ErrorKind, Mode, OpenOptions, Profile, Queue,
    Result, RowCodec, Shape, Tensor,
};

fn open() -> Result<Arc<dyn Device>> {
    CudaBackend::on(Arc::new(Emulated)).open(0, &OpenOptions::default())
}

/// A device that has just been lost to an index past the end of its table.
fn lost() -> Result<(Arc<dyn Device>, Arc<dyn Queue>)> {
    let device = open()?;
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
    let fault = bed.queue.wait(&point, Duration::from_secs(60)).unwrap_err();
    assert_eq!(fault.kind(), ErrorKind::DeviceLost, "{fault}");
    assert!(fault.to_string().starts_with("fault: gather_rows"), "{fault}");
    Ok((device, bed.queue))
}

#[test]
fn the_kernels_conform_on_the_cpu() {
    let device = open().unwrap();
    let settings = Settings { lost: Some(&lost), ..Settings::default() };
    let report = run_on(&device, &settings, &Expectations::none());
    println!("{}\n{report}", report.coverage());
    report.assert_green();
}
