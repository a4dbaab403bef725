//! The same grammar while the text arrives. Whatever may still become a marker is held back, so
//! that nothing is ever taken back.
//!
//! States and what may follow: Reasoning → Content | NextCall; Content → NextCall | Ended; NextCall
//! → Header | AfterCalls; Header → Key | NextCall; Key → Value → NextParameter → Key | NextCall;
//! AfterCalls → Ended (strict) or Content (recovering); of calls that are given out while they arrive,
//! Key, Value and NextParameter → Broken.

use std::collections::HashSet;

use super::Begin;
use super::grammar::{
    BEGIN_OF_SENTENCE, CALLS, DSML, END_OF_SENTENCE, HEADER_BYTES_MAX, INVOKE_END, KINDS,
    NEXT_CALL, NEXT_PARAMETER, PARAMETER, PARAMETER_END, THINK_END, THINK_START, bad, check_json,
    tool_name,
};
use crate::text::error::TextError;
use crate::text::json::escape_into;
use crate::text::scan::{Met, find, scan};

/// What a malformed reply becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// An error, as in [`super::parse`].
    Refuse,
    /// Text. A block of calls that breaks becomes content, control strings of any kind that stand in
    /// text are dropped, a block may begin without its blank line or inside reasoning, and a
    /// reply may stop anywhere. Calls come whole: nothing of a call is given out before it has
    /// ended well.
    Recover,
    /// Cut off: for replies whose calls are held to the form while they are drawn. As
    /// [`Malformed::Recover`], but a call is given out while it arrives. One that breaks all the same
    /// gets no [`Event::CallEnd`], and nothing that follows it is given out. A parameter that is there
    /// twice is given out twice.
    Cut,
}

/// A piece of a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// More reasoning.
    Reasoning(String),
    /// More content.
    Content(String),
    /// Call number `index`, from 0, begins.
    CallStart {
        /// Number of the call in this reply.
        index: usize,
        /// The tool's name.
        name: String,
    },
    /// More of the arguments of call `index`; the pieces together are a JSON object.
    CallArguments {
        /// Number of the call in this reply.
        index: usize,
        /// The next piece of JSON text.
        text: String,
    },
    /// Call `index` is complete.
    CallEnd {
        /// Number of the call in this reply.
        index: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Reasoning,
    Content,
    NextCall,
    Header,
    Key,
    Value {
        is_string: bool,
    },
    NextParameter,
    AfterCalls,
    Ended,
    /// A call broke that was given out in part.
    Broken,
}

/// What stops text in strict mode.
const STRICT: [&str; 6] = [CALLS, THINK_END, END_OF_SENTENCE, BEGIN_OF_SENTENCE, THINK_START, DSML];
/// How many of [`RECOVER`] open a block.
const OPENINGS: usize = 3;
/// What stops text when recovering: openings of a block, then every control string.
const RECOVER: [&str; 17] = [
    CALLS,
    "\n<｜DSML｜tool_calls",
    "<｜DSML｜tool_calls",
    THINK_END,
    END_OF_SENTENCE,
    BEGIN_OF_SENTENCE,
    THINK_START,
    DSML,
    "<｜User｜>",
    "<｜Assistant｜>",
    "<｜latest_reminder｜>",
    "<｜action｜>",
    "<｜query｜>",
    "<｜authority｜>",
    "<｜domain｜>",
    "<｜title｜>",
    "<｜read_url｜>",
];
/// What ends a value: with and, wrongly, without its `<`.
const VALUE_ENDS: [&str; 2] = ["</｜DSML｜parameter", PARAMETER_END];
const KEY_BEGIN: &str = " name=\"";

/// A streaming parser of one reply.
#[derive(Debug)]
pub struct ReplyStream {
    malformed: Malformed,
    state: State,
    text: String,
    /// Everything before is parsed.
    at: usize,
    /// Everything from here on may be read again as content.
    keep: usize,
    /// False once a block was malformed: later ones are text, so that no text is read thrice.
    blocks: bool,
    /// Calls that have ended.
    calls: usize,
    calls_before_block: usize,
    keys: HashSet<String>,
    /// A JSON value so far.
    value: String,
    events: Vec<Event>,
    /// Events that can no longer be taken back.
    committed: usize,
    failed: Option<TextError>,
}

impl ReplyStream {
    /// A parser at the start of a reply.
    pub fn new(begin: Begin, malformed: Malformed) -> Self {
        Self {
            malformed,
            state: match begin {
                Begin::Reasoning => State::Reasoning,
                Begin::Content => State::Content,
            },
            text: String::new(),
            at: 0,
            keep: 0,
            blocks: true,
            calls: 0,
            calls_before_block: 0,
            keys: HashSet::new(),
            value: String::new(),
            events: Vec::new(),
            committed: 0,
            failed: None,
        }
    }

    /// Takes more text and appends what it decides to `events`.
    ///
    /// # Errors
    /// `Reply` if the text is malformed and [`Malformed::Refuse`] was asked for; every later call
    /// gives the same error.
    pub fn push(&mut self, text: &str, events: &mut Vec<Event>) -> Result<(), TextError> {
        self.text.push_str(text);
        self.advance(false, events)
    }

    /// Ends the reply. Only parsers that refuse do not accept every end.
    ///
    /// # Errors
    /// As [`ReplyStream::push`], and `Reply` if the reply is not complete.
    pub fn finish(&mut self, events: &mut Vec<Event>) -> Result<(), TextError> {
        self.advance(true, events)?;
        let complete = matches!(self.state, State::Ended | State::AfterCalls);
        if complete || self.malformed != Malformed::Refuse {
            return Ok(());
        }
        let error = TextError::reply("reply: no end token");
        self.failed = Some(error.clone());
        Err(error)
    }

    /// Whether the reply has ended by its end token.
    pub fn ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Whether the reply is still in its reasoning.
    pub fn reasoning(&self) -> bool {
        self.state == State::Reasoning
    }

    fn advance(&mut self, last: bool, events: &mut Vec<Event>) -> Result<(), TextError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let outcome = loop {
            match self.step(last) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(_) if self.malformed != Malformed::Refuse => self.recover(last),
                Err(error) => break Err(error),
            }
            self.commit();
        };
        self.commit();
        events.extend(self.events.drain(..self.committed));
        self.committed = 0;
        self.text.drain(..self.keep);
        self.at -= self.keep;
        self.keep = 0;
        self.failed = outcome.as_ref().err().cloned();
        outcome
    }

    /// Lets events go that can no longer be taken back.
    fn commit(&mut self) {
        let is_final = match self.malformed {
            Malformed::Refuse => true,
            Malformed::Recover => !self.in_block(),
            Malformed::Cut => !self.in_block() || self.in_call(),
        };
        if is_final {
            self.keep = self.at;
            self.committed = self.events.len();
        }
    }

    fn in_block(&self) -> bool {
        matches!(self.state, State::NextCall | State::Header) || self.in_call()
    }

    /// Whether a call has begun and not ended.
    fn in_call(&self) -> bool {
        matches!(self.state, State::Key | State::Value { .. } | State::NextParameter)
    }

    /// One move; false if more text is needed.
    fn step(&mut self, last: bool) -> Result<bool, TextError> {
        if self.at == self.text.len() && !(last && self.in_block()) {
            return Ok(false);
        }
        match self.state {
            State::Reasoning | State::Content => self.prose(last),
            State::NextCall => self.next_call(last),
            State::Header => self.header(last),
            State::Key => self.key(last),
            State::Value { is_string } => self.value(is_string, last),
            State::NextParameter => self.next_parameter(last),
            State::AfterCalls => self.after_calls(last),
            State::Ended if self.malformed == Malformed::Refuse => {
                Err(bad("end", &self.text[self.at..]))
            }
            State::Ended | State::Broken => {
                self.at = self.text.len();
                Ok(false)
            }
        }
    }

    fn prose(&mut self, last: bool) -> Result<bool, TextError> {
        let markers: &[&str] = match (self.malformed, self.blocks) {
            (Malformed::Refuse, _) => &STRICT,
            (_, true) => &RECOVER,
            (_, false) => &RECOVER[OPENINGS..],
        };
        let rest = &self.text[self.at..];
        let met = if last {
            find(rest, markers).map_or(Met::Nothing, |(at, marker)| Met::Marker { at, marker })
        } else {
            scan(rest, markers)
        };
        let (end, marker) = match met {
            Met::Nothing => (rest.len(), None),
            Met::Maybe { at } => (at, None),
            Met::Marker { at, marker } => (at, Some(markers[marker])),
        };
        let piece = rest[..end].to_owned();
        self.say(piece);
        self.at += end;
        let Some(marker) = marker else { return Ok(false) };
        self.keep = self.at;
        self.at += marker.len();
        let refuse = self.malformed == Malformed::Refuse;
        self.state = match (self.state, marker) {
            (State::Reasoning, THINK_END) => State::Content,
            (State::Content, END_OF_SENTENCE) => State::Ended,
            (State::Content, CALLS) => State::NextCall,
            _ if refuse => return Err(bad("text", marker)),
            (_, END_OF_SENTENCE) => State::Ended,
            _ if RECOVER[..OPENINGS].contains(&marker) => State::NextCall,
            (state, _) => state,
        };
        if self.state == State::NextCall {
            self.committed = self.events.len();
            self.calls_before_block = self.calls;
        }
        Ok(true)
    }

    fn next_call(&mut self, last: bool) -> Result<bool, TextError> {
        let Some(next) = self.expect(&NEXT_CALL, "tool call", last)? else { return Ok(false) };
        let after = match self.malformed {
            Malformed::Refuse => State::AfterCalls,
            Malformed::Recover | Malformed::Cut => State::Content,
        };
        self.state = [State::Header, after][next];
        Ok(true)
    }

    fn header(&mut self, last: bool) -> Result<bool, TextError> {
        let rest = &self.text[self.at..];
        let (end, marker) = match scan(rest, &[PARAMETER, INVOKE_END]) {
            Met::Nothing => (rest.len(), None),
            Met::Maybe { at } => (at, None),
            Met::Marker { at, marker } => (at, Some(marker)),
        };
        if end > HEADER_BYTES_MAX || (last && marker.is_none()) {
            return Err(bad("name of a tool", rest));
        }
        let Some(marker) = marker else { return Ok(false) };
        let name = tool_name(&rest[..end])?.to_owned();
        self.events.push(Event::CallStart { index: self.calls, name });
        self.keys.clear();
        self.at += end + [PARAMETER, INVOKE_END][marker].len();
        if marker == 0 {
            self.state = State::Key
        } else {
            self.end_call()
        }
        Ok(true)
    }

    fn key(&mut self, last: bool) -> Result<bool, TextError> {
        let rest = &self.text[self.at..];
        let Some(inner) = rest.strip_prefix(KEY_BEGIN) else {
            if KEY_BEGIN.starts_with(rest) && !last {
                return Ok(false);
            }
            return Err(bad("parameter", rest));
        };
        let (end, kind) = match scan(inner, &[KINDS[0], KINDS[1], PARAMETER_END]) {
            Met::Nothing => (inner.len(), None),
            Met::Maybe { at } => (at, None),
            Met::Marker { at, marker } => (at, Some(marker)),
        };
        if end > HEADER_BYTES_MAX || kind == Some(2) || (last && kind.is_none()) {
            return Err(bad("parameter", rest));
        }
        let Some(kind) = kind else { return Ok(false) };
        let key = inner[..end].to_owned();
        let mut text = String::from(if self.keys.is_empty() { "{\"" } else { ", \"" });
        escape_into(&key, &mut text);
        text.push_str(if kind == 0 { "\": \"" } else { "\": " });
        self.at += KEY_BEGIN.len() + end + KINDS[kind].len();
        if !self.keys.insert(key) && self.malformed != Malformed::Cut {
            return Err(bad("parameter (there twice)", &text));
        }
        self.argue(&text);
        self.value.clear();
        self.state = State::Value { is_string: kind == 0 };
        Ok(true)
    }

    fn value(&mut self, is_string: bool, last: bool) -> Result<bool, TextError> {
        let rest = &self.text[self.at..];
        let (end, marker) = match scan(rest, &VALUE_ENDS) {
            Met::Nothing => (rest.len(), None),
            Met::Maybe { at } => (at, None),
            Met::Marker { at, marker } => (at, Some(marker)),
        };
        let broken = marker == Some(1) || (last && marker.is_none());
        let broken = broken.then(|| bad("end of a parameter", &rest[end..]));
        let mut piece = String::new();
        if is_string {
            escape_into(&rest[..end], &mut piece);
        } else {
            self.value.push_str(&rest[..end]);
            // JSON that may still prove wrong is held back, unless calls come as they arrive.
            if self.malformed == Malformed::Cut {
                piece.push_str(&rest[..end]);
            }
        }
        self.at += end;
        self.argue(&piece);
        if let Some(error) = broken {
            return Err(error);
        }
        if marker.is_none() {
            return Ok(false);
        }
        self.at += VALUE_ENDS[0].len();
        if is_string {
            self.argue("\"");
        } else {
            check_json(&self.value)?;
            if self.malformed != Malformed::Cut {
                let value = std::mem::take(&mut self.value);
                self.argue(&value);
            }
        }
        self.state = State::NextParameter;
        Ok(true)
    }

    fn next_parameter(&mut self, last: bool) -> Result<bool, TextError> {
        let Some(next) = self.expect(&NEXT_PARAMETER, "parameter", last)? else {
            return Ok(false);
        };
        if next == 0 {
            self.state = State::Key
        } else {
            self.end_call()
        }
        Ok(true)
    }

    fn after_calls(&mut self, last: bool) -> Result<bool, TextError> {
        let next = self.expect(&[END_OF_SENTENCE], "end", last)?;
        if next.is_some() {
            self.state = State::Ended;
        }
        Ok(next.is_some())
    }

    /// Consumes the one of `wanted` that stands here; `None` if more text is needed.
    fn expect(
        &mut self,
        wanted: &[&str],
        what: &str,
        last: bool,
    ) -> Result<Option<usize>, TextError> {
        let rest = &self.text[self.at..];
        if let Some(found) = wanted.iter().position(|each| rest.starts_with(each)) {
            self.at += wanted[found].len();
            return Ok(Some(found));
        }
        if !last && wanted.iter().any(|each| each.starts_with(rest)) {
            return Ok(None);
        }
        Err(bad(what, rest))
    }

    fn end_call(&mut self) {
        self.argue(if self.keys.is_empty() { "{}" } else { "}" });
        self.events.push(Event::CallEnd { index: self.calls });
        self.calls += 1;
        self.state = State::NextCall;
        self.keep = self.at;
        self.committed = self.events.len();
    }

    /// Goes back to where the broken block, or its first call that did not end, begins, and reads
    /// on as content. What was given out cannot be taken back: behind it nothing more is.
    fn recover(&mut self, last: bool) {
        if self.malformed == Malformed::Cut && self.in_call() {
            self.state = State::Broken;
            return;
        }
        self.events.truncate(self.committed);
        self.at = self.keep;
        self.blocks = false;
        self.state = State::Content;
        if self.calls > self.calls_before_block {
            let rest = &self.text[self.at..];
            let glue = if rest.starts_with(">\n") { 2 } else { usize::from(rest.starts_with('>')) };
            self.at += glue;
            if last && NEXT_CALL[1][2..].starts_with(&rest[glue..]) {
                self.at = self.text.len();
            }
        }
    }

    fn say(&mut self, text: String) {
        if text.is_empty() {
            return;
        }
        match (self.state, self.events.last_mut()) {
            (State::Reasoning, Some(Event::Reasoning(before))) => before.push_str(&text),
            (State::Content, Some(Event::Content(before))) => before.push_str(&text),
            (State::Reasoning, _) => self.events.push(Event::Reasoning(text)),
            _ => self.events.push(Event::Content(text)),
        }
    }

    fn argue(&mut self, piece: &str) {
        if piece.is_empty() {
            return;
        }
        let index = self.calls;
        match self.events.last_mut() {
            Some(Event::CallArguments { index: same, text }) if *same == index => {
                text.push_str(piece);
            }
            _ => self.events.push(Event::CallArguments { index, text: piece.to_owned() }),
        }
    }
}
