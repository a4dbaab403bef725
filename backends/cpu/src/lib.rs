//! The CPU as a device: a real target, not a reference.
//!
//! One device per machine. Weights stay in their checkpoint encoding, where the loader mapped them or, if
//! asked, in huge pages; kernels pick their instruction set once, when the device opens; one pool of threads
//! shares the work of an op. A queue is a thread that runs its submissions in order. Nothing is allocated
//! while a plan runs.
//!
//! It refuses what it cannot do by name when a model opens: `table.rs` is the one list of what it can.

mod device;
mod huge;
mod machine;
mod memory;
mod plan;
mod queue;
mod ranks;
mod record;
mod table;
mod weight;

pub use device::CpuBackend;
pub use ranks::ranks;
