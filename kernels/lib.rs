//! Op families. Each folder holds one family in every language it is written in: the f64 oracle,
//! the seeded case table, the CPU kernels, and (as plain sources) the GPU kernels.

pub mod attend;
pub mod case;
pub mod collective;
pub mod common;
pub mod compress;
pub mod gemm;
pub mod index;
pub mod moe;
pub mod quant;
pub mod rows;
pub mod sample;
pub mod stream;
