//! Matmul: `out[i] = W · x[i]`, weights in any encoding, used where they lie.
//!
//! README.md has the formula, the layout and the arithmetic of speed. The promise on top of the
//! formula is law 7: a row of the output has the same bits whether it was computed alone or among
//! 2,048, by one thread or by many.

#[cfg_attr(not(target_arch = "x86_64"), path = "no_amx.rs")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod body;
#[cfg(target_arch = "aarch64")]
mod neon;
mod plan;
mod scalar;
mod simd;
mod tables;
mod task;
mod weight;

pub mod cases;
pub mod oracle;
#[cfg(test)]
mod tests;

pub use plan::{RowGroups, matmul};
pub use weight::{COLS_MAX, Encoding, FP4_COLS, FiniteNotes, Segment, WeightView};
