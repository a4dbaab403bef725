//! The error of sampling: parameters out of range, or logits that are no numbers.

use std::fmt;

/// A failure of sampling; its message is one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SampleError {
    /// A parameter is out of range: the request is wrong.
    Params(String),
    /// The logits cannot be sampled from (NaN, +∞, all −∞, none): the model or a kernel is wrong.
    Logits(String),
}

impl fmt::Display for SampleError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (SampleError::Params(message) | SampleError::Logits(message)) = self;
        out.write_str(message)
    }
}

impl std::error::Error for SampleError {}
