//! One choice: logits in, id out. Every sum runs over ascending ids in f64, every tie goes to the
//! lower id, so a choice is a function of its inputs to the last bit.

use std::cmp::Ordering;

use super::error::SampleError;
use super::exp::exp_of_negative;
use super::params::SamplingParams;
use super::rng::uniform;

/// A chosen token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Its id.
    pub id: u32,
    /// Its log-probability by the model's own distribution, if `logprobs` was asked for.
    pub logprob: Option<f32>,
}

/// Chooses tokens. Holds buffers only: one sampler serves every sequence of a thread, and after the
/// first choice with a vocabulary nothing is allocated.
#[derive(Debug, Default)]
pub struct Sampler {
    /// Unnormalised probability of each id; the likeliest has 1.
    weights: Vec<f64>,
    /// Ids the filters left.
    kept: Vec<u32>,
    top: Vec<(u32, f32)>,
}

impl Sampler {
    /// A sampler with empty buffers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Chooses the token that follows `position` tokens, from `logits` (f32, one per id; −∞ forbids
    /// an id). `params` must have passed [`SamplingParams::check`]; `seed` is the sequence's, in
    /// place of `params.seed`.
    ///
    /// # Errors
    /// `Logits` if one is NaN or +∞, or none is above −∞.
    pub fn choose(
        &mut self,
        logits: &[f32],
        params: &SamplingParams,
        seed: u64,
        position: u64,
    ) -> Result<Choice, SampleError> {
        let likeliest = likeliest(logits)?;
        let largest = logits[likeliest as usize];
        self.top.clear();
        let id = if params.temperature == 0.0 {
            likeliest
        } else {
            self.weigh(logits, largest, params.temperature);
            let at = uniform(seed, position);
            if params.top_k > 0 || params.top_p < 1.0 || params.min_p > 0.0 {
                self.filter(logits, params);
                self.draw(self.kept.iter().copied(), at)
            } else {
                self.draw(0..logits.len() as u32, at)
            }
        };
        let logprob = params.logprobs.map(|count| self.report(logits, largest, id, count as usize));
        Ok(Choice { id, logprob })
    }

    /// The log-probability of `id` by the distribution of `logits`, and in [`Sampler::top`] the `count`
    /// likeliest: what `logprobs` reports, for a choice that was made from other logits (a grammar's).
    ///
    /// # Errors
    /// `Logits` as [`Sampler::choose`].
    pub fn describe(&mut self, logits: &[f32], id: u32, count: u32) -> Result<f32, SampleError> {
        let largest = logits[likeliest(logits)? as usize];
        self.top.clear();
        Ok(self.report(logits, largest, id, count as usize))
    }

    /// The likeliest ids of the last choice with their log-probabilities, likeliest first; as many
    /// as `logprobs` asked for.
    pub fn top(&self) -> &[(u32, f32)] {
        &self.top
    }

    fn weigh(&mut self, logits: &[f32], largest: f32, temperature: f32) {
        let (largest, temperature) = (f64::from(largest), f64::from(temperature));
        self.weights.resize(logits.len(), 0.0);
        for (weight, &logit) in self.weights.iter_mut().zip(logits) {
            *weight = exp_of_negative((f64::from(logit) - largest) / temperature);
        }
    }

    /// Leaves in `kept`, ascending, what top-k, top-p and min-p keep.
    fn filter(&mut self, logits: &[f32], params: &SamplingParams) {
        self.kept.clear();
        self.kept.extend(0..logits.len() as u32);
        let order = |&a: &u32, &b: &u32| by_value(logits, a, b);
        let top_k = params.top_k as usize;
        if top_k > 0 && top_k < self.kept.len() {
            self.kept.select_nth_unstable_by(top_k - 1, order);
            self.kept.truncate(top_k);
            self.kept.sort_unstable();
        }
        if params.top_p < 1.0 {
            let weights = &self.weights;
            let total: f64 = self.kept.iter().map(|&id| weights[id as usize]).sum();
            let enough = f64::from(params.top_p) * total;
            // What is below this adds up to half of what top-p cuts, so none of it can stay.
            let share = (total - enough) / self.kept.len() as f64 / 2.0;
            self.kept.retain(|&id| weights[id as usize] >= share);
            let count = nucleus(&mut self.kept, weights, enough, order);
            self.kept.truncate(count);
            self.kept.sort_unstable();
        }
        if params.min_p > 0.0 {
            let least = f64::from(params.min_p);
            let weights = &self.weights;
            self.kept.retain(|&id| weights[id as usize] >= least);
        }
    }

    /// The id at the fraction `at` of the weights of `ids`, of which there is one at least.
    fn draw(&self, ids: impl Iterator<Item = u32> + Clone, at: f64) -> u32 {
        let weighed = ids.map(|id| (id, self.weights[id as usize]));
        let target = at * weighed.clone().map(|(_, weight)| weight).sum::<f64>();
        let mut sum = 0.0;
        let mut last = None;
        for (id, weight) in weighed {
            // One of weight 0 is drawn only where all have none.
            if weight > 0.0 || last.is_none() {
                sum += weight;
                last = Some(id);
                if target < sum {
                    break;
                }
            }
        }
        last.expect("there is one")
    }

    /// The log-probability of `id`; fills `top` with the `count` likeliest.
    fn report(&mut self, logits: &[f32], largest: f32, id: u32, count: usize) -> f32 {
        self.weigh(logits, largest, 1.0);
        let log_total = self.weights.iter().sum::<f64>().ln();
        let above = |logit: f32| f64::from(logit) - f64::from(largest);
        let logprob = |id: u32| (above(logits[id as usize]) - log_total) as f32;
        for id in 0..logits.len() as u32 {
            let beaten =
                self.top.last().is_none_or(|&(last, _)| by_value(logits, last, id).is_lt());
            if beaten && self.top.len() == count {
                continue;
            }
            let at = self
                .top
                .partition_point(|&(other, _)| by_value(logits, other, id) == Ordering::Less);
            if at < count {
                self.top.truncate(count - 1);
                self.top.insert(at, (id, logprob(id)));
            }
        }
        logprob(id)
    }
}

/// The id of the largest logit, the lower one of equals. Two passes that run in vector registers: what is the
/// largest and whether all are numbers, then where it stands.
fn likeliest(logits: &[f32]) -> Result<u32, SampleError> {
    const LANES: usize = 16;
    let mut largest = [f32::NEG_INFINITY; LANES];
    let mut refused = [false; LANES];
    let (chunks, rest) = logits.as_chunks::<LANES>();
    let mut look = |lane: usize, logit: f32| {
        largest[lane] = if logit > largest[lane] { logit } else { largest[lane] };
        refused[lane] |= logit.is_nan() | (logit == f32::INFINITY);
    };
    for chunk in chunks {
        (0..LANES).for_each(|lane| look(lane, chunk[lane]));
    }
    rest.iter().enumerate().for_each(|(lane, &logit)| look(lane, logit));
    if refused.contains(&true) {
        let id = logits.iter().position(|logit| logit.is_nan() || *logit == f32::INFINITY);
        let id = id.expect("one was seen");
        return Err(SampleError::Logits(format!("logit of id {id} is {}", logits[id])));
    }
    let largest = largest.into_iter().fold(f32::NEG_INFINITY, f32::max);
    if largest == f32::NEG_INFINITY {
        return Err(SampleError::Logits(format!("no id of {} can be chosen", logits.len())));
    }
    let holds =
        |chunk: &[f32; LANES]| chunk.iter().fold(false, |any, logit| any | (*logit == largest));
    let first = chunks.iter().position(holds).unwrap_or(chunks.len()) * LANES;
    let behind = logits[first..].iter().position(|logit| *logit == largest);
    Ok((first + behind.expect("one is the largest")) as u32)
}

/// Larger logits first, then lower ids.
fn by_value(logits: &[f32], a: u32, b: u32) -> Ordering {
    let (x, y) = (logits[a as usize], logits[b as usize]);
    y.partial_cmp(&x).expect("NaN was refused").then(a.cmp(&b))
}

/// Brings the likeliest ids to the front of `ids`, in order, and returns how many add up to
/// `enough`; at least one. Sorts in growing windows, because a handful usually suffices.
fn nucleus(
    ids: &mut [u32],
    weights: &[f64],
    enough: f64,
    order: impl Fn(&u32, &u32) -> Ordering,
) -> usize {
    const FIRST_WINDOW: usize = 256;
    const GROWTH: usize = 4;
    let mut sum = 0.0;
    let mut done = 0;
    let mut window = FIRST_WINDOW;
    loop {
        let end = window.min(ids.len());
        if end < ids.len() {
            ids[done..].select_nth_unstable_by(end - done - 1, &order);
        }
        ids[done..end].sort_unstable_by(&order);
        for (at, &id) in ids[done..end].iter().enumerate() {
            sum += weights[id as usize];
            if sum >= enough {
                return done + at + 1;
            }
        }
        if end == ids.len() {
            return end;
        }
        done = end;
        window *= GROWTH;
    }
}
