//! From a prompt to an answer: feeds token ids in chunks, draws one token after the other, says why it
//! ended. One conversation at a time; a server batches by calling [`crate::Engine::step`] itself.
//!
//! Ids and logits only; [`Speaker`] makes text of them.

mod speaker;

use std::sync::atomic::{AtomicBool, Ordering};

pub use speaker::Speaker;

use crate::engine::{Engine, Run, Want};
use crate::error::{Error, Result};
use crate::refusal::{Refusal, RefusalKind};
use crate::sample::{Sampler, SamplingParams};
use crate::state::Sequence;

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended it.
    Stop,
    /// A stop string of the request was met.
    StopString,
    /// As many tokens as were allowed.
    Length,
    /// The context is full.
    Context,
    /// The caller cancelled.
    Cancelled,
}

/// One drawn token.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// Its log-probability, if asked for.
    pub logprob: Option<f32>,
    /// The likeliest ids and their log-probabilities, if asked for.
    pub top: Vec<(u32, f32)>,
}

/// An answer in the making.
#[derive(Debug)]
pub struct Generation {
    sequence: Sequence,
    params: SamplingParams,
    seed: u64,
    tokens_max: u32,
    ends: Vec<u32>,
    sampler: Sampler,
    /// Logits of the next token.
    logits: Vec<f32>,
    /// Drawn, not fed yet.
    pending: Option<u32>,
    produced: u32,
    finish: Option<Finish>,
}

impl Generation {
    /// An answer of at most `tokens_max` tokens that continues `sequence`; it ends at one of the
    /// model's end tokens.
    ///
    /// # Errors
    /// `Request` if the parameters are out of range.
    pub fn new(
        engine: &Engine,
        sequence: Sequence,
        params: &SamplingParams,
        tokens_max: u32,
    ) -> Result<Self> {
        params.check().map_err(|error| Error::request(error.to_string()))?;
        Ok(Generation {
            sequence,
            params: params.clone(),
            seed: params.seed.unwrap_or_else(random_seed),
            tokens_max,
            ends: engine.config().eos.clone(),
            sampler: Sampler::new(),
            logits: Vec::with_capacity(engine.config().vocab as usize),
            pending: None,
            produced: 0,
            finish: None,
        })
    }

    /// Goes on past end tokens: for measurements.
    pub fn ignore_ends(&mut self) {
        self.ends.clear();
    }

    /// Feeds a prompt behind what the sequence holds, in chunks of the engine's step size. `progress`
    /// is called with the tokens fed so far. Returns false if `cancel` was set on the way.
    ///
    /// # Errors
    /// As [`Engine::step`]; an empty prompt or one longer than the context is refused before anything
    /// is fed.
    pub fn feed(
        &mut self,
        engine: &mut Engine,
        prompt: &[u32],
        cancel: &AtomicBool,
        progress: &mut dyn FnMut(usize),
    ) -> Result<bool> {
        check_prompt(&self.sequence, prompt)?;
        let rows = engine.capacity().rows as usize;
        let mut fed = 0;
        for chunk in prompt.chunks(rows) {
            if cancel.load(Ordering::Relaxed) {
                self.finish = Some(Finish::Cancelled);
                return Ok(false);
            }
            fed += chunk.len();
            let want = if fed == prompt.len() { Want::Last } else { Want::None };
            self.step(engine, chunk, want)?;
            progress(fed);
        }
        Ok(true)
    }

    fn step(&mut self, engine: &mut Engine, tokens: &[u32], want: Want) -> Result<()> {
        let run = Run { sequence: &mut self.sequence, tokens, want };
        let logits = engine.step(&mut [run])?;
        self.logits.clear();
        self.logits.extend_from_slice(logits.values());
        Ok(())
    }

    /// The next token, or `None` once the answer has ended ([`Generation::finish`] says why). An end
    /// token is not returned.
    ///
    /// # Errors
    /// As [`Engine::step`]; `Request` if no prompt was fed.
    pub fn next(&mut self, engine: &mut Engine, cancel: &AtomicBool) -> Result<Option<Token>> {
        if self.finish.is_none() && cancel.load(Ordering::Relaxed) {
            self.finish = Some(Finish::Cancelled);
        }
        if self.finish.is_none() && self.produced >= self.tokens_max {
            self.finish = Some(Finish::Length);
        }
        if self.finish.is_some() {
            return Ok(None);
        }
        if let Some(token) = self.pending.take() {
            if self.sequence.position() >= self.sequence.capacity() {
                self.finish = Some(Finish::Context);
                return Ok(None);
            }
            self.step(engine, &[token], Want::Last)?;
        }
        if self.logits.is_empty() {
            return Err(Error::request("the prompt is empty; give it at least one token"));
        }
        let position = u64::from(self.sequence.position());
        let choice = self
            .sampler
            .choose(&self.logits, &self.params, self.seed, position)
            .map_err(|error| Refusal::new(RefusalKind::Value, error.to_string()))?;
        self.produced += 1;
        if self.ends.contains(&choice.id) {
            self.finish = Some(Finish::Stop);
            return Ok(None);
        }
        self.pending = Some(choice.id);
        let top = self.sampler.top().to_vec();
        Ok(Some(Token { id: choice.id, logprob: choice.logprob, top }))
    }

    /// Ends the answer at a stop string.
    pub fn stop(&mut self) {
        self.finish.get_or_insert(Finish::StopString);
    }

    /// Why it ended, once it has.
    pub fn finish(&self) -> Option<Finish> {
        self.finish
    }

    /// Tokens drawn, an end token included.
    pub fn produced(&self) -> u32 {
        self.produced
    }

    /// Logits the next token is drawn from; empty before a prompt was fed.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// The sequence, holding everything that was fed (the last drawn token was not).
    pub fn into_sequence(self) -> Sequence {
        self.sequence
    }
}

/// Refuses a prompt a sequence cannot take.
fn check_prompt(sequence: &Sequence, prompt: &[u32]) -> Result<()> {
    if prompt.is_empty() {
        return Err(Error::request("the prompt is empty; give it at least one token"));
    }
    let length = u64::from(sequence.position()) + prompt.len() as u64;
    let context = sequence.capacity();
    if length > u64::from(context) {
        return Err(Error::request(format!(
            "the prompt is {length} tokens long and the context holds {context}; shorten it or ask \
             for a larger --context"
        )));
    }
    Ok(())
}

/// A seed nobody asked for: the standard library's per-process randomness.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
