//! gather, scatter, reduce, rms_norm, rope.

use hal::op::{Gather, GatherSource, Reduce, ReduceFn, Rope, Scatter};
use hal::{DType, Op, Tensor};

use super::then::{Next, Then};
use super::{Args, Scope, is_plain, is_row, is_vector, row_sum_shape};
use crate::driver::Launch;
use crate::memory::address_of;

/// Byte an absent row is filled with: zeros for reals, -1 for integers.
fn absent_byte(dtype: DType) -> u32 {
    if dtype.is_real() || dtype == DType::F8E4M3 { 0 } else { 0xff }
}

/// The widest unit of `widest` and less in which all rows of these tensors can be moved.
fn unit(widest: u32, tensors: &[&Tensor]) -> u32 {
    let fits = |unit: u64| {
        tensors.iter().all(|tensor| {
            address_of(tensor).is_multiple_of(unit)
                && tensor.row_bytes().is_multiple_of(unit)
                && tensor.row_stride_bytes().is_multiple_of(unit)
        })
    };
    [16, 4, 2].into_iter().find(|&unit| unit <= widest && fits(unit.into())).unwrap_or(1)
}

pub(crate) fn gather_rows_fits(op: &Op) -> bool {
    let Op::Gather(Gather { source: GatherSource::Rows { source, more }, .. }) = op else {
        return false;
    };
    is_plain(source) && more.as_ref().is_none_or(is_plain)
}

pub(crate) fn gather_rows(op: &Op, scope: &Scope<'_>) -> Vec<Launch> {
    let Op::Gather(Gather { out, source: GatherSource::Rows { source, more }, index, per }) = op
    else {
        unreachable!("gather_rows of {}", op.name());
    };
    let mut moved = vec![out, source];
    moved.extend(more);
    let unit = unit(16, &moved);
    let units = (out.row_bytes() / u64::from(unit)) as u32;
    let args = Args::new()
        .rows(out)
        .rows(source)
        .rows_or_none(more.as_ref())
        .address(address_of(index))
        .int(*per)
        .int(unit)
        .int(units)
        .int(absent_byte(out.dtype()));
    scope.elements("gather_rows", u64::from(out.rows()) * u64::from(units), args)
}

pub(crate) fn gather_coded_fits(op: &Op) -> bool {
    let Op::Gather(Gather { source: GatherSource::Rows { source, more }, .. }) = op else {
        return false;
    };
    is_row(source) && more.as_ref().is_none_or(is_row)
}

pub(crate) fn gather_coded(op: &Op, scope: &Scope<'_>) -> Vec<Launch> {
    let Op::Gather(Gather { out, source: GatherSource::Rows { source, more }, index, per }) = op
    else {
        unreachable!("gather_coded of {}", op.name());
    };
    let args = Args::new()
        .rows(out)
        .rows(source)
        .rows_or_none(more.as_ref())
        .address(address_of(index))
        .int(*per)
        .int(0);
    scope.elements("gather_coded", out.shape().elements(), args)
}

pub(crate) fn gather_elements_fits(op: &Op) -> bool {
    matches!(op, Op::Gather(Gather { source: GatherSource::Elements { .. }, .. }))
}

pub(crate) fn gather_elements(op: &Op, scope: &Scope<'_>) -> Vec<Launch> {
    let Op::Gather(Gather { out, source: GatherSource::Elements { source, rows }, index, per }) =
        op
    else {
        unreachable!("gather_elements of {}", op.name());
    };
    let args = Args::new()
        .rows(out)
        .rows(source)
        .rows_or_none(rows.as_ref())
        .rows(index)
        .int(*per)
        .int(out.dtype().size_bytes() as u32)
        .int(absent_byte(out.dtype()))
        .int(rows.is_some().into());
    scope.elements("gather_elements", index.shape().elements(), args)
}

pub(crate) fn scatter_rows_fits(op: &Op) -> bool {
    matches!(op, Op::Scatter(op) if op.target.codec() == op.source.codec())
}

pub(crate) fn scatter_rows(op: &Op, scope: &Scope<'_>) -> Vec<Launch> {
    let Op::Scatter(Scatter { target, source, index }) = op else {
        unreachable!("scatter_rows of {}", op.name());
    };
    let (args, units) = scatter_args(target, source, index);
    scope.elements("scatter_rows", u64::from(source.rows()) * u64::from(units), args)
}

/// The argument of `scatter_rows`, and the units of a row.
pub(crate) fn scatter_args(target: &Tensor, source: &Tensor, index: &Tensor) -> (Args, u32) {
    let unit = unit(4, &[target, source]);
    let units = (source.row_bytes() / u64::from(unit)) as u32;
    (Args::new().rows(target).rows(source).rows(index).int(unit).int(units), units)
}

pub(crate) fn scatter_coded_fits(op: &Op) -> bool {
    matches!(op, Op::Scatter(op) if is_row(&op.target) && is_row(&op.source))
}

pub(crate) fn scatter_coded(op: &Op, scope: &Scope<'_>) -> Vec<Launch> {
    let Op::Scatter(Scatter { target, source, index }) = op else {
        unreachable!("scatter_coded of {}", op.name());
    };
    let args = Args::new().rows(target).rows(source).rows(index);
    scope.launch("scatter_coded", [source.rows(), 1, 1], 128, 0, args)
}

pub(crate) fn reduce_fits(op: &Op) -> bool {
    matches!(op, Op::Reduce(_))
}

pub(crate) fn reduce(op: &Op, scope: &Scope<'_>) -> Vec<Launch> {
    let Op::Reduce(Reduce { out, x, f }) = op else { unreachable!("reduce of {}", op.name()) };
    let (number, y) = match f {
        ReduceFn::Sum => (0, None),
        ReduceFn::Max => (1, None),
        ReduceFn::Dot(y) => (2, Some(y)),
        ReduceFn::Mix(y) => (3, Some(y)),
        ReduceFn::MeanSquare => {
            let (threads, shared) = row_sum_shape(x.width());
            let args = Args::new().rows(out).rows(x);
            return scope.launch("mean_square", [x.rows(), 1, 1], threads, shared, args);
        }
    };
    let axis = x.dims().get(1).map_or(1, |&axis| axis);
    let width = x.width() / axis;
    let outputs = if number == 3 { out.width() / width.max(1) } else { 1 };
    let args =
        Args::new().rows(out).rows(x).rows_or_none(y).int(axis).int(width).int(outputs).int(number);
    scope.elements("reduce", out.shape().elements(), args)
}

pub(crate) fn rms_norm_fits(op: &Op) -> bool {
    matches!(op, Op::RmsNorm(op) if op.gain.as_ref().is_none_or(is_vector))
}

pub(crate) fn rms_norm(op: &Op, scope: &Scope<'_>) -> Vec<Launch> {
    let Op::RmsNorm(op) = op else { unreachable!("rms_norm of {}", op.name()) };
    let (threads, shared) = row_sum_shape(op.x.width());
    let args = Args::new()
        .rows(&op.out)
        .rows(&op.x)
        .address(op.gain.as_ref().map_or(0, address_of))
        .float(op.epsilon)
        .int(0);
    scope.launch("rms_norm_rows", [op.x.rows(), 1, 1], threads, shared, args)
}

pub(crate) fn rope_fits(op: &Op) -> bool {
    matches!(op, Op::Rope(op) if is_row(&op.out))
}

pub(crate) fn rope(op: &Op, scope: &Scope<'_>) -> Vec<Launch> {
    let Op::Rope(op) = op else { unreachable!("rope of {}", op.name()) };
    scope.launch("rope_rows", [op.x.rows(), 1, 1], 128, 0, rope_args(op))
}

fn rope_args(op: &Rope) -> Args {
    Args::new().rows(&op.out).rows(&op.x).rows(&op.angle).int(op.heads).int(op.inverse.into())
}

/// rope behind a product that makes x, which is returned: each part of the outputs is a row.
pub(crate) fn rope_then(op: &Op) -> Option<(Then, &Tensor)> {
    let Op::Rope(rope) = op else { return None };
    let (unit, args) = (rope.x.width(), rope_args(rope));
    let then = Then { next: Next::Rope, span: unit, unit, whole: None, shared_bytes: 0, args };
    rope_fits(op).then_some((then, &rope.x))
}
