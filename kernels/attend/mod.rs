//! `attend`: one softmax per query head over listed rows of a near cache and rows of a far cache,
//! K and V being the same rows (spec section 6). README.md states contract, order of sums, tolerance.

pub mod cases;
mod cpu;
mod fold;
mod keys;
pub mod oracle;
pub(crate) mod score;
pub(crate) mod simd;
#[cfg_attr(not(target_arch = "x86_64"), path = "no_tiles.rs")]
mod tiles;

pub use cpu::{Attend, Far, HEADS_MAX, WIDTH_MAX, attend};
pub use keys::{KeyRows, Listed, Visible};

#[cfg(test)]
pub(crate) mod tests;
