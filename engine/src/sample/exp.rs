//! eˣ from additions and multiplications only, so that a sampled token does not depend on which
//! mathematical library a machine has. Relative error below 1e-15 (tested against the library's).

/// eˣ for x ≤ 0; 0 below about −745.
pub(super) fn exp_of_negative(x: f64) -> f64 {
    debug_assert!(x <= 0.0);
    if x < -745.2 {
        return 0.0;
    }
    // x = k·ln 2 + r with |r| ≤ ln 2 / 2; ln 2 in two parts keeps r exact.
    const LN2_HIGH: f64 = 6.931_471_803_691_238e-1;
    const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    let k = (x * std::f64::consts::LOG2_E).round();
    let r = (x - k * LN2_HIGH) - k * LN2_LOW;
    // Taylor to r¹³: the remainder is below 2⁻⁵⁵.
    const COEFFICIENTS: [f64; 13] = [
        1.0 / 6_227_020_800.0,
        1.0 / 479_001_600.0,
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
    ];
    let sum = COEFFICIENTS.iter().fold(0.0, |sum, c| sum * r + c) * r + 1.0;
    // 2ᵏ in two steps, because k may lie below the normal exponents.
    let half = (k as i32) / 2;
    sum * power_of_two(half) * power_of_two(k as i32 - half)
}

/// 2ᵏ for normal exponents.
fn power_of_two(k: i32) -> f64 {
    debug_assert!((-1022..=1023).contains(&k));
    f64::from_bits(((k + 1023) as u64) << 52)
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
            if want > 1e-300 {
                worst = worst.max(((got - want) / want).abs());
            } else {
                assert!((got - want).abs() <= 1e-315);
            }
        }
        assert!(worst < 1e-15, "{worst:e}");
        assert_eq!(exp_of_negative(0.0), 1.0);
        assert_eq!(exp_of_negative(-1e9), 0.0);
        assert_eq!(exp_of_negative(f64::NEG_INFINITY), 0.0);
    }
}
