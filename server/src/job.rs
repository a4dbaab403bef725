//! What the two halves of the server say to each other: a job goes in, updates come out.
//!
//! The async half validates a request, renders and tokenises it, and submits a [`Job`]. The worker
//! thread admits it, batches it with others, and sends [`Update`]s through a bounded channel; it drops
//! a job whose receiver is gone at the next step. Everything here is plain data: no HTTP, no engine.

use std::fmt;

use engine::generate::{Finish, Token};
use engine::sample::SamplingParams;
use engine::text::dsml::{Begin, Event};
use tokio::sync::mpsc;

/// One answer to be made.
#[derive(Debug)]
pub struct Job {
    /// Rendered and tokenised prompt, at least one token, begin-of-sentence included.
    pub prompt: Vec<u32>,
    /// Whether the prompt opened the answer in thought.
    pub begin: Begin,
    /// How tokens are drawn; its `stop` strings apply to content only.
    pub params: SamplingParams,
    /// Most tokens of the answer, reasoning included; the worker clamps it to the room left.
    pub tokens_max: u32,
    /// Whose prefixes may be reused and charged for fairness; jobs of different namespaces share no
    /// cached state.
    pub namespace: Namespace,
    /// What the answer must look like, if it must.
    pub constraint: Option<Box<dyn Constraint>>,
    /// False for a plain completion: the answer is text, control markers are not parsed.
    pub parse: bool,
}

/// Whose a job is: a keyed hash of API key and `user_id`, never the text itself. The same after a
/// restart, or prefixes on disk are not found again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace(pub u64);

/// A grammar that walks along an answer.
///
/// Called on the worker thread, once a token: must be fast (under a millisecond) and must not block.
pub trait Constraint: Send + fmt::Debug {
    /// Clears `allowed[id]` for every token that may not come next; `allowed` arrives all true, one
    /// entry per vocabulary id. Returns false if nothing is constrained here (a trigger has not been
    /// met): `allowed` is then ignored.
    ///
    /// # Errors
    /// A message, if the grammar has run into its own limits; the answer then fails.
    fn mask(&mut self, allowed: &mut [bool]) -> Result<bool, String>;

    /// Takes the token that was drawn.
    ///
    /// # Errors
    /// A message, if the token is against the grammar (a bug) or a limit was met.
    fn accept(&mut self, token: u32) -> Result<(), String>;
}

/// What became of a job, in order: `Started`, any number of `Prefill`, any number of `Token`, one of
/// `Finished` or `Failed`.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// It has a sequence; `cached` tokens of its prompt need no computing.
    Started {
        /// Tokens of the prompt found in the prefix cache.
        cached: u32,
    },
    /// So many tokens of the prompt are in the state, those from the cache included.
    Prefill {
        /// Tokens fed.
        done: u32,
    },
    /// A token was drawn, and these events are decided by it (often none or one). An end token is
    /// counted in `usage` but not sent.
    Token {
        /// The token with its log-probabilities, if asked for.
        token: Token,
        /// True while the token belongs to reasoning.
        reasoning: bool,
        /// Text and calls that can be given out now; never taken back.
        events: Vec<Event>,
    },
    /// It ended; `events` flush what was held back.
    Finished {
        /// Why. `Context` if the room left was less than `tokens_max`.
        finish: Finish,
        /// Which of the job's stop strings was met, by its place in `params.stop`.
        stop: Option<usize>,
        /// Last text and calls.
        events: Vec<Event>,
        /// What it cost.
        usage: Usage,
    },
    /// It cannot go on.
    Failed(Failure),
}

/// Tokens of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt: u32,
    /// Of these, found in the prefix cache.
    pub cached: u32,
    /// Tokens drawn, an end token included.
    pub completion: u32,
    /// Of these, drawn before the end of reasoning.
    pub reasoning: u32,
}

/// Why a job was refused or broken off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The queue is full; try again in so many seconds.
    Busy {
        /// For `retry-after`.
        retry_after_s: u32,
    },
    /// The prompt does not fit the context.
    TooLong {
        /// Tokens of the prompt.
        prompt: u32,
        /// Tokens a sequence can hold.
        context: u32,
    },
    /// The server is stopping.
    Stopping,
    /// A fault of ours or of the device; the text is for the log, not for the client.
    Fault(String),
}

/// The async half's hold on a job. Dropping it cancels the job at the next step.
#[derive(Debug)]
pub struct Ticket {
    /// What becomes of it. Bounded: a reader that does not read pauses its own job only.
    pub updates: mpsc::Receiver<Update>,
}

/// The worker, as the async half sees it. Cheap to clone behind an `Arc`.
pub trait Worker: Send + Sync + 'static {
    /// Queues a job; never blocks.
    ///
    /// # Errors
    /// `Busy`, `TooLong`, `Stopping`.
    fn submit(&self, job: Job) -> Result<Ticket, Failure>;

    /// Why no job is taken any more, if none is.
    fn closed(&self) -> Option<Failure>;
}
