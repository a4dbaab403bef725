//! compress: the entries, then the tail, which the entries still read; few rows of it by the last block of entries. Two
//! that do not need each other may be one launch.

use hal::op::{Compress, Scatter};
use hal::{DType, Encoding, Op};

use super::{
    Args, SHARED_MAX, Scope, is_plain, is_rounded, is_vector, kind_of_real, row_sum_shape,
};
use crate::driver::Launch;
use crate::memory::address_of;
use crate::weight::{any_of, raw_of};

/// Landing rows that the last block of entries keeps; more have a launch of their own.
const KEPT_MAX: u32 = 8;

pub(crate) fn fits(op: &Op) -> bool {
    let Op::Compress(op) = op else { return false };
    // A rotation is read as it lies, without scales.
    let rotation = op.rotation.as_ref().is_none_or(|weight| {
        let plain = [Encoding::Plain(DType::F32), Encoding::Plain(DType::Bf16)];
        any_of(weight).is_some() && plain.contains(&weight.stored())
    });
    rotation
        && is_vector(&op.gain)
        && is_plain(&op.bias)
        && op.activation.is_real()
        && is_rounded(&op.entries, op.round)
        && shared_bytes(op) <= u64::from(SHARED_MAX) - 1024
}

fn shared_bytes(op: &Compress) -> u64 {
    u64::from(row_sum_shape(op.entries.width()).1) + 8 * u64::from(op.entries.width())
}

pub(crate) fn record(op: &Op, scope: &Scope<'_>) -> Vec<Launch> {
    let Op::Compress(op) = op else { unreachable!("compress of {}", op.name()) };
    let rotation = op.rotation.as_ref().map(|weight| {
        let kind = match weight.stored() {
            Encoding::Plain(dtype) => kind_of_real(dtype),
            other => unreachable!("{other} does not fit"),
        };
        (raw_of(weight, scope.machine).expect("compile checked every weight").view().codes, kind)
    });
    let args = Args::new()
        .rows(&op.entries)
        .rows(&op.tail)
        .rows(&op.landing)
        .rows(&op.bias)
        .rows(&op.pool)
        .rows(&op.entry_angle)
        .rows(&op.entry_row)
        .address(address_of(&op.gain))
        .address(rotation.map_or(0, |(address, _)| address))
        .float(op.epsilon)
        .int(kind_of_real(op.activation))
        .int(rotation.map_or(0, |(_, kind)| kind))
        .round(op.round)
        .int(0);
    let windows = op.entry_row.rows();
    let joined = scope.joins && windows > 0 && op.landing.rows() <= KEPT_MAX;
    let (keep, _) = super::rows::scatter_args(&op.tail, &op.landing, &op.tail_keep);
    let args = args.address(if joined { scope.counters } else { 0 }).fields(&keep);
    let shared = shared_bytes(op) as u32;
    let grid = [windows, 1, 1];
    let mut launches = scope.launch("compress_entries", grid, 256, shared, args);
    if joined {
        return launches;
    }
    let keep = Scatter {
        target: op.tail.clone(),
        source: op.landing.clone(),
        index: op.tail_keep.clone(),
    };
    launches.extend(super::rows::scatter_rows(&keep.into(), scope));
    launches
}

/// One launch of two, each the only one of its op.
pub(crate) fn two(scope: &Scope<'_>, parts: [Launch; 2]) -> Launch {
    let [first, second] = &parts;
    Launch {
        function: scope.machine.kernel("compress_two"),
        grid: [first.grid[0] + second.grid[0], 1, 1],
        threads: first.threads,
        shared_bytes: first.shared_bytes.max(second.shared_bytes),
        args: [&*first.args, &*second.args].concat().into(),
    }
}
