//! attend: one form for many rows, one that spreads the spans of few rows over the GPU. Both do the same
//! operations in the same order, so which one runs does not show in the bits.

use hal::op::{Attend, Far, Listed, Visible};
use hal::{Op, Tensor};

use super::{Args, GRID_MAX, SHARED_MAX, Scope, is_real, is_row, is_vector};
use crate::driver::{Address, Launch};
use crate::memory::address_of;

/// As in `kernels/attend/attend.cu`.
const TILE: u32 = 16;
const SPAN: u32 = 128;
const HEADS: u32 = 8;

pub(crate) fn fits(op: &Op) -> bool {
    let Op::Attend(op) = op else { return false };
    let far = match &op.far {
        None => true,
        Some(Far::Listed(Listed { cache, .. }) | Far::Visible(Visible { cache, .. })) => {
            is_row(cache)
        }
    };
    let tensors = is_row(&op.near.cache) && is_real(&op.q) && is_vector(&op.sink);
    far && tensors && shared_bytes(op) <= u64::from(SHARED_MAX) - 1024
}

fn width(op: &Attend) -> u32 {
    op.near.cache.width()
}

fn heads(op: &Attend) -> u32 {
    op.q.width() / width(op).max(1)
}

/// Entries of both lists.
fn listed(op: &Attend) -> u32 {
    let far = match &op.far {
        Some(Far::Listed(far)) => far.index.width(),
        _ => 0,
    };
    op.near.index.width() + far
}

fn shared_bytes(op: &Attend) -> u64 {
    let width = u64::from(width(op));
    let tile = u64::from(TILE) * width;
    4 * (tile + u64::from(HEADS) * (3 * width + u64::from(TILE)) + u64::from(listed(op)))
}

/// Spans that a row has at most.
fn spans(op: &Attend) -> u32 {
    let far = match &op.far {
        Some(Far::Visible(far)) => u64::from(far.pages.width()) * u64::from(far.per),
        _ => 0,
    };
    let most = (u64::from(listed(op)) + far).div_ceil(SPAN.into()).max(1);
    u32::try_from(most).expect("a cache has fewer rows")
}

/// True if a block a span pays: rows alone leave processors idle.
fn is_spread(op: &Attend, scope: &Scope<'_>) -> bool {
    let blocks = u64::from(op.q.rows()) * u64::from(heads(op).div_ceil(HEADS));
    spans(op) > 1 && spans(op) <= GRID_MAX && blocks < scope.machine.facts.processors.into()
}

pub(crate) fn workspace_bytes(op: &Op, scope: &Scope<'_>) -> u64 {
    let Op::Attend(op) = op else { unreachable!("attend of {}", op.name()) };
    if !is_spread(op, scope) {
        return 0;
    }
    let places = u64::from(op.q.rows()) * u64::from(heads(op)) * u64::from(spans(op));
    places * (u64::from(width(op)) + 2) * 4
}

fn args(op: &Attend, partial: Address) -> Args {
    let (kind, cache, index, pages, per): (u32, _, _, Option<&Tensor>, u32) = match &op.far {
        None => (0, None, None, None, 1),
        Some(Far::Listed(far)) => (1, Some(&far.cache), Some(&far.index), None, 1),
        Some(Far::Visible(far)) => {
            (2, Some(&far.cache), Some(&far.reach), Some(&far.pages), far.per)
        }
    };
    Args::new()
        .rows(&op.out)
        .rows(&op.q)
        .rows(&op.near.cache)
        .rows(&op.near.index)
        .rows_or_none(cache)
        .rows_or_none(index)
        .rows_or_none(pages)
        .address(address_of(&op.sink))
        .address(partial)
        .int(heads(op))
        .int(width(op))
        .int(kind)
        .int(per)
        .float(op.scale)
        .int(spans(op))
}

pub(crate) fn record(op: &Op, scope: &Scope<'_>) -> Vec<Launch> {
    let Op::Attend(op) = op else { unreachable!("attend of {}", op.name()) };
    let (rows, heads, shared) = (op.q.rows(), heads(op), shared_bytes(op) as u32);
    let groups = heads.div_ceil(HEADS);
    if !is_spread(op, scope) {
        return scope.launch("attend", [rows, groups, 1], 256, shared, args(op, 0));
    }
    let spread = args(op, scope.workspace);
    let mut launches = scope.launch("attend", [rows, groups, spans(op)], 256, shared, spread);
    let joined = args(op, scope.workspace);
    let shared = 4 * width(op);
    launches.extend(scope.launch("attend_merge", [rows, heads, 1], 32, shared, joined));
    launches
}
