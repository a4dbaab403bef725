//! Seeded rows for the quantisers: ordinary ones over many decades, and every edge of both formats.

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
