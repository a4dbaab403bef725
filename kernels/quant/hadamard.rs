//! The 128-point Walsh–Hadamard rotation of index vectors (spec section 8), Sylvester order.
//!
//! Seven butterfly stages in a fixed order, widths 1, 2, 4 … 64, then one factor 128^-0.5. Sums of
//! pairs only, so every instruction set gives the same bits.

use super::per_isa;
use crate::common::isa::Isa;

/// Points of the transform.
pub const HADAMARD_WIDTH: usize = 128;

/// 128^-0.5, rounded to f32.
const FACTOR: f32 = 0.088_388_346;

/// Rotates every 128 consecutive values: `out[j] = 128^-0.5 · Σ_i (-1)^popcount(i & j) · x[i]`.
///
/// # Panics
/// If the length is not a multiple of 128.
pub fn hadamard(isa: Isa, values: &mut [f32]) {
    assert!(values.len().is_multiple_of(HADAMARD_WIDTH));
    per_isa!(isa, rotate_all(values: &mut [f32]));
}

#[inline(always)]
fn rotate_all(values: &mut [f32]) {
    for row in values.as_chunks_mut::<HADAMARD_WIDTH>().0 {
        rotate(row);
    }
}

#[inline(always)]
fn rotate(row: &mut [f32; HADAMARD_WIDTH]) {
    stage::<1>(row);
    stage::<2>(row);
    stage::<4>(row);
    stage::<8>(row);
    stage::<16>(row);
    stage::<32>(row);
    stage::<64>(row);
    for value in row {
        *value *= FACTOR;
    }
}

/// (a, b) → (a + b, a - b) for all pairs `HALF` apart.
#[inline(always)]
fn stage<const HALF: usize>(row: &mut [f32; HADAMARD_WIDTH]) {
    for pair in row.chunks_exact_mut(2 * HALF) {
        let (low, high) = pair.split_at_mut(HALF);
        for (low, high) in low.iter_mut().zip(high) {
            (*low, *high) = (*low + *high, *low - *high);
        }
    }
}
