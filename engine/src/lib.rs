//! DeepSeek-V4 on op programs: model, state, schedule, text. Knows the model and no hardware.
#![forbid(unsafe_code)]

pub mod budget;
pub mod config;
pub mod limits;
pub mod load;
pub mod refusal;
