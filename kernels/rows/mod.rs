//! Ops on rows: gather, scatter, map, reduce, convert, rms_norm, rope. README.md has the formulas.

pub mod cases;
pub mod cpu;
pub mod oracle;
#[cfg(test)]
mod tests;
