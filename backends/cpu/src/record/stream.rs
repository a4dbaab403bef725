//! hc_mix.

use std::sync::Arc;

use hal::Op;
use kernels::stream::cpu;

use super::rows::is_vector;
use super::{Record, Scope, flat, floats, floats_mut};

pub(crate) fn hc_mix_fits(op: &Op) -> bool {
    matches!(op, Op::HcMix(op) if is_vector(&op.base) && is_vector(&op.scale))
}

pub(crate) fn hc_mix(op: &Op, scope: &Scope) -> Record {
    let Op::HcMix(op) = op else { unreachable!("hc_mix of {}", op.name()) };
    let (isa, pool) = (scope.isa, Arc::clone(&scope.pool));
    let (out, u, mean_square) = (floats_mut(&op.out), floats(&op.u), floats(&op.mean_square));
    let (base, scale) = (floats(&flat(&op.base)), floats(&flat(&op.scale)));
    let f = cpu::HcMix {
        streams: op.streams as usize,
        rounds: op.rounds,
        epsilon: op.epsilon,
        norm_epsilon: op.norm_epsilon,
    };
    Box::new(move || cpu::hc_mix(isa, &pool, out, u, mean_square, base, scale, f))
}
