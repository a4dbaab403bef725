//! Row ops: gather, scatter, map, reduce, rms_norm, rope.

use hal::op::{Gather, GatherSource, Map, MapFn, ReduceFn};
use hal::{DType, Op, Result, RowCodec, Tensor};

use super::{codec, list, matrix, mix, put, values};
use crate::sys::operators::Operator;
use crate::tape::{Arg, Tape};
use crate::view::{Element, View};

/// `MaskedAdd`'s value of a masked element.
const MASKED: f64 = -1e30;
/// `Share`'s guard against an empty sum.
const SHARE_FLOOR: f64 = 1e-20;

pub(crate) fn gather(tape: &mut Tape, op: &Op) -> Result<()> {
    let Op::Gather(op) = op else { unreachable!("the table looked") };
    match &op.source {
        GatherSource::Rows { source, more } => gather_rows(tape, op, source, more.as_ref()),
        GatherSource::Elements { source, rows } => gather_elements(tape, op, source, rows.as_ref()),
    }
}

/// Indices divided by `per`; -1 stays -1, the division rounds down.
fn divided(tape: &mut Tape, index: &View, per: u32) -> View {
    match per {
        1 => index.clone(),
        per => tape.scalar(Operator::FloorDivides, index, per.into()),
    }
}

/// Rows are moved as bits, in 4-byte units where they fit.
fn gather_rows(tape: &mut Tape, op: &Gather, source: &Tensor, more: Option<&Tensor>) -> Result<()> {
    let index = list(tape, &op.index)?;
    let index = divided(tape, &index, op.per);
    let coded = source.codec() != RowCodec::Plain;
    let mut element = View::units(source, tape.place(source)?).element;
    for other in [more, (!coded).then_some(&op.out)].into_iter().flatten() {
        if View::units(other, tape.place(other)?).element == Element::I8 {
            element = Element::I8;
        }
    }
    let units = View::rows_of(source, tape.place(source)?, element);
    let rows = i64::from(source.rows());
    let safe = tape.clamp(&index, 0.0, rows as f64 - 1.0);
    let mut found = tape.rows(&units, &safe);
    if let Some(more) = more {
        let place = tape.place(more)?;
        let second = View::rows_of(more, place, units.element);
        let past = tape.adds(&index, -(rows as f64));
        let safe = tape.clamp(&past, 0.0, f64::from(more.rows()) - 1.0);
        let other = tape.rows(&second, &safe);
        let behind = tape.scalar(Operator::GeScalar, &index, rows as f64).unsqueeze(1);
        found = tape.choose(&behind, &other, &found);
    }
    let absent = tape.scalar(Operator::LtScalar, &index, 0.0).unsqueeze(1);
    let value = if source.dtype().is_real() { 0.0 } else { -1.0 };
    let value = tape.constant(units.element, value)?;
    let found = tape.choose(&absent, &value, &found);
    if coded {
        let bytes = as_bytes(&found);
        let decoded = codec::decode(tape, &bytes, source.codec(), source.width().into())?;
        return put(tape, &decoded, &op.out);
    }
    let out = View::rows_of(&op.out, tape.place(&op.out)?, units.element);
    tape.store(&found, &out);
    Ok(())
}

/// Dense `[n, units]` as `[n, bytes]`.
fn as_bytes(units: &View) -> View {
    let size = units.element.bits() as i64 / 8;
    View {
        element: Element::U8,
        offset: units.offset * size,
        dims: vec![units.dim(0), units.dim(1) * size],
        strides: vec![units.dim(1) * size, 1],
        ..units.clone()
    }
}

fn gather_elements(
    tape: &mut Tape,
    op: &Gather,
    source: &Tensor,
    rows: Option<&Tensor>,
) -> Result<()> {
    let index = View::rows_of(&op.index, tape.place(&op.index)?, Element::I32);
    let index = divided(tape, &index, op.per);
    let mut table = View::rows_of(source, tape.place(source)?, Element::of(source.dtype()));
    let mut absent = tape.scalar(Operator::LtScalar, &index, 0.0);
    if let Some(rows) = rows {
        let rows = list(tape, rows)?;
        let safe = tape.clamp(&rows, 0.0, f64::from(source.rows()) - 1.0);
        table = tape.rows(&table, &safe);
        let gone = tape.scalar(Operator::LtScalar, &rows, 0.0).unsqueeze(1);
        let yes = tape.temp(Element::Bool, &[1]);
        tape.fill(&yes, 1.0);
        absent = tape.choose(&gone, &yes, &absent);
    }
    let safe = tape.clamp(&index, 0.0, f64::from(source.width()) - 1.0);
    // The operator wants as many rows in both.
    let table = table.slice(0, 0, index.dim(0));
    let found = tape.temp(table.element, &index.dims);
    let args = [&table, &safe, &found].map(|view| Arg::View(view.clone()));
    let [table, safe, out] = args;
    tape.push(Operator::Gather, vec![table, Arg::I64(1), safe, out]);
    let value = if source.dtype().is_real() { 0.0 } else { -1.0 };
    let value = match found.element {
        Element::F32 | Element::I32 => tape.constant(found.element, value)?,
        element => {
            let cell = tape.temp(element, &[1]);
            tape.fill(&cell, value);
            cell
        }
    };
    let found = tape.choose(&absent, &value, &found);
    put(tape, &found, &op.out)
}

/// The operator has no way to drop a row: dropped rows repeat the row with the largest index, and if
/// there is none, they write back what row 0 holds. Equal bytes to one place are no conflict.
pub(crate) fn scatter(tape: &mut Tape, op: &Op) -> Result<()> {
    let Op::Scatter(op) = op else { unreachable!("the table looked") };
    let place = tape.place(&op.target)?;
    let mut target = View::units(&op.target, place);
    let source = match (op.source.codec(), op.target.codec()) {
        (from, to) if from == to => {
            let source = View::units(&op.source, tape.place(&op.source)?);
            if source.element != target.element {
                target = View::rows_of(&op.target, place, Element::I8);
            }
            View::rows_of(&op.source, tape.place(&op.source)?, target.element)
        }
        (_, RowCodec::Plain) => {
            let x = matrix(tape, &op.source)?;
            let x = tape.cast(&x, Element::of(op.target.dtype()));
            target.element = x.element;
            target = View::rows_of(&op.target, place, x.element);
            x
        }
        (_, codec) => {
            let x = matrix(tape, &op.source)?;
            target = View::rows_of(&op.target, place, Element::I8);
            codec::encode(tape, &x, codec)?.bits_as(Element::I8)
        }
    };
    // The operator lists no 32-bit integer; the bits of a float are moved alike.
    let moved = |view: View| match view.element {
        Element::I32 => view.bits_as(Element::F32),
        _ => view,
    };
    let (target, source) = (moved(target), moved(source));
    let index = list(tape, &op.index)?;
    let most = tape.largest(&index, 0);
    let at = tape.temp(Element::I32, &[1]);
    let args = vec![Arg::View(index.clone()), Arg::I64(0), Arg::Bool(true), Arg::View(at.clone())];
    tape.push(Operator::ArgMax, args);
    let again = tape.rows(&source, &at);
    let none = tape.scalar(Operator::LtScalar, &most, 0.0).unsqueeze(1);
    let again = tape.choose(&none, &target.slice(0, 0, 1), &again);
    let dropped = tape.scalar(Operator::LtScalar, &index, 0.0);
    let source = tape.choose(&dropped.unsqueeze(1), &again, &source);
    let most = tape.clamp(&most, 0.0, f64::from(op.target.rows()) - 1.0);
    let index = tape.choose(&dropped, &most, &index).unsqueeze(1);
    let args = [&target, &index, &source].map(|view| Arg::View(view.clone()));
    tape.push(Operator::ScatterNdUpdate, args.to_vec());
    Ok(())
}

pub(crate) fn map(tape: &mut Tape, op: &Op) -> Result<()> {
    let Op::Map(op) = op else { unreachable!("the table looked") };
    let out = tape.view(&op.out)?;
    let x = match &op.f {
        MapFn::Copy(x) => tape.view(x)?,
        MapFn::PageRow { entry, page, per } => page_row(tape, entry, page, *per)?,
        _ => expression(tape, op)?,
    };
    // A result narrower than `out` is spread while it is stored.
    let x = match x.dims == out.dims || x.element == out.element {
        true => x,
        false => tape.cast(&x, out.element),
    };
    tape.store(&x, &out);
    Ok(())
}

fn expression(tape: &mut Tape, op: &Map) -> Result<View> {
    let inputs: Vec<View> =
        op.f.inputs()
            .into_iter()
            .filter(|input| input.dtype().is_real())
            .map(|input| values(tape, input))
            .collect::<Result<_>>()?;
    let x = &inputs[0];
    Ok(match &op.f {
        MapFn::Add(..) => tape.add(x, &inputs[1]),
        MapFn::Divide(..) => tape.div(x, &inputs[1]),
        MapFn::ExpMinus(..) => {
            let difference = tape.sub(x, &inputs[1]);
            tape.unary(Operator::Exp, &difference)
        }
        MapFn::SqrtSoftplus(_) => sqrt_softplus(tape, x),
        MapFn::MaskedAdd { index, .. } => {
            let sum = tape.add(x, &inputs[1]);
            let index = tape.view(index)?;
            let masked = tape.scalar(Operator::LtScalar, &index, 0.0);
            let value = tape.constant(Element::F32, MASKED)?;
            tape.choose(&masked, &value, &sum)
        }
        MapFn::Share { scale, .. } => share(tape, x, &inputs[1], f64::from(*scale)),
        MapFn::Swiglu { clamp, weight, .. } => {
            let clamp = f64::from(*clamp);
            let gate = tape.clamp(x, f64::from(f32::MIN), clamp);
            let sigmoid = tape.unary(Operator::Sigmoid, &gate);
            let up = tape.clamp(&inputs[1], -clamp, clamp);
            let silu = tape.mul(&gate, &sigmoid);
            let product = tape.mul(&silu, &up);
            match weight {
                Some(_) => tape.mul(&product, &inputs[2]),
                None => product,
            }
        }
        other => return Err(hal::Error::unsupported(format!("map {}", other.name()))),
    })
}

/// √ln(1 + e^x), by ln(1 + e^x) = max(x, 0) + ln(1 + e^-|x|).
pub(crate) fn sqrt_softplus(tape: &mut Tape, x: &View) -> View {
    let size = tape.unary(Operator::Abs, x);
    let size = tape.unary(Operator::Neg, &size);
    let power = tape.unary(Operator::Exp, &size);
    let log = tape.unary(Operator::Log1p, &power);
    let positive = tape.unary(Operator::Relu, x);
    let sum = tape.add(&positive, &log);
    tape.unary(Operator::Sqrt, &sum)
}

/// `x / (total + a guard) · scale`.
pub(crate) fn share(tape: &mut Tape, x: &View, total: &View, scale: f64) -> View {
    let total = tape.adds(total, SHARE_FLOOR);
    let share = tape.div(x, &total);
    tape.muls(&share, scale)
}

fn page_row(tape: &mut Tape, entry: &Tensor, page: &Tensor, per: u32) -> Result<View> {
    let (entry, page) = (tape.view(entry)?, tape.view(page)?);
    let within = tape.scalar(Operator::RemainderTensorScalar, &entry, per.into());
    let first = tape.muls(&page, per.into());
    let row = tape.add(&first, &within);
    let absent = tape.constant(Element::I32, -1.0)?;
    let no_page = tape.scalar(Operator::LtScalar, &page, 0.0);
    let row = tape.choose(&no_page, &absent, &row);
    let no_entry = tape.scalar(Operator::LtScalar, &entry, 0.0);
    Ok(tape.choose(&no_entry, &absent, &row))
}

pub(crate) fn reduce(tape: &mut Tape, op: &Op) -> Result<()> {
    let Op::Reduce(op) = op else { unreachable!("the table looked") };
    if let ReduceFn::MeanSquare = op.f {
        let x = matrix(tape, &op.x)?;
        let square = tape.mul(&x, &x);
        let sum = tape.sum(&square, 1);
        let mean = tape.muls(&sum, 1.0 / f64::from(op.x.width()));
        return put(tape, &mean, &op.out);
    }
    if let ReduceFn::Mix(y) = &op.f {
        return mix::mixed(tape, op, y);
    }
    let x = values(tape, &op.x)?;
    let x = if x.dims.len() == 2 { x.unsqueeze(2) } else { x };
    let out = match &op.f {
        ReduceFn::Max => tape.largest(&x, 1),
        ReduceFn::Dot(y) => {
            let y = values(tape, y)?;
            let y = if y.dims.len() == 2 { y.unsqueeze(2) } else { y };
            let product = tape.mul(&x, &y);
            tape.sum(&product, 1)
        }
        _ => tape.sum(&x, 1),
    };
    put(tape, &out, &op.out)
}

pub(crate) fn rms_norm(tape: &mut Tape, op: &Op) -> Result<()> {
    let Op::RmsNorm(op) = op else { unreachable!("the table looked") };
    let x = matrix(tape, &op.x)?;
    let width = op.x.width();
    let gain = match &op.gain {
        Some(gain) => {
            let gain = tape.vector(gain)?;
            tape.dense(&gain)
        }
        None => tape.table(&format!("{width} ones"), Element::F32, &[width.into()], || {
            (0..width).flat_map(|_| 1f32.to_le_bytes()).collect()
        })?,
    };
    let y = tape.temp(Element::F32, &x.dims);
    let rstd = tape.temp(Element::F32, &[x.dim(0), 1]);
    let args = vec![
        Arg::View(x),
        Arg::View(gain),
        Arg::F64(op.epsilon.into()),
        Arg::View(y.clone()),
        Arg::View(rstd),
    ];
    tape.push(Operator::RmsNorm, args);
    put(tape, &y, &op.out)
}

pub(crate) fn rope(tape: &mut Tape, op: &Op) -> Result<()> {
    let Op::Rope(op) = op else { unreachable!("the table looked") };
    let x = matrix(tape, &op.x)?;
    let (width, turned) = (x.dim(1), i64::from(op.angle.width()));
    let angle = View::rows_of(&op.angle, tape.place(&op.angle)?, Element::F32);
    let half = turned / 2;
    // Rows of one angle together: [n, heads, columns] with [n, 1, pairs].
    let x = x.split(0, op.heads.into());
    let cosine = angle.slice(1, 0, half).unsqueeze(1);
    let mut sine = angle.slice(1, half, half).unsqueeze(1);
    if op.inverse {
        sine = tape.unary(Operator::Neg, &sine);
    }
    let out = tape.temp(Element::F32, &x.dims);
    if width > turned {
        tape.store(&x.slice(2, 0, width - turned), &out.slice(2, 0, width - turned));
    }
    let pairs = x.slice(2, width - turned, turned);
    let (a, b) = (pairs.every(0, 2), pairs.every(1, 2));
    let result = out.slice(2, width - turned, turned);
    let (ac, bs) = (tape.mul(&a, &cosine), tape.mul(&b, &sine));
    tape.binary_into(Operator::Sub, &ac, &bs, &result.every(0, 2));
    let (as_, bc) = (tape.mul(&a, &sine), tape.mul(&b, &cosine));
    tape.binary_into(Operator::Add, &as_, &bc, &result.every(1, 2));
    if op.out.codec() != RowCodec::Plain {
        let rows = out.reshape(&[op.x.rows().into(), width]);
        return codec::store(tape, &rows, &op.out);
    }
    debug_assert!(op.out.dtype() != DType::I32);
    put(tape, &out, &op.out)
}
