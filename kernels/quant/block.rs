//! Block quantisation with power-of-two scales (spec section 13; `convert` of the op program).
//!
//! A block with a NaN becomes NaN as a whole: its scale is the NaN scale. Infinities clamp and come
//! back as infinities, because the scale of such a block is the largest there is. Signs are kept, of
//! zeros too, so that what a cache stores is what the model saw.

use super::formats::{
    E8M0, E8M0_NAN, code_e2m1, code_e4m3, inverse_scale, round_e2m1, round_e4m3, scale_e2m1,
    scale_e4m3, value_e2m1, value_e4m3,
};
use super::per_isa;
#[cfg(target_arch = "x86_64")]
use super::x86;
use crate::common::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::common::isa::Level;

/// The code formats that blocks are quantised to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// One byte a value; scale 2^⌈log2(max(amax, 1e-4) / 448)⌉.
    E4m3,
    /// Two values a byte, even column in the low nibble; scale 2^⌈log2(max(amax, 6·2^-126) / 6)⌉.
    E2m1,
}

impl Form {
    /// Bytes that `width` codes take.
    pub fn code_bytes(self, width: usize) -> usize {
        match self {
            Form::E4m3 => width,
            Form::E2m1 => width.div_ceil(2),
        }
    }
}

/// Quantises `values` in blocks of `block` and dequantises them again, in place.
///
/// Every result is exact in bf16. The last block may be shorter. Idempotent.
///
/// # Panics
/// If `block` is 0.
pub fn round_trip(isa: Isa, form: Form, block: usize, values: &mut [f32]) {
    match form {
        Form::E4m3 => per_isa!(isa, round_trip_e4m3(block: usize, values: &mut [f32])),
        Form::E2m1 => per_isa!(isa, round_trip_e2m1(block: usize, values: &mut [f32])),
    }
}

/// Quantises `values` to codes and one scale byte per block of `block` columns.
///
/// # Panics
/// If `block` is 0 (for E2M1: odd), or the slices have not the sizes that `values` asks for.
pub fn quantise(
    isa: Isa,
    form: Form,
    block: usize,
    values: &[f32],
    codes: &mut [u8],
    scales: &mut [u8],
) {
    assert_eq!(codes.len(), form.code_bytes(values.len()));
    assert_eq!(scales.len(), values.len().div_ceil(block));
    match form {
        Form::E4m3 => per_isa!(
            isa,
            quantise_e4m3(block: usize, values: &[f32], codes: &mut [u8], scales: &mut [u8])
        ),
        Form::E2m1 => {
            assert!(block.is_multiple_of(2));
            per_isa!(
                isa,
                quantise_e2m1(block: usize, values: &[f32], codes: &mut [u8], scales: &mut [u8])
            );
        }
    }
}

/// Values of codes and scales.
///
/// # Panics
/// As for [`quantise`].
pub fn dequantise(
    isa: Isa,
    form: Form,
    block: usize,
    codes: &[u8],
    scales: &[u8],
    values: &mut [f32],
) {
    decode(isa, &Coded { form, block, codes, scales, tail: &[] }, values, &mut []);
}

/// [`dequantise`], and the tail to `plain` in the same breath.
pub(super) fn decode(isa: Isa, row: &Coded<'_>, values: &mut [f32], plain: &mut [f32]) {
    assert_eq!(row.codes.len(), row.form.code_bytes(values.len()));
    assert_eq!(row.scales.len(), values.len().div_ceil(row.block));
    assert_eq!(row.tail.len(), 2 * plain.len());
    assert!(row.form == Form::E4m3 || row.block.is_multiple_of(2));
    match isa.level() {
        // SAFETY: an `Isa` proves that the processor has the features.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { decode_avx512(row, values, plain) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { decode_avx2(row, values, plain) },
        _ => decode_body(row, values, plain, |_, _, _| false, |_, _, _| false),
    }
}

/// Calls `$body` with blocks of the sizes the model uses as arrays, so that their loops are unrolled.
macro_rules! sized {
    ($block:expr, $chunk:ident => $body:expr, $all:expr, $chunks:ident, $sized:ident) => {
        match $block {
            32 if $all.len().is_multiple_of(32) => {
                $all.$sized::<32>().0.into_iter().for_each(|$chunk| $body);
            }
            64 if $all.len().is_multiple_of(64) => {
                $all.$sized::<64>().0.into_iter().for_each(|$chunk| $body);
            }
            128 if $all.len().is_multiple_of(128) => {
                $all.$sized::<128>().0.into_iter().for_each(|$chunk| $body);
            }
            block => $all.$chunks(block).for_each(|$chunk| $body),
        }
    };
}

#[inline(always)]
fn round_trip_e4m3(block: usize, values: &mut [f32]) {
    sized!(block, chunk => trip::<E4m3>(chunk), values, chunks_mut, as_chunks_mut);
}

#[inline(always)]
fn round_trip_e2m1(block: usize, values: &mut [f32]) {
    sized!(block, chunk => trip::<E2m1>(chunk), values, chunks_mut, as_chunks_mut);
}

/// A code format, as the bodies see it.
trait Codes {
    const MAX: f32;
    fn scale(amax_bits: u32) -> u8;
    fn round(magnitude: f32) -> f32;
}

struct E4m3;
struct E2m1;

impl Codes for E4m3 {
    const MAX: f32 = super::formats::E4M3_MAX;
    #[inline(always)]
    fn scale(amax_bits: u32) -> u8 {
        scale_e4m3(amax_bits)
    }
    #[inline(always)]
    fn round(magnitude: f32) -> f32 {
        round_e4m3(magnitude)
    }
}

impl Codes for E2m1 {
    const MAX: f32 = super::formats::E2M1_MAX;
    #[inline(always)]
    fn scale(amax_bits: u32) -> u8 {
        scale_e2m1(amax_bits)
    }
    #[inline(always)]
    fn round(magnitude: f32) -> f32 {
        round_e2m1(magnitude)
    }
}

const MAGNITUDE: u32 = 0x7fff_ffff;

/// Bits of the largest magnitude; as integers they order as the magnitudes do, NaN above all.
#[inline(always)]
fn amax_bits(values: &[f32]) -> u32 {
    values.iter().fold(0, |most, value| most.max(value.to_bits() & MAGNITUDE))
}

/// |value| / scale, clamped and rounded to a value of the format.
#[inline(always)]
fn rounded<C: Codes>(value: f32, inverse: f32) -> f32 {
    let scaled = f32::from_bits(value.to_bits() & MAGNITUDE) * inverse;
    C::round(if scaled < C::MAX { scaled } else { C::MAX })
}

#[inline(always)]
fn trip<C: Codes>(chunk: &mut [f32]) {
    let scale = C::scale(amax_bits(chunk));
    if scale == E8M0_NAN {
        chunk.fill(f32::NAN);
        return;
    }
    let (inverse, factor) = (inverse_scale(scale), E8M0[scale as usize]);
    for value in chunk {
        let sign = value.to_bits() & !MAGNITUDE;
        let magnitude = rounded::<C>(*value, inverse) * factor;
        *value = f32::from_bits(magnitude.to_bits() | sign);
    }
}

#[inline(always)]
fn quantise_e4m3(block: usize, values: &[f32], codes: &mut [u8], scales: &mut [u8]) {
    for ((values, codes), scale) in
        values.chunks(block).zip(codes.chunks_mut(block)).zip(scales.iter_mut())
    {
        *scale = scale_e4m3(amax_bits(values));
        if *scale == E8M0_NAN {
            codes.fill(0);
            continue;
        }
        let inverse = inverse_scale(*scale);
        for (value, code) in values.iter().zip(codes) {
            let sign = (value.to_bits() >> 24) as u8 & 0x80;
            *code = code_e4m3(rounded::<E4m3>(*value, inverse)) | sign;
        }
    }
}

#[inline(always)]
fn quantise_e2m1(block: usize, values: &[f32], codes: &mut [u8], scales: &mut [u8]) {
    for ((values, codes), scale) in
        values.chunks(block).zip(codes.chunks_mut(block / 2)).zip(scales.iter_mut())
    {
        *scale = scale_e2m1(amax_bits(values));
        if *scale == E8M0_NAN {
            codes.fill(0);
            continue;
        }
        let inverse = inverse_scale(*scale);
        let nibble = |value: f32| {
            let sign = (value.to_bits() >> 28) as u8 & 8;
            code_e2m1(rounded::<E2m1>(value, inverse)) | sign
        };
        for (pair, code) in values.chunks(2).zip(codes) {
            *code = nibble(pair[0]) | pair.get(1).map_or(0, |&odd| nibble(odd) << 4);
        }
    }
}

/// What a cached row is made of.
pub(super) struct Coded<'a> {
    pub(super) form: Form,
    pub(super) block: usize,
    pub(super) codes: &'a [u8],
    pub(super) scales: &'a [u8],
    /// Little-endian bf16.
    pub(super) tail: &'a [u8],
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn decode_avx512(row: &Coded<'_>, values: &mut [f32], plain: &mut [f32]) {
    let e4m3 = |codes: &[u8], scale, values: &mut [f32]| x86::e4m3_avx512(codes, scale, values);
    let e2m1 = |codes: &[u8], scale, values: &mut [f32]| x86::e2m1_avx512(codes, scale, values);
    decode_body(row, values, plain, e4m3, e2m1);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn decode_avx2(row: &Coded<'_>, values: &mut [f32], plain: &mut [f32]) {
    let e4m3 = |codes: &[u8], scale, values: &mut [f32]| x86::e4m3_avx2(codes, scale, values);
    let e2m1 = |codes: &[u8], scale, values: &mut [f32]| x86::e2m1_avx2(codes, scale, values);
    decode_body(row, values, plain, e4m3, e2m1);
}

/// Blocks that the fast ways refuse are decoded code by code.
#[inline(always)]
fn decode_body(
    row: &Coded<'_>,
    values: &mut [f32],
    plain: &mut [f32],
    e4m3: impl Fn(&[u8], u8, &mut [f32]) -> bool,
    e2m1: impl Fn(&[u8], u8, &mut [f32]) -> bool,
) {
    let code_bytes = row.form.code_bytes(row.block);
    let blocks = values.chunks_mut(row.block).zip(row.codes.chunks(code_bytes));
    for ((values, codes), &scale) in blocks.zip(row.scales) {
        match row.form {
            Form::E4m3 if !e4m3(codes, scale, values) => dequantise_e4m3(codes, scale, values),
            Form::E2m1 if !e2m1(codes, scale, values) => dequantise_e2m1(codes, scale, values),
            _ => {}
        }
    }
    for (value, bytes) in plain.iter_mut().zip(row.tail.as_chunks::<2>().0) {
        *value = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
    }
}

#[inline(always)]
fn dequantise_e4m3(codes: &[u8], scale: u8, values: &mut [f32]) {
    let factor = E8M0[scale as usize];
    for (value, code) in values.iter_mut().zip(codes) {
        *value = value_e4m3(*code) * factor;
    }
}

#[inline(always)]
fn dequantise_e2m1(codes: &[u8], scale: u8, values: &mut [f32]) {
    let factor = E8M0[scale as usize];
    // Whole pairs in a loop without a branch, which the compiler makes vectors of.
    let (pairs, odd) = values.as_chunks_mut::<2>();
    for (pair, code) in pairs.iter_mut().zip(codes) {
        *pair = [value_e2m1(code & 15) * factor, value_e2m1(code >> 4) * factor];
    }
    if let ([value], Some(code)) = (odd, codes.last()) {
        *value = value_e2m1(code & 15) * factor;
    }
}
