//! Mixture of experts: the sort that groups rows by expert. README.md has the formulas.

pub mod cases;
pub mod cpu;
pub mod oracle;
#[cfg(test)]
mod tests;
