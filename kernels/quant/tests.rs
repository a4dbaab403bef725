//! Formats over all their codes, quantisers against the oracle, instruction sets against each other.

use super::formats::{
    E2M1, E4M3, E8M0, encode_e2m1, encode_e4m3, scale_e2m1, scale_e4m3, value_e2m1, value_e4m3,
};
use super::oracle::{self, Format};
use super::{Form, cases, decode_row, dequantise, encode_row, hadamard, quantise, round_trip};
use crate::common::isa::Isa;
use hal::RowCodec;

const FORMS: [(Form, Format, usize); 4] = [
    (Form::E4m3, oracle::E4M3, 64),
    (Form::E4m3, oracle::E4M3, 128),
    (Form::E2m1, oracle::E2M1, 32),
    (Form::E4m3, oracle::E4M3, 48),
];

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

#[test]
fn every_code_round_trips() {
    for code in 0..=255u8 {
        let value = E4M3[usize::from(code)];
        assert_eq!(value.to_bits() << 1, value_e4m3(code).to_bits() << 1, "{code:#x}");
        if value.is_nan() {
            assert_eq!(encode_e4m3(value), 0x7f);
        } else {
            assert_eq!(value.to_bits(), value_e4m3(code).to_bits());
            assert_eq!(encode_e4m3(value), code);
            assert_eq!(oracle::nearest(oracle::E4M3, f64::from(value)), f64::from(value));
        }
    }
    for code in 0..16u8 {
        let value = E2M1[usize::from(code)];
        assert_eq!(value.to_bits(), value_e2m1(code).to_bits());
        assert_eq!(encode_e2m1(value), code);
    }
    for byte in 0..=254u8 {
        assert_eq!(f64::from(E8M0[usize::from(byte)]), 2f64.powi(i32::from(byte) - 127));
    }
    assert!(E8M0[255].is_nan());
}

#[test]
fn encoding_rounds_to_nearest_even() {
    // Every tie and its neighbours, both signs, and what lies beyond the ends.
    for (table, format) in [(&E4M3[..127], oracle::E4M3), (&E2M1[..8], oracle::E2M1)] {
        for pair in table.windows(2) {
            let tie = (pair[0] + pair[1]) / 2.0;
            for value in [tie, f32::from_bits(tie.to_bits() - 1), f32::from_bits(tie.to_bits() + 1)]
            {
                for value in [value, -value] {
                    let want = oracle::nearest(format, f64::from(value)) as f32;
                    let got = if format == oracle::E4M3 {
                        E4M3[usize::from(encode_e4m3(value))]
                    } else {
                        E2M1[usize::from(encode_e2m1(value))]
                    };
                    assert_eq!(got.to_bits(), want.to_bits(), "{value}");
                }
            }
        }
    }
    assert_eq!(encode_e4m3(1e9), 0x7e);
    assert_eq!(encode_e4m3(f32::NEG_INFINITY), 0xfe);
    assert_eq!(encode_e2m1(-7.0), 15);
}

#[test]
fn scales_are_the_smallest_power_of_two_that_fits() {
    for high in (0..0x7f80u32).step_by(3).chain([0x7f7f]) {
        for low in [0, 1, 0xffff] {
            let bits = high << 16 | low;
            let amax = f64::from(f32::from_bits(bits));
            for (format, byte) in
                [(oracle::E4M3, scale_e4m3(bits)), (oracle::E2M1, scale_e2m1(bits))]
            {
                let want = oracle::scale_exponent(format, &[amax]) + 127;
                assert_eq!(i32::from(byte), want, "{format:?} {amax:e}");
            }
        }
    }
    assert_eq!(scale_e4m3(f32::NAN.to_bits()), 255);
}

#[test]
fn round_trip_is_the_oracles_on_every_isa() {
    for isa in Isa::all() {
        for (form, format, block) in FORMS {
            for row in cases::rows(192, false) {
                let want: Vec<f32> = oracle::round_trip(format, block, &wide(&row))
                    .into_iter()
                    .map(|value| value as f32)
                    .collect();
                let mut got = row.clone();
                round_trip(isa, form, block, &mut got);
                assert_eq!(bits(&got), bits(&want), "{isa} {form:?} {block} {row:?}");
                round_trip(isa, form, block, &mut got);
                assert_eq!(bits(&got), bits(&want), "{isa} {form:?}: idempotent");
                assert!(got.iter().all(|value| value.to_bits() & 0xffff == 0), "exact in bf16");
            }
        }
    }
}

#[test]
fn codes_and_scales_give_the_round_trip() {
    for isa in Isa::all() {
        for (form, _, block) in FORMS {
            for row in cases::rows(192, false) {
                let mut codes = vec![0xee; form.code_bytes(192)];
                let mut scales = vec![0xee; 192usize.div_ceil(block)];
                quantise(isa, form, block, &row, &mut codes, &mut scales);
                let mut got = vec![9.0; 192];
                dequantise(isa, form, block, &codes, &scales, &mut got);
                let mut want = row.clone();
                round_trip(isa, form, block, &mut want);
                assert_eq!(bits(&got), bits(&want), "{isa} {form:?} {block}");
            }
        }
    }
}

#[test]
fn a_code_is_its_value_times_any_scale_on_every_instruction_set() {
    // All codes but the two NaN of E4M3, then all: a block with one takes another way.
    let finite = (0..=255u8).filter(|code| code & 0x7f != 0x7f).cycle().take(512);
    let codes: Vec<u8> = finite.chain(0..=255).collect();
    for isa in Isa::all() {
        for (form, block) in [(Form::E4m3, 64), (Form::E4m3, 24), (Form::E2m1, 32), (Form::E2m1, 6)]
        {
            let values = codes.len() * 64 / form.code_bytes(64);
            for scale in 0..=255u8 {
                let scales = vec![scale; values.div_ceil(block)];
                let mut got = vec![9.0; values];
                dequantise(isa, form, block, &codes, &scales, &mut got);
                for (at, got) in got.into_iter().enumerate() {
                    let value = match form {
                        Form::E4m3 => E4M3[usize::from(codes[at])],
                        Form::E2m1 => E2M1[usize::from(codes[at / 2] >> (at % 2 * 4) & 15)],
                    };
                    let want = value * E8M0[usize::from(scale)];
                    let same = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
                    assert!(
                        same,
                        "{isa}, {form:?}: value {value}, scale {scale}: {got:e}, not {want:e}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_nan_makes_its_block_nan_and_infinity_stays() {
    for isa in Isa::all() {
        for (form, _, block) in FORMS {
            let mut row = vec![1.0; 192];
            row[block] = f32::NAN;
            row[0] = f32::NEG_INFINITY;
            round_trip(isa, form, block, &mut row);
            for (index, value) in row.iter().enumerate() {
                assert_eq!(value.is_nan(), index / block == 1, "{isa} {form:?} {index}");
            }
            assert_eq!(row[0], f32::NEG_INFINITY);
        }
    }
}

#[test]
fn cached_rows_are_lossless() {
    let fp8 = RowCodec::Fp8 { block: 64, tail: 64 };
    let fp4 = RowCodec::Fp4 { block: 32 };
    for isa in Isa::all() {
        for (codec, form, block, width, coded, bytes) in
            [(fp8, Form::E4m3, 64, 512, 448, 584), (fp4, Form::E2m1, 32, 128, 128, 68)]
        {
            assert_eq!(codec.row_bytes(hal::DType::Bf16, width as u32), bytes);
            for mut row in cases::rows(width, true) {
                round_trip(isa, form, block, &mut row[..coded]);
                let mut coded = vec![0xee; bytes as usize];
                encode_row(isa, codec, &row, &mut coded);
                let mut back = vec![9.0; width];
                decode_row(isa, codec, &coded, &mut back);
                assert_eq!(bits(&back), bits(&row), "{isa} {codec:?}");
                let mut again = vec![0xaa; bytes as usize];
                encode_row(Isa::SCALAR, codec, &back, &mut again);
                assert_eq!(again, coded, "{isa} {codec:?}: the bytes are a function of the values");
            }
        }
    }
}

#[test]
fn hadamard_agrees_with_the_oracle_and_itself() {
    for row in cases::rows(256, false) {
        let want = oracle::hadamard(128, &wide(&row));
        let mut reference = row.clone();
        hadamard(Isa::SCALAR, &mut reference);
        let size: f64 = wide(&row).iter().map(|value| value.abs()).sum();
        for (got, want) in reference.iter().zip(want) {
            // Eight roundings of at most half an ulp of a partial sum.
            let error = (f64::from(*got) - want).abs();
            assert!(error <= size * 8.0 * 2f64.powi(-24) * 0.0884 + 1e-44, "{got} {want}");
        }
        for isa in Isa::all() {
            let mut got = row.clone();
            hadamard(isa, &mut got);
            assert_eq!(bits(&got), bits(&reference), "{isa}");
        }
    }
}

#[test]
fn wrong_quantisers_are_caught() {
    // Scale rounded down, ties away from zero, floor forgotten: each differs from the oracle somewhere.
    let down = |bits: u32| scale_e4m3(bits).saturating_sub(1);
    assert_ne!(
        i32::from(down(100f32.to_bits())),
        oracle::scale_exponent(oracle::E4M3, &[100.0]) + 127
    );
    let away = |value: f64| (value * 2.0).round() / 2.0;
    assert_ne!(away(0.25), oracle::nearest(oracle::E2M1, 0.25));
    let unfloored = ((1e-6f32.to_bits() + 0x1f_ffff) >> 23) - 8;
    assert_ne!(unfloored as i32, oracle::scale_exponent(oracle::E4M3, &[1e-6]) + 127);
}
