//! The model as op programs: parameters on a device ([`params`]) and the emission of one step
//! ([`emit`]), and what its ops cost ([`cost`]). Knows the mathematics of V4, no hardware.

pub mod cost;
pub mod emit;
pub mod params;

use std::fmt;
use std::str::FromStr;

use hal::DType;

/// Which numbers are computed (spec sections 13 and 15).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Numerics {
    /// The model as it was trained and is served: FP8 activations, FP8 keys and entries, Hadamard and
    /// FP4 in the indexer, bf16 tensors.
    #[default]
    Served,
    /// No simulation of quantisation, f32 activations: what transformers computes.
    Plain,
}

impl Numerics {
    /// Dtype of activations.
    pub fn activation(self) -> DType {
        match self {
            Numerics::Served => DType::Bf16,
            Numerics::Plain => DType::F32,
        }
    }

    /// The option's value.
    pub fn name(self) -> &'static str {
        match self {
            Numerics::Served => "served",
            Numerics::Plain => "plain",
        }
    }
}

impl fmt::Display for Numerics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Numerics {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "served" => Ok(Numerics::Served),
            "plain" => Ok(Numerics::Plain),
            other => Err(format!("numerics \"{other}\" do not exist; there are served and plain")),
        }
    }
}
