//! map: broadcast tensors become grids of three dimensions.

use hal::op::{Map, MapFn};
use hal::{DType, Op, Tensor};

use super::{Args, Scope, kind_of};
use crate::driver::Launch;
use crate::memory::address_of;

/// Number of an expression in `kernels/rows/rows.cu`, if it is known there.
fn number(f: &MapFn) -> Option<u32> {
    Some(match f {
        MapFn::Copy(x) if x.dtype() == DType::I32 => 10,
        MapFn::Copy(_) => 0,
        MapFn::Add(..) => 1,
        MapFn::Divide(..) => 2,
        MapFn::ExpMinus(..) => 3,
        MapFn::SqrtSoftplus(_) => 4,
        MapFn::MaskedAdd { .. } => 5,
        MapFn::Share { .. } => 6,
        MapFn::Swiglu { weight: None, .. } => 7,
        MapFn::Swiglu { weight: Some(_), .. } => 8,
        MapFn::PageRow { .. } => 9,
        _ => return None,
    })
}

pub(crate) fn fits(op: &Op) -> bool {
    matches!(op, Op::Map(map) if number(&map.f).is_some())
}

pub(crate) fn record(op: &Op, scope: &Scope<'_>) -> Vec<Launch> {
    let Op::Map(Map { out, f }) = op else { unreachable!("map of {}", op.name()) };
    let (scale, per) = match f {
        MapFn::Share { scale, .. } => (*scale, 0),
        MapFn::Swiglu { clamp, .. } => (*clamp, 0),
        MapFn::PageRow { per, .. } => (0.0, *per),
        _ => (0.0, 0),
    };
    let inputs = f.inputs();
    let mut args = grid(Args::new(), Some(out));
    for place in 0..3 {
        args = grid(args, inputs.get(place).copied());
    }
    for dim in padded(out.dims()) {
        args = args.int(dim);
    }
    let number = number(f).expect("it fits");
    scope.elements("map", out.shape().elements(), args.int(number).float(scale).int(per))
}

fn padded(dims: &[u32]) -> [u32; 3] {
    let mut padded = [1; 3];
    for (place, &dim) in dims.iter().enumerate() {
        padded[place + 3 - dims.len()] = dim;
    }
    padded
}

/// A `Grid`: strides in bytes, 0 where the tensor repeats.
fn grid(args: Args, tensor: Option<&Tensor>) -> Args {
    let Some(tensor) = tensor else {
        return args.long(0).long(0).long(0).long(0).long(0);
    };
    let dims = tensor.dims();
    let mut strides = [0; 3];
    let mut inner = tensor.dtype().size_bytes();
    for (place, &dim) in dims.iter().enumerate().rev() {
        let stride = if place == 0 { tensor.row_stride_bytes() } else { inner };
        strides[place + 3 - dims.len()] = if dim == 1 { 0 } else { stride };
        inner *= u64::from(dim);
    }
    let args = args.address(address_of(tensor));
    strides.into_iter().fold(args, Args::long).int(kind_of(tensor)).int(0)
}
