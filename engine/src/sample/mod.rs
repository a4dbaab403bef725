//! From logits to the next id: [`Sampler`], and [`StopMatcher`] for stop strings.
//!
//! A choice depends on the logits of its row, the parameters, the seed and the position, and on
//! nothing else: not on the batch, on earlier choices, or on the machine's mathematical library.
//! So a sequence continues the same way after a restart, a restore, or beside other sequences.

mod error;
mod exp;
mod params;
mod rng;
mod sampler;
mod stop;

pub use error::SampleError;
pub use params::{LOGPROBS_MAX, STOP_BYTES_MAX, STOPS_MAX, SamplingParams};
pub use rng::uniform;
pub use sampler::{Choice, Sampler};
pub use stop::StopMatcher;
