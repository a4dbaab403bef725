//! The conformance kit on a GPU. Ignored unless asked for: `cargo test --test hardware -- --ignored`;
//! `HADAL_CUDA_DEVICE` names another device than cuda:0, `HADAL_CUDA_OVERLAP=on`, `HADAL_CUDA_WGMMA=on`,
//! `HADAL_CUDA_BULK=on` and `HADAL_CUDA_JOIN=off` open it with these settings.

use backend_cuda::CudaBackend;
use conformance::{Expectations, Settings, run_on};
use hal::registry::DeviceName;
use hal::{Backend, OpenOptions};

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn the_gpu_conforms() {
    let name = std::env::var("HADAL_CUDA_DEVICE").unwrap_or_else(|_| "cuda:0".into());
    let name: DeviceName = name.parse().expect("HADAL_CUDA_DEVICE names a device");
    let setting = |setting: &str, variable: &str| {
        std::env::var(variable).ok().map(|value| (setting.to_owned(), value))
    };
    let settings = [
        setting("overlap", "HADAL_CUDA_OVERLAP"),
        setting("wgmma", "HADAL_CUDA_WGMMA"),
        setting("bulk", "HADAL_CUDA_BULK"),
        setting("join", "HADAL_CUDA_JOIN"),
    ];
    let settings = settings.into_iter().flatten().collect();
    let options = OpenOptions { settings, ..OpenOptions::default() };
    let device = CudaBackend::default().open(name.ordinal, &options);
    let device = device.unwrap_or_else(|error| panic!("{name}: {error}"));
    let report = run_on(&device, &Settings::default(), &Expectations::none());
    println!("{}\n{report}", report.coverage());
    report.assert_green();
}
