//! convert.

use hal::op::{Convert, ConvertForm};
use hal::{Op, RowCodec, Tensor};

use super::{Args, Place, Scope, is_block, is_rounded, is_row};
use crate::driver::Launch;

pub(crate) fn rows_fits(op: &Op) -> bool {
    let Op::Convert(op) = op else { return false };
    match op.form {
        ConvertForm::Cast => is_row(&op.x) && is_rounded(&op.out, None),
        ConvertForm::RoundTrip(codec) => is_row(&op.x) && is_rounded(&op.out, Some(codec)),
        _ => false,
    }
}

pub(crate) fn rows(op: &Op, scope: &Scope<'_>) -> Vec<Launch> {
    let Op::Convert(op) = op else { unreachable!("convert of {}", op.name()) };
    let round = match op.form {
        ConvertForm::RoundTrip(codec) => Some(codec),
        _ => None,
    };
    converted(scope, &Place::of(&op.out), &Place::of(&op.x), round)
}

fn converted(scope: &Scope<'_>, out: &Place, x: &Place, round: Option<RowCodec>) -> Vec<Launch> {
    let args = Args::new().place(out).place(x).round(round);
    scope.launch("convert_rows", [x.rows, 1, 1], 128, 0, args)
}

/// A round trip of plain rows.
pub(crate) fn round_trip(
    scope: &Scope<'_>,
    out: &Place,
    x: &Place,
    codec: RowCodec,
) -> Vec<Launch> {
    converted(scope, out, x, Some(codec))
}

pub(crate) fn quantise_fits(op: &Op) -> bool {
    let Op::Convert(op) = op else { return false };
    match op.form {
        ConvertForm::Quantise(codec) => is_row(&op.x) && is_block(codec, op.x.width()),
        _ => false,
    }
}

pub(crate) fn dequantise_fits(op: &Op) -> bool {
    let Op::Convert(op) = op else { return false };
    match op.form {
        ConvertForm::Dequantise(codec) => is_row(&op.out) && is_block(codec, op.out.width()),
        _ => false,
    }
}

/// Arguments of both, in the order of the kernel.
fn coded(tensors: [&Tensor; 3], codec: RowCodec) -> Args {
    tensors.into_iter().fold(Args::new(), Args::rows).round(Some(codec))
}

pub(crate) fn quantise(op: &Op, scope: &Scope<'_>) -> Vec<Launch> {
    let Op::Convert(Convert { out, x, scales: Some(scales), form: ConvertForm::Quantise(codec) }) =
        op
    else {
        unreachable!("quantise of {}", op.name());
    };
    let args = coded([out, scales, x], *codec);
    scope.launch("quantise_rows", [x.rows(), 1, 1], 128, 0, args)
}

pub(crate) fn dequantise(op: &Op, scope: &Scope<'_>) -> Vec<Launch> {
    let Op::Convert(Convert { out, x, scales: Some(scales), form: ConvertForm::Dequantise(codec) }) =
        op
    else {
        unreachable!("dequantise of {}", op.name());
    };
    let args = coded([out, x, scales], *codec);
    scope.elements("dequantise_rows", out.shape().elements(), args)
}
