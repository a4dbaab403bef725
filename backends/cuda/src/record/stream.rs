//! hc_mix.

use hal::Op;

use super::{Args, Scope, is_vector};
use crate::driver::Launch;
use crate::memory::address_of;

/// Streams a thread keeps in its own memory; as in `kernels/stream/stream.cu`.
const STREAMS_MAX: u32 = 8;

pub(crate) fn hc_mix_fits(op: &Op) -> bool {
    matches!(op, Op::HcMix(op) if op.streams <= STREAMS_MAX
        && is_vector(&op.base) && is_vector(&op.scale))
}

pub(crate) fn hc_mix(op: &Op, scope: &Scope<'_>) -> Vec<Launch> {
    let Op::HcMix(op) = op else { unreachable!("hc_mix of {}", op.name()) };
    let args = Args::new()
        .rows(&op.out)
        .rows(&op.u)
        .rows(&op.mean_square)
        .address(address_of(&op.base))
        .address(address_of(&op.scale))
        .int(op.streams)
        .int(op.rounds)
        .float(op.epsilon)
        .float(op.norm_epsilon);
    scope.launch("hc_mix", [op.u.rows().div_ceil(32), 1, 1], 32, 0, args)
}
