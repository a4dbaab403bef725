//! NVIDIA GPUs as devices, from compute capability 8.0 up.
//!
//! It builds and starts with no CUDA installed: libraries are opened when first asked for, and a machine
//! without them has no devices and a finding for `doctor`. Kernels are sources in the binary; NVRTC
//! compiles them when a device is first opened, and a cache on disk keeps them.
//!
//! `driver` is the seam: above it device, memory, queues and plans are plain safe logic, below it stands
//! NVIDIA's driver, or in tests one that executes the same kernels on the CPU. **The native driver and
//! the kernels have not run on a GPU yet.**
//!
//! It refuses what it cannot do by name when a model opens: `table.rs` is the one list of what it can.

mod cache;
mod device;
pub mod driver;
mod memory;
mod native;
pub mod nvrtc;
mod plan;
mod probe;
mod queue;
mod record;
pub mod source;
mod table;
mod transfer;
mod weight;
mod workspace;

pub use cache::compile_ahead;
pub use device::CudaBackend;
pub use native::Native;
