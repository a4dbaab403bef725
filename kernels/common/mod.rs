//! What several op families share: the instruction set in use, the pool of threads, row views.
//!
//! No op lives here.

pub mod cut;
pub mod isa;
pub mod math;
pub mod peak;
pub(crate) mod per_isa;
pub mod pool;
pub(crate) mod prefetch;
pub mod real;
pub mod rows;
pub mod scratch;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(target_arch = "x86_64")]
pub(crate) mod tiles;
