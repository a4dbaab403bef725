//! Seeded rows for the quantisers: ordinary ones over many decades, and every edge of both formats.

use hal::op::{Convert, ConvertForm};
use hal::{DType, RowCodec};

use crate::case::{Case, Make, reals};
use crate::gemm::cases::Random;

/// Rows of `width` values, all exact in bf16 where `bf16` is set.
pub fn rows(width: usize, bf16: bool) -> Vec<Vec<f32>> {
    let mut random = Random::new(width as u64);
    let mut out = Vec::new();
    for decade in -12..=12 {
        let size = 10f32.powi(decade);
        out.push((0..width).map(|_| random.gauss() * size).collect());
        // One large value among small ones: subnormal codes.
        let mut spike: Vec<f32> = (0..width).map(|_| random.gauss() * size / 4096.0).collect();
        spike[random.below(width as u64) as usize] = size;
        out.push(spike);
    }
    out.extend(edges(width));
    if bf16 {
        for value in out.iter_mut().flatten() {
            *value = f32::from_bits(value.to_bits() & 0xffff_0000);
        }
    }
    out
}

/// Largest magnitudes at and beside every place where a scale or a rounding changes.
fn edges(width: usize) -> Vec<Vec<f32>> {
    let mut out = vec![vec![0.0; width], vec![-0.0; width], vec![f32::MIN_POSITIVE; width]];
    for top in [448.0f32, 6.0, 1e-4, 7.0] {
        for power in [-100, -20, 0, 3, 100] {
            let top = top * 2f32.powi(power);
            for most in [top, f32::from_bits(top.to_bits() - 1), f32::from_bits(top.to_bits() + 1)]
            {
                // A ramp with all ties of the format: k/64 of the largest.
                out.push((0..width).map(|k| most * (k % 129) as f32 / 128.0).collect());
                let mut row: Vec<f32> = (0..width).map(|k| -(k as f32) / 16.0).collect();
                row[0] = most;
                out.push(row);
            }
        }
    }
    out
}

/// Cases of `convert`: casts, round trips, codes both ways, rows of every codec.
pub fn table() -> Vec<Case> {
    let mut cases = Vec::new();
    for (from, from_name) in reals() {
        for (to, to_name) in reals().into_iter().filter(|(to, _)| *to != from) {
            let name = format!("cast {from_name} to {to_name}");
            cases.push(crate::rows::cases::cast(from, to, name));
        }
    }
    for (codec, width, name) in [
        (RowCodec::Fp8 { block: 64, tail: 0 }, 192, "e4m3 in 64s"),
        (RowCodec::Fp8 { block: 128, tail: 0 }, 200, "e4m3 in 128s, short last block"),
        (RowCodec::Fp8 { block: 64, tail: 16 }, 144, "e4m3 and a tail"),
        (RowCodec::Fp4 { block: 32 }, 128, "e2m1 in 32s"),
    ] {
        for (dtype, dtype_name) in [(DType::F32, "f32"), (DType::Bf16, "bf16")] {
            cases.push(round_trip(codec, dtype, width, format!("round trip {dtype_name} {name}")));
        }
        if codec != (RowCodec::Fp8 { block: 128, tail: 0 }) {
            cases.push(into_rows(codec, width, format!("round trip into {name} rows")));
        }
    }
    for (codec, name) in
        [(RowCodec::Fp8 { block: 64, tail: 0 }, "e4m3"), (RowCodec::Fp4 { block: 32 }, "e2m1")]
    {
        cases.push(quantise(codec, name));
        cases.push(dequantise(codec, name));
    }
    cases
}

/// Some of [`rows`]: ordinary values of several decades, spikes, ties, zeros.
fn values(make: &mut Make, dtype: DType, width: u32) -> (u32, usize) {
    let all = rows(width as usize, dtype == DType::Bf16);
    // The far decades leave what a device that flushes subnormals can hold.
    let near = |row: &Vec<f32>| row.iter().all(|x| *x == 0.0 || (1e-20..1e20).contains(&x.abs()));
    let picked: Vec<Vec<f32>> = all.into_iter().filter(near).step_by(3).collect();
    let n = picked.len() as u32;
    let flat = picked.into_iter().flatten().map(f64::from).collect();
    (n, make.rows("x", dtype, &[n, width], 1, flat, 0.0))
}

fn round_trip(codec: RowCodec, dtype: DType, width: u32, name: String) -> Case {
    let mut make = Make::new(u64::from(width));
    let (n, x) = values(&mut make, dtype, width);
    let out = make.out(dtype, &[n, width], 1);
    make.case(("quant", "convert"), name, Some(n), x, move |t, _| {
        let (out, x) = (t[out].clone(), t[x].clone());
        Convert { out, x, scales: None, form: ConvertForm::RoundTrip(codec) }.into()
    })
}

fn into_rows(codec: RowCodec, width: u32, name: String) -> Case {
    let mut make = Make::new(u64::from(width) + 1);
    let (n, x) = values(&mut make, DType::Bf16, width);
    let out = make.out_coded(DType::Bf16, codec, &[n, width], Some(1));
    make.case(("quant", "convert"), name, Some(n), x, move |t, _| {
        let (out, x) = (t[out].clone(), t[x].clone());
        Convert { out, x, scales: None, form: ConvertForm::RoundTrip(codec) }.into()
    })
}

/// Dtype and width of the codes of `width` values, and the number of scales.
fn code_shape(codec: RowCodec, width: u32) -> (DType, u32, u32) {
    match codec {
        RowCodec::Fp4 { block } => (DType::U8, width.div_ceil(2), width.div_ceil(block.into())),
        RowCodec::Fp8 { block, .. } => (DType::F8E4M3, width, width.div_ceil(block.into())),
        other => unreachable!("{other:?} has no codes"),
    }
}

fn quantise(codec: RowCodec, name: &str) -> Case {
    let width = 160;
    let mut make = Make::new(5);
    let (n, x) = values(&mut make, DType::Bf16, width);
    let (dtype, codes, scales) = code_shape(codec, width);
    let out = make.out(dtype, &[n, codes], 1);
    let scales = make.out(DType::U8, &[n, scales], 1);
    make.case(("quant", "convert"), format!("quantise {name}"), Some(n), x, move |t, _| {
        let (out, x, scales) = (t[out].clone(), t[x].clone(), Some(t[scales].clone()));
        Convert { out, x, scales, form: ConvertForm::Quantise(codec) }.into()
    })
}

fn dequantise(codec: RowCodec, name: &str) -> Case {
    let (n, width) = (5, 160);
    let mut make = Make::new(6);
    let (dtype, codes, scales) = code_shape(codec, width);
    let bytes = (0..n * codes).map(|_| f64::from(make.random.below(256))).collect();
    let x = match codec {
        RowCodec::Fp4 { .. } => make.rows("codes", dtype, &[n, codes], 1, bytes, 0.0),
        _ => make.row_reals("codes", dtype, &[n, codes], 1),
    };
    let exponents = (0..n * scales).map(|_| f64::from(120 + make.random.below(12))).collect();
    let scales = make.rows("scales", DType::U8, &[n, scales], 1, exponents, 127.0);
    let out = make.out(DType::Bf16, &[n, width], 1);
    make.case(("quant", "convert"), format!("dequantise {name}"), Some(n), x, move |t, _| {
        let (out, x, scales) = (t[out].clone(), t[x].clone(), Some(t[scales].clone()));
        Convert { out, x, scales, form: ConvertForm::Dequantise(codec) }.into()
    })
}
