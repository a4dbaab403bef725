//! Text of an answer while its tokens arrive: whole characters, reasoning and content apart, tool
//! calls parsed, stop strings found across tokens. What was given out is never taken back.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::sample::StopMatcher;
use crate::text::dsml::{Begin, Event, Malformed, ReplyStream};
use crate::text::{Controls, Detokeniser, Tokenizer};

/// Turns tokens into events.
#[derive(Debug)]
pub struct Speaker {
    detokeniser: Detokeniser,
    stream: ReplyStream,
    stops: StopMatcher,
    raw: Vec<Event>,
}

impl Speaker {
    /// For one answer; `begin` says whether the prompt opened it in thought, `malformed` what becomes
    /// of broken tool calls.
    ///
    /// # Errors
    /// `Request` if a stop string is empty, too long, or there are too many.
    pub fn new(
        tokenizer: Arc<Tokenizer>,
        begin: Begin,
        stops: &[String],
        malformed: Malformed,
    ) -> Result<Self> {
        let stops = StopMatcher::new(stops).map_err(|error| Error::request(error.to_string()))?;
        Ok(Speaker {
            detokeniser: Detokeniser::new(tokenizer, Controls::Show),
            stream: ReplyStream::new(begin, malformed),
            stops,
            raw: Vec::new(),
        })
    }

    /// Takes a token; appends what it decided to `events`. True once a stop string was met in the
    /// content: the answer ends there.
    ///
    /// # Errors
    /// `Request` for an id beyond the vocabulary, or if malformed answers are refused and this is one.
    pub fn push(&mut self, id: u32, events: &mut Vec<Event>) -> Result<bool> {
        let text = self.detokeniser.push(id).map_err(|error| Error::request(error.to_string()))?;
        let text = text.to_owned();
        self.parse(&text, events)
    }

    /// Ends the answer: everything held back is decided.
    ///
    /// # Errors
    /// `Request` if malformed answers are refused and this is one.
    pub fn finish(&mut self, events: &mut Vec<Event>) -> Result<()> {
        let rest = self.detokeniser.finish().to_owned();
        self.parse(&rest, events)?;
        let ended = self.stream.finish(&mut self.raw);
        ended.map_err(|error| Error::request(error.to_string()))?;
        self.release(events);
        let mut held = String::new();
        self.stops.finish(&mut held);
        if !held.is_empty() {
            events.push(Event::Content(held));
        }
        Ok(())
    }

    /// Whether the next token belongs to reasoning.
    pub fn reasoning(&self) -> bool {
        self.stream.reasoning()
    }

    /// The stop string that was met, by its place in the list.
    pub fn stopped(&self) -> Option<usize> {
        self.stops.found()
    }

    fn parse(&mut self, text: &str, events: &mut Vec<Event>) -> Result<bool> {
        let parsed = self.stream.push(text, &mut self.raw);
        parsed.map_err(|error| Error::request(error.to_string()))?;
        Ok(self.release(events))
    }

    /// Hands parsed events on, content through the stop strings. True once one was met.
    fn release(&mut self, events: &mut Vec<Event>) -> bool {
        for event in self.raw.drain(..) {
            let mut out = String::new();
            match &event {
                Event::Content(text) => {
                    self.stops.push(text, &mut out);
                }
                // A stop string lies in one stretch of content: what was held is text after all.
                _ => self.stops.finish(&mut out),
            }
            if !out.is_empty() {
                events.push(Event::Content(out));
            }
            if !matches!(event, Event::Content(_)) && self.stops.found().is_none() {
                events.push(event);
            }
        }
        self.stops.found().is_some()
    }
}
