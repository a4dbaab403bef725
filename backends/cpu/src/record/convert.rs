//! convert.

use std::sync::Arc;

use hal::op::{Convert, ConvertForm};
use hal::{Op, RowCodec};
use kernels::rows::cpu;

use super::{Record, Scope, any, any_mut, bytes, bytes_mut, is_row, real_mut};

fn form(op: &Op) -> Option<(&Convert, ConvertForm)> {
    match op {
        Op::Convert(op) if is_row(&op.x) && is_row(&op.out) => Some((op, op.form)),
        _ => None,
    }
}

/// Blocks the quantisers take: FP4 codes come in pairs.
fn is_block(codec: RowCodec, width: u32) -> bool {
    match codec {
        RowCodec::Fp8 { tail, .. } => u32::from(tail) <= width,
        RowCodec::Fp4 { block } => block.is_multiple_of(2),
        _ => false,
    }
}

pub(crate) fn rows_fits(op: &Op) -> bool {
    match form(op) {
        Some((_, ConvertForm::Cast)) => true,
        Some((op, ConvertForm::RoundTrip(codec))) => is_block(codec, op.x.width()),
        _ => false,
    }
}

pub(crate) fn rows(op: &Op, scope: &Scope) -> Record {
    let Op::Convert(op) = op else { unreachable!("convert of {}", op.name()) };
    let (isa, pool) = (scope.isa, Arc::clone(&scope.pool));
    let (out, x) = (any_mut(&op.out), any(&op.x));
    let round = match op.form {
        ConvertForm::RoundTrip(codec) => Some(codec),
        _ => None,
    };
    Box::new(move || cpu::convert(isa, &pool, out, x, round))
}

pub(crate) fn quantise_fits(op: &Op) -> bool {
    let Op::Convert(op) = op else { return false };
    match op.form {
        ConvertForm::Quantise(codec) => is_row(&op.x) && is_block(codec, op.x.width()),
        _ => false,
    }
}

pub(crate) fn quantise(op: &Op, scope: &Scope) -> Record {
    let Op::Convert(Convert { out, x, scales: Some(scales), form: ConvertForm::Quantise(codec) }) =
        op
    else {
        unreachable!("quantise of {}", op.name());
    };
    let (isa, pool, codec) = (scope.isa, Arc::clone(&scope.pool), *codec);
    let (out, scales, x) = (bytes_mut(out), bytes_mut(scales), any(x));
    Box::new(move || cpu::quantise(isa, &pool, out, scales, x, codec))
}

pub(crate) fn dequantise_fits(op: &Op) -> bool {
    let Op::Convert(op) = op else { return false };
    match op.form {
        ConvertForm::Dequantise(codec) => is_row(&op.out) && is_block(codec, op.out.width()),
        _ => false,
    }
}

pub(crate) fn dequantise(op: &Op, scope: &Scope) -> Record {
    let Op::Convert(Convert { out, x, scales: Some(scales), form: ConvertForm::Dequantise(codec) }) =
        op
    else {
        unreachable!("dequantise of {}", op.name());
    };
    let (isa, pool, codec) = (scope.isa, Arc::clone(&scope.pool), *codec);
    let (out, x, scales) = (real_mut(out), bytes(x), bytes(scales));
    Box::new(move || cpu::dequantise(isa, &pool, out, x, scales, codec))
}
