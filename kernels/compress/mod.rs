//! `compress`: pools the windows that a step completes into cache entries and keeps the newest rows
//! (spec section 7). README.md states contract, order of sums, tolerance.

pub mod cases;
mod cpu;
pub mod oracle;

pub use cpu::{Compress, compress};

#[cfg(test)]
mod tests;
