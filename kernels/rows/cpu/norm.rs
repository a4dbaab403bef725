//! rms_norm and rope.

use super::{PIECE, piece};
use crate::common::cut;
use crate::common::isa::Isa;
use crate::common::math::{LaneSum, add_squares};
use crate::common::per_isa::per_isa;
use crate::common::pool::Pool;
use crate::common::rows::{RealRows, RealRowsMut, Rows};
use crate::common::scratch;

/// `out[r] = x[r] / sqrt(mean(x[r]²) + epsilon) · gain`, `gain` one row.
///
/// Memory bound: reads a row once (from cache a second time) and writes it once.
pub fn rms_norm(
    isa: Isa,
    pool: &Pool,
    out: RealRowsMut,
    x: RealRows,
    gain: Option<Rows<f32>>,
    epsilon: f32,
) {
    cut::ranges(pool, out.rows(), 10 + out.width() / 8, &|range| {
        scratch::with(|room| {
            let (room, result) = room.split_at_mut(PIECE);
            for row in range {
                // SAFETY: every row belongs to one range.
                unsafe { rms_norm_row(isa, &out, &x, gain.as_ref(), epsilon, row, room, result) };
            }
        });
    });
}

/// # Safety
/// Nobody else uses row `row` of `out`.
#[allow(clippy::too_many_arguments, reason = "one row of the op, with its room")]
unsafe fn rms_norm_row(
    isa: Isa,
    out: &RealRowsMut,
    x: &RealRows,
    gain: Option<&Rows<f32>>,
    epsilon: f32,
    row: usize,
    room: &mut [f32],
    result: &mut [f32],
) {
    // 1 sum of squares
    let factor = inverse_rms(isa, x, row, epsilon, room);
    // 2 scale, 3 write
    let width = x.width();
    for start in (0..width).step_by(PIECE) {
        let len = PIECE.min(width - start);
        let x = piece(isa, x, row, start, &mut room[..len]);
        let result = &mut result[..len];
        match gain {
            Some(gain) => scaled_gain(isa, x, factor, &gain.row(0)[start..start + len], result),
            None => scaled(isa, x, factor, result),
        }
        // SAFETY: the caller's promise.
        unsafe { out.store_shared(isa, row, start, result) };
    }
}

/// `1 / sqrt(mean(x[row]²) + epsilon)`
pub(super) fn inverse_rms(
    isa: Isa,
    x: &RealRows,
    row: usize,
    epsilon: f32,
    room: &mut [f32],
) -> f32 {
    1.0 / (mean_square_of(isa, x, row, room) + epsilon).sqrt()
}

/// `mean(x[row]²)`; `room` holds a piece.
pub(super) fn mean_square_of(isa: Isa, x: &RealRows, row: usize, room: &mut [f32]) -> f32 {
    let width = x.width();
    let mut sum = LaneSum::ZERO;
    for start in (0..width).step_by(PIECE) {
        let len = PIECE.min(width - start);
        add_squares(isa, &mut sum, piece(isa, x, row, start, &mut room[..len]));
    }
    sum.total() / width as f32
}

/// Rotates the last columns of every row in interleaved pairs; row i of `x` by row `i / heads` of
/// `angle` (cosines, then sines).
///
/// Memory bound: reads and writes a row once.
pub fn rope(
    isa: Isa,
    pool: &Pool,
    out: RealRowsMut,
    x: RealRows,
    angle: Rows<f32>,
    heads: usize,
    inverse: bool,
) {
    let (width, first) = (out.width(), out.width() - angle.width());
    cut::ranges(pool, out.rows(), 10 + width / 8 + angle.width() / 2, &|range| {
        scratch::with(|room| {
            for row in range {
                // 1 columns that do not turn
                for start in (0..first).step_by(PIECE) {
                    let room = &mut room[..PIECE.min(first - start)];
                    x.load(isa, row, start, room);
                    // SAFETY: every row belongs to one range.
                    unsafe { out.store_shared(isa, row, start, room) };
                }
                // 2 pairs that do, 3 write
                for start in (first..width).step_by(PIECE) {
                    let room = &mut room[..PIECE.min(width - start)];
                    x.load(isa, row, start, room);
                    turn(isa, room, (start - first) / 2, angle.row(row / heads), inverse);
                    // SAFETY: every row belongs to one range.
                    unsafe { out.store_shared(isa, row, start, room) };
                }
            }
        });
    });
}

per_isa! {
    /// Turns the pairs of a piece, the first of which is pair `pair` of the angle.
    fn turn(piece: &mut [f32], pair: usize, angle: &[f32], inverse: bool) {
        let (cosines, sines) = angle.split_at(angle.len() / 2);
        let sign = if inverse { -1.0 } else { 1.0 };
        let turns = cosines[pair..].iter().zip(&sines[pair..]);
        for (values, (cosine, sine)) in piece.chunks_exact_mut(2).zip(turns) {
            let (a, b, sine) = (values[0], values[1], sign * sine);
            values[0] = a * cosine - b * sine;
            values[1] = a * sine + b * cosine;
        }
    }
    fn scaled(x: &[f32], factor: f32, out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = x * factor;
        }
    }
    fn scaled_gain(x: &[f32], factor: f32, gain: &[f32], out: &mut [f32]) {
        for (out, (x, gain)) in out.iter_mut().zip(x.iter().zip(gain)) {
            *out = x * factor * gain;
        }
    }
}
