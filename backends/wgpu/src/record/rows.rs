//! gather, scatter, reduce, rms_norm, rope.

use hal::op::{Gather, GatherSource, Reduce, ReduceFn, RmsNorm, Rope, Scatter};
use hal::{DType, Op, RowCodec, Tensor};

use super::{is_plain, is_real, is_row, is_vector};
use crate::launch::{Launch, Storage, Use, storage_of};

/// Bits of an absent element: zeros in reals, -1 in integers.
fn absent(dtype: DType) -> u32 {
    match dtype {
        DType::I32 | DType::U32 => u32::MAX,
        DType::U8 => 0xff,
        _ => 0,
    }
}

pub(crate) fn gather_rows_fits(op: &Op) -> bool {
    let Op::Gather(Gather { source: GatherSource::Rows { source, more }, .. }) = op else {
        return false;
    };
    let fits = |tensor: &Tensor| is_plain(tensor) || is_row(tensor);
    fits(source) && more.as_ref().is_none_or(|more| fits(more) && more.codec() == source.codec())
}

pub(crate) fn gather_rows(op: &Op) -> Vec<Launch> {
    let Op::Gather(Gather { out, source: GatherSource::Rows { source, more }, index, per }) = op
    else {
        unreachable!("gather_rows of {}", op.name());
    };
    let launch = Launch::new("rows", "gather_rows")
        .flag("CODED", source.codec() != RowCodec::Plain)
        .write("out", out)
        .read("source", source)
        .wide("source")
        .optional("MORE", "more", more.as_ref())
        .flat("index", index)
        .number("source_rows", source.rows())
        .number("absent", absent(out.dtype()))
        .number("per", *per);
    vec![launch.pairs(out.rows(), out.width())]
}

pub(crate) fn gather_elements_fits(op: &Op) -> bool {
    matches!(op, Op::Gather(Gather { source: GatherSource::Elements { .. }, .. }))
}

pub(crate) fn gather_elements(op: &Op) -> Vec<Launch> {
    let Op::Gather(Gather { out, source: GatherSource::Elements { source, rows }, index, per }) =
        op
    else {
        unreachable!("gather_elements of {}", op.name());
    };
    let launch = Launch::new("rows", "gather_elements")
        .write("out", out)
        .read("source", source)
        .wide("source")
        .optional("ROWS", "rows", rows.as_ref())
        .read("index", index)
        .number("absent", absent(out.dtype()))
        .number("per", *per);
    vec![launch.pairs(out.rows(), out.width())]
}

pub(crate) fn scatter_fits(op: &Op) -> bool {
    matches!(op, Op::Scatter(op) if op.target.codec() == op.source.codec())
}

pub(crate) fn scatter(op: &Op) -> Vec<Launch> {
    let Op::Scatter(Scatter { target, source, index }) = op else {
        unreachable!("scatter of {}", op.name());
    };
    let launch = Launch::new("rows", "scatter_rows").read("index", index);
    // Pairs move as words where both sides have them; coded rows are words.
    let words = |tensor: &Tensor| match storage_of(tensor) {
        Storage::Half { even, .. } => even,
        Storage::Byte => false,
        _ => true,
    };
    if words(target) && words(source) {
        let launch = launch.words("out", target, Use::Write).words("source", source, Use::Read);
        return vec![launch.wide("out").pairs(source.rows(), (target.row_bytes() / 4) as u32)];
    }
    let launch = launch.write_single("out", target).wide("out").read("source", source);
    vec![launch.pairs(source.rows(), target.width())]
}

/// Columns of a row that one invocation sums up: less work than a workgroup's barriers.
const NARROW: u32 = 128;

pub(crate) fn narrow_mean_square_fits(op: &Op) -> bool {
    matches!(op, Op::Reduce(Reduce { f: ReduceFn::MeanSquare, x, .. }) if x.width() <= NARROW)
}

pub(crate) fn narrow_mean_square(op: &Op) -> Vec<Launch> {
    let Op::Reduce(Reduce { out, x, .. }) = op else {
        unreachable!("narrow_mean_square of {}", op.name());
    };
    let launch = Launch::new("rows", "narrow_mean_square").write_single("out", out).read("x", x);
    vec![launch.number("width", x.width()).threads(u64::from(x.rows()))]
}

pub(crate) fn mean_square_fits(op: &Op) -> bool {
    matches!(op, Op::Reduce(Reduce { f: ReduceFn::MeanSquare, .. }))
}

pub(crate) fn mean_square(op: &Op) -> Vec<Launch> {
    let Op::Reduce(Reduce { out, x, .. }) = op else {
        unreachable!("mean_square of {}", op.name());
    };
    let launch = Launch::new("rows", "mean_square").write_single("out", out).read("x", x);
    vec![launch.number("width", x.width()).blocks(u64::from(x.rows()))]
}

pub(crate) fn reduce_fits(op: &Op) -> bool {
    matches!(op, Op::Reduce(op) if !matches!(op.f, ReduceFn::MeanSquare))
}

pub(crate) fn reduce(op: &Op) -> Vec<Launch> {
    let Op::Reduce(Reduce { out, x, f }) = op else { unreachable!("reduce of {}", op.name()) };
    let axis = x.dims()[1];
    let mut launch = Launch::new("rows", "reduce")
        .flag(f.name(), true)
        .write("out", out)
        .read("x", x)
        .number("axis", axis)
        .number("inner", x.width() / axis.max(1));
    if let ReduceFn::Dot(y) | ReduceFn::Mix(y) = f {
        launch = launch.read("y", y).number("outputs", y.width() / axis.max(1));
    }
    vec![launch.pairs(out.rows(), out.width())]
}

pub(crate) fn narrow_rms_norm_fits(op: &Op) -> bool {
    matches!(op, Op::RmsNorm(norm) if norm.x.width() <= NARROW) && rms_norm_fits(op)
}

pub(crate) fn narrow_rms_norm(op: &Op) -> Vec<Launch> {
    let launch = norm("narrow_rms_norm_rows", op);
    let Op::RmsNorm(op) = op else { unreachable!("norm looked at the op") };
    vec![launch.threads(u64::from(op.x.rows()))]
}

pub(crate) fn rms_norm_fits(op: &Op) -> bool {
    matches!(op, Op::RmsNorm(op) if op.gain.as_ref().is_none_or(is_vector))
}

pub(crate) fn rms_norm(op: &Op) -> Vec<Launch> {
    let launch = norm("rms_norm_rows", op);
    let Op::RmsNorm(op) = op else { unreachable!("norm looked at the op") };
    vec![launch.blocks(u64::from(op.x.rows()))]
}

/// What both ways have in common.
fn norm(kernel: &'static str, op: &Op) -> Launch {
    let Op::RmsNorm(RmsNorm { out, x, gain, epsilon }) = op else {
        unreachable!("{kernel} of {}", op.name());
    };
    let mut launch = Launch::new("rows", kernel).write("out", out).read("x", x);
    if let Some(gain) = gain {
        launch = launch.flag("GAIN", true).flat("gain", gain);
    }
    launch.number("width", x.width()).real("epsilon", *epsilon)
}

pub(crate) fn rope_fits(op: &Op) -> bool {
    matches!(op, Op::Rope(op) if is_real(&op.out))
}

pub(crate) fn rope(op: &Op) -> Vec<Launch> {
    let Op::Rope(Rope { out, x, angle, heads, inverse }) = op else {
        unreachable!("rope of {}", op.name());
    };
    let launch = Launch::new("rows", "rope_rows")
        .write("out", out)
        .read("x", x)
        .read("angle", angle)
        .number("still", x.width() - angle.width())
        .number("turns", angle.width() / 2)
        .number("heads", *heads)
        .real("direction", if *inverse { -1.0 } else { 1.0 });
    vec![launch.pairs(out.rows(), out.width())]
}
