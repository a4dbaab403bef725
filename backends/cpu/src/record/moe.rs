//! bucket.

use hal::Op;
use kernels::moe::cpu;

use super::{Record, Scope, flat, ints, ints_mut};

pub(crate) fn bucket_fits(op: &Op) -> bool {
    matches!(op, Op::Bucket(_))
}

pub(crate) fn bucket(op: &Op, _: &Scope) -> Record {
    let Op::Bucket(op) = op else { unreachable!("bucket of {}", op.name()) };
    let offsets = ints_mut(&flat(&op.offsets));
    let (order, inverse) = (ints_mut(&flat(&op.order)), ints_mut(&flat(&op.inverse)));
    let keys = ints(&flat(&op.keys));
    Box::new(move || cpu::bucket(offsets, order, inverse, keys))
}
