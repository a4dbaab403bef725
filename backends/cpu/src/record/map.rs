//! map: broadcast tensors become grids of three dimensions.

use std::sync::Arc;

use hal::op::{Map, MapFn};
use hal::{DType, Op, Tensor};
use kernels::common::rows::Element;
use kernels::rows::cpu::{self, Expression, Strided, StridedMut, Values, ValuesMut};

use super::{Record, Scope};
use crate::memory::base_of;

/// Every expression is covered: hal's check leaves only dtypes we know.
pub(crate) fn fits(op: &Op) -> bool {
    let Op::Map(map) = op else { return false };
    matches!(
        map.f,
        MapFn::Copy(_)
            | MapFn::Add(..)
            | MapFn::Divide(..)
            | MapFn::ExpMinus(..)
            | MapFn::SqrtSoftplus(_)
            | MapFn::MaskedAdd { .. }
            | MapFn::Share { .. }
            | MapFn::Swiglu { .. }
            | MapFn::PageRow { .. }
    )
}

pub(crate) fn record(op: &Op, scope: &Scope) -> Record {
    let Op::Map(Map { out, f }) = op else { unreachable!("map of {}", op.name()) };
    let shape = Shape::of(out);
    match f {
        MapFn::Copy(x) if x.dtype() == DType::I32 => {
            let (out, x) = (shape.grid_mut(out), shape.grid(x));
            return Box::new(move || cpu::copy_i32(out, x));
        }
        MapFn::PageRow { entry, page, per } => {
            let (out, entry, page) = (shape.grid_mut(out), shape.grid(entry), shape.grid(page));
            let per = *per;
            return Box::new(move || cpu::page_row(out, entry, page, per));
        }
        _ => {}
    }
    let values = |tensor| shape.values(tensor);
    let f = match f {
        MapFn::Copy(x) => Expression::Copy(values(x)),
        MapFn::Add(x, y) => Expression::Add(values(x), values(y)),
        MapFn::Divide(x, y) => Expression::Divide(values(x), values(y)),
        MapFn::ExpMinus(x, y) => Expression::ExpMinus(values(x), values(y)),
        MapFn::SqrtSoftplus(x) => Expression::SqrtSoftplus(values(x)),
        MapFn::MaskedAdd { x, y, index } => {
            Expression::MaskedAdd(values(x), values(y), shape.grid(index))
        }
        MapFn::Share { x, total, scale } => Expression::Share(values(x), values(total), *scale),
        MapFn::Swiglu { gate, up, weight, clamp } => {
            Expression::Swiglu(values(gate), values(up), weight.as_ref().map(values), *clamp)
        }
        other => unreachable!("map {} does not fit", other.name()),
    };
    let (isa, pool, out) = (scope.isa, Arc::clone(&scope.pool), shape.values_mut(out));
    Box::new(move || cpu::map(isa, &pool, out, &f))
}

/// Dimensions of the output, padded in front to three, and whether they were turned by one: an output
/// of width 1 is walked along its rows.
struct Shape {
    dims: [usize; 3],
    turned: bool,
}

impl Shape {
    fn of(out: &Tensor) -> Shape {
        let dims = padded(out.dims());
        if dims[2] == 1 {
            return Shape { dims: [1, dims[0], dims[1]], turned: true };
        }
        Shape { dims, turned: false }
    }

    /// Strides in elements; 0 where the tensor repeats.
    fn strides(&self, tensor: &Tensor) -> [usize; 3] {
        let dims = tensor.dims();
        let mut strides = [0; 3];
        let mut inner = 1;
        for (place, &dim) in dims.iter().enumerate().rev() {
            let stride = match place {
                0 => (tensor.row_stride_bytes() / tensor.dtype().size_bytes()) as usize,
                _ => inner,
            };
            strides[place + 3 - dims.len()] = if dim == 1 { 0 } else { stride };
            inner *= dim as usize;
        }
        if self.turned { [0, strides[0], strides[1]] } else { strides }
    }

    fn grid<T: Element>(&self, tensor: &Tensor) -> Strided<T> {
        // SAFETY: hal checked that the tensor broadcasts to the output and lies in its buffer, which
        // the plan keeps alive; the queue's order excludes a write beside a read.
        unsafe { Strided::from_raw(base_of(tensor).cast(), self.strides(tensor)) }
    }

    fn grid_mut<T: Element>(&self, tensor: &Tensor) -> StridedMut<T> {
        // SAFETY: as above; hal checked that the output overlaps no input, and compiling that its
        // buffer is writable.
        unsafe { StridedMut::from_raw(base_of(tensor).cast(), self.strides(tensor), self.dims) }
    }

    fn values(&self, tensor: &Tensor) -> Values {
        match tensor.dtype() {
            DType::F32 => Values::F32(self.grid(tensor)),
            DType::Bf16 => Values::Bf16(self.grid(tensor)),
            DType::F16 => Values::F16(self.grid(tensor)),
            other => unreachable!("{other:?} is not real"),
        }
    }

    fn values_mut(&self, tensor: &Tensor) -> ValuesMut {
        match tensor.dtype() {
            DType::F32 => ValuesMut::F32(self.grid_mut(tensor)),
            DType::Bf16 => ValuesMut::Bf16(self.grid_mut(tensor)),
            DType::F16 => ValuesMut::F16(self.grid_mut(tensor)),
            other => unreachable!("{other:?} is not real"),
        }
    }
}

fn padded(dims: &[u32]) -> [usize; 3] {
    let mut padded = [1; 3];
    for (place, &dim) in dims.iter().enumerate() {
        padded[place + 3 - dims.len()] = dim as usize;
    }
    padded
}
