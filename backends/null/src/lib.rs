//! The device that computes nothing: the skeleton to clone for a new backend, and the yardstick for
//! what the host costs (a step on it is all scheduling, uploads and submissions).
//!
//! Memory, transfers, order and points are real, programs are accepted and checked, their ops are not
//! executed: outputs keep what was in memory. It refuses what any device must refuse (memory of
//! others, transfers of the wrong size, more memory than it has) and nothing else.
//!
//! The README says what to replace, file by file.
#![forbid(unsafe_code)]

mod device;
mod memory;
mod plan;
mod queue;
mod table;
mod weight;

pub use device::NullBackend;
