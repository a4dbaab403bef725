//! Hadal: DeepSeek-V4 on any accelerator, bitwise exact across chunking, batching, caching and restore.
//!
//! This crate is the façade: the engine, the hardware abstraction, the backends of this tree
//! ([`registry`]) and the embedded demo model ([`demo`]). Programs that bring their own backend depend
//! on `hal` and `engine` alone.
//!
//! Not here: the command line, which is the binary of the same package.
#![forbid(unsafe_code)]

pub use engine;
pub use hal;

pub mod demo;
pub mod registry;
pub mod version;
