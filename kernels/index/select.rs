//! The k largest columns of a row.
//!
//! Values are ordered as numbers (-0 equals 0), NaN below all; equal values by column, the lower
//! first. Few picks are kept in a small sorted list while the row streams by; for many the k-th largest value
//! is found, by partitioning a short row and by the digits of a long one, and one scan in order collects what
//! is above it.

use crate::common::isa::Isa;
use crate::common::pool::Pool;
use crate::common::rows::{RealRows, Rows, RowsMut};
use crate::common::scratch::{self, SCRATCH_FLOATS};
use hal::op::Order;
use std::cmp::Reverse;

/// Most picks for which the sorted list is faster than counting digits.
const FEW: usize = 16;

/// Longest row of which many picks are found by comparing: counting digits has more bins than that.
const SHORT: usize = 1024;

/// Operands of `hal::op::TopK`, as views.
#[derive(Clone, Copy, Debug)]
pub struct TopK {
    /// `[n, k]`
    pub out: RowsMut<i32>,
    /// `[n, w]`; rows of other dtypes than f32 hold at most [`SCRATCH_FLOATS`] values.
    pub x: RealRows,
    /// `[n, 1]`: columns that count; absent: all.
    pub count: Option<Rows<i32>>,
    /// Order of the picks.
    pub order: Order,
}

/// `out[i]` = columns of the k largest of the first `count[i]` values of `x[i]`, -1 behind the last.
///
/// # Panics
/// If a count passes the width, or a row does not fit the scratch.
pub fn top_k(isa: Isa, pool: &Pool, op: &TopK) {
    pool.run(op.out.rows(), &|row| {
        let count =
            op.count.map_or(op.x.width(), |count| usize::try_from(count.row(row)[0]).unwrap_or(0));
        // SAFETY: a part owns its row.
        let out = unsafe { op.out.shared(row, 0..op.out.width()) };
        if let RealRows::F32(x) = &op.x {
            pick(&x.row(row)[..count], op.order, out);
            return;
        }
        assert!(count <= SCRATCH_FLOATS);
        scratch::with(|block| {
            op.x.load(isa, row, 0, &mut block[..count]);
            pick(&block[..count], op.order, out);
        });
    });
}

/// Numbers in the order of the values: NaN 0, then from -∞ to ∞; both zeros are one.
#[inline(always)]
fn rank(value: f32) -> u32 {
    let bits = (value + 0.0).to_bits();
    let sign = (bits as i32 >> 31) as u32;
    if value.is_nan() { 0 } else { bits ^ (sign | 1 << 31) }
}

/// Picks of one row.
pub(super) fn pick(x: &[f32], order: Order, out: &mut [i32]) {
    let taken = out.len().min(x.len());
    let (picks, rest) = out.split_at_mut(taken);
    rest.fill(-1);
    if taken == x.len() {
        for (column, pick) in picks.iter_mut().enumerate() {
            *pick = column as i32;
        }
    } else if taken <= FEW {
        pick_few(x, picks);
        picks.sort_unstable();
    } else if x.len() <= SHORT {
        pick_short(x, picks);
    } else {
        pick_many(x, picks);
    }
    if order == Order::Value {
        picks.sort_unstable_by_key(|&column| (Reverse(rank(x[column as usize])), column));
    }
}

/// Keeps the best so far, best first.
fn pick_few(x: &[f32], picks: &mut [i32]) {
    let mut best = [0u32; FEW];
    let best = &mut best[..picks.len()];
    let mut held = 0;
    for (column, &value) in x.iter().enumerate() {
        let rank = rank(value);
        // Later columns lose ties.
        if held == best.len() && rank <= best[held - 1] {
            continue;
        }
        held += usize::from(held < best.len());
        let mut place = held - 1;
        while place > 0 && best[place - 1] < rank {
            best[place] = best[place - 1];
            picks[place] = picks[place - 1];
            place -= 1;
        }
        best[place] = rank;
        picks[place] = column as i32;
    }
}

/// Finds the last pick by partitioning, then collects in order.
fn pick_short(x: &[f32], picks: &mut [i32]) {
    // Keys differ: of equal values the lower column has the larger one.
    let key = |column: usize| u64::from(rank(x[column])) << 32 | u64::from(!(column as u32));
    let mut keys = [0; SHORT];
    let keys = &mut keys[..x.len()];
    keys.iter_mut().enumerate().for_each(|(column, slot)| *slot = key(column));
    let (_, &mut last, _) = keys.select_nth_unstable(x.len() - picks.len());
    let columns = (0..x.len()).filter(|&column| key(column) >= last);
    for (pick, column) in picks.iter_mut().zip(columns) {
        *pick = column as i32;
    }
}

/// Bits of a digit; three digits cover a rank.
const DIGIT: u32 = 11;
const BINS: usize = 1 << DIGIT;

/// Finds the rank of the last pick digit by digit, then collects in order.
fn pick_many(x: &[f32], picks: &mut [i32]) {
    let mut wanted = picks.len() as u32;
    // Ranks that agree with `found` in the bits above `shift` are still candidates.
    let (mut found, mut shift) = (0u64, 33);
    while shift > 0 {
        shift -= DIGIT;
        let mut bins = [0u32; BINS];
        for &value in x {
            let rank = u64::from(rank(value));
            let candidate = rank >> (shift + DIGIT) == found >> (shift + DIGIT);
            bins[(rank >> shift) as usize % BINS] += u32::from(candidate);
        }
        let mut bin = BINS - 1;
        while bins[bin] < wanted {
            wanted -= bins[bin];
            bin -= 1;
        }
        found |= (bin as u64) << shift;
    }
    // All above the threshold, and the first `wanted` equal to it.
    let threshold = found as u32;
    let mut places = picks.iter_mut();
    for (column, &value) in x.iter().enumerate() {
        let rank = rank(value);
        let equal = rank == threshold && wanted > 0;
        if rank > threshold || equal {
            wanted -= u32::from(equal);
            *places.next().expect("as many ranks as picks are at the threshold") = column as i32;
        }
    }
}
