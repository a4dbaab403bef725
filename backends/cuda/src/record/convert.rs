//! convert.

use hal::op::{Convert, ConvertForm};
use hal::{Op, RowCodec, Tensor};

use super::{Args, FP4_ROWS, FP8_ROWS, Scope, is_block, is_plain, is_row};
use crate::driver::Launch;

/// (kind, block, tail) of a codec, as `kernels/rows/rows.cu` takes them.
fn numbers(codec: RowCodec) -> (u32, u16, u16) {
    match codec {
        RowCodec::Fp8 { block, tail } => (FP8_ROWS, block, tail),
        RowCodec::Fp4 { block } => (FP4_ROWS, block, 0),
        _ => (0, 1, 0),
    }
}

pub(crate) fn rows_fits(op: &Op) -> bool {
    let Op::Convert(op) = op else { return false };
    if !is_row(&op.x) || !is_row(&op.out) {
        return false;
    }
    match op.form {
        ConvertForm::Cast => true,
        // Into coded rows only of the codec that is rounded to: they are encoded, not rounded twice.
        ConvertForm::RoundTrip(codec) => {
            is_block(codec, op.x.width()) && (is_plain(&op.out) || op.out.codec() == codec)
        }
        _ => false,
    }
}

pub(crate) fn rows(op: &Op, scope: &Scope<'_>) -> Vec<Launch> {
    let Op::Convert(op) = op else { unreachable!("convert of {}", op.name()) };
    let (form, block, tail) = match op.form {
        ConvertForm::RoundTrip(codec) => numbers(codec),
        _ => (0, 1, 0),
    };
    let args = Args::new().rows(&op.out).rows(&op.x).int(form).short(block).short(tail);
    scope.launch("convert_rows", [op.x.rows(), 1, 1], 128, 0, args)
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
    let (form, block, _) = numbers(codec);
    tensors.into_iter().fold(Args::new(), Args::rows).int(form).short(block).short(0)
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
