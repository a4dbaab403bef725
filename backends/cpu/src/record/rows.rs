//! gather, scatter, reduce, rms_norm, rope.

use std::sync::Arc;

use hal::op::{Gather, GatherSource, Reduce, ReduceFn, Scatter};
use hal::{DType, Op, Tensor};
use half::bf16;
use kernels::common::rows::Element;
use kernels::rows::cpu;

use super::{
    Record, Scope, any, any_mut, bytes, bytes_mut, flat, floats, ints, is_plain, is_real, is_row,
    real, real_mut, view, view_mut,
};

/// Byte an absent row is filled with: zeros for reals, -1 for integers.
fn absent_byte(dtype: DType) -> u8 {
    if dtype.is_real() || dtype == DType::F8E4M3 { 0 } else { 0xff }
}

pub(crate) fn gather_rows_fits(op: &Op) -> bool {
    let Op::Gather(Gather { source: GatherSource::Rows { source, more }, .. }) = op else {
        return false;
    };
    is_plain(source) && more.as_ref().is_none_or(is_plain)
}

pub(crate) fn gather_rows(op: &Op, scope: &Scope) -> Record {
    let Op::Gather(Gather { out, source: GatherSource::Rows { source, more }, index, per }) = op
    else {
        unreachable!("gather_rows of {}", op.name());
    };
    let (pool, per) = (Arc::clone(&scope.pool), *per);
    let absent = absent_byte(out.dtype());
    let (out, source, more) = (bytes_mut(out), bytes(source), more.as_ref().map(bytes));
    let index = ints(&flat(index));
    Box::new(move || cpu::gather_rows(&pool, out, source, more, index, per, absent))
}

pub(crate) fn gather_elements_fits(op: &Op) -> bool {
    matches!(op, Op::Gather(Gather { source: GatherSource::Elements { .. }, .. }))
}

pub(crate) fn gather_elements(op: &Op, scope: &Scope) -> Record {
    let Op::Gather(op) = op else { unreachable!("gather_elements of {}", op.name()) };
    // Elements are moved, not computed with: a type of their size will do.
    match op.out.dtype() {
        DType::F32 => elements(op, scope, 0.0f32),
        DType::I32 | DType::U32 => elements(op, scope, -1i32),
        DType::F16 | DType::Bf16 => elements(op, scope, bf16::ZERO),
        DType::F8E4M3 | DType::U8 => elements(op, scope, absent_byte(op.out.dtype())),
    }
}

fn elements<T: Element>(op: &Gather, scope: &Scope, absent: T) -> Record {
    let GatherSource::Elements { source, rows } = &op.source else {
        unreachable!("gather_elements of rows");
    };
    let (pool, per) = (Arc::clone(&scope.pool), op.per);
    let (out, source) = (view_mut::<T>(&op.out), view::<T>(source));
    let (rows, index) = (rows.as_ref().map(ints), ints(&op.index));
    Box::new(move || cpu::gather_elements(&pool, out, source, rows, index, per, absent))
}

pub(crate) fn gather_coded_fits(op: &Op) -> bool {
    let Op::Gather(Gather { source: GatherSource::Rows { source, more }, .. }) = op else {
        return false;
    };
    is_row(source) && more.as_ref().is_none_or(is_row)
}

pub(crate) fn gather_coded(op: &Op, scope: &Scope) -> Record {
    let Op::Gather(Gather { out, source: GatherSource::Rows { source, more }, index, per }) = op
    else {
        unreachable!("gather_coded of {}", op.name());
    };
    let (isa, pool, per) = (scope.isa, Arc::clone(&scope.pool), *per);
    let (out, source, more) = (real_mut(out), any(source), more.as_ref().map(any));
    let index = ints(&flat(index));
    Box::new(move || cpu::gather_coded(isa, &pool, out, source, more, index, per))
}

pub(crate) fn scatter_fits(op: &Op) -> bool {
    matches!(op, Op::Scatter(op) if op.target.codec() == op.source.codec())
}

pub(crate) fn scatter(op: &Op, _: &Scope) -> Record {
    let Op::Scatter(Scatter { target, source, index }) = op else {
        unreachable!("scatter of {}", op.name());
    };
    let (target, source, index) = (bytes_mut(target), bytes(source), ints(index));
    Box::new(move || cpu::scatter_rows(target, source, index))
}

pub(crate) fn scatter_coded_fits(op: &Op) -> bool {
    matches!(op, Op::Scatter(op) if is_row(&op.target) && is_row(&op.source))
}

pub(crate) fn scatter_coded(op: &Op, scope: &Scope) -> Record {
    let Op::Scatter(Scatter { target, source, index }) = op else {
        unreachable!("scatter_coded of {}", op.name());
    };
    let (isa, target, source, index) = (scope.isa, any_mut(target), any(source), ints(index));
    Box::new(move || cpu::scatter_coded(isa, target, source, index))
}

pub(crate) fn reduce_fits(op: &Op) -> bool {
    let Op::Reduce(Reduce { f, .. }) = op else { return false };
    match f {
        ReduceFn::Mix(y) => y.dtype() == DType::F32,
        _ => true,
    }
}

pub(crate) fn reduce(op: &Op, scope: &Scope) -> Record {
    let Op::Reduce(Reduce { out, x, f }) = op else { unreachable!("reduce of {}", op.name()) };
    let (isa, pool) = (scope.isa, Arc::clone(&scope.pool));
    let axis = x.dims().get(1).map_or(1, |&axis| axis as usize);
    let (out, x) = (real_mut(out), real(x));
    match f {
        ReduceFn::Sum => Box::new(move || cpu::sum(isa, &pool, out, x, axis)),
        ReduceFn::Max => Box::new(move || cpu::max(isa, &pool, out, x, axis)),
        ReduceFn::MeanSquare => Box::new(move || cpu::mean_square(isa, &pool, out, x)),
        ReduceFn::Dot(y) => {
            let y = real(y);
            Box::new(move || cpu::dot(isa, &pool, out, x, y, axis))
        }
        ReduceFn::Mix(y) => {
            let y = real(y);
            Box::new(move || cpu::mix(isa, &pool, out, x, y, axis))
        }
    }
}

/// Gains, biases and the like are read as one row.
pub(crate) fn is_vector(tensor: &Tensor) -> bool {
    is_plain(tensor) && tensor.is_contiguous()
}

pub(crate) fn rms_norm_fits(op: &Op) -> bool {
    matches!(op, Op::RmsNorm(op) if op.gain.as_ref().is_none_or(is_vector))
}

pub(crate) fn rms_norm(op: &Op, scope: &Scope) -> Record {
    let Op::RmsNorm(op) = op else { unreachable!("rms_norm of {}", op.name()) };
    let (isa, pool, epsilon) = (scope.isa, Arc::clone(&scope.pool), op.epsilon);
    let (out, x) = (real_mut(&op.out), real(&op.x));
    let gain = op.gain.as_ref().map(|gain| floats(&flat(gain)));
    Box::new(move || cpu::rms_norm(isa, &pool, out, x, gain, epsilon))
}

pub(crate) fn rope_fits(op: &Op) -> bool {
    matches!(op, Op::Rope(op) if is_real(&op.out))
}

pub(crate) fn rope(op: &Op, scope: &Scope) -> Record {
    let Op::Rope(op) = op else { unreachable!("rope of {}", op.name()) };
    let (isa, pool) = (scope.isa, Arc::clone(&scope.pool));
    let (out, x, angle) = (real_mut(&op.out), real(&op.x), floats(&op.angle));
    let (heads, inverse) = (op.heads as usize, op.inverse);
    Box::new(move || cpu::rope(isa, &pool, out, x, angle, heads, inverse))
}
