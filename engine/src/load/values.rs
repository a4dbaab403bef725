//! Small tensors as plain vectors: gains, biases, sinks, position biases, expert tables. Every number is
//! checked, because a NaN here would come out as a wrong answer and not as an error.

use super::Checkpoint;
use super::header::{Dtype, TensorEntry};
use super::names::{Block, Key, Part};
use super::survey::refuse;
use crate::config::Leaf;
use crate::refusal::{Refusal, RefusalKind, shown};

impl Checkpoint {
    /// A floating-point tensor as f32, in its stored order. BF16 and F16 widen exactly.
    ///
    /// # Errors
    /// `Tensor` if the model has no such tensor or it is not floating-point, `Value` if a number in it
    /// is not finite.
    pub fn vector(&self, block: Block, leaf: Leaf) -> Result<Vec<f32>, Refusal> {
        if self.synthetic {
            return self.synthetic_vector(block, leaf);
        }
        let (file, entry) = self.entry(&Key { block, leaf, expert: 0, part: Part::Codes })?;
        let bytes = &self.files[file].owner.bytes()[entry.begin..entry.end];
        let values = widen(entry, bytes)?;
        let Some(place) = values.iter().position(|value| !value.is_finite()) else {
            return Ok(values);
        };
        let (name, value) = (shown(&entry.name), values[place]);
        Err(Refusal::new(
            RefusalKind::Value,
            format!("tensor {name} holds {value} at place {place}; the file is damaged"),
        ))
    }

    /// The experts of every token id in a hash-routed layer: `[vocab, experts_per_token]`, row-major.
    ///
    /// # Errors
    /// `Tensor` if the layer has no table, `Value` if it names an expert that does not exist.
    pub fn expert_table(&self, layer: u32) -> Result<Vec<i32>, Refusal> {
        if self.synthetic {
            return self.synthetic_table(layer);
        }
        let key = Key {
            block: Block::Main(layer),
            leaf: Leaf::RouterTable,
            expert: 0,
            part: Part::Codes,
        };
        let (file, entry) = self.entry(&key)?;
        let bytes = &self.files[file].owner.bytes()[entry.begin..entry.end];
        let experts: Vec<i64> = match entry.dtype {
            Dtype::I64 => chunks(bytes).map(i64::from_le_bytes).collect(),
            Dtype::I32 => chunks(bytes).map(|bytes| i32::from_le_bytes(bytes).into()).collect(),
            other => return Err(wrong_dtype(entry, other)),
        };
        let known = 0..i64::from(self.config.experts);
        let Some(place) = experts.iter().position(|expert| !known.contains(expert)) else {
            return Ok(experts.into_iter().map(|expert| expert as i32).collect());
        };
        let (name, expert) = (shown(&entry.name), experts[place]);
        let token = place / self.config.experts_per_token as usize;
        Err(Refusal::new(
            RefusalKind::Value,
            format!(
                "tensor {name} sends token {token} to expert {expert}; there are {}",
                self.config.experts
            ),
        ))
    }
}

fn widen(entry: &TensorEntry, bytes: &[u8]) -> Result<Vec<f32>, Refusal> {
    Ok(match entry.dtype {
        Dtype::F32 => chunks(bytes).map(f32::from_le_bytes).collect(),
        Dtype::Bf16 => chunks(bytes).map(|two| half::bf16::from_le_bytes(two).to_f32()).collect(),
        Dtype::F16 => chunks(bytes).map(|two| half::f16::from_le_bytes(two).to_f32()).collect(),
        other => return Err(wrong_dtype(entry, other)),
    })
}

fn chunks<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    bytes.as_chunks::<N>().0.iter().copied()
}

fn wrong_dtype(entry: &TensorEntry, dtype: Dtype) -> Refusal {
    refuse(format!("tensor {} is {dtype} and cannot be read as plain numbers", shown(&entry.name)))
}
