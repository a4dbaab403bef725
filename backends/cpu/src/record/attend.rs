//! attend.

use std::sync::Arc;

use hal::op::{Attend, Far, Listed, Visible};
use hal::{Op, Tensor};
use kernels::attend as kernel;
use kernels::common::rows::Rows;

use super::rows::is_vector;
use super::{Record, Scope, any, flat, floats, ints, is_real, is_row, real, real_mut};

pub(crate) fn fits(op: &Op) -> bool {
    let Op::Attend(op) = op else { return false };
    let far = match &op.far {
        None => true,
        Some(Far::Listed(Listed { cache, .. }) | Far::Visible(Visible { cache, .. })) => {
            is_row(cache)
        }
    };
    let &[_, heads, width] = op.q.dims() else { return false };
    let bounded = heads as usize <= kernel::HEADS_MAX && width as usize <= kernel::WIDTH_MAX;
    far && bounded && is_row(&op.near.cache) && is_real(&op.q) && is_vector(&op.sink)
}

pub(crate) fn listed(listed: &Listed) -> kernel::Listed {
    kernel::Listed { cache: any(&listed.cache), index: ints(&listed.index) }
}

pub(crate) fn visible(visible: &Visible) -> kernel::Visible {
    kernel::Visible {
        cache: any(&visible.cache),
        reach: ints(&visible.reach),
        pages: ints(&visible.pages),
        per: visible.per as usize,
    }
}

fn far(far: &Far) -> kernel::Far {
    match far {
        Far::Listed(far) => kernel::Far::Listed(listed(far)),
        Far::Visible(far) => kernel::Far::Visible(visible(far)),
    }
}

fn sink_rows(sink: &Tensor) -> Rows<f32> {
    floats(&flat(sink))
}

/// The views of an op, with the sink lent.
fn views<'a>(op: &Attend, sink: &'a Rows<f32>) -> kernel::Attend<'a> {
    kernel::Attend {
        out: real_mut(&op.out),
        q: real(&op.q),
        sink: sink.row(0),
        near: listed(&op.near),
        far: op.far.as_ref().map(far),
        scale: op.scale,
    }
}

pub(crate) fn workspace_bytes(op: &Op, scope: &Scope) -> u64 {
    let Op::Attend(op) = op else { unreachable!("attend of {}", op.name()) };
    let sink = sink_rows(&op.sink);
    let count = views(op, &sink).workspace_floats(scope.pool.threads());
    (count * size_of::<f32>()) as u64
}

pub(crate) fn record(op: &Op, scope: &Scope) -> Record {
    let Op::Attend(op) = op else { unreachable!("attend of {}", op.name()) };
    let (isa, pool, room) = (scope.isa, Arc::clone(&scope.pool), scope.room);
    let sink = sink_rows(&op.sink);
    let kernel::Attend { out, q, near, far, scale, .. } = views(op, &sink);
    Box::new(move || {
        let op = kernel::Attend { out, q, sink: sink.row(0), near, far, scale };
        // SAFETY: ops of a plan run one after the other.
        kernel::attend(isa, &pool, &op, unsafe { room.floats() });
    })
}
