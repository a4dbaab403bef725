//! What a request may ask of the sampler, and the ranges that are accepted.

use super::error::SampleError;

/// Most alternatives reported beside a choice.
pub const LOGPROBS_MAX: u32 = 20;
/// Most stop strings of a request.
pub const STOPS_MAX: usize = 16;
/// Longest stop string, in bytes; also bounds what streaming holds back.
pub const STOP_BYTES_MAX: usize = 4096;

/// Parameters of sampling. The default is DeepSeek's recommendation: temperature 1, nothing cut.
///
/// The filters apply in the order temperature, top-k, top-p, min-p, each to what the one before
/// left (the order of transformers and SGLang).
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 takes the largest (greedy). At least 0.
    pub temperature: f32,
    /// Keeps the `top_k` likeliest; 0 keeps all.
    pub top_k: u32,
    /// Keeps the likeliest until their probabilities add up to `top_p`; at least one stays. 0 to 1.
    pub top_p: f32,
    /// Keeps what is at least `min_p` times as likely as the likeliest. 0 to 1.
    pub min_p: f32,
    /// Same seed, same choices. `None`: whoever admits the request draws one.
    pub seed: Option<u64>,
    /// `Some(n)`: report the log-probability of each choice and of the `n` likeliest, by the
    /// model's own distribution (before temperature and filters).
    pub logprobs: Option<u32>,
    /// The answer ends before the first of these.
    pub stop: Vec<String>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            seed: None,
            logprobs: None,
            stop: Vec::new(),
        }
    }
}

impl SamplingParams {
    /// Always the likeliest token.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Checks every range.
    ///
    /// # Errors
    /// `Params`, naming the parameter, its value and the range.
    pub fn check(&self) -> Result<(), SampleError> {
        let refuse = |message: String| Err(SampleError::Params(message));
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return refuse(format!(
                "temperature is {}; it must be 0 (greedy) or a positive number",
                self.temperature
            ));
        }
        for (name, value) in [("top_p", self.top_p), ("min_p", self.min_p)] {
            if !(0.0..=1.0).contains(&value) {
                return refuse(format!("{name} is {value}; it must be from 0 to 1"));
            }
        }
        if let Some(wanted) = self.logprobs.filter(|&wanted| wanted > LOGPROBS_MAX) {
            return refuse(format!("logprobs asks for {wanted}; the most is {LOGPROBS_MAX}"));
        }
        if self.stop.len() > STOPS_MAX {
            return refuse(format!("{} stop strings; the most is {STOPS_MAX}", self.stop.len()));
        }
        for stop in &self.stop {
            if stop.is_empty() || stop.len() > STOP_BYTES_MAX {
                return refuse(format!(
                    "a stop string has {} bytes; it must have 1 to {STOP_BYTES_MAX}",
                    stop.len()
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_checked_and_named() {
        let base = SamplingParams::default;
        let many = vec!["x".to_owned(); STOPS_MAX + 1];
        for (params, name) in [
            (SamplingParams { temperature: -0.1, ..base() }, "temperature"),
            (SamplingParams { temperature: f32::NAN, ..base() }, "temperature"),
            (SamplingParams { temperature: f32::INFINITY, ..base() }, "temperature"),
            (SamplingParams { top_p: 1.01, ..base() }, "top_p"),
            (SamplingParams { top_p: f32::NAN, ..base() }, "top_p"),
            (SamplingParams { min_p: -0.5, ..base() }, "min_p"),
            (SamplingParams { logprobs: Some(21), ..base() }, "logprobs"),
            (SamplingParams { stop: vec![String::new()], ..base() }, "stop string"),
            (SamplingParams { stop: many, ..base() }, "stop strings"),
        ] {
            let error = params.check().unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
        for params in [
            base(),
            SamplingParams::greedy(),
            SamplingParams { top_p: 0.0, min_p: 1.0, logprobs: Some(20), ..base() },
        ] {
            assert_eq!(params.check(), Ok(()));
        }
    }
}
