//! Hyper-connection streams: the gates and the mixer of a site. README.md has the formulas.

pub mod cases;
pub mod cpu;
pub mod oracle;
#[cfg(test)]
mod tests;
