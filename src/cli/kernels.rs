//! `hadal kernels`: compiles the CUDA kernels ahead of time, for machines without NVIDIA's compiler.
//!
//! It needs the compiler and no GPU. What it writes is found by any device that looks in the folder
//! (`HADAL_CUDA_KERNELS`), if it comes from the same build of hadal: a file of another is passed over.

use std::fs;

use backend_cuda::compile_ahead;
use backend_cuda::nvrtc::Nvrtc;

use super::args::KernelsArgs;
use super::failure::{Failure, Result};
use super::term::bytes;
use hadal::registry;

/// Compiles every kernel for every architecture asked for and says what was written.
pub fn kernels(args: &KernelsArgs) -> Result<()> {
    let place = args.nvrtc.clone().or_else(registry::nvrtc);
    let nvrtc = Nvrtc::open(place.as_deref(), args.cuda).map_err(Failure::new)?;
    let arches: Vec<&str> = args.arch.iter().map(|arch| arch.0.as_str()).collect();
    let files = compile_ahead(&nvrtc, &arches, &args.folder).map_err(Failure::new)?;
    let written: u64 = files.iter().filter_map(|file| Some(fs::metadata(file).ok()?.len())).sum();
    let (major, minor) = nvrtc.version();
    println!(
        "{} files, {}, for {} by NVRTC {major}.{minor}; HADAL_CUDA_KERNELS={} makes hadal look there",
        files.len(),
        bytes(written),
        arches.join(", "),
        args.folder.display()
    );
    Ok(())
}
