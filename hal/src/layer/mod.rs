//! Layers: devices around a device, for finding out what went wrong where.
//!
//! | layer | what it adds |
//! |---|---|
//! | [`Validate`] | checks every program again, poisons what a plan must write before it runs, checks transfers and points |
//! | [`Trace`] | a readable log of every call |
//! | [`Compare`] | runs every op on a second device too and names the first that differs |
//! | [`Fault`] | fails the n-th call, then loses the device if asked |
//!
//! They nest in any order, because each is a [`crate::Device`] that knows only the one below. Buffers
//! and weights pass through unchanged (except in [`Compare`], which has two of each), so a plan may
//! only be submitted to queues of the layer that compiled it. None of them is for serving: they
//! wait, copy and allocate in `submit`.

mod compare;
mod fault;
#[cfg(test)]
pub(crate) mod testing;
mod trace;
mod validate;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use compare::{Compare, Finding, Tolerance};
pub use fault::{Call, Failure, Fault, Then};
pub use trace::{Log, Trace};
pub use validate::{Fresh, Validate};

use crate::device::Plan;
use crate::error::{Error, Result};
use crate::tensor::{Buffer, DType, RowCodec, Shape, Tensor};

/// Longest transfer a layer makes at a time.
const CHUNK_BYTES: u64 = 64 << 20;

/// How long a layer waits for its own transfers before it calls the device hung.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(600);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The layer's own plan behind `plan`.
fn own<'a, T: 'static>(layer: &str, plan: &'a Arc<dyn Plan>) -> Result<&'a T> {
    plan.as_any()
        .downcast_ref()
        .ok_or_else(|| Error::invalid(format!("{layer}: the plan was compiled on another device")))
}

/// `bytes` bytes of a buffer, seen as plain bytes; at most [`CHUNK_BYTES`] long.
fn bytes_of(buffer: &Buffer, offset_bytes: u64, bytes: u64) -> Result<Tensor> {
    debug_assert!(bytes <= CHUNK_BYTES);
    let shape = Shape::new(&[bytes as u32]);
    Tensor::new(buffer.clone(), offset_bytes, shape, DType::U8, RowCodec::Plain)
}

/// `begin..end` cut into pieces of at most [`CHUNK_BYTES`]: (offset, length).
fn chunks(begin: u64, end: u64) -> impl Iterator<Item = (u64, u64)> {
    (begin..end)
        .step_by(CHUNK_BYTES as usize)
        .map(move |offset| (offset, CHUNK_BYTES.min(end - offset)))
}
