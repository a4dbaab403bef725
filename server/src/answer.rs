//! What came of a job, before a dialect gives it a shape: pieces as they arrive, and the whole.
//!
//! Calls get their ids here. Of a block of calls that was cut off, what was read of it stays: the last
//! call's arguments are then the beginning of a JSON object. Markup is for no reader.

use std::sync::Arc;

use engine::generate::{Finish, Token};
use engine::text::dsml::Event;
use engine::text::{Control, Tokenizer};

use crate::fault::Fault;
use crate::ids;
use crate::job::{Failure, Ticket, Update, Usage};
use crate::model::Model;
use crate::replay::Written;

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// More reasoning.
    Reasoning(String),
    /// More content.
    Content(String),
    /// A call begins.
    CallStart {
        /// Its number, from 0.
        index: usize,
        /// Its id.
        id: String,
        /// The tool's name.
        name: String,
    },
    /// More of a call's arguments.
    CallArguments {
        /// Its number.
        index: usize,
        /// The next piece of JSON.
        text: String,
    },
    /// A call is complete.
    CallEnd,
}

/// Why an answer ended, in neither dialect's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The model ended it.
    Stop,
    /// At this stop string of the request.
    StopString(usize),
    /// No more tokens were allowed, or the context is full.
    Length,
    /// It called tools.
    Calls,
    /// The server gave it up.
    Aborted,
}

/// The log-probability of a token that is part of the text.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprob {
    /// The token's bytes, not necessarily whole characters.
    pub bytes: Vec<u8>,
    /// Its log-probability.
    pub value: f32,
    /// The likeliest tokens in its place.
    pub top: Vec<(Vec<u8>, f32)>,
    /// Whether it belongs to reasoning.
    pub reasoning: bool,
}

/// Makes pieces of updates.
#[derive(Debug)]
pub struct Reader {
    tokenizer: Arc<Tokenizer>,
    marker: Option<u32>,
    /// What an id of a call begins with; its number follows where it ends with `_`.
    prefix: &'static str,
    /// A block of calls has begun.
    block: bool,
    /// Calls that began.
    calls: usize,
    /// Tokens so far.
    spent: Usage,
    written: Written,
}

impl Reader {
    /// For one answer to a prompt of so many tokens; ids of calls begin with `prefix`.
    pub fn new(model: &Model, prefix: &'static str, prompt_tokens: u32) -> Self {
        let tokenizer = model.tokenizer.clone();
        let marker = tokenizer.control(Control::Dsml);
        let spent = Usage { prompt: prompt_tokens, ..Usage::default() };
        let written = Written::new(model.replays.clone());
        Reader { tokenizer, marker, prefix, block: false, calls: 0, spent, written }
    }

    /// So many tokens of the prompt were cached.
    pub fn started(&mut self, cached: u32) {
        self.spent.cached = cached;
    }

    /// What the answer has cost so far; for one that ends without its own account.
    pub fn spent(&self) -> Usage {
        self.spent
    }

    /// The pieces of a token's events, and its log-probability if it is part of the text.
    pub fn token(
        &mut self,
        token: &Token,
        reasoning: bool,
        events: Vec<Event>,
    ) -> (Vec<Piece>, Option<Logprob>) {
        self.spent.completion += 1;
        self.spent.reasoning += u32::from(reasoning);
        let marks = self.marker == Some(token.id);
        self.block |= marks && !reasoning;
        if self.block {
            self.written.token(self.tokenizer.token_bytes(token.id).unwrap_or_default());
        }
        let logprob = token.logprob.filter(|_| !self.block).and_then(|value| {
            let bytes = self.text_bytes(token.id)?;
            let top = token.top.iter();
            let top = top.filter_map(|&(id, value)| Some((self.text_bytes(id)?, value))).collect();
            Some(Logprob { bytes, value, top, reasoning })
        });
        (self.pieces(events), logprob)
    }

    /// The last pieces, and why the answer ended.
    pub fn finish(
        &mut self,
        finish: Finish,
        stop: Option<usize>,
        mut events: Vec<Event>,
    ) -> (Vec<Piece>, End) {
        let cut = matches!(finish, Finish::Length | Finish::Context | Finish::Cancelled);
        if cut && self.block {
            events.retain(|event| !matches!(event, Event::Content(_)));
        }
        let pieces = self.pieces(events);
        let end = match finish {
            Finish::Stop if self.calls > 0 => End::Calls,
            Finish::Stop => End::Stop,
            Finish::StopString => End::StopString(stop.unwrap_or(0)),
            Finish::Length | Finish::Context => End::Length,
            Finish::Cancelled => End::Aborted,
        };
        (pieces, end)
    }

    fn pieces(&mut self, events: Vec<Event>) -> Vec<Piece> {
        events.into_iter().map(|event| self.piece(event)).collect()
    }

    fn piece(&mut self, event: Event) -> Piece {
        match event {
            Event::Reasoning(text) => Piece::Reasoning(text),
            Event::Content(text) => Piece::Content(text),
            Event::CallStart { index, name } => {
                self.calls = self.calls.max(index + 1);
                let id = self.id(index);
                self.written.start(&id, &name);
                Piece::CallStart { index, id, name }
            }
            Event::CallArguments { index, text } => {
                self.written.argue(&text);
                Piece::CallArguments { index, text }
            }
            Event::CallEnd { .. } => {
                self.written.end();
                Piece::CallEnd
            }
        }
    }

    fn id(&self, index: usize) -> String {
        let tail = ids::random(24);
        match self.prefix {
            "call_" => format!("call_{index:02}_{tail}"),
            prefix => format!("{prefix}{tail}"),
        }
    }

    /// The bytes of a token, unless it is a control token.
    fn text_bytes(&self, id: u32) -> Option<Vec<u8>> {
        let text = !self.tokenizer.is_control(id);
        self.tokenizer.token_bytes(id).filter(|_| text).map(<[u8]>::to_vec)
    }
}

/// A call of a whole answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WholeCall {
    /// Its id.
    pub id: String,
    /// The tool's name.
    pub name: String,
    /// A JSON object as text; of a call that was cut off, its beginning.
    pub arguments: String,
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Whole {
    /// The reasoning.
    pub reasoning: String,
    /// The content.
    pub content: String,
    /// The calls.
    pub calls: Vec<WholeCall>,
    /// Log-probabilities of the tokens of both texts.
    pub logprobs: Vec<Logprob>,
    /// Why it ended.
    pub end: End,
    /// What it cost.
    pub usage: Usage,
}

impl Whole {
    /// Waits for the end of a job; `seen` looks at every update.
    ///
    /// # Errors
    /// What the job failed with.
    pub async fn of(
        mut ticket: Ticket,
        reader: &mut Reader,
        mut seen: impl FnMut(&Update),
    ) -> Result<Whole, Fault> {
        let mut whole = Whole {
            reasoning: String::new(),
            content: String::new(),
            calls: Vec::new(),
            logprobs: Vec::new(),
            end: End::Aborted,
            usage: Usage::default(),
        };
        loop {
            let update = ticket.updates.recv().await.unwrap_or(Update::Failed(Failure::Stopping));
            seen(&update);
            let pieces = match update {
                Update::Started { .. } | Update::Prefill { .. } => continue,
                Update::Token { token, reasoning, events } => {
                    let (pieces, logprob) = reader.token(&token, reasoning, events);
                    whole.logprobs.extend(logprob);
                    pieces
                }
                Update::Finished { finish, stop, events, usage } => {
                    let (pieces, end) = reader.finish(finish, stop, events);
                    whole.take(pieces);
                    whole.end = end;
                    whole.forget_stop();
                    whole.usage = usage;
                    return Ok(whole);
                }
                Update::Failed(failure) => return Err(failure.into()),
            };
            whole.take(pieces);
        }
    }

    /// Tokens of a stop string are no part of the text.
    fn forget_stop(&mut self) {
        if !matches!(self.end, End::StopString(_)) {
            return;
        }
        let content = self.logprobs.iter().filter(|logprob| !logprob.reasoning);
        let mut bytes: usize = content.map(|logprob| logprob.bytes.len()).sum();
        while bytes > self.content.len()
            && let Some(last) = self.logprobs.pop_if(|last| !last.reasoning)
        {
            bytes -= last.bytes.len();
        }
    }

    fn take(&mut self, pieces: Vec<Piece>) {
        for piece in pieces {
            match piece {
                Piece::Reasoning(text) => self.reasoning.push_str(&text),
                Piece::Content(text) => self.content.push_str(&text),
                Piece::CallStart { id, name, .. } => {
                    self.calls.push(WholeCall { id, name, arguments: String::new() });
                }
                Piece::CallArguments { text, .. } => {
                    if let Some(call) = self.calls.last_mut() {
                        call.arguments.push_str(&text);
                    }
                }
                Piece::CallEnd => {}
            }
        }
    }
}

/// A dialect's way of streaming an answer: text frames of server-sent events.
pub trait Frames: Send {
    /// What can be sent at once, before the job has begun.
    fn open(&mut self, out: &mut String);
    /// An update that is not the end.
    fn update(&mut self, update: Update, out: &mut String);
    /// The end, or the failure.
    fn close(&mut self, update: Update, out: &mut String);
    /// Said where nothing else was for a while.
    fn ping(&self) -> &'static str;
}
