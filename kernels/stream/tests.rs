//! `hc_mix` against its oracle, and law 7.

use super::{cpu, oracle};
use crate::common::testing::{Random, rows, rows_are_exact, rows_mut};

#[test]
fn hc_mix_agrees_and_rows_are_exact() {
    for (n, s, rounds, full, size) in [
        (1, 4, 20, true, 2.0),
        (40, 4, 20, true, 30.0),
        (3, 4, 1, true, 1.0),
        (5, 4, 3, false, 9.0),
        (7, 1, 2, true, 2.0),
        (9, 3, 4, true, 4.0),
        (2, 6, 5, true, 80.0),
    ] {
        let width = if full { 2 * s + s * s } else { s };
        let mut random = Random((n * s) as u64);
        let u = random.floats(n * width, size);
        let mean_square: Vec<f32> = random.floats(n, 4.0).iter().map(|x| x.abs()).collect();
        let base = random.floats(width, 2.0);
        let scale = random.floats(if full { 3 } else { 1 }, 1.0);
        let wide = |data: &[f32]| data.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
        let (epsilon, norm_epsilon) = (1e-6f32, 1e-6f32);
        let want = oracle::hc_mix(
            &wide(&u),
            &wide(&mean_square),
            &wide(&base),
            &wide(&scale),
            s,
            rounds,
            f64::from(epsilon),
            f64::from(norm_epsilon),
        );
        let what = format!("{n} rows, {s} streams, {rounds} rounds");
        let bits = rows_are_exact(n, &what, |isa, pool, range| {
            let mut out = vec![f32::NAN; range.len() * width];
            cpu::hc_mix(
                isa,
                pool,
                rows_mut(&mut out, width),
                rows(&u, width).slice(range.clone()),
                rows(&mean_square, 1).slice(range),
                rows(&base, width),
                rows(&scale, scale.len()),
                cpu::HcMix { streams: s, rounds, epsilon, norm_epsilon },
            );
            out
        });
        for (place, (got, want)) in bits.iter().zip(&want).enumerate() {
            let got = f64::from(f32::from_bits(*got));
            // The largest argument of an exponential carries its rounding error into the result.
            let tolerance = 2e-7 * f64::from(size).max(4.0) * 8.0;
            assert!((got - want).abs() <= tolerance, "{what}: element {place}: {got}, {want}");
        }
    }
}

#[test]
fn comb_rows_and_columns_sum_to_one() {
    let u = Random(5).floats(24, 3.0);
    let zeros = [0.0f32; 24];
    let mut out = [0.0f32; 24];
    let f = cpu::HcMix { streams: 4, rounds: 20, epsilon: 1e-6, norm_epsilon: 1e-6 };
    let isa = crate::common::isa::Isa::best();
    cpu::hc_mix_row(isa, &mut out, &u, 1.0, &zeros, &[1.0; 3], f);
    for i in 0..4 {
        let row: f32 = (0..4).map(|j| out[4 + 4 * i + j]).sum();
        let column: f32 = (0..4).map(|j| out[4 + 4 * j + i]).sum();
        assert!((row - 1.0).abs() < 1e-3 && (column - 1.0).abs() < 1e-3, "{row} {column}");
    }
}
