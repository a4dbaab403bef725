//! A constraint along one answer: free thought, then content in which a call may begin, then the grammar.
//!
//! States and what may follow: Thought → Content (where `</think>` was drawn) → Grammar (where the
//! marker of a call was drawn after `<`) → its end. A grammar that is forced begins with the content.
//! A marker after `<` is forbidden in thought, and in content where no tools are offered. Thought that must
//! be followed by a document may not end the answer.

use std::fmt;
use std::sync::{Arc, OnceLock};

use engine::text::dsml::Begin;
use llguidance::Matcher;

use super::lark::Opening;
use super::trie::Tokens;
use crate::job::Constraint;

/// Holds a message once the grammar ran into one of its limits: then the request is to blame.
pub type Tripped = Arc<OnceLock<String>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Thought,
    Content,
    Grammar,
}

/// A constraint on its way.
pub struct Walk {
    tokens: Arc<Tokens>,
    state: State,
    matcher: Option<(Matcher, Opening)>,
    /// Whether the last token of free text ended with `<`.
    open: bool,
    tripped: Tripped,
}

impl fmt::Debug for Walk {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Walk").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Walk {
    /// At the start of an answer; without a grammar no call can begin.
    pub fn new(tokens: Arc<Tokens>, begin: Begin, matcher: Option<(Matcher, Opening)>) -> Self {
        let mut walk = Walk {
            tokens,
            state: State::Thought,
            matcher,
            open: false,
            tripped: Tripped::default(),
        };
        if begin == Begin::Content {
            walk.content();
        }
        walk
    }

    /// What will hold a message if the grammar gives up.
    pub fn tripped(&self) -> Tripped {
        self.tripped.clone()
    }

    fn content(&mut self) {
        let forced =
            matches!(&self.matcher, Some((_, opening)) if *opening != Opening::AfterMarker);
        self.state = if forced { State::Grammar } else { State::Content };
        self.open = false;
    }

    /// Whether the grammar begins with the content.
    fn forced(&self) -> bool {
        self.matcher.as_ref().is_some_and(|(_, opening)| *opening != Opening::AfterMarker)
    }

    fn give_up(&self, message: String) -> String {
        let _ = self.tripped.set(message.clone());
        message
    }
}

impl Constraint for Walk {
    fn mask(&mut self, allowed: &mut [bool]) -> Result<bool, String> {
        match (self.state, &mut self.matcher) {
            (State::Grammar, Some((matcher, _))) => {
                let mask = matcher.compute_mask_or_eos();
                let mask = mask.map_err(|error| self.give_up(error.to_string()))?;
                for (id, allowed) in allowed.iter_mut().enumerate() {
                    *allowed = id < mask.len() && mask.get(id);
                }
                Ok(true)
            }
            (State::Content, Some(_)) => Ok(false),
            _ => {
                let ends = self.forced().then_some(self.tokens.end);
                let opens = self.open.then_some(self.tokens.marker);
                for id in ends.iter().chain(&opens) {
                    if let Some(allowed) = allowed.get_mut(*id as usize) {
                        *allowed = false;
                    }
                }
                Ok(ends.is_some() || opens.is_some())
            }
        }
    }

    fn accept(&mut self, token: u32) -> Result<(), String> {
        match (self.state, &mut self.matcher) {
            (State::Grammar, Some((matcher, _))) => {
                if token == self.tokens.end {
                    return Ok(());
                }
                matcher.consume_token(token).map_err(|error| self.give_up(error.to_string()))
            }
            (State::Thought, _) if token == self.tokens.think_end => {
                self.content();
                Ok(())
            }
            (State::Content, Some(_)) if self.open && token == self.tokens.marker => {
                self.state = State::Grammar;
                Ok(())
            }
            _ => {
                self.open = self.tokens.opens(token);
                Ok(())
            }
        }
    }
}
