//! Definitions in f64: rounding to a format, block scales, the round trip, the Hadamard rotation.

/// A code format by its numbers: largest value, floor of amax, smallest exponent, mantissa bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Format {
    /// Largest magnitude.
    pub max: f64,
    /// What amax counts as at least.
    pub floor: f64,
    /// Exponent below which steps no longer shrink.
    pub exponent_min: i32,
    /// Bits behind the point.
    pub mantissa: i32,
}

/// FP8 E4M3 (spec section 13).
pub const E4M3: Format = Format { max: 448.0, floor: 1e-4, exponent_min: -6, mantissa: 3 };

/// FP4 E2M1 (spec section 13); the floor is 6·2^-126.
pub const E2M1: Format = Format {
    max: 6.0,
    floor: 6.0 / 85_070_591_730_234_615_865_843_651_857_942_052_864.0,
    exponent_min: 0,
    mantissa: 1,
};

/// 2^⌈log2(max(amax, floor) / max)⌉ as its exponent.
pub fn scale_exponent(format: Format, block: &[f64]) -> i32 {
    let mut amax = format.floor;
    for value in block {
        if value.abs() > amax {
            amax = value.abs();
        }
    }
    let mut exponent = -200;
    while 2f64.powi(exponent) * format.max < amax {
        exponent += 1;
    }
    exponent
}

/// The format's value nearest to `value`, ties to the one with an even code, clamped.
pub fn nearest(format: Format, value: f64) -> f64 {
    let magnitude = value.abs();
    if magnitude >= format.max {
        return format.max.copysign(value);
    }
    let mut exponent = format.exponent_min;
    while 2f64.powi(exponent + 1) <= magnitude {
        exponent += 1;
    }
    let step = 2f64.powi(exponent - format.mantissa);
    ((magnitude / step).round_ties_even() * step).copysign(value)
}

/// Quantise and dequantise in blocks.
pub fn round_trip(format: Format, block: usize, values: &[f64]) -> Vec<f64> {
    let mut out = Vec::new();
    for block in values.chunks(block) {
        let scale = 2f64.powi(scale_exponent(format, block));
        for value in block {
            out.push(nearest(format, value / scale) * scale);
        }
    }
    out
}

/// `out[j] = n^-0.5 · Σ_i (-1)^popcount(i & j) · x[i]` over every `n` values.
pub fn hadamard(n: usize, values: &[f64]) -> Vec<f64> {
    let mut out = Vec::new();
    for row in values.chunks(n) {
        for j in 0..n {
            let mut sum = 0.0;
            for (i, value) in row.iter().enumerate() {
                sum += if (i & j).count_ones() % 2 == 0 { *value } else { -value };
            }
            out.push(sum / (n as f64).sqrt());
        }
    }
    out
}
