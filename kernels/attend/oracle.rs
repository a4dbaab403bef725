//! `attend` by definition: f64, loops, one query head after the other.

/// Cache rows of one query, `[keys, c]`: those of the near list and then those of the far cache,
/// absent ones left out.
pub type Keys = Vec<Vec<f64>>;

/// `out[i, h] = Σ_j p_j k_j` with `p_j = e^s_j / (e^sink[h] + Σ_j e^s_j)` and
/// `s_j = scale · q[i, h] · k_j`. `q` is `[n, H, c]`, `keys` one list per query.
pub fn attend(q: &[f64], sink: &[f64], keys: &[Keys], width: usize, scale: f64) -> Vec<f64> {
    let mut out = vec![0.0; q.len()];
    for (row, keys) in keys.iter().enumerate() {
        for head in 0..sink.len() {
            let first = (row * sink.len() + head) * width;
            // 1 scores
            let mut scores = Vec::new();
            for key in keys {
                let mut dot = 0.0;
                for column in 0..width {
                    dot += q[first + column] * key[column];
                }
                scores.push(dot * scale);
            }
            // 2 maximum, the sink's included, so that no exponential overflows
            let mut top = sink[head];
            for score in &scores {
                top = top.max(*score);
            }
            // 3 denominator
            let mut total = (sink[head] - top).exp();
            for score in &scores {
                total += (score - top).exp();
            }
            // 4 weighted sum
            for (key, score) in keys.iter().zip(&scores) {
                for column in 0..width {
                    out[first + column] += (score - top).exp() / total * key[column];
                }
            }
        }
    }
    out
}
