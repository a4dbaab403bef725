//! bucket.

use hal::Op;
use hal::op::Bucket;

use crate::launch::Launch;

pub(crate) fn fits(op: &Op) -> bool {
    matches!(op, Op::Bucket(_))
}

pub(crate) fn record(op: &Op) -> Vec<Launch> {
    let Op::Bucket(Bucket { offsets, order, inverse, keys }) = op else {
        unreachable!("bucket of {}", op.name());
    };
    let launch = Launch::new("moe", "bucket")
        .flat_out("out", offsets)
        .flat_out("order", order)
        .flat_out("inverse", inverse)
        .flat("keys", keys)
        .number("groups", offsets.shape().elements() as u32 - 1)
        .number("keys", keys.shape().elements() as u32);
    vec![launch.blocks(1)]
}
