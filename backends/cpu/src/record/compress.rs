//! compress.

use std::sync::Arc;

use hal::op::Compress;
use hal::{DType, Op};
use kernels::common::rows::Real;
use kernels::compress as kernel;

use super::rows::is_vector;
use super::{Record, Scope, any_mut, flat, floats, floats_mut, ints, is_plain, is_row};
use crate::weight::raw_of;

pub(crate) fn fits(op: &Op) -> bool {
    let Op::Compress(op) = op else { return false };
    is_row(&op.entries) && is_plain(&op.bias) && is_vector(&op.gain) && op.activation.is_real()
}

/// The views of an op, but for the rotation, which is lent.
fn views(op: &Compress) -> kernel::Compress<'static> {
    kernel::Compress {
        entries: any_mut(&op.entries),
        tail: floats_mut(&op.tail),
        landing: floats(&op.landing),
        bias: floats(&op.bias),
        gain: floats(&flat(&op.gain)),
        pool: ints(&op.pool),
        entry_angle: floats(&op.entry_angle),
        entry_row: ints(&op.entry_row),
        tail_keep: ints(&op.tail_keep),
        epsilon: op.epsilon,
        activation: match op.activation {
            DType::F32 => Real::F32,
            DType::Bf16 => Real::Bf16,
            DType::F16 => Real::F16,
            other => unreachable!("{other:?} is not real"),
        },
        rotation: None,
        round: op.round,
    }
}

pub(crate) fn workspace_bytes(op: &Op, _: &Scope) -> u64 {
    let Op::Compress(op) = op else { unreachable!("compress of {}", op.name()) };
    (views(op).workspace_floats() * size_of::<f32>()) as u64
}

pub(crate) fn record(op: &Op, scope: &Scope) -> Record {
    let Op::Compress(op) = op else { unreachable!("compress of {}", op.name()) };
    let (isa, pool, room) = (scope.isa, Arc::clone(&scope.pool), scope.room);
    let views = views(op);
    let rotation = op
        .rotation
        .as_ref()
        .map(|weight| raw_of(weight).expect("compile checked every weight").view());
    Box::new(move || {
        let op = kernel::Compress { rotation: rotation.as_ref(), ..views };
        // SAFETY: ops of a plan run one after the other.
        kernel::compress(isa, &pool, &op, unsafe { room.floats() });
    })
}
