//! What an answer must look like: calls of tools always, JSON where it was asked for.
//!
//! A grammar is written in llguidance's Lark dialect (`lark`), compiled once per distinct text and
//! kept ([`Grammars`]), and walked along an answer on the worker thread (`walk`).
//!
//! Schemas come from strangers: they are bounded in bytes, in what they become when they are multiplied
//! out (`expand`), in the library's fuel and in time (`compile`), and where one that need not be obeyed
//! cannot be compiled, its value is held to be JSON and no more.

mod compile;
mod expand;
mod lark;
mod schema;
mod trie;
mod walk;

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use engine::text::dsml::Begin;
use engine::text::{Control, Tokenizer};
use llguidance::api::ParserLimits;
use llguidance::toktrie::InferenceCapabilities;
use llguidance::{Matcher, ParserFactory};
use serde_json::Value;

use crate::fault::{Fault, Kind};
use crate::job::Constraint;
use crate::limits::{GRAMMAR_TIME, GRAMMARS_AT_ONCE, GRAMMARS_KEPT, SCHEMA_BYTES_MAX};

use compile::{Compiler, Trouble};

pub use walk::Tripped;

/// A tool that is offered.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// The `function` object that is rendered into the prompt.
    pub function: Value,
    /// JSON schema of its parameters.
    pub parameters: Option<Value>,
    /// Whether its arguments must satisfy the schema; otherwise the schema is a help.
    pub strict: bool,
}

/// Which tools an answer calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// None.
    Never,
    /// As the model likes.
    Auto,
    /// At least one.
    Required,
    /// This one, once.
    Named(String),
}

/// What the content must be.
#[derive(Clone, Debug, PartialEq)]
pub enum Format {
    /// Anything.
    Text,
    /// JSON that satisfies this schema.
    Json(Value),
}

/// What an answer must look like.
#[derive(Clone, Copy, Debug)]
pub struct Shape<'a> {
    /// The tools there are.
    pub tools: &'a [Tool],
    /// Which it calls.
    pub choice: &'a Choice,
    /// What its content is.
    pub format: &'a Format,
    /// Whether it begins in thought.
    pub begin: Begin,
}

/// Compiles grammars for one tokenizer.
pub struct Grammars {
    compiler: Compiler,
    tokens: Arc<trie::Tokens>,
    /// The newest last.
    kept: Mutex<VecDeque<(String, Matcher)>>,
}

impl fmt::Debug for Grammars {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Grammars").finish_non_exhaustive()
    }
}

impl Grammars {
    /// For answers of `tokenizer`.
    ///
    /// # Errors
    /// A message, if the tokenizer lacks the control tokens of calls, or the library refuses it.
    pub fn new(tokenizer: &Tokenizer) -> Result<Self, String> {
        let tokens = trie::Tokens::new(tokenizer)?;
        let environment = trie::environment(tokenizer, tokens.end);
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let mut factory =
            ParserFactory::new(&environment, InferenceCapabilities::default(), &slices)
                .map_err(|error| format!("grammars of this tokenizer: {error}"))?;
        factory.quiet();
        *factory.limits_mut() = ParserLimits {
            initial_lexer_fuel: 500_000,
            max_grammar_size: 200_000,
            max_lexer_states: 50_000,
            verbose_errors: false,
            ..ParserLimits::default()
        };
        let compiler = Compiler::new(factory, GRAMMARS_AT_ONCE, GRAMMAR_TIME);
        Ok(Grammars { compiler, tokens: Arc::new(tokens), kept: Mutex::default() })
    }

    /// With so much time for one grammar instead of [`GRAMMAR_TIME`].
    #[must_use]
    pub fn hurried(self, time: Duration) -> Self {
        Grammars { compiler: self.compiler.hurried(time), ..self }
    }

    /// The constraint of an answer, and what says later that it ran into a limit.
    ///
    /// # Errors
    /// `Invalid`, if a schema that must be obeyed cannot be; `Busy`, if too many others are being
    /// compiled.
    pub fn constrain(&self, shape: &Shape<'_>) -> Result<(Box<dyn Constraint>, Tripped), Fault> {
        let matcher = match self.plan(shape) {
            None => None,
            Some(plan) => Some((self.compile(&plan)?, plan.opening)),
        };
        let walk = walk::Walk::new(self.tokens.clone(), shape.begin, matcher);
        let tripped = walk.tripped();
        Ok((Box::new(walk), tripped))
    }

    /// What has to be compiled, if anything.
    fn plan<'a>(&self, shape: &Shape<'a>) -> Option<lark::Plan<'a>> {
        let document = match shape.format {
            Format::Text => None,
            Format::Json(schema) => Some(schema),
        };
        let all: Vec<&Tool> = shape.tools.iter().collect();
        let (tools, many, forced) = match shape.choice {
            Choice::Never => (Vec::new(), false, false),
            Choice::Auto => (all, true, false),
            Choice::Required => (all, true, true),
            Choice::Named(name) => {
                (all.into_iter().filter(|tool| tool.name == *name).collect(), false, true)
            }
        };
        let opening = match (tools.is_empty(), forced, document) {
            (true, _, None) => return None,
            (true, _, Some(_)) => lark::Opening::Document,
            (false, true, _) => lark::Opening::Calls,
            (false, false, Some(_)) => lark::Opening::DocumentOrCalls,
            (false, false, None) => lark::Opening::AfterMarker,
        };
        Some(lark::Plan { tools, document, many, opening, marker: self.tokens.marker })
    }

    /// The grammar of `plan`; first with every schema, then with those that must be obeyed only.
    fn compile(&self, plan: &lark::Plan<'_>) -> Result<Matcher, Fault> {
        let mut reason = format!("the schemas have more than {SCHEMA_BYTES_MAX} bytes");
        for obey in [lark::Obey::All, lark::Obey::Strict] {
            let text = match lark::write(plan, obey) {
                Ok(text) => text,
                Err(message) => {
                    reason = message;
                    continue;
                }
            };
            match self.matcher(&text) {
                Ok(matcher) => return Ok(matcher),
                Err(Trouble::Grammar(message)) => reason = message,
                Err(Trouble::Crowded) => return Err(crowded()),
            }
        }
        let what = if plan.document.is_some() { "response_format" } else { "tools" };
        let reason = crate::fault::shown(reason.lines().next().unwrap_or_default());
        Err(Fault::field(
            what,
            format!("Invalid schema in {what}: it cannot be enforced ({reason})"),
        ))
    }

    fn matcher(&self, text: &str) -> Result<Matcher, Trouble> {
        if let Some(matcher) = self.recall(text) {
            return Ok(matcher);
        }
        let matcher = self.compiler.compile(text.to_owned())?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= GRAMMARS_KEPT {
            kept.pop_front();
        }
        kept.push_back((text.to_owned(), matcher.deep_clone()));
        Ok(matcher)
    }

    fn recall(&self, text: &str) -> Option<Matcher> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.iter().position(|(known, _)| known == text)?;
        let entry = kept.remove(at)?;
        let matcher = entry.1.deep_clone();
        kept.push_back(entry);
        Some(matcher)
    }

    /// Whether this tokenizer can hold the control tokens of calls.
    pub fn marker(&self) -> u32 {
        self.tokens.marker
    }
}

fn crowded() -> Fault {
    let message = "The server is compiling too many schemas. Please try again later.";
    Fault::new(Kind::Busy(GRAMMAR_TIME.as_secs() as u32), message)
}

/// The id of a control token the grammar cannot do without.
fn control(tokenizer: &Tokenizer, control: Control) -> Result<u32, String> {
    tokenizer
        .control(control)
        .ok_or_else(|| format!("the tokenizer has no token {}", control.text()))
}
