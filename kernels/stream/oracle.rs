//! f64 definition of `hc_mix`.

/// Gates and mixer of one hyper-connection site. `u` `[n, s]` or `[n, 2s + s²]` in checkpoint order pre |
/// post | comb, not yet normalised; the result is pre | comb | post.
#[allow(clippy::too_many_arguments, reason = "the fields of the op")]
pub fn hc_mix(
    u: &[f64],
    mean_square: &[f64],
    base: &[f64],
    scale: &[f64],
    streams: usize,
    rounds: u32,
    epsilon: f64,
    norm_epsilon: f64,
) -> Vec<f64> {
    let (s, width) = (streams, base.len());
    let gate = |x: f64| 1.0 / (1.0 + (-x).exp());
    let mut out = Vec::new();
    for (row, u) in u.chunks(width).enumerate() {
        let factor = 1.0 / (mean_square[row] + norm_epsilon).sqrt();
        let value = |i: usize, part: usize| u[i] * factor * scale[part] + base[i];
        for i in 0..s {
            out.push(gate(value(i, 0)) + epsilon);
        }
        if width == s {
            continue;
        }
        let mut comb: Vec<f64> = (0..s * s).map(|i| value(2 * s + i, 2)).collect();
        softmax_rows(&mut comb, s, epsilon);
        divide_columns(&mut comb, s, epsilon);
        for _ in 1..rounds {
            divide_rows(&mut comb, s, epsilon);
            divide_columns(&mut comb, s, epsilon);
        }
        out.extend(comb);
        for i in s..2 * s {
            out.push(2.0 * gate(value(i, 1)));
        }
    }
    out
}

/// `c = exp(c - max) / Σ + epsilon`, per row.
fn softmax_rows(comb: &mut [f64], s: usize, epsilon: f64) {
    for row in comb.chunks_mut(s) {
        let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = row.iter().map(|x| (x - top).exp()).sum();
        for x in row {
            *x = (*x - top).exp() / sum + epsilon;
        }
    }
}

fn divide_rows(comb: &mut [f64], s: usize, epsilon: f64) {
    for row in comb.chunks_mut(s) {
        let sum: f64 = row.iter().sum();
        for x in row {
            *x /= sum + epsilon;
        }
    }
}

fn divide_columns(comb: &mut [f64], s: usize, epsilon: f64) {
    for column in 0..s {
        let sum: f64 = (0..s).map(|row| comb[row * s + column]).sum();
        for row in 0..s {
            comb[row * s + column] /= sum + epsilon;
        }
    }
}
