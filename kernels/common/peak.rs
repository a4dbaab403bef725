//! What this machine can do at most: bytes read per second, f32 operations per second.
//!
//! Reports divide by these, measured in the same run: on a shared machine a ratio means something
//! where a time does not. Every figure is the best of many short windows.

use crate::common::isa::{Isa, Level};
use crate::common::pool::Pool;
use std::hint::black_box;
use std::time::Instant;

/// Length of one window of the FMA measurement, in rounds of [`FMA_ROUND`] operations.
const ROUNDS: usize = 20_000;

/// Floats in one window of the bandwidth measurement: 4 MiB, a weight's worth.
const WINDOW_FLOATS: usize = 1 << 20;

/// Most accumulators any instruction set keeps busy: two pipes, latency up to five.
const CHAINS: usize = 12;

/// Bytes per second that the pool's threads read from `data` together, in GB/s (10^9).
///
/// `data` should be several times the last-level cache. It is read `passes` times, `WINDOW_FLOATS`
/// at a time; the best window counts.
pub fn read_bandwidth(isa: Isa, pool: &Pool, data: &[f32], passes: usize) -> f64 {
    let mut seconds_per_float = f64::INFINITY;
    for _ in 0..passes.max(1) {
        for window in data.chunks(WINDOW_FLOATS) {
            let part = window.len().div_ceil(pool.threads() * 4).next_multiple_of(1024);
            let read = || {
                pool.run(window.len().div_ceil(part), &|index| {
                    let end = window.len().min((index + 1) * part);
                    black_box(sum(isa, &window[index * part..end]));
                });
            };
            seconds_per_float = seconds_per_float.min(best(1, read) / window.len() as f64);
        }
    }
    4.0 / seconds_per_float / 1e9
}

/// Single-precision operations per second (a fused multiply-add counts two) of all threads of the
/// pool together, in GFLOP/s. Best of `windows` windows.
pub fn fma_rate(isa: Isa, pool: &Pool, windows: usize) -> f64 {
    let per_part = (ROUNDS * CHAINS * isa.lanes() * 2) as f64;
    let pass = || {
        pool.run(pool.threads(), &|_| {
            black_box(chains(isa, black_box(0.999)));
        });
    };
    pool.threads() as f64 * per_part / best(windows, pass) / 1e9
}

/// The same of products of bf16 tiles ([`Isa::has_tiles`]), nothing without.
pub fn tile_rate(isa: Isa, pool: &Pool, windows: usize) -> Option<f64> {
    if !isa.has_tiles() {
        return None;
    }
    let pass = || pool.run(pool.threads(), &|_| tile_products(isa));
    Some(pool.threads() as f64 * TILE_OPERATIONS / best(windows, pass) / 1e9)
}

/// Operations of a window of [`tile_rate`], a thread: products of 16 × 32 with 32 × 16.
const TILE_OPERATIONS: f64 = (ROUNDS * 4 * 16 * 32 * 16 * 2) as f64;

#[cfg(target_arch = "x86_64")]
fn tile_products(isa: Isa) {
    assert!(isa.has_tiles());
    // SAFETY: tiles are usable, by the assertion.
    unsafe { super::tiles::products(ROUNDS) }
}

#[cfg(not(target_arch = "x86_64"))]
fn tile_products(isa: Isa) {
    unreachable!("{isa} has no tiles");
}

/// Shortest time of a pass, in seconds.
fn best(windows: usize, pass: impl Fn()) -> f64 {
    let time = |_| {
        let begin = Instant::now();
        pass();
        begin.elapsed().as_secs_f64()
    };
    (0..windows.max(1)).map(time).fold(f64::INFINITY, f64::min)
}

fn sum(isa: Isa, data: &[f32]) -> u32 {
    match isa.level() {
        // SAFETY: an `Isa` proves that the processor has the features.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { x86::sum_avx512(data) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { x86::sum_avx2(data) },
        _ => sum_bits(data),
    }
}

fn chains(isa: Isa, factor: f32) -> f32 {
    match isa.level() {
        // SAFETY: an `Isa` proves that the processor has the features.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { x86::chains_avx512(factor) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { x86::chains_avx2(factor) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Level::Neon => unsafe { chains_neon(factor) },
        _ => {
            let mut sums = [[factor; 8]; CHAINS];
            for _ in 0..ROUNDS {
                for sum in sums.as_flattened_mut() {
                    *sum = *sum * factor + factor;
                }
            }
            sums.as_flattened().iter().sum()
        }
    }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
fn chains_neon(factor: f32) -> f32 {
    use std::arch::aarch64::{vaddvq_f32, vdupq_n_f32, vfmaq_f32};
    let factor = vdupq_n_f32(factor);
    let mut sums = [[factor; 2]; CHAINS];
    for _ in 0..ROUNDS {
        for sum in sums.as_flattened_mut() {
            *sum = vfmaq_f32(factor, *sum, factor);
        }
    }
    sums.into_iter().flatten().map(|sum| vaddvq_f32(sum)).sum()
}

/// Integer sums have no order, so the compiler makes of this whatever reads fastest.
#[inline(always)]
fn sum_bits(data: &[f32]) -> u32 {
    data.iter().fold(0, |sum, value| sum.wrapping_add(value.to_bits()))
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{CHAINS, ROUNDS, sum_bits};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    pub fn sum_avx512(data: &[f32]) -> u32 {
        sum_bits(data)
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn sum_avx2(data: &[f32]) -> u32 {
        sum_bits(data)
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    pub fn chains_avx512(factor: f32) -> f32 {
        let factor = _mm512_set1_ps(factor);
        let mut sums = [factor; CHAINS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, factor, factor);
            }
        }
        sums.into_iter().map(|sum| _mm512_reduce_add_ps(sum)).sum()
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn chains_avx2(factor: f32) -> f32 {
        let factor = _mm256_set1_ps(factor);
        let mut sums = [factor; CHAINS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, factor, factor);
            }
        }
        sums.into_iter().map(|sum| _mm_cvtss_f32(_mm256_castps256_ps128(sum))).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_positive_and_sums_right() {
        let pool = Pool::new(2);
        let data = vec![0.5; 1 << 16];
        for isa in Isa::all() {
            assert_eq!(sum(isa, &data), 0.5f32.to_bits().wrapping_mul(1 << 16));
            assert!(read_bandwidth(isa, &pool, &data, 2) > 0.0);
            assert!(fma_rate(isa, &pool, 2) > 0.0);
            assert_eq!(tile_rate(isa, &pool, 2).is_some_and(|rate| rate > 0.0), isa.has_tiles());
        }
    }
}
