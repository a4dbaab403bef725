//! DeepSeek-V4 on op programs: model, state, schedule, text. Knows the model and no hardware.
#![forbid(unsafe_code)]

pub mod budget;
pub mod config;
mod engine;
pub mod error;
pub mod experts;
pub mod generate;
pub mod limits;
pub mod load;
pub mod model;
pub mod refusal;
pub mod sample;
pub mod schedule;
pub mod state;
pub mod text;

pub use engine::{Engine, Logits, ModelOptions, Run, Want};
pub use error::{Error, Result};
pub use model::Numerics;
pub use state::{Sequence, Snapshot};
