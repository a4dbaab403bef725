//! The definition of the collectives, in f64.

/// `out[r] = Σ_j x_j[r]`, for every rank.
pub fn all_reduce(x: &[Vec<f64>]) -> Vec<f64> {
    let mut out = vec![0.0; x[0].len()];
    for rank in x {
        for place in 0..out.len() {
            out[place] += rank[place];
        }
    }
    out
}

/// `out[j·n + r] = x_j[r]`, for every rank.
pub fn all_gather(x: &[Vec<f64>]) -> Vec<f64> {
    let mut out = Vec::new();
    for rank in x {
        out.extend(rank);
    }
    out
}

/// `out[r] = Σ_j x_j[k·m + r]`, for rank k.
pub fn reduce_scatter(x: &[Vec<f64>], k: usize) -> Vec<f64> {
    let sum = all_reduce(x);
    let share = sum.len() / x.len();
    sum[k * share..(k + 1) * share].to_vec()
}

/// `out[j·m + r] = x_j[k·m + r]`, for rank k.
pub fn all_to_all(x: &[Vec<f64>], k: usize) -> Vec<f64> {
    let share = x[0].len() / x.len();
    let mut out = Vec::new();
    for rank in x {
        out.extend(&rank[k * share..(k + 1) * share]);
    }
    out
}
