//! Serves one engine over HTTP: OpenAI Chat Completions and Anthropic Messages with DeepSeek's contract.
//!
//! Two halves meet in [`job`]: [`worker`] is one thread that owns the engine and knows no async and no
//! dialect; everything else is async, knows the dialects, and never touches the engine.
#![forbid(unsafe_code)]

mod answer;
pub mod anthropic;
mod cache;
pub mod fault;
mod fields;
pub mod fuzz;
pub mod grammar;
pub mod http;
mod ids;
pub mod job;
pub mod limits;
pub mod model;
pub mod names;
pub mod openai;
pub mod replay;
pub mod stats;
pub mod worker;
