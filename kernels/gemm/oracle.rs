//! The definition of a matmul over encoded weights, in f64, one number at a time.

use super::weight::{Encoding, Segment};

/// `out[i][o] = Σ_k W[o][k] · x[i][k]`, row i using the matrix of group `group_of[i]`; -1: not computed (NaN).
pub fn matmul(x: &[f64], cols: usize, groups: &[Vec<f64>], group_of: &[i32]) -> Vec<f64> {
    let outputs = groups[0].len() / cols;
    let mut out = vec![f64::NAN; group_of.len() * outputs];
    for row in 0..group_of.len() {
        if group_of[row] < 0 {
            continue;
        }
        let weight = &groups[group_of[row] as usize];
        for output in 0..outputs {
            let mut sum = 0.0;
            for k in 0..cols {
                sum += weight[output * cols + k] * x[row * cols + k];
            }
            out[row * outputs + output] = sum;
        }
    }
    out
}

/// The group of every row: i mod groups, or by offsets.
pub fn group_of(rows: usize, groups: usize, offsets: Option<&[i32]>) -> Vec<i32> {
    let Some(offsets) = offsets else {
        return (0..rows).map(|row| (row % groups) as i32).collect();
    };
    let mut out = vec![-1; rows];
    for group in 0..groups {
        for row in offsets[group]..offsets[group + 1] {
            out[row as usize] = group as i32;
        }
    }
    out
}

/// Every number of a segment, row-major.
pub fn decode(segment: &Segment<'_>, cols: usize) -> Vec<f64> {
    let mut out = Vec::new();
    for row in 0..segment.rows {
        for k in 0..cols {
            out.push(number(segment, cols, row, k));
        }
    }
    out
}

fn number(segment: &Segment<'_>, cols: usize, row: usize, k: usize) -> f64 {
    let codes = segment.codes;
    let at = row * cols + k;
    match segment.encoding {
        Encoding::F32 => {
            let bytes = [codes[4 * at], codes[4 * at + 1], codes[4 * at + 2], codes[4 * at + 3]];
            f64::from(f32::from_le_bytes(bytes))
        }
        Encoding::Bf16 => float(u32::from(codes[2 * at + 1]) << 8 | u32::from(codes[2 * at]), 8, 7),
        Encoding::F16 => float(u32::from(codes[2 * at + 1]) << 8 | u32::from(codes[2 * at]), 5, 10),
        Encoding::Fp8 { rows, cols: width } => {
            let blocks = cols.div_ceil(width as usize);
            let block = row / rows as usize * blocks + k / width as usize;
            e4m3(codes[at]) * e8m0(segment.scales[block])
        }
        Encoding::Fp4 => {
            let byte = codes[row * (cols / 2) + k / 2];
            let nibble = if k.is_multiple_of(2) { byte & 15 } else { byte >> 4 };
            e2m1(nibble) * e8m0(segment.scales[row * cols.div_ceil(32) + k / 32])
        }
        Encoding::Int8 => {
            let scale = [0, 1, 2, 3].map(|byte| segment.scales[4 * row + byte]);
            f64::from(codes[at] as i8) * f64::from(f32::from_le_bytes(scale))
        }
    }
}

/// A sign bit, `exponent` exponent bits and `mantissa` mantissa bits, as IEEE 754 reads them.
fn float(bits: u32, exponent: u32, mantissa: u32) -> f64 {
    let sign = if bits >> (exponent + mantissa) == 1 { -1.0 } else { 1.0 };
    let top = (1 << exponent) - 1;
    let bias = top / 2;
    let power = (bits >> mantissa & top as u32) as i32;
    let fraction = f64::from(bits & ((1 << mantissa) - 1)) / f64::from(1u32 << mantissa);
    if power == top {
        return if fraction == 0.0 { sign * f64::INFINITY } else { f64::NAN };
    }
    if power == 0 {
        return sign * fraction * 2f64.powi(1 - bias);
    }
    sign * (1.0 + fraction) * 2f64.powi(power - bias)
}

/// OCP FP8 E4M3: no infinities, NaN is all ones.
fn e4m3(code: u8) -> f64 {
    let sign = if code >= 128 { -1.0 } else { 1.0 };
    let power = i32::from(code / 8 % 16);
    let fraction = f64::from(code % 8) / 8.0;
    if code % 128 == 127 {
        return f64::NAN;
    }
    if power == 0 {
        return sign * fraction * 2f64.powi(-6);
    }
    sign * (1.0 + fraction) * 2f64.powi(power - 7)
}

/// OCP MX E2M1.
fn e2m1(nibble: u8) -> f64 {
    let sign = if nibble >= 8 { -1.0 } else { 1.0 };
    sign * [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][usize::from(nibble % 8)]
}

/// OCP MX E8M0.
fn e8m0(byte: u8) -> f64 {
    if byte == 255 { f64::NAN } else { 2f64.powi(i32::from(byte) - 127) }
}
