//! `compress` by definition: f64, loops, one window after the other.

/// One slot of a window: its value and gate row (`[w]` each) and its number, which names its bias.
pub struct Slot {
    /// Values.
    pub value: Vec<f64>,
    /// Gates, without the position bias.
    pub gate: Vec<f64>,
    /// Row of the bias.
    pub number: usize,
}

/// `out[d] = Σ_s p_s value_s[d]`, `p = softmax over the slots of gate_s[d] + bias[s, d]`, each column
/// for itself. Zeros without a slot. `bias` is `[slots, w]`.
pub fn pooled(slots: &[Slot], bias: &[f64], width: usize) -> Vec<f64> {
    let mut out = vec![0.0; width];
    for column in 0..width {
        let score = |slot: &Slot| slot.gate[column] + bias[slot.number * width + column];
        let mut top = f64::NEG_INFINITY;
        for slot in slots {
            top = top.max(score(slot));
        }
        let (mut sum, mut total) = (0.0, 0.0);
        for slot in slots {
            let share = (score(slot) - top).exp();
            sum += share * slot.value[column];
            total += share;
        }
        if !slots.is_empty() {
            out[column] = sum / total;
        }
    }
    out
}

/// `out = x / sqrt(mean(x²) + ε) · gain`, then the last `angle.len()` columns turned in interleaved
/// pairs by the angle (cosines, then sines).
pub fn finished(x: &[f64], gain: &[f64], angle: &[f64], epsilon: f64) -> Vec<f64> {
    let width = x.len();
    // 1 norm
    let mut square = 0.0;
    for value in x {
        square += value * value;
    }
    let scale = 1.0 / (square / width as f64 + epsilon).sqrt();
    let mut out = vec![0.0; width];
    for column in 0..width {
        out[column] = x[column] * scale * gain[column];
    }
    // 2 rope
    let (pairs, first) = (angle.len() / 2, width - angle.len());
    for pair in 0..pairs {
        let (cosine, sine) = (angle[pair], angle[pairs + pair]);
        let (a, b) = (out[first + 2 * pair], out[first + 2 * pair + 1]);
        out[first + 2 * pair] = a * cosine - b * sine;
        out[first + 2 * pair + 1] = a * sine + b * cosine;
    }
    out
}

/// `out[j] = Σ_i x[i] · rotation[j, i]`
pub fn rotated(x: &[f64], rotation: &[f64]) -> Vec<f64> {
    let mut out = vec![0.0; x.len()];
    for row in 0..x.len() {
        for column in 0..x.len() {
            out[row] += x[column] * rotation[row * x.len() + column];
        }
    }
    out
}
