//! convert in all its forms, and scatter of plain rows into coded ones.

use hal::op::{Convert, ConvertForm, Scatter};
use hal::{Op, RowCodec, Tensor};

use super::{is_plain, is_real, is_row};
use crate::launch::{Launch, coded_row};

fn parts(op: &Op) -> &Convert {
    match op {
        Op::Convert(op) => op,
        _ => unreachable!("convert of {}", op.name()),
    }
}

fn is_e2m1(codec: RowCodec) -> bool {
    matches!(codec, RowCodec::Fp4 { .. })
}

/// Coded rows whose codes fill whole words, block by block: `encode_rows` writes those.
fn is_wordy(target: &Tensor) -> bool {
    if target.codec() == RowCodec::Plain {
        return false;
    }
    let (coded, _, block) = coded_row(target.codec(), target.width());
    let unit = if is_e2m1(target.codec()) { 8 } else { 4 };
    coded.is_multiple_of(unit) && block.is_multiple_of(unit)
}

pub(crate) fn rows_fits(op: &Op) -> bool {
    matches!(op, Op::Convert(op) if op.form == ConvertForm::Cast && is_row(&op.x) && is_real(&op.out))
}

pub(crate) fn rows(op: &Op) -> Vec<Launch> {
    let Convert { out, x, .. } = parts(op);
    let launch = Launch::new("quant", "convert_rows").write("out", out).read("x", x);
    vec![launch.pairs(out.rows(), out.width())]
}

pub(crate) fn round_trip_fits(op: &Op) -> bool {
    matches!(op, Op::Convert(op)
        if matches!(op.form, ConvertForm::RoundTrip(_)) && is_real(&op.x) && is_plain(&op.out))
}

pub(crate) fn round_trip(op: &Op) -> Vec<Launch> {
    let Convert { out, x, form, .. } = parts(op);
    let ConvertForm::RoundTrip(codec) = *form else {
        unreachable!("round_trip_rows of {form:?}");
    };
    let (coded, _, block) = coded_row(codec, x.width());
    let blocks = coded.div_ceil(block);
    let pairs = block.is_multiple_of(2) && coded.is_multiple_of(2);
    let launch = Launch::new("quant", "round_trip_rows")
        .flag("E2M1", is_e2m1(codec))
        .write_pairs("out", out, pairs)
        .read("x", x)
        .number("block", block)
        .number("coded", coded)
        .number("blocks", blocks)
        .number("parts", blocks + 1);
    vec![launch.threads(u64::from(x.rows()) * u64::from(blocks + 1))]
}

pub(crate) fn encode_fits(op: &Op) -> bool {
    let Op::Convert(op) = op else { return false };
    let same = match op.form {
        ConvertForm::Cast => true,
        ConvertForm::RoundTrip(codec) => codec == op.out.codec(),
        _ => false,
    };
    same && is_row(&op.x) && is_wordy(&op.out)
}

/// `encode_rows` into `out`, row by row or where `index` says.
fn encoding(out: &Tensor, x: &Tensor, index: Option<&Tensor>) -> Vec<Launch> {
    let (coded, scales, block) = coded_row(out.codec(), out.width());
    let blocks = coded.div_ceil(block);
    let codes = if is_e2m1(out.codec()) { scales } else { coded };
    let launch = Launch::new("quant", "encode_rows")
        .flag("E2M1", is_e2m1(out.codec()))
        .constant("PER_WORD", if is_e2m1(out.codec()) { 8 } else { 4 })
        .raw_rows("out", out)
        .wide("out")
        .read("x", x)
        .optional("INDEX", "index", index)
        .number("codes", codes)
        .number("row_bytes", out.row_bytes() as u32)
        .number("blocks", blocks)
        .number("parts", blocks + 1);
    vec![launch.threads(u64::from(x.rows()) * u64::from(blocks + 1))]
}

pub(crate) fn encode(op: &Op) -> Vec<Launch> {
    let Convert { out, x, .. } = parts(op);
    encoding(out, x, None)
}

pub(crate) fn scatter_fits(op: &Op) -> bool {
    matches!(op, Op::Scatter(op) if is_row(&op.source) && is_wordy(&op.target))
}

pub(crate) fn scatter(op: &Op) -> Vec<Launch> {
    let Op::Scatter(Scatter { target, source, index }) = op else {
        unreachable!("scatter of {}", op.name());
    };
    encoding(target, source, Some(index))
}

pub(crate) fn quantise_fits(op: &Op) -> bool {
    let Op::Convert(op) = op else { return false };
    match op.form {
        ConvertForm::Quantise(RowCodec::Fp4 { block }) => block.is_multiple_of(2),
        ConvertForm::Quantise(_) => true,
        _ => false,
    }
}

pub(crate) fn quantise(op: &Op) -> Vec<Launch> {
    let Convert { out, x, scales, form } = parts(op);
    let (ConvertForm::Quantise(codec), Some(scales)) = (*form, scales) else {
        unreachable!("quantise_rows of {form:?}");
    };
    let (_, _, block) = coded_row(codec, x.width());
    let blocks = x.width().div_ceil(block);
    let launch = Launch::new("quant", "quantise_rows")
        .flag("E2M1", is_e2m1(codec))
        .write("out", out)
        .write("scales", scales)
        .read("x", x)
        .number("width", x.width())
        .number("block", block)
        .number("blocks", blocks);
    vec![launch.threads(u64::from(x.rows()) * u64::from(blocks))]
}

pub(crate) fn dequantise_fits(op: &Op) -> bool {
    matches!(op, Op::Convert(op) if matches!(op.form, ConvertForm::Dequantise(_)))
}

pub(crate) fn dequantise(op: &Op) -> Vec<Launch> {
    let Convert { out, x, scales, form } = parts(op);
    let (ConvertForm::Dequantise(codec), Some(scales)) = (*form, scales) else {
        unreachable!("dequantise_rows of {form:?}");
    };
    let (_, _, block) = coded_row(codec, out.width());
    let launch = Launch::new("quant", "dequantise_rows")
        .flag("E2M1", is_e2m1(codec))
        .write("out", out)
        .read("x", x)
        .read("scales", scales)
        .number("block", block);
    vec![launch.pairs(out.rows(), out.width())]
}
