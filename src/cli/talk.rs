//! One answer after the other: a conversation becomes a prompt, the prompt is fed, tokens become text
//! as they come.
//!
//! Between two turns the sequence is kept, and of the next prompt only what is new is fed. That is
//! sound because the engine's state does not depend on how its tokens were fed; where the new prompt
//! is not a continuation (old reasoning was dropped), it starts over.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use engine::generate::{Finish, Generation, Speaker};
use engine::sample::SamplingParams;
use engine::text::Tokenizer;
use engine::text::chat::{ChatOptions, EffortTable, Message, OldReasoning, Thinking, render};
use engine::text::dsml::{Begin, Event, Malformed};
use engine::{Engine, Sequence};

use super::failure::{Failure, Result};

/// A model that talks.
pub struct Talker {
    pub engine: Engine,
    pub tokenizer: Arc<Tokenizer>,
    pub params: SamplingParams,
    pub tokens_max: u32,
    kept: Option<Kept>,
}

/// A sequence between two turns, and the tokens in it.
struct Kept {
    sequence: Sequence,
    tokens: Vec<u32>,
}

/// An answer and what it took.
pub struct Answer {
    pub reasoning: String,
    pub content: String,
    /// Name and arguments of each tool call.
    pub calls: Vec<(String, String)>,
    pub finish: Finish,
    pub prompt_tokens: usize,
    pub prefill: Duration,
    pub answer_tokens: u32,
    pub decode: Duration,
}

impl Answer {
    /// Tokens per second while the answer was written; the first one belongs to the prompt.
    pub fn decode_rate(&self) -> f64 {
        f64::from(self.answer_tokens.saturating_sub(1)) / self.decode.as_secs_f64().max(1e-9)
    }

    fn take(&mut self, event: &Event) {
        match event {
            Event::Reasoning(text) => self.reasoning.push_str(text),
            Event::Content(text) => self.content.push_str(text),
            Event::CallStart { name, .. } => self.calls.push((name.clone(), String::new())),
            Event::CallArguments { index, text } => {
                if let Some((_, arguments)) = self.calls.get_mut(*index) {
                    arguments.push_str(text);
                }
            }
            Event::CallEnd { .. } => {}
        }
    }
}

/// What effort `asked` means.
pub fn thinking(asked: &str) -> Result<Thinking> {
    Ok(EffortTable::PREVIEW.asked(asked)?)
}

impl Talker {
    /// A model that has said nothing yet.
    pub fn new(
        engine: Engine,
        tokenizer: Arc<Tokenizer>,
        params: SamplingParams,
        tokens_max: Option<u32>,
    ) -> Self {
        let tokens_max = tokens_max.unwrap_or(u32::MAX);
        Self { engine, tokenizer, params, tokens_max, kept: None }
    }

    /// Lets the model answer. `show` is called with every piece as it is decided.
    pub fn answer(
        &mut self,
        messages: &[Message],
        thinking: Thinking,
        cancel: &AtomicBool,
        show: &mut dyn FnMut(&Event) -> Result<()>,
    ) -> Result<Answer> {
        let efforts = &EffortTable::PREVIEW;
        let options = ChatOptions { thinking, efforts, old_reasoning: OldReasoning::default() };
        let prompt = self.tokenizer.encode_prompt(&render(messages, &options)?)?;
        let room = self.room(prompt.len())?;
        let (sequence, mut tokens) = self.resume(&prompt)?;
        let rest = prompt[tokens.len()..].to_vec();
        let tokens_max = self.tokens_max.min(room);
        let mut generation = Generation::new(&self.engine, sequence, &self.params, tokens_max)?;
        let started = Instant::now();
        let fed = generation.feed(&mut self.engine, &rest, cancel, &mut |_| {})?;
        let prefill = started.elapsed();
        let mut answer = Answer {
            reasoning: String::new(),
            content: String::new(),
            calls: Vec::new(),
            finish: Finish::Cancelled,
            prompt_tokens: prompt.len(),
            prefill,
            answer_tokens: 0,
            decode: Duration::ZERO,
        };
        if !fed {
            return Ok(answer);
        }
        tokens.extend(rest);
        let begin = if thinking == Thinking::Off { Begin::Content } else { Begin::Reasoning };
        let mut speaker =
            Speaker::new(self.tokenizer.clone(), begin, &self.params.stop, Malformed::Recover)?;
        let mut events = Vec::new();
        let started = Instant::now();
        while let Some(token) = generation.next(&mut self.engine, cancel)? {
            tokens.push(token.id);
            if speaker.push(token.id, &mut events)? {
                generation.stop();
            }
            for event in events.drain(..) {
                answer.take(&event);
                show(&event)?;
            }
        }
        answer.decode = started.elapsed();
        speaker.finish(&mut events)?;
        for event in events.drain(..) {
            answer.take(&event);
            show(&event)?;
        }
        answer.answer_tokens = generation.produced();
        answer.finish = match generation.finish() {
            Some(Finish::Length) if tokens_max < self.tokens_max => Finish::Context,
            other => other.unwrap_or(Finish::Cancelled),
        };
        let sequence = generation.into_sequence();
        tokens.truncate(sequence.position() as usize);
        self.kept = Some(Kept { sequence, tokens });
        Ok(answer)
    }

    /// Tokens an answer may have after a prompt of `length` tokens. State comes in pages, so a sequence
    /// may hold more than was asked for; what was asked for is the limit. The last token of an answer
    /// is not fed and needs no room.
    fn room(&self, length: usize) -> Result<u32> {
        let context = self.engine.options().context;
        let left = u32::try_from(length).ok().and_then(|length| context.checked_sub(length));
        left.map(|left| left + 1).ok_or_else(|| {
            Failure::new(format!(
                "the prompt is {length} tokens long and the context holds {context}; shorten it or \
                 ask for a larger --context"
            ))
        })
    }

    /// The kept sequence if `prompt` continues it, otherwise a new one.
    fn resume(&mut self, prompt: &[u32]) -> Result<(Sequence, Vec<u32>)> {
        match self.kept.take() {
            Some(Kept { sequence, tokens })
                if prompt.starts_with(&tokens) && prompt.len() > tokens.len() =>
            {
                Ok((sequence, tokens))
            }
            other => {
                drop(other);
                Ok((self.engine.open_sequence()?, Vec::new()))
            }
        }
    }
}
