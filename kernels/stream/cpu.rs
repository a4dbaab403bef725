//! CPU kernel of `hc_mix`.
//!
//! One row is a few dozen numbers: latency bound (two divisions of s × s numbers a Sinkhorn round). A
//! row is computed by one thread in a fixed order, with the same bits on every instruction set.

use crate::common::cut;
use crate::common::isa::Isa;
use crate::common::math::{exp, sigmoid};
use crate::common::per_isa::per_isa;
use crate::common::pool::Pool;
use crate::common::rows::{Rows, RowsMut};

/// The static fields of an `hc_mix`.
#[derive(Clone, Copy, Debug)]
pub struct HcMix {
    /// Number of streams s.
    pub streams: usize,
    /// Sinkhorn rounds, the first included.
    pub rounds: u32,
    /// Added to gates and sums.
    pub epsilon: f32,
    /// Added to the mean square.
    pub norm_epsilon: f32,
}

/// Gates and mixer: `u` is pre `[s]` · post `[s]` · comb `[s, s]`, not yet normalised; `out` is
/// pre · comb · post. With width s there is pre alone. `base` and `scale` are one row each.
#[allow(clippy::too_many_arguments, reason = "the operands of the op")]
pub fn hc_mix(
    isa: Isa,
    pool: &Pool,
    mut out: RowsMut<f32>,
    u: Rows<f32>,
    mean_square: Rows<f32>,
    base: Rows<f32>,
    scale: Rows<f32>,
    f: HcMix,
) {
    let grain = cut::grain(pool, out.rows(), 100 + 20 * f.rounds as usize * f.streams);
    out.each_row(pool, grain, &|row, out| {
        hc_mix_row(isa, out, u.row(row), mean_square.row(row)[0], base.row(0), scale.row(0), f);
    });
}

per_isa! {
    /// One row of [`hc_mix`].
    pub fn hc_mix_row(
        out: &mut [f32],
        u: &[f32],
        mean_square: f32,
        base: &[f32],
        scale: &[f32],
        f: HcMix,
    ) {
        let s = f.streams;
        let factor = 1.0 / (mean_square + f.norm_epsilon).sqrt();
        // 1 gates
        for i in 0..s {
            out[i] = sigmoid(u[i] * factor * scale[0] + base[i]) + f.epsilon;
        }
        if u.len() == s {
            return;
        }
        let post = s + s * s;
        for i in 0..s {
            out[post + i] = 2.0 * sigmoid(u[s + i] * factor * scale[1] + base[s + i]);
        }
        // 2 mixer
        let comb = &mut out[s..post];
        for (i, comb) in comb.iter_mut().enumerate() {
            *comb = u[2 * s + i] * factor * scale[2] + base[2 * s + i];
        }
        match s {
            4 => sinkhorn::<4>(comb, f),
            _ => sinkhorn_any(comb, f),
        }
    }
}

/// Softmax over rows, then rounds of dividing rows and columns by their sums.
#[inline(always)]
fn sinkhorn<const S: usize>(comb: &mut [f32], f: HcMix) {
    let mut c = [[0.0f32; S]; S];
    for (row, values) in c.iter_mut().zip(comb.chunks_exact(S)) {
        row.copy_from_slice(values);
    }
    for row in &mut c {
        let top = row.iter().fold(f32::NEG_INFINITY, |top, &x| if x > top { x } else { top });
        for x in row.iter_mut() {
            *x = exp(*x - top);
        }
    }
    for round in 0..f.rounds {
        let below = if round == 0 { 0.0 } else { f.epsilon };
        let above = if round == 0 { f.epsilon } else { 0.0 };
        for row in &mut c {
            let sum = row[1..].iter().fold(row[0], |sum, x| sum + x) + below;
            for x in row.iter_mut() {
                *x = *x / sum + above;
            }
        }
        let mut sums = c[0];
        for row in &c[1..] {
            for (sum, x) in sums.iter_mut().zip(row) {
                *sum += x;
            }
        }
        for row in &mut c {
            for (x, sum) in row.iter_mut().zip(&sums) {
                *x /= sum + f.epsilon;
            }
        }
    }
    for (row, values) in c.iter().zip(comb.chunks_exact_mut(S)) {
        values.copy_from_slice(row);
    }
}

/// [`sinkhorn`] for other numbers of streams.
#[inline(always)]
fn sinkhorn_any(comb: &mut [f32], f: HcMix) {
    let s = f.streams;
    for row in comb.chunks_exact_mut(s) {
        let top = row.iter().fold(f32::NEG_INFINITY, |top, &x| if x > top { x } else { top });
        for x in row.iter_mut() {
            *x = exp(*x - top);
        }
    }
    for round in 0..f.rounds {
        let below = if round == 0 { 0.0 } else { f.epsilon };
        let above = if round == 0 { f.epsilon } else { 0.0 };
        for row in comb.chunks_exact_mut(s) {
            let sum = row[1..].iter().fold(row[0], |sum, x| sum + x) + below;
            for x in row.iter_mut() {
                *x = *x / sum + above;
            }
        }
        for column in 0..s {
            let mut sum = comb[column];
            for row in 1..s {
                sum += comb[row * s + column];
            }
            for row in 0..s {
                comb[row * s + column] /= sum + f.epsilon;
            }
        }
    }
}
