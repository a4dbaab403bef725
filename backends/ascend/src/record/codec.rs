//! Small formats without hardware that has them: rounding by exact arithmetic on the bits of f32, decoding
//! by table. Serves all generations alike, so a cached row has the same bytes on each.
//!
//! Every step is exact or rounds once by definition: powers of two are built from exponent fields, counts
//! of steps are rounded half to even. Not here: blocks that hold a NaN (they do not become NaN as a
//! whole, as the definition wants) and numbers below 2^-126, which hardware may flush.

use hal::op::ConvertForm;
use hal::{Op, Result, RowCodec, Tensor};
use kernels::quant::formats::{E2M1, E4M3};

use super::{matrix, put};
use crate::sys::operators::Operator;
use crate::tape::Tape;
use crate::view::{Element, View};

/// Where the exponent of f32 lies.
const EXPONENT: f64 = 0x7f80_0000_u32 as f64;
/// One step of it.
const STEP: f64 = (1u32 << 23) as f64;
/// The exponent field from which subtracting one gives the reciprocal's.
const MIRROR: f64 = 254.0 * STEP;
/// The sign bit, as an i32.
const SIGN: f64 = i32::MIN as f64;

/// A code format by its numbers.
#[derive(Clone, Copy)]
struct Format {
    max: f64,
    /// What the largest magnitude counts as at least.
    floor: f64,
    /// Added to the bits of amax, it carries into the exponent where amax > max · 2^k.
    carry: f64,
    /// Exponent of `max`.
    top: f64,
    /// Smallest exponent field at which steps still shrink.
    field_min: f64,
    /// Mantissa bits.
    mantissa: f64,
    /// What the sign adds to a code.
    sign: f64,
}

const FP8: Format = Format {
    max: 448.0,
    floor: 1e-4,
    carry: 0x1f_ffff_u32 as f64,
    top: 8.0,
    field_min: 121.0,
    mantissa: 3.0,
    sign: 128.0,
};
const FP4: Format = Format {
    max: 6.0,
    floor: 6.0 / 85_070_591_730_234_615_865_843_651_857_942_052_864.0,
    carry: 0x3f_ffff_u32 as f64,
    top: 2.0,
    field_min: 127.0,
    mantissa: 1.0,
    sign: 8.0,
};

/// Format, block, columns that stay bf16.
fn parts(codec: RowCodec) -> (Format, i64, i64) {
    match codec {
        RowCodec::Fp8 { block, tail } => (FP8, block.into(), tail.into()),
        RowCodec::Fp4 { block } => (FP4, block.into(), 0),
        other => unreachable!("{other:?} has no blocks"),
    }
}

/// Blocks in `[n, blocks, k]`, rounded.
struct Rounded {
    /// Steps of each element, without sign.
    count: View,
    /// Bits of the size of a step, and of each element's sign.
    exponent: View,
    sign: View,
    /// Values again.
    value: View,
    /// Bits of the blocks' scales, `[n, blocks, 1]`.
    scale: View,
}

fn and(tape: &mut Tape, x: &View, mask: f64) -> View {
    tape.scalar(Operator::BitwiseAndScalar, x, mask)
}

/// Bits of `1 / 2^e` from bits of `2^e`.
fn reciprocal(tape: &mut Tape, power: &View) -> View {
    let less = tape.unary(Operator::Neg, power);
    tape.adds(&less, MIRROR).bits_as(Element::F32)
}

fn round(tape: &mut Tape, x: &View, format: Format) -> Rounded {
    let size = tape.unary(Operator::Abs, x);
    // 1 scale = 2^⌈log2(amax / max)⌉
    let most = tape.largest(&size, 2);
    let most = tape.clamp(&most, format.floor, f64::from(f32::MAX)).bits_as(Element::I32);
    let carried = tape.adds(&most, format.carry);
    let field = and(tape, &carried, EXPONENT);
    let scale = tape.adds(&field, -format.top * STEP);
    let inverse = reciprocal(tape, &scale);
    let scaled = tape.mul(&size, &inverse);
    let scaled = tape.clamp(&scaled, 0.0, format.max);
    // 2 count of steps, half to even
    let field = and(tape, &scaled.bits_as(Element::I32), EXPONENT);
    let exponent = tape.clamp(&field, format.field_min * STEP, EXPONENT);
    let step = tape.adds(&exponent, -format.mantissa * STEP);
    let inverse = reciprocal(tape, &step);
    let count = tape.mul(&scaled, &inverse);
    let count = tape.unary(Operator::Round, &count);
    // 3 value, with the sign of x, of zeros too
    let value = tape.mul(&count, &step.bits_as(Element::F32));
    let value = tape.mul(&value, &scale.bits_as(Element::F32));
    let sign = and(tape, &x.bits_as(Element::I32), SIGN);
    let value = tape.add(&value.bits_as(Element::I32), &sign).bits_as(Element::F32);
    Rounded { count, exponent, sign, value, scale }
}

/// Codes as f32 integers.
fn codes(tape: &mut Tape, rounded: &Rounded, format: Format) -> View {
    let unit = format.mantissa.exp2();
    let field = tape.cast(&rounded.exponent, Element::F32);
    let field = tape.muls(&field, unit / STEP);
    let code = tape.add(&field, &rounded.count);
    let code = tape.adds(&code, -format.field_min * unit);
    let sign = tape.cast(&rounded.sign, Element::F32);
    let sign = tape.muls(&sign, format.sign / SIGN);
    tape.add(&code, &sign)
}

/// Pieces of the coded columns: whole blocks as one, and what is left.
fn pieces(width: i64, block: i64) -> Vec<(i64, i64, i64)> {
    let whole = width / block;
    let all = [(0, whole, block), (whole * block, 1, width % block)];
    all.into_iter().filter(|&(_, blocks, k)| blocks * k > 0).collect()
}

/// `columns first..first + blocks · k` of `[n, width]` as `[n, blocks, k]`.
fn piece(x: &View, (first, blocks, k): (i64, i64, i64)) -> View {
    x.slice(1, first, blocks * k).split(1, k)
}

/// Quantised and dequantised, f32 `[n, width]`.
fn round_trip(tape: &mut Tape, x: &View, codec: RowCodec) -> View {
    let (format, block, tail) = parts(codec);
    let coded = x.dim(1) - tail;
    let out = tape.temp(Element::F32, &x.dims);
    for at in pieces(coded, block) {
        let rounded = round(tape, &piece(x, at), format);
        tape.store(&rounded.value, &piece(&out, at));
    }
    if tail > 0 {
        tape.store(&x.slice(1, coded, tail), &out.slice(1, coded, tail));
    }
    out
}

/// Writes code bytes (or packed pairs) and scale bytes of the first `width` columns.
fn quantise(tape: &mut Tape, x: &View, codec: RowCodec, codes_out: &View, scales_out: &View) {
    let (format, block, _) = parts(codec);
    let width = x.dim(1);
    let pairs = matches!(codec, RowCodec::Fp4 { .. });
    let room = if pairs { width + width % 2 } else { width };
    let code = tape.temp(Element::F32, &[x.dim(0), room]);
    if room > width {
        tape.fill(&code.slice(1, width, 1), 0.0);
    }
    for (number, at) in pieces(width, block).into_iter().enumerate() {
        let rounded = round(tape, &piece(x, at), format);
        let codes = codes(tape, &rounded, format);
        tape.store(&codes, &piece(&code, at));
        let scale = tape.cast(&rounded.scale, Element::F32);
        let scale = tape.muls(&scale, 1.0 / STEP);
        let first = if number == 0 { 0 } else { width / block };
        let target = scales_out.slice(1, first, at.1).unsqueeze(2);
        tape.store(&scale, &target);
    }
    let bytes = match pairs {
        true => {
            let high = tape.muls(&code.every(1, 2), 16.0);
            tape.add(&code.every(0, 2), &high)
        }
        false => code,
    };
    tape.store(&bytes, codes_out);
}

/// f32 `[n, width]` as the bytes of coded rows, `[n, row bytes]`.
pub(super) fn encode(tape: &mut Tape, x: &View, codec: RowCodec) -> Result<View> {
    let (_, block, tail) = parts(codec);
    let (n, width) = (x.dim(0), x.dim(1));
    let bytes = codec.row_bytes(hal::DType::Bf16, width as u32) as i64;
    let out = tape.temp(Element::U8, &[n, bytes]);
    tape.fill(&out, 0.0);
    let coded = width - tail;
    let code_bytes = if matches!(codec, RowCodec::Fp4 { .. }) { (coded + 1) / 2 } else { coded };
    let blocks = (coded + block - 1) / block;
    let scales = out.slice(1, code_bytes + 2 * tail, blocks);
    quantise(tape, &x.slice(1, 0, coded), codec, &out.slice(1, 0, code_bytes), &scales);
    if tail > 0 {
        tape.store(&x.slice(1, coded, tail), &tail_of(&out, code_bytes, tail));
    }
    Ok(out)
}

/// The bf16 columns among the bytes of coded rows. The table saw that they begin at an even byte.
fn tail_of(bytes: &View, first: i64, tail: i64) -> View {
    View {
        element: Element::Bf16,
        offset: (bytes.offset + first) / 2,
        dims: vec![bytes.dim(0), tail],
        strides: vec![bytes.strides[0] / 2, 1],
        ..bytes.clone()
    }
}

/// Numbers `table[byte]` of bytes `[n, k]`, as `[n, k, per]`.
fn look_up(tape: &mut Tape, table: &View, bytes: &View) -> View {
    let index = tape.cast(bytes, Element::I32);
    let (n, k) = (index.dim(0), index.dim(1));
    let found = tape.rows(table, &index.reshape(&[n * k]));
    let per = found.elements() / (n * k).max(1);
    found.reshape(&[n, k, per])
}

fn number_table(tape: &mut Tape, codec: RowCodec) -> Result<View> {
    let bytes = |values: Vec<f32>| values.into_iter().flat_map(f32::to_le_bytes).collect();
    match codec {
        RowCodec::Fp4 { .. } => tape.table("pairs of e2m1", Element::F32, &[256, 2], || {
            bytes((0..256usize).flat_map(|byte| [E2M1[byte & 15], E2M1[byte >> 4]]).collect())
        }),
        _ => tape.table("e4m3", Element::F32, &[256, 1], || bytes(E4M3.to_vec())),
    }
}

/// Codes times scales, f32 `[n, width]` into `out`.
fn dequantise(
    tape: &mut Tape,
    (codes, scales): (&View, &View),
    codec: RowCodec,
    out: &View,
) -> Result<()> {
    let (_, block, _) = parts(codec);
    let (n, width) = (out.dim(0), out.dim(1));
    let table = number_table(tape, codec)?;
    let numbers = look_up(tape, &table, codes);
    let columns = numbers.elements() / n.max(1);
    let numbers = numbers.reshape(&[n, columns]);
    let powers = tape.table("e8m0", Element::F32, &[256, 1], || {
        let power = |byte: i32| {
            if byte == 255 { f32::NAN } else { (f64::from(byte) - 127.0).exp2() as f32 }
        };
        (0..256).flat_map(|byte| power(byte).to_le_bytes()).collect()
    })?;
    let scales = look_up(tape, &powers, scales);
    for (number, at) in pieces(width, block).into_iter().enumerate() {
        let first = if number == 0 { 0 } else { width / block };
        let scale = scales.slice(1, first, at.1);
        tape.binary_into(Operator::Mul, &piece(&numbers, at), &scale, &piece(out, at));
    }
    Ok(())
}

/// Bytes of coded rows as f32 `[n, width]`.
pub(super) fn decode(tape: &mut Tape, bytes: &View, codec: RowCodec, width: i64) -> Result<View> {
    let (_, block, tail) = parts(codec);
    let coded = width - tail;
    let code_bytes = if matches!(codec, RowCodec::Fp4 { .. }) { (coded + 1) / 2 } else { coded };
    let blocks = (coded + block - 1) / block;
    let out = tape.temp(Element::F32, &[bytes.dim(0), width]);
    let scales = bytes.slice(1, code_bytes + 2 * tail, blocks);
    let codes = bytes.slice(1, 0, code_bytes);
    dequantise(tape, (&codes, &scales), codec, &out.slice(1, 0, coded))?;
    if tail > 0 {
        tape.store(&tail_of(bytes, code_bytes, tail), &out.slice(1, coded, tail));
    }
    Ok(out)
}

/// f32 `[n, width]` into a tensor of any codec.
pub(super) fn store(tape: &mut Tape, x: &View, out: &Tensor) -> Result<()> {
    if out.codec() == RowCodec::Plain {
        return put(tape, x, out);
    }
    let x = tape.dense(x);
    let bytes = encode(tape, &x, out.codec())?;
    let target = View::rows_of(out, tape.place(out)?, Element::U8);
    tape.store(&bytes, &target);
    Ok(())
}

pub(crate) fn convert(tape: &mut Tape, op: &Op) -> Result<()> {
    let Op::Convert(op) = op else { unreachable!("the table looked") };
    let bytes = |tape: &Tape, tensor: &Tensor| {
        tape.place(tensor).map(|place| View::rows_of(tensor, place, Element::U8))
    };
    match op.form {
        ConvertForm::Cast => {
            let x = matrix(tape, &op.x)?;
            store(tape, &x, &op.out)
        }
        ConvertForm::RoundTrip(codec) => {
            let x = matrix(tape, &op.x)?;
            let rounded = round_trip(tape, &x, codec);
            store(tape, &rounded, &op.out)
        }
        ConvertForm::Quantise(codec) => {
            let x = matrix(tape, &op.x)?;
            let scales = op.scales.as_ref().expect("checked: codes need scales");
            let (codes, scales) = (bytes(tape, &op.out)?, bytes(tape, scales)?);
            quantise(tape, &x, codec, &codes, &scales);
            Ok(())
        }
        ConvertForm::Dequantise(codec) => {
            let scales = op.scales.as_ref().expect("checked: codes need scales");
            let (codes, scales) = (bytes(tape, &op.x)?, bytes(tape, scales)?);
            let out = tape.temp(Element::F32, &[op.out.rows().into(), op.out.width().into()]);
            dequantise(tape, (&codes, &scales), codec, &out)?;
            put(tape, &out, &op.out)
        }
    }
}
