//! index_score, top_k, index_select.

use std::sync::Arc;

use hal::Op;
use hal::op::{IndexSelect, Visible};
use kernels::common::scratch::SCRATCH_FLOATS;
use kernels::index as kernel;

use super::attend::visible;
use super::{Record, Scope, floats_mut, ints, ints_mut, is_row, real};

fn query_fits(q: &hal::Tensor, keys: &Visible) -> bool {
    let width = keys.cache.width();
    kernel::query_fits((q.width() / width.max(1)) as usize, width as usize) && is_row(&keys.cache)
}

pub(crate) fn score_fits(op: &Op) -> bool {
    matches!(op, Op::IndexScore(op) if query_fits(&op.q, &op.keys))
}

pub(crate) fn score(op: &Op, scope: &Scope) -> Record {
    let Op::IndexScore(op) = op else { unreachable!("index_score of {}", op.name()) };
    let (isa, pool) = (scope.isa, Arc::clone(&scope.pool));
    let views = kernel::IndexScore {
        out: floats_mut(&op.out),
        q: real(&op.q),
        weight: real(&op.weight),
        keys: visible(&op.keys),
        scale: op.scale,
    };
    Box::new(move || kernel::index_score(isa, &pool, &views))
}

pub(crate) fn top_k_fits(op: &Op) -> bool {
    let Op::TopK(op) = op else { return false };
    op.x.dtype() == hal::DType::F32 || op.x.width() as usize <= SCRATCH_FLOATS
}

pub(crate) fn top_k(op: &Op, scope: &Scope) -> Record {
    let Op::TopK(op) = op else { unreachable!("top_k of {}", op.name()) };
    let (isa, pool) = (scope.isa, Arc::clone(&scope.pool));
    let views = kernel::TopK {
        out: ints_mut(&op.out),
        x: real(&op.x),
        count: op.count.as_ref().map(ints),
        order: op.order,
    };
    Box::new(move || kernel::top_k(isa, &pool, &views))
}

pub(crate) fn select_fits(op: &Op) -> bool {
    matches!(op, Op::IndexSelect(op) if query_fits(&op.q, &op.keys))
}

fn select_views(op: &IndexSelect) -> kernel::IndexSelect {
    kernel::IndexSelect {
        out: ints_mut(&op.out),
        q: real(&op.q),
        weight: real(&op.weight),
        keys: visible(&op.keys),
        scale: op.scale,
    }
}

pub(crate) fn select_workspace_bytes(op: &Op, _: &Scope) -> u64 {
    let Op::IndexSelect(op) = op else { unreachable!("index_select of {}", op.name()) };
    (select_views(op).workspace_floats() * size_of::<f32>()) as u64
}

pub(crate) fn select(op: &Op, scope: &Scope) -> Record {
    let Op::IndexSelect(op) = op else { unreachable!("index_select of {}", op.name()) };
    let (isa, pool, room) = (scope.isa, Arc::clone(&scope.pool), scope.room);
    let views = select_views(op);
    // SAFETY: ops of a plan run one after the other.
    Box::new(move || kernel::index_select(isa, &pool, &views, unsafe { room.floats() }))
}
