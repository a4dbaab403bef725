//! Serves one engine over HTTP: OpenAI Chat Completions and Anthropic Messages with DeepSeek's contract.
//!
//! Two halves meet in [`job`]: [`worker`] is one thread that owns the engine and knows no async and no
//! dialect; everything else is async, knows the dialects, and never touches the engine.
#![forbid(unsafe_code)]

mod cache;
pub mod job;
pub mod stats;
pub mod worker;
