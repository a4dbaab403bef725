//! The conformance kit on a GPU. Ignored unless asked for: `cargo test --test hardware -- --ignored`;
//! `HADAL_CUDA_DEVICE` names another device than cuda:0.

use backend_cuda::CudaBackend;
use conformance::{Expectations, Settings, run_on};
use hal::registry::DeviceName;
use hal::{Backend, OpenOptions};

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn the_gpu_conforms() {
    let name = std::env::var("HADAL_CUDA_DEVICE").unwrap_or_else(|_| "cuda:0".into());
    let name: DeviceName = name.parse().expect("HADAL_CUDA_DEVICE names a device");
    let device = CudaBackend::default().open(name.ordinal, &OpenOptions::default());
    let device = device.unwrap_or_else(|error| panic!("{name}: {error}"));
    let report = run_on(&device, &Settings::default(), &Expectations::none());
    println!("{}\n{report}", report.coverage());
    report.assert_green();
}
