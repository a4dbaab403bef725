//! Rope frequencies, in f64 (spec section 5). Positions and angles are the step block's business.

use std::f64::consts::PI;

use super::{Rope, Yarn};

impl Rope {
    /// Frequencies of layers without compression: `dims / 2` values, radians per token.
    pub fn main_frequencies(&self) -> Vec<f64> {
        self.powers(self.theta)
    }

    /// Frequencies of compressed layers, YaRN included; queries, window keys, entries and index
    /// vectors of such a layer all use these.
    pub fn compress_frequencies(&self) -> Vec<f64> {
        let plain = self.powers(self.compress_theta);
        let Some(yarn) = self.yarn else { return plain };
        let low = self.corner(&yarn, yarn.beta_fast).floor().max(0.0);
        let high = self.corner(&yarn, yarn.beta_slow).ceil().min(f64::from(self.dims) - 1.0);
        let span = if high == low { 0.001 } else { high - low };
        let stretch = |(pair, frequency): (usize, f64)| {
            let ramp = ((pair as f64 - low) / span).clamp(0.0, 1.0);
            frequency * (1.0 - ramp) + frequency / yarn.factor * ramp
        };
        plain.into_iter().enumerate().map(stretch).collect()
    }

    fn powers(&self, theta: f64) -> Vec<f64> {
        let dims = f64::from(self.dims);
        (0..self.dims / 2).map(|pair| theta.powf(-2.0 * f64::from(pair) / dims)).collect()
    }

    /// The pair that turns `rotations` times within the original context.
    fn corner(&self, yarn: &Yarn, rotations: f64) -> f64 {
        let positions = f64::from(yarn.original_positions);
        f64::from(self.dims) * (positions / (rotations * 2.0 * PI)).ln()
            / (2.0 * self.compress_theta.ln())
    }
}

#[cfg(test)]
mod tests {
    use crate::config::preset;

    #[test]
    fn released_corners_are_15_and_25() {
        let rope = preset("flash").expect("flash is a preset").rope;
        let plain = rope.powers(160_000.0);
        let stretched = rope.compress_frequencies();
        for pair in 0..32 {
            let ramp = ((pair as f64 - 15.0) / 10.0).clamp(0.0, 1.0);
            let want = plain[pair] * (1.0 - ramp) + plain[pair] / 16.0 * ramp;
            assert!((stretched[pair] / want - 1.0).abs() < 1e-14, "pair {pair}");
        }
        assert_eq!(rope.main_frequencies()[0], 1.0);
        assert!((rope.main_frequencies()[31] - 10_000f64.powf(-62.0 / 64.0)).abs() < 1e-18);
    }

    #[test]
    fn equal_corners_give_a_step_and_not_a_nan() {
        let mut rope = preset("flash").expect("flash is a preset").rope;
        let yarn = rope.yarn.as_mut().expect("flash has YaRN");
        (yarn.original_positions, yarn.beta_fast) = (1, 1.0);
        assert!(rope.compress_frequencies().iter().all(|f| f.is_finite() && *f > 0.0));
    }
}
