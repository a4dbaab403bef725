//! eˣ from additions and multiplications only, so that a sampled token does not depend on which
//! mathematical library a machine has. Relative error below 1e-15 (tested against the library's).

/// eˣ for x ≤ 0; 0 below −708, where results would leave the normal numbers. No branch and no call,
/// so that a loop over a vocabulary runs in vector registers.
#[inline]
pub(super) fn exp_of_negative(x: f64) -> f64 {
    debug_assert!(x <= 0.0);
    // Added to a number below 2⁵¹ in size, it leaves the rounded integer in the low bits.
    const ROUNDER: f64 = 6_755_399_441_055_744.0;
    // ln 2 in two parts, which keeps the remainder exact.
    const LN2_HIGH: f64 = 6.931_471_803_691_238e-1;
    const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    const LOWEST: f64 = -708.0;
    // x = k·ln 2 + r with |r| ≤ ln 2 / 2.
    let clamped = if x < LOWEST { LOWEST } else { x };
    let shifted = clamped * std::f64::consts::LOG2_E + ROUNDER;
    let k = shifted - ROUNDER;
    let r = (clamped - k * LN2_HIGH) - k * LN2_LOW;
    // Taylor to r¹³: the remainder is below 2⁻⁵⁵.
    let mut sum = 1.0 / 6_227_020_800.0;
    sum = sum * r + 1.0 / 479_001_600.0;
    sum = sum * r + 1.0 / 39_916_800.0;
    sum = sum * r + 1.0 / 3_628_800.0;
    sum = sum * r + 1.0 / 362_880.0;
    sum = sum * r + 1.0 / 40_320.0;
    sum = sum * r + 1.0 / 5_040.0;
    sum = sum * r + 1.0 / 720.0;
    sum = sum * r + 1.0 / 120.0;
    sum = sum * r + 1.0 / 24.0;
    sum = sum * r + 1.0 / 6.0;
    sum = sum * r + 0.5;
    sum = sum * r + 1.0;
    sum = sum * r + 1.0;
    // 2ᵏ: the low bits of `shifted` hold k, in two's complement.
    let power = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    if x < LOWEST { 0.0 } else { sum * power }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_to_the_librarys() {
        let mut worst: f64 = 0.0;
        for step in 0..200_000 {
            let x = -f64::from(step) * 0.0035;
            let (got, want) = (exp_of_negative(x), x.exp());
            if x < -708.0 {
                assert_eq!(got, 0.0);
            } else {
                worst = worst.max(((got - want) / want).abs());
            }
        }
        assert!(worst < 1e-15, "{worst:e}");
        assert_eq!(exp_of_negative(0.0), 1.0);
        assert_eq!(exp_of_negative(-1e9), 0.0);
        assert_eq!(exp_of_negative(f64::NEG_INFINITY), 0.0);
    }
}
