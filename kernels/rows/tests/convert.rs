//! convert, and gather and scatter of coded rows, against the oracle of `quant`. Nothing here has a
//! tolerance but the one rounding to the target's dtype: all values are exact.

use super::super::cpu::{self, Target};
use super::super::oracle;
use crate::attend::KeyRows;
use crate::common::isa::Isa;
use crate::common::pool::Pool;
use crate::common::rows::Real;
use crate::common::testing::{Matrix, Random, part, rows, rows_are_exact, rows_mut};
use crate::quant::oracle::{E2M1, E4M3, Format, round_trip};
use hal::tensor::{DType, RowCodec};

const KEY: RowCodec = RowCodec::Fp8 { block: 64, tail: 64 };
const ALL: RowCodec = RowCodec::Fp8 { block: 32, tail: 0 };
const INDEX: RowCodec = RowCodec::Fp4 { block: 32 };

fn blocks(codec: RowCodec) -> (Format, usize, usize) {
    match codec {
        RowCodec::Fp8 { block, tail } => (E4M3, usize::from(block), usize::from(tail)),
        RowCodec::Fp4 { block } => (E2M1, usize::from(block), 0),
        _ => unreachable!("the tests name block codecs"),
    }
}

/// The round trip of every row, by definition.
fn rounded(codec: RowCodec, width: usize, values: &[f64]) -> Vec<f64> {
    let (format, block, tail) = blocks(codec);
    let mut out = Vec::new();
    for row in values.chunks(width) {
        let (coded, plain) = row.split_at(width - tail);
        out.extend(round_trip(format, block, coded));
        out.extend(plain);
    }
    out
}

/// Magnitudes over many decades, zeros among them.
fn wild(kind: Real, n: usize, width: usize, seed: u64) -> Matrix {
    let mut random = Random(seed);
    let value = |random: &mut Random| match random.below(9) {
        0 => 0.0,
        size => random.unit() * 10f32.powi(size as i32 - 5),
    };
    let values: Vec<f32> = (0..n * width).map(|_| value(&mut random)).collect();
    Matrix::new(kind, n, width, &values)
}

/// Coded rows of these values.
fn coded(codec: RowCodec, x: &Matrix, n: usize, width: usize) -> Vec<u8> {
    let row_bytes = codec.row_bytes(DType::Bf16, width as u32) as usize;
    let mut bytes = vec![0xaa; n * row_bytes];
    let out = Target::Coded { bytes: rows_mut(&mut bytes, row_bytes), width, codec };
    let x = KeyRows::Real(x.view());
    cpu::convert(Isa::best(), &Pool::new(1), out, x, Some(codec));
    bytes
}

fn key_rows(bytes: &[u8], n: usize, width: usize, codec: RowCodec) -> KeyRows {
    KeyRows::Coded { bytes: rows(bytes, bytes.len() / n), width, codec }
}

#[test]
fn round_trips_agree_and_rows_are_exact() {
    for (codec, n, width) in [(KEY, 3, 512), (KEY, 1, 128), (ALL, 5, 100), (INDEX, 40, 128)] {
        for kind in [Real::F32, Real::Bf16] {
            let x = wild(Real::Bf16, n, width, width as u64);
            let what = format!("{codec:?} {n}x{width} to {kind:?}");
            let want = rounded(codec, width, &x.values());
            let bits = rows_are_exact(n, &what, |isa, pool, range| {
                let mut out = Matrix::empty(kind, range.len(), width);
                let x = KeyRows::Real(part(x.view(), range));
                cpu::convert(isa, pool, Target::Real(out.view_mut()), x, Some(codec));
                out.floats()
            });
            for (place, (got, want)) in bits.iter().zip(&want).enumerate() {
                assert_eq!(f64::from(f32::from_bits(*got)), *want, "{what}: element {place}");
            }
            // Idempotent, and read back from coded rows without a loss.
            let bytes = coded(codec, &x, n, width);
            let mut back = Matrix::empty(kind, n, width);
            let source = key_rows(&bytes, n, width, codec);
            let out = Target::Real(back.view_mut());
            cpu::convert(Isa::best(), &Pool::new(2), out, source, None);
            assert_eq!(back.values(), want, "{what}: through coded rows");
            assert_eq!(coded(codec, &back, n, width), bytes, "{what}: twice");
        }
    }
}

#[test]
fn a_cast_rounds_once() {
    let x = wild(Real::F32, 4, 2050, 9);
    for kind in [Real::F32, Real::Bf16, Real::F16] {
        let mut out = Matrix::empty(kind, 4, 2050);
        let target = Target::Real(out.view_mut());
        cpu::convert(Isa::best(), &Pool::new(2), target, KeyRows::Real(x.view()), None);
        out.check(&x.values(), 0.0, 1e-4, "cast");
    }
}

#[test]
fn codes_and_scales_are_kept_apart_and_read_again() {
    for (codec, width) in [(ALL, 100usize), (INDEX, 96)] {
        let (n, (format, block, _)) = (3, blocks(codec));
        let x = wild(Real::Bf16, n, width, 5);
        let code_bytes = if format == E4M3 { width } else { width / 2 };
        let mut codes = vec![0u8; n * code_bytes];
        let mut scales = vec![0u8; n * width.div_ceil(block)];
        let pool = Pool::new(2);
        cpu::quantise(
            Isa::best(),
            &pool,
            rows_mut(&mut codes, code_bytes),
            rows_mut(&mut scales, width.div_ceil(block)),
            KeyRows::Real(x.view()),
            codec,
        );
        let mut out = Matrix::empty(Real::Bf16, n, width);
        let (codes, scales) = (rows(&codes, code_bytes), rows(&scales, width.div_ceil(block)));
        cpu::dequantise(Isa::best(), &pool, out.view_mut(), codes, scales, codec);
        assert_eq!(out.values(), rounded(codec, width, &x.values()), "{codec:?}");
    }
}

#[test]
fn coded_rows_are_gathered_and_scattered_by_value() {
    let (n, width) = (4, 192);
    let x = wild(Real::Bf16, n, width, 3);
    let bytes = coded(KEY, &x, n, width);
    let values = rounded(KEY, width, &x.values());
    let index = [3, -1, 5, 0, 6];
    let more = wild(Real::Bf16, 3, width, 4);
    let mut out = Matrix::empty(Real::Bf16, 5, width);
    cpu::gather_coded(
        Isa::best(),
        &Pool::new(3),
        out.view_mut(),
        key_rows(&bytes, n, width, KEY),
        Some(KeyRows::Real(more.view())),
        rows(&index, 5),
        1,
    );
    let want = oracle::gather_rows(&values, &more.values(), width, &index, 1, 0.0);
    assert_eq!(out.values(), want);
    // Decoded into a plain target and encoded into a coded one.
    let mut plain = Matrix::new(Real::F32, 6, width, &vec![7.0; 6 * width]);
    let mut want = plain.values();
    let places = [2, -1, 0, 5];
    let source = key_rows(&bytes, n, width, KEY);
    cpu::scatter_coded(Isa::best(), Target::Real(plain.view_mut()), source, rows(&places, 1));
    oracle::scatter(&mut want, &values, width, &places);
    assert_eq!(plain.values(), want);
    let mut again = vec![0u8; bytes.len()];
    let target = Target::Coded { bytes: rows_mut(&mut again, bytes.len() / n), width, codec: KEY };
    let rounded =
        Matrix::new(Real::Bf16, n, width, &values.iter().map(|&v| v as f32).collect::<Vec<f32>>());
    let source = KeyRows::Real(rounded.view());
    cpu::scatter_coded(Isa::best(), target, source, rows(&[0, 1, 2, 3], 1));
    assert_eq!(again, bytes);
}
