//! `x · Wᵀ` by the vendor's matrix product: bf16 (f16) where everything is, f32 otherwise. Codes are decoded
//! into scratch first, a range of output columns at a time; the range depends on the weight alone.
//!
//! Groups: one is an ordinary product, cyclic ones a batched product over a strided view, sorted ones the
//! grouped product with its list of ends on the device.

use hal::op::{Matmul, RowGroups};
use hal::{Op, Result, Tensor, Weight};

use super::matrix;
use crate::sys::operators::Operator;
use crate::tape::{Arg, Tape};
use crate::view::{Element, View};
use crate::weight::{AscendWeight, raw_of};

/// Scratch for decoded columns of a weight, in bytes.
const DECODED_BYTES: i64 = 64 << 20;

pub(crate) fn matmul(tape: &mut Tape, op: &Op) -> Result<()> {
    let Op::Matmul(Matmul { out, x, weight, groups }) = op else {
        unreachable!("the table looked")
    };
    let out = View::rows_of(out, tape.place(out)?, Element::of(out.dtype()));
    product_with(tape, (x, weight), groups, &out)
}

/// `x · Wᵀ` into a view.
pub(crate) fn product_with(
    tape: &mut Tape,
    (x, weight): (&Tensor, &Weight),
    grouping: &RowGroups,
    out: &View,
) -> Result<()> {
    let runtime = std::sync::Arc::clone(&tape.runtime);
    let [groups, rows, cols] =
        [weight.spec().groups, weight.spec().rows, weight.spec().cols].map(i64::from);
    let weight = raw_of(weight, &runtime)?;
    let plain = View::rows_of(x, tape.place(x)?, Element::of(x.dtype()));
    let element = arithmetic(weight, plain.element, out.element);
    let x = match element {
        Element::F32 => matrix(tape, x)?,
        _ => plain,
    };
    let columns = (DECODED_BYTES / (8 * groups * cols)).clamp(1, rows);
    for first in (0..rows).step_by(columns as usize) {
        let count = columns.min(rows - first);
        let mark = tape.mark();
        let decoded = decoded(tape, weight, first, count, element);
        let out = out.slice(1, first, count);
        match grouping {
            RowGroups::Sorted { offsets } => sorted(tape, offsets, &x, &decoded, &out)?,
            RowGroups::Cyclic if groups == 1 => dense(tape, &x, &decoded, &out),
            RowGroups::Cyclic => cyclic(tape, &x, &decoded, &out),
        }
        tape.rewind(mark);
    }
    Ok(())
}

/// The type products are made in: the half type only if operands and result have it and codes are
/// exact in it.
fn arithmetic(weight: &AscendWeight, x: Element, out: Element) -> Element {
    let exact = match weight.element {
        Element::F8E4M3 | Element::F4E2M1 => Element::Bf16,
        element => element,
    };
    let half = matches!(exact, Element::Bf16 | Element::F16);
    if half && x == exact && out == exact { exact } else { Element::F32 }
}

/// Rows `first..first + count` of every group, `[groups, count, cols]`, as `element`.
fn decoded(
    tape: &mut Tape,
    weight: &AscendWeight,
    first: i64,
    count: i64,
    element: Element,
) -> View {
    let codes = weight.codes().slice(1, first, count);
    let numbers = tape.cast(&codes, element);
    let Some(scales) = weight.scales() else { return numbers };
    let scales = scales.slice(1, first, count);
    let scales = tape.cast(&scales, element);
    let out = tape.temp(element, &codes.dims);
    let (cols, block) = (codes.dim(2), weight.block);
    let whole = cols / block;
    for (at, blocks, k) in [(0, whole, block), (whole * block, 1, cols % block)] {
        if blocks * k == 0 {
            continue;
        }
        let piece = |view: &View| view.slice(2, at, blocks * k).split(2, k);
        let scale = scales.slice(2, at / block, blocks).unsqueeze(3);
        tape.binary_into(Operator::Mul, &piece(&numbers), &scale, &piece(&out));
    }
    out
}

/// `a · bᵀ` into `out`, which need not be without gaps.
fn product(tape: &mut Tape, a: &View, b: &View, out: &View) {
    let transposed = b.swap(b.dims.len() - 2, b.dims.len() - 1);
    if out.element == a.element && out.is_dense() {
        return tape.product_into(a, &transposed, out);
    }
    let made = tape.product(a, &transposed);
    tape.store(&made, out);
}

fn dense(tape: &mut Tape, x: &View, weight: &View, out: &View) {
    let mut weight = weight.clone();
    weight.dims.remove(0);
    weight.strides.remove(0);
    product(tape, x, &weight, out);
}

/// Row i uses group `i % groups`: rows of a group are a strided view.
fn cyclic(tape: &mut Tape, x: &View, weight: &View, out: &View) {
    let groups = weight.dim(0);
    let by_group = |view: &View| view.split(0, groups).swap(0, 1);
    product(tape, &by_group(x), weight, &by_group(out));
}

/// Group g owns rows `offsets[g]..offsets[g + 1]`: the operator takes the ends. Rows behind the last are
/// left as they come.
fn sorted(tape: &mut Tape, offsets: &Tensor, x: &View, weight: &View, out: &View) -> Result<()> {
    let offsets = tape.vector(offsets)?;
    let ends = tape.cast(&offsets.slice(0, 1, weight.dim(0)), Element::I64);
    let x = tape.dense(x);
    let made = tape.temp(x.element, &[x.dim(0), weight.dim(1)]);
    let mut args = vec![Arg::Views(vec![x]), Arg::Views(vec![weight.swap(1, 2)])];
    args.extend(std::iter::repeat_n(Arg::NoViews, 6));
    args.push(Arg::View(ends));
    args.extend(std::iter::repeat_n(Arg::NoViews, 3));
    // One x and one result, groups along the rows, the list cumulative, no activation.
    args.extend([3, 0, 0, 0].map(Arg::I64));
    args.push(Arg::NoInts);
    args.push(Arg::Views(vec![made.clone()]));
    args.extend(std::iter::repeat_n(Arg::NoViews, 2));
    tape.push(Operator::GroupedMatmulV5, args);
    tape.store(&made, out);
    Ok(())
}
