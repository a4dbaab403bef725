//! What several op families share: the instruction set in use, the pool of threads, row views.
//!
//! No arithmetic of an op lives here.

pub mod isa;
pub mod pool;
pub mod real;
pub mod rows;
pub mod scratch;
