//! The indexer by definition: f64, loops, a full sort.

/// `out[i][e] = scale · Σ_h weight[i, h] · relu(q[i, h] · key_e)`. `q` is `[n, H, c]`, `weight` `[n, H]`,
/// `keys` the visible keys of each query.
pub fn index_score(
    q: &[f64],
    weight: &[f64],
    keys: &[Vec<Vec<f64>>],
    width: usize,
    scale: f64,
) -> Vec<Vec<f64>> {
    let heads = weight.len() / keys.len();
    let mut out = Vec::new();
    for (row, keys) in keys.iter().enumerate() {
        let mut scores = Vec::new();
        for key in keys {
            let mut sum = 0.0;
            for head in 0..heads {
                let mut dot = 0.0;
                for column in 0..width {
                    dot += q[(row * heads + head) * width + column] * key[column];
                }
                sum += weight[row * heads + head] * dot.max(0.0);
            }
            scores.push(scale * sum);
        }
        out.push(scores);
    }
    out
}

/// Columns of the k largest of `x`, largest first, ties to the lower column; -1 behind the last.
pub fn top_k(x: &[f32], k: usize) -> Vec<i32> {
    let mut columns: Vec<usize> = (0..x.len()).collect();
    // A stable sort: equal values stay in the order of columns. NaN counts as less than any number.
    columns.sort_by(|&a, &b| match (x[a].is_nan(), x[b].is_nan()) {
        (false, false) => x[b].partial_cmp(&x[a]).expect("neither is NaN"),
        (a, b) => a.cmp(&b),
    });
    let mut picks: Vec<i32> = columns.iter().take(k).map(|&column| column as i32).collect();
    picks.resize(k, -1);
    picks
}
