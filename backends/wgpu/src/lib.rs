//! Any GPU that Vulkan, Metal, DX12 or GL reaches, through wgpu: the portable path.
//!
//! Kernels are WGSL beside their oracles in `kernels/<family>/`; they use nothing but what every adapter
//! has. Weights stay in the checkpoint's encoding, packed in words, and are decoded in the shader. All
//! queues of a device share wgpu's one queue, so that whatever was submitted first happens first.
//!
//! It refuses what an adapter cannot bind: activations wider than the binding limit, by name; weights,
//! tables and caches are cut. What the device can do is in `table.rs`, the one list.

mod adapter;
mod device;
mod fit;
mod launch;
mod memory;
mod plan;
mod queue;
mod record;
mod shader;
mod shared;
mod table;
#[cfg(test)]
mod tests;
mod weight;

pub use device::WgpuBackend;
