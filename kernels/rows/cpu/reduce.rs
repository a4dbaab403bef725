//! reduce: sums, maxima and small products over the middle axis of `[n, J, D]`, in the order 0, 1, ….
//!
//! Memory bound: reads `x` (and `y`) once and writes `out` once.

use super::norm::mean_square_of;
use super::{PIECE, piece};
use crate::common::isa::Isa;
use crate::common::per_isa::per_isa;
use crate::common::pool::Pool;
use crate::common::rows::{RealRows, RealRowsMut};
use crate::common::{cut, scratch};

/// `out[n, d] = Σ_j x[n, j, d]`, J = `axis`.
pub fn sum(isa: Isa, pool: &Pool, out: RealRowsMut, x: RealRows, axis: usize) {
    fold(isa, pool, out, x, axis, &|j, _, x, _, acc| match j {
        0 => acc.copy_from_slice(x),
        _ => add_to(isa, x, acc),
    });
}

/// `out[n, d] = max_j x[n, j, d]`, J = `axis`.
pub fn max(isa: Isa, pool: &Pool, out: RealRowsMut, x: RealRows, axis: usize) {
    fold(isa, pool, out, x, axis, &|j, _, x, _, acc| match j {
        0 => acc.copy_from_slice(x),
        _ => max_to(isa, x, acc),
    });
}

/// `out[n, d] = Σ_j x[n, j, d] · y[n, j, d]`, J = `axis`.
pub fn dot(isa: Isa, pool: &Pool, out: RealRowsMut, x: RealRows, y: RealRows, axis: usize) {
    fold(isa, pool, out, x, axis, &|j, (row, column), x, room, acc| {
        let y = piece(isa, &y, row, column, room);
        match j {
            0 => product(isa, x, y, acc),
            _ => product_to(isa, x, y, acc),
        }
    });
}

/// What is done with one piece of `x`: its j, its row and column, the piece, room for another of its
/// size, and the accumulators.
type Step<'a> = &'a (dyn Fn(usize, (usize, usize), &[f32], &mut [f32], &mut [f32]) + Sync);

fn fold(isa: Isa, pool: &Pool, out: RealRowsMut, x: RealRows, axis: usize, step: Step<'_>) {
    let width = out.width();
    cut::ranges(pool, out.rows(), 10 + axis * (5 + width / 4), &|range| {
        scratch::with(|room| {
            let (acc, room) = room.split_at_mut(PIECE);
            let (room, spare) = room.split_at_mut(PIECE);
            for row in range {
                for start in (0..width).step_by(PIECE) {
                    let len = PIECE.min(width - start);
                    for j in 0..axis {
                        let column = j * width + start;
                        let x = piece(isa, &x, row, column, &mut room[..len]);
                        step(j, (row, column), x, &mut spare[..len], &mut acc[..len]);
                    }
                    // SAFETY: every row belongs to one range.
                    unsafe { out.store_shared(isa, row, start, &acc[..len]) };
                }
            }
        });
    });
}

/// `out[n, 0] = mean_d x[n, d]²`
pub fn mean_square(isa: Isa, pool: &Pool, out: RealRowsMut, x: RealRows) {
    cut::ranges(pool, out.rows(), 10 + x.width() / 8, &|range| {
        scratch::with(|room| {
            for row in range {
                let mean = mean_square_of(isa, &x, row, room);
                // SAFETY: every row belongs to one range.
                unsafe { out.store_shared(isa, row, 0, &[mean]) };
            }
        });
    });
}

/// Columns of [`mix`] worked on at a time, so that the accumulators of several outputs stay close.
const MIX_PIECE: usize = 256;

/// `out[n, k, d] = Σ_j y[n, j, k] · x[n, j, d]`, J = `axis`, `y` `[n, J·K]`.
pub fn mix(isa: Isa, pool: &Pool, out: RealRowsMut, x: RealRows, y: RealRows, axis: usize) {
    let (width, outputs) = (x.width() / axis, y.width() / axis);
    cut::ranges(pool, out.rows(), 10 + axis * outputs * (2 + width / 8), &|range| {
        scratch::with(|room| {
            let (factors, room) = room.split_at_mut((axis * outputs).next_multiple_of(16));
            let factors = &mut factors[..axis * outputs];
            for row in range {
                y.load(isa, row, 0, factors);
                for start in (0..width).step_by(MIX_PIECE) {
                    let len = MIX_PIECE.min(width - start);
                    let (acc, room) = room.split_at_mut(MIX_PIECE);
                    for k in 0..outputs {
                        for j in 0..axis {
                            let x = piece(isa, &x, row, j * width + start, &mut room[..len]);
                            let factor = factors[j * outputs + k];
                            match j {
                                0 => scale(isa, factor, x, &mut acc[..len]),
                                _ => scale_to(isa, factor, x, &mut acc[..len]),
                            }
                        }
                        // SAFETY: every row belongs to one range.
                        unsafe { out.store_shared(isa, row, k * width + start, &acc[..len]) };
                    }
                }
            }
        });
    });
}

per_isa! {
    fn add_to(x: &[f32], acc: &mut [f32]) {
        for (acc, x) in acc.iter_mut().zip(x) {
            *acc += x;
        }
    }
    fn max_to(x: &[f32], acc: &mut [f32]) {
        for (acc, &x) in acc.iter_mut().zip(x) {
            // A select: a NaN in `x` wins, and one in `acc` stays because nothing is above it.
            *acc = if x > *acc || x.is_nan() { x } else { *acc };
        }
    }
    fn product(x: &[f32], y: &[f32], acc: &mut [f32]) {
        for (acc, (x, y)) in acc.iter_mut().zip(x.iter().zip(y)) {
            *acc = x * y;
        }
    }
    fn product_to(x: &[f32], y: &[f32], acc: &mut [f32]) {
        for (acc, (x, y)) in acc.iter_mut().zip(x.iter().zip(y)) {
            *acc += x * y;
        }
    }
    fn scale(factor: f32, x: &[f32], acc: &mut [f32]) {
        for (acc, x) in acc.iter_mut().zip(x) {
            *acc = factor * x;
        }
    }
    fn scale_to(factor: f32, x: &[f32], acc: &mut [f32]) {
        for (acc, x) in acc.iter_mut().zip(x) {
            *acc += factor * x;
        }
    }
}
