//! index_score, top_k.

use hal::Op;
use hal::op::Order;

use super::{Args, GRID_MAX, SHARED_MAX, Scope, is_real, is_row};
use crate::driver::Launch;

/// Shared memory that the keys of a block may take, in bytes.
const KEYS_BYTES: u32 = 32 << 10;
/// Threads of a block of scores.
const THREADS: u32 = 256;
/// Picks that can be ordered by value: they pass through shared memory.
const PICKS_MAX: u32 = SHARED_MAX / 4 - 1024;

/// Keys a block brings to shared memory: a power of two that the width alone decides.
fn tile(width: u32) -> u32 {
    let most = KEYS_BYTES / 4 / width.max(1);
    [64, 32, 16, 8, 4, 2].into_iter().find(|&tile| tile <= most).unwrap_or(1)
}

pub(crate) fn score_fits(op: &Op) -> bool {
    let Op::IndexScore(op) = op else { return false };
    let cache = &op.keys.cache;
    is_row(cache) && is_real(&op.q) && cache.width() <= KEYS_BYTES / 4
}

pub(crate) fn score(op: &Op, scope: &Scope<'_>) -> Vec<Launch> {
    let Op::IndexScore(op) = op else { unreachable!("index_score of {}", op.name()) };
    let keys = &op.keys;
    let width = keys.cache.width();
    let tile = tile(width);
    let heads = op.q.width() / width.max(1);
    let args = Args::new()
        .rows(&op.out)
        .rows(&op.q)
        .rows(&op.weight)
        .rows(&keys.cache)
        .rows(&keys.reach)
        .rows(&keys.pages)
        .int(heads)
        .int(keys.per)
        .float(op.scale)
        .int(tile);
    // A page table longer than the scores are wide has entries nobody sees.
    let most = (u64::from(keys.pages.width()) * u64::from(keys.per)).min(op.out.width().into());
    let tiles = u32::try_from(most.div_ceil(tile.into())).expect("fewer than the columns of out");
    assert!(tiles <= GRID_MAX, "scores of {most} entries");
    let shared = 4 * (tile * width + THREADS);
    scope.launch("index_score", [op.q.rows(), tiles, 1], THREADS, shared, args)
}

pub(crate) fn top_k_fits(op: &Op) -> bool {
    matches!(op, Op::TopK(op) if op.order == Order::Index || op.out.width() <= PICKS_MAX)
}

pub(crate) fn top_k(op: &Op, scope: &Scope<'_>) -> Vec<Launch> {
    let Op::TopK(op) = op else { unreachable!("top_k of {}", op.name()) };
    let by_value = op.order == Order::Value;
    let args = Args::new()
        .rows(&op.out)
        .rows(&op.x)
        .rows_or_none(op.count.as_ref())
        .int(op.count.is_some().into())
        .int(by_value.into());
    let shared = if by_value { 4 * op.out.width() } else { 0 };
    scope.launch("top_k", [op.x.rows(), 1, 1], 256, shared, args)
}
