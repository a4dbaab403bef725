//! map: one shader for all expressions, chosen by a flag of its name.

use hal::op::{Map, MapFn};
use hal::{DType, Op, Tensor};

use crate::launch::{Launch, Storage, storage_of};

/// Elements from one index of a dimension to the next, for the output's three dimensions.
fn strides(tensor: &Tensor, rank: usize) -> [u32; 3] {
    let dims = tensor.dims();
    let row = (tensor.row_stride_bytes() / tensor.dtype().size_bytes()) as u32;
    let mut strides = [0; 3];
    for (back, &dim) in dims.iter().rev().enumerate() {
        let inner: u32 = dims[dims.len() - back..].iter().product();
        let first = back + 1 == dims.len();
        let stride = if first { row } else { inner };
        // A dimension of 1 repeats, the output's own first dimension included.
        strides[2 - back] = if dim > 1 { stride } else { 0 };
    }
    debug_assert!(rank <= 3);
    strides
}

/// The last three dimensions, filled up with ones in front.
fn dims(tensor: &Tensor) -> [u32; 3] {
    let mut all = [1; 3];
    for (place, &dim) in tensor.dims().iter().rev().enumerate() {
        all[2 - place] = dim;
    }
    all
}

/// True if the last dimension's elements follow each other.
fn is_dense(tensor: &Tensor) -> bool {
    matches!(strides(tensor, 3)[2], 0 | 1)
}

pub(crate) fn int_fits(op: &Op) -> bool {
    let Op::Map(map) = op else { return false };
    let ints = match &map.f {
        MapFn::PageRow { .. } => true,
        MapFn::Copy(x) => x.dtype() == DType::I32,
        _ => false,
    };
    ints && is_dense(&map.out)
}

pub(crate) fn fits(op: &Op) -> bool {
    let Op::Map(map) = op else { return false };
    let known = matches!(
        map.f,
        MapFn::Copy(_)
            | MapFn::Add(..)
            | MapFn::Divide(..)
            | MapFn::ExpMinus(..)
            | MapFn::SqrtSoftplus(_)
            | MapFn::MaskedAdd { .. }
            | MapFn::Share { .. }
            | MapFn::Swiglu { .. }
    );
    known && map.out.dtype().is_real() && is_dense(&map.out)
}

/// An input with the strides that broadcast it.
fn input(launch: Launch, name: &'static str, x: &Tensor) -> Launch {
    let [s0, s1, s2] = strides(x, 3);
    launch
        .linear(name, x)
        .number(&format!("{name}_s0"), s0)
        .number(&format!("{name}_s1"), s1)
        .number(&format!("{name}_s2"), s2)
}

/// The output, and an invocation for each pair of its last dimension.
fn output(launch: Launch, out: &Tensor) -> Launch {
    let [rows, lines, width] = dims(out);
    let [s0, s1, _] = strides(out, 3);
    let even = match storage_of(out) {
        Storage::Half { .. } => {
            let begin = out.offset_bytes() / 2;
            [begin, u64::from(s0), u64::from(s1), u64::from(width)].iter().all(|n| n % 2 == 0)
        }
        _ => true,
    };
    let pairs = width.div_ceil(2);
    launch
        .linear_out("out", out, width, even)
        .number("out_s0", s0)
        .number("out_s1", s1)
        .number("lines", lines)
        .number("pairs", pairs)
        .threads(u64::from(rows) * u64::from(lines) * u64::from(pairs))
}

pub(crate) fn int(op: &Op) -> Vec<Launch> {
    let Op::Map(Map { out, f }) = op else { unreachable!("map_int of {}", op.name()) };
    let mut launch = Launch::new("rows", "map_int").flag(f.name(), true);
    launch = match f {
        MapFn::PageRow { entry, page, per } => {
            input(input(launch, "x", entry), "y", page).number("per", *per)
        }
        MapFn::Copy(x) => input(launch, "x", x),
        _ => unreachable!("{} is no map of integers", f.name()),
    };
    vec![output(launch, out)]
}

pub(crate) fn record(op: &Op) -> Vec<Launch> {
    let Op::Map(Map { out, f }) = op else { unreachable!("map of {}", op.name()) };
    let launch = Launch::new("rows", "map").flag(f.name(), true);
    let two = |launch: Launch, x: &Tensor, y: &Tensor| {
        input(input(launch, "x", x), "y", y).flag("Y", true)
    };
    let launch = match f {
        MapFn::Copy(x) | MapFn::SqrtSoftplus(x) => input(launch, "x", x),
        MapFn::Add(x, y) | MapFn::Divide(x, y) | MapFn::ExpMinus(x, y) => two(launch, x, y),
        MapFn::MaskedAdd { x, y, index } => {
            input(two(launch, x, y), "index", index).flag("INDEX", true)
        }
        MapFn::Share { x, total, scale } => two(launch, x, total).real("scale", *scale),
        MapFn::Swiglu { gate, up, weight, clamp } => {
            let launch = two(launch, gate, up).real("clamp", *clamp);
            match weight {
                Some(weight) => input(launch, "z", weight).flag("Z", true),
                None => launch,
            }
        }
        _ => unreachable!("{} was refused by fits", f.name()),
    };
    vec![output(launch, out)]
}
