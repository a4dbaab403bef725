//! One answer in the making: draws the next token from a row of logits, walks its grammar, makes text of
//! it, and says when it ends. Knows no batch and no engine; the row it is given does not depend on either.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use engine::generate::{Finish, Speaker, Token};
use engine::sample::{Sampler, SamplingParams, StopMatcher};
use engine::text::dsml::{Begin, Event, Malformed};
use engine::text::{Controls, Detokeniser, Tokenizer};
use tokio::sync::mpsc;

use super::Entry;
use crate::job::{Constraint, Failure, Job, Update, Usage};

/// Updates one token may cause: itself and the end. A job is only given a step while its reader has
/// room for both, so the end can always be told.
const UPDATES_OF_A_TOKEN: usize = 2;

/// Buffers answers are drawn with, one after the other; they take the size of the logits.
#[derive(Debug, Default)]
pub(super) struct Tools {
    sampler: Sampler,
    allowed: Vec<bool>,
    masked: Vec<f32>,
}

/// What came of drawing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drawn {
    /// The answer goes on with this token.
    Token(u32),
    /// It has ended, and its reader knows.
    End,
}

/// One answer. Its reader hears of its end whatever becomes of it: dropping one that has not ended
/// is a fault.
#[derive(Debug)]
pub(super) struct Answer {
    updates: mpsc::Sender<Update>,
    /// The reader was told how it ended.
    ended: bool,
    params: SamplingParams,
    logprobs: Option<u32>,
    seed: u64,
    tokens_max: u32,
    /// The end that `tokens_max` is.
    limit: Finish,
    constraint: Option<Box<dyn Constraint>>,
    text: Text,
    usage: Usage,
}

impl Answer {
    /// Takes a job over; returns its prompt. `room` is how many tokens fit behind the prompt.
    ///
    /// # Errors
    /// `Fault` if its stop strings are out of range: they were checked at submission.
    pub(super) fn new(
        entry: Entry,
        tokenizer: &Arc<Tokenizer>,
        room: u32,
    ) -> Result<(Self, Vec<u32>), (mpsc::Sender<Update>, Failure)> {
        let Entry { job, updates, .. } = entry;
        let Job { prompt, begin, mut params, tokens_max, constraint, parse, .. } = job;
        let form = match (parse, &constraint) {
            (false, _) => Form::Plain,
            // What is held to its form can be given out while it arrives.
            (true, Some(_)) => Form::Reply(Malformed::Cut),
            (true, None) => Form::Reply(Malformed::Recover),
        };
        let text = match Text::new(tokenizer, begin, &params.stop, form) {
            Ok(text) => text,
            Err(message) => return Err((updates, Failure::Fault(message))),
        };
        let limit = if tokens_max > room { Finish::Context } else { Finish::Length };
        let usage = Usage { prompt: prompt.len() as u32, ..Usage::default() };
        let answer = Answer {
            updates,
            ended: false,
            logprobs: params.logprobs.take(),
            seed: params.seed.unwrap_or_else(random_seed),
            params,
            tokens_max: tokens_max.min(room),
            limit,
            constraint,
            text,
            usage,
        };
        Ok((answer, prompt))
    }

    pub(super) fn usage(&self) -> &Usage {
        &self.usage
    }

    /// Whether nobody wants it any more.
    pub(super) fn abandoned(&self) -> bool {
        self.updates.is_closed()
    }

    /// Whether its reader has room for what a step may tell it.
    pub(super) fn ready(&self) -> bool {
        self.updates.capacity() >= UPDATES_OF_A_TOKEN
    }

    /// Tells the reader; whether it still listens is found out at the next step.
    fn tell(&self, update: Update) {
        let told = self.updates.try_send(update);
        debug_assert!(!matches!(told, Err(mpsc::error::TrySendError::Full(_))), "room was checked");
    }

    /// It has a sequence that holds `cached` tokens of its prompt.
    pub(super) fn started(&mut self, cached: u32) {
        self.usage.cached = cached;
        self.tell(Update::Started { cached });
    }

    /// `done` tokens of the prompt are fed. Progress that a slow reader has no room for is left out.
    pub(super) fn progress(&self, done: u32) {
        if self.updates.capacity() > UPDATES_OF_A_TOKEN {
            self.tell(Update::Prefill { done });
        }
    }

    /// It cannot go on.
    pub(super) fn fail(&mut self, failure: Failure) {
        self.ended = true;
        self.tell(Update::Failed(failure));
    }

    /// Draws the token that follows `position` tokens, and tells the reader. One of `ends` ends it.
    ///
    /// # Errors
    /// A message, if the logits or the grammar are broken; the reader was not told.
    pub(super) fn draw(
        &mut self,
        logits: &[f32],
        position: u32,
        ends: &[u32],
        tools: &mut Tools,
    ) -> Result<Drawn, String> {
        let id = self.choose(logits, position, tools)?;
        self.accept(id)?;
        let reasoning = self.text.reasoning();
        self.usage.completion += 1;
        self.usage.reasoning += u32::from(reasoning);
        if ends.contains(&id) {
            self.finish(Finish::Stop)?;
            return Ok(Drawn::End);
        }
        let logprob = match self.logprobs {
            Some(count) => Some(describe(&mut tools.sampler, logits, id, count)?),
            None => None,
        };
        let top = if logprob.is_some() { tools.sampler.top().to_vec() } else { Vec::new() };
        let mut events = Vec::new();
        let stopped = self.text.push(id, &mut events)?;
        self.tell(Update::Token { token: Token { id, logprob, top }, reasoning, events });
        let end = match stopped {
            true => Some(Finish::StopString),
            false if self.usage.completion >= self.tokens_max => Some(self.limit),
            false => None,
        };
        match end {
            None => Ok(Drawn::Token(id)),
            Some(finish) => {
                self.finish(finish)?;
                Ok(Drawn::End)
            }
        }
    }

    fn choose(&mut self, logits: &[f32], position: u32, tools: &mut Tools) -> Result<u32, String> {
        let position = u64::from(position);
        let logits = match self.mask(&mut tools.allowed, logits.len())? {
            false => logits,
            true => {
                let kept = |(&logit, &allowed)| if allowed { logit } else { f32::NEG_INFINITY };
                tools.masked.clear();
                tools.masked.extend(logits.iter().zip(&tools.allowed).map(kept));
                &tools.masked
            }
        };
        let choice = tools.sampler.choose(logits, &self.params, self.seed, position);
        choice.map(|choice| choice.id).map_err(|error| error.to_string())
    }

    fn mask(&mut self, allowed: &mut Vec<bool>, vocab: usize) -> Result<bool, String> {
        let Some(constraint) = &mut self.constraint else { return Ok(false) };
        allowed.clear();
        allowed.resize(vocab, true);
        guarded(|| constraint.mask(allowed))
    }

    fn accept(&mut self, id: u32) -> Result<(), String> {
        let Some(constraint) = &mut self.constraint else { return Ok(()) };
        guarded(|| constraint.accept(id))
    }

    fn finish(&mut self, finish: Finish) -> Result<(), String> {
        let mut events = Vec::new();
        self.text.finish(&mut events)?;
        let stop = self.text.stopped();
        self.ended = true;
        self.tell(Update::Finished { finish, stop, events, usage: self.usage });
        Ok(())
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.ended {
            // Of a cancelled answer nobody hears this.
            let lost = Failure::Fault("the answer was lost in a fault".into());
            let _ = self.updates.try_send(Update::Failed(lost));
        }
    }
}

/// A grammar is foreign code: its panic is its answer's failure and nobody else's.
fn guarded<T>(call: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| Err("the grammar panicked".into()))
}

fn describe(sampler: &mut Sampler, logits: &[f32], id: u32, count: u32) -> Result<f32, String> {
    sampler.describe(logits, id, count).map_err(|error| error.to_string())
}

/// A seed nobody asked for: the standard library's per-process randomness.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// What is read out of an answer's tokens.
#[derive(Clone, Copy, Debug)]
enum Form {
    /// Reasoning, content and calls; and what becomes of broken calls.
    Reply(Malformed),
    /// Text.
    Plain,
}

/// Text of an answer.
#[derive(Debug)]
enum Text {
    /// Reasoning, content and calls.
    Reply(Box<Speaker>),
    /// A plain completion: text without control tokens, up to a stop string.
    Plain { detokeniser: Detokeniser, stops: StopMatcher },
}

impl Text {
    fn new(
        tokenizer: &Arc<Tokenizer>,
        begin: Begin,
        stops: &[String],
        form: Form,
    ) -> Result<Self, String> {
        let tokenizer = Arc::clone(tokenizer);
        if let Form::Reply(malformed) = form {
            let speaker = Speaker::new(tokenizer, begin, stops, malformed);
            return speaker.map(|it| Text::Reply(Box::new(it))).map_err(|error| error.to_string());
        }
        let detokeniser = Detokeniser::new(tokenizer, Controls::Hide);
        let stops = StopMatcher::new(stops).map_err(|error| error.to_string())?;
        Ok(Text::Plain { detokeniser, stops })
    }

    fn reasoning(&self) -> bool {
        match self {
            Text::Reply(speaker) => speaker.reasoning(),
            Text::Plain { .. } => false,
        }
    }

    fn stopped(&self) -> Option<usize> {
        match self {
            Text::Reply(speaker) => speaker.stopped(),
            Text::Plain { stops, .. } => stops.found(),
        }
    }

    /// Takes a token; true once a stop string was met.
    fn push(&mut self, id: u32, events: &mut Vec<Event>) -> Result<bool, String> {
        match self {
            Text::Reply(speaker) => speaker.push(id, events).map_err(|error| error.to_string()),
            Text::Plain { detokeniser, stops } => {
                let text = detokeniser.push(id).map_err(|error| error.to_string())?;
                let mut out = String::new();
                let found = stops.push(text, &mut out).is_some();
                content(out, events);
                Ok(found)
            }
        }
    }

    fn finish(&mut self, events: &mut Vec<Event>) -> Result<(), String> {
        match self {
            Text::Reply(speaker) => speaker.finish(events).map_err(|error| error.to_string()),
            Text::Plain { detokeniser, stops } => {
                let mut out = String::new();
                stops.push(detokeniser.finish(), &mut out);
                stops.finish(&mut out);
                content(out, events);
                Ok(())
            }
        }
    }
}

fn content(text: String, events: &mut Vec<Event>) {
    if !text.is_empty() {
        events.push(Event::Content(text));
    }
}
