//! bucket.

use hal::Op;

use super::{Args, Scope};
use crate::driver::Launch;
use crate::memory::address_of;

pub(crate) fn bucket_fits(op: &Op) -> bool {
    matches!(op, Op::Bucket(_))
}

pub(crate) fn bucket(op: &Op, scope: &Scope<'_>) -> Vec<Launch> {
    let Op::Bucket(op) = op else { unreachable!("bucket of {}", op.name()) };
    let args = Args::new()
        .address(address_of(&op.offsets))
        .address(address_of(&op.order))
        .address(address_of(&op.inverse))
        .address(address_of(&op.keys))
        .int(op.offsets.shape().elements() as u32 - 1)
        .int(op.keys.shape().elements() as u32);
    scope.launch("bucket", [1, 1, 1], 256, 0, args)
}
