//! f64 definitions of the row ops. Rows are consecutive; widths are arguments.

/// `out[i] = source[index[i] / per]`; past the end of `source` goes on in `more`; a negative index gives
/// a row of `absent`.
pub fn gather_rows(
    source: &[f64],
    more: &[f64],
    width: usize,
    index: &[i32],
    per: u32,
    absent: f64,
) -> Vec<f64> {
    let mut out = Vec::new();
    for &index in index {
        for column in 0..width {
            out.push(if index < 0 {
                absent
            } else {
                let at = (index as u32 / per) as usize * width + column;
                if at < source.len() { source[at] } else { more[at - source.len()] }
            });
        }
    }
    out
}

/// `out[i, j] = source[rows[i], index[i, j] / per]`, `index` `[n, k]`; without `rows`, from row i.
pub fn gather_elements(
    source: &[f64],
    width: usize,
    rows: Option<&[i32]>,
    index: &[i32],
    k: usize,
    per: u32,
    absent: f64,
) -> Vec<f64> {
    let mut out = Vec::new();
    for (place, &index) in index.iter().enumerate() {
        let row = rows.map_or((place / k) as i32, |rows| rows[place / k]);
        out.push(if index < 0 || row < 0 {
            absent
        } else {
            source[row as usize * width + (index as u32 / per) as usize]
        });
    }
    out
}

/// `target[index[i]] = source[i]`; a negative index drops the row.
pub fn scatter(target: &mut [f64], source: &[f64], width: usize, index: &[i32]) {
    for (i, &index) in index.iter().enumerate() {
        if index >= 0 {
            for column in 0..width {
                target[index as usize * width + column] = source[i * width + column];
            }
        }
    }
}

/// The expressions of `map`, applied to the inputs in the order of `hal::op::MapFn`.
#[derive(Clone, Copy, Debug)]
pub enum Expression {
    /// `x`
    Copy,
    /// `x + y`
    Add,
    /// `x / y`
    Divide,
    /// `exp(x - y)`
    ExpMinus,
    /// `sqrt(ln(1 + e^x))`
    SqrtSoftplus,
    /// `index < 0 ? -1e30 : x + y`
    MaskedAdd,
    /// `x / (total + 1e-20) · scale`
    Share {
        /// Static factor.
        scale: f64,
    },
    /// `[weight ·] silu(min(gate, clamp)) · clamp(up, ±clamp)`
    Swiglu {
        /// Limit.
        clamp: f64,
    },
    /// `page · per + entry % per`, or -1 if either is negative.
    PageRow {
        /// Entries per page.
        per: f64,
    },
}

impl Expression {
    /// The value for one element of each input.
    pub fn value(self, inputs: &[f64]) -> f64 {
        let x = inputs[0];
        let y = inputs.get(1).copied().unwrap_or(0.0);
        match self {
            Expression::Copy => x,
            Expression::Add => x + y,
            Expression::Divide => x / y,
            Expression::ExpMinus => (x - y).exp(),
            Expression::SqrtSoftplus => (x.max(0.0) + (-x.abs()).exp().ln_1p()).sqrt(),
            Expression::MaskedAdd => {
                if inputs[2] < 0.0 {
                    -1e30
                } else {
                    x + y
                }
            }
            Expression::Share { scale } => x / (y + 1e-20) * scale,
            Expression::Swiglu { clamp } => {
                let gate = x.min(clamp);
                let weight = inputs.get(2).copied().unwrap_or(1.0);
                weight * (gate / (1.0 + (-gate).exp())) * y.clamp(-clamp, clamp)
            }
            Expression::PageRow { per } => {
                if x < 0.0 || y < 0.0 {
                    -1.0
                } else {
                    y * per + x % per
                }
            }
        }
    }
}

/// `f` for every element of an output of dimensions `dims`; each input comes with its own dimensions,
/// aligned at the last, 1 meaning "repeat".
pub fn map(f: Expression, dims: &[usize], inputs: &[(&[f64], &[usize])]) -> Vec<f64> {
    let count: usize = dims.iter().product();
    let mut out = Vec::new();
    for place in 0..count {
        let mut values = Vec::new();
        for (data, own) in inputs {
            values.push(data[broadcast(place, dims, own)]);
        }
        out.push(f.value(&values));
    }
    out
}

/// Place in a tensor of dimensions `own` that element `place` of `dims` reads.
fn broadcast(mut place: usize, dims: &[usize], own: &[usize]) -> usize {
    let (mut at, mut stride) = (0, 1);
    for back in 1..=dims.len() {
        let coordinate = place % dims[dims.len() - back];
        place /= dims[dims.len() - back];
        if back <= own.len() {
            let dim = own[own.len() - back];
            if dim > 1 {
                at += coordinate * stride;
            }
            stride *= dim;
        }
    }
    at
}

/// `out[n, d] = Σ_j x[n, j, d]` for `x` `[n, axis, width]`.
pub fn sum(x: &[f64], axis: usize, width: usize) -> Vec<f64> {
    let ones = vec![1.0; x.len()];
    dot(x, &ones, axis, width)
}

/// `out[n, d] = max_j x[n, j, d]`
pub fn max(x: &[f64], axis: usize, width: usize) -> Vec<f64> {
    let mut out = Vec::new();
    for row in x.chunks(axis * width) {
        for d in 0..width {
            let mut top = f64::NEG_INFINITY;
            for j in 0..axis {
                top = top.max(row[j * width + d]);
            }
            out.push(top);
        }
    }
    out
}

/// `out[n, d] = Σ_j x[n, j, d] · y[n, j, d]`
pub fn dot(x: &[f64], y: &[f64], axis: usize, width: usize) -> Vec<f64> {
    let mut out = Vec::new();
    for (x, y) in x.chunks(axis * width).zip(y.chunks(axis * width)) {
        for d in 0..width {
            let mut sum = 0.0;
            for j in 0..axis {
                sum += x[j * width + d] * y[j * width + d];
            }
            out.push(sum);
        }
    }
    out
}

/// `out[n, k, d] = Σ_j y[n, j, k] · x[n, j, d]`, K = `outputs`.
pub fn mix(x: &[f64], y: &[f64], axis: usize, width: usize, outputs: usize) -> Vec<f64> {
    let mut out = Vec::new();
    for (x, y) in x.chunks(axis * width).zip(y.chunks(axis * outputs)) {
        for k in 0..outputs {
            for d in 0..width {
                let mut sum = 0.0;
                for j in 0..axis {
                    sum += y[j * outputs + k] * x[j * width + d];
                }
                out.push(sum);
            }
        }
    }
    out
}

/// `out[n] = mean_d x[n, d]²`
pub fn mean_square(x: &[f64], width: usize) -> Vec<f64> {
    let mut out = Vec::new();
    for row in x.chunks(width) {
        let mut sum = 0.0;
        for x in row {
            sum += x * x;
        }
        out.push(sum / width as f64);
    }
    out
}

/// `out[r] = x[r] / sqrt(mean(x[r]²) + epsilon) · gain`
pub fn rms_norm(x: &[f64], gain: &[f64], epsilon: f64) -> Vec<f64> {
    let width = gain.len();
    let mut out = vec![0.0; x.len()];
    for row in 0..x.len() / width {
        let mut sum = 0.0;
        for column in 0..width {
            sum += x[row * width + column] * x[row * width + column];
        }
        let scale = 1.0 / (sum / width as f64 + epsilon).sqrt();
        for column in 0..width {
            out[row * width + column] = x[row * width + column] * scale * gain[column];
        }
    }
    out
}

/// Rotates the last `turned` columns in interleaved pairs; row i by row `i / heads` of `angle`.
pub fn rope(
    x: &[f64],
    width: usize,
    angle: &[f64],
    turned: usize,
    heads: usize,
    inverse: bool,
) -> Vec<f64> {
    let mut out = x.to_vec();
    for row in 0..x.len() / width {
        let angle = &angle[row / heads * turned..][..turned];
        for pair in 0..turned / 2 {
            let at = row * width + width - turned + 2 * pair;
            let cosine = angle[pair];
            let sine = if inverse { -angle[turned / 2 + pair] } else { angle[turned / 2 + pair] };
            out[at] = x[at] * cosine - x[at + 1] * sine;
            out[at + 1] = x[at] * sine + x[at + 1] * cosine;
        }
    }
    out
}
