//! Legacy completions: a text is continued, or the middle between two texts is filled in. No chat
//! encoding, no thinking, no calls.

use engine::sample::SamplingParams;
use serde_json::{Value, json};

use super::answer::{Head, data, finish_reason, usage};
use super::chat::{include_usage, stops, user};
use crate::answer::{End, Frames, Logprob, Piece, Reader, Whole};
use crate::fault::Fault;
use crate::fields::{Fields, Place};
use crate::job::{Failure, Update, Usage};
use crate::limits::TOKENS_ASKED_MAX;
use crate::model::Model;
use crate::names::Dialect;

/// Tokens of an answer where nothing is said, as in OpenAI's API.
const TOKENS_USUAL: u64 = 16;

/// A request that was read.
#[derive(Debug)]
pub struct CompletionRequest {
    /// The model, as it was asked for.
    pub name: String,
    /// The text to continue.
    pub prompt: String,
    /// What follows the middle.
    pub suffix: Option<String>,
    /// How tokens are drawn.
    pub params: SamplingParams,
    /// Most tokens of the answer.
    pub tokens_max: u32,
    /// Whether the prompt stands before the answer.
    pub echo: bool,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// Whether a last chunk has the usage.
    pub include_usage: bool,
    /// Whose prefixes may be reused.
    pub user: Option<String>,
}

/// Reads a request.
///
/// # Errors
/// `Invalid`, naming the field; `Model`.
pub fn read(body: &Value, model: &Model) -> Result<CompletionRequest, Fault> {
    let request = Fields::new(body, Place::Root)?;
    let name = request.needed_string("model")?.to_owned();
    model.names.resolve(&name, Dialect::OpenAi)?;
    let prompt = match request.get("prompt") {
        None => return Err(request.missing("prompt")),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(texts)) => match texts.as_slice() {
            [Value::String(text)] => text.clone(),
            _ => return Err(request.fault("prompt", "it must be a string, or an array of one")),
        },
        Some(_) => return Err(request.fault("prompt", "it must be a string, or an array of one")),
    };
    if request.integer("n", 1, 1).is_err() {
        return Err(request.fault("n", "only n = 1 is supported"));
    }
    for name in ["frequency_penalty", "presence_penalty"] {
        request.number(name, -2.0, 2.0)?;
    }
    let tokens = request.integer("max_tokens", 1, TOKENS_ASKED_MAX)?.unwrap_or(TOKENS_USUAL);
    let params = SamplingParams {
        temperature: request.number("temperature", 0.0, 2.0)?.unwrap_or(1.0) as f32,
        top_p: request.number("top_p", 0.0, 1.0)?.unwrap_or(1.0) as f32,
        seed: request.get("seed").and_then(Value::as_u64),
        logprobs: request.integer("logprobs", 0, 20)?.map(|count| count as u32),
        stop: stops(&request, "stop")?,
        ..SamplingParams::default()
    };
    Ok(CompletionRequest {
        name,
        prompt,
        suffix: request.string("suffix")?.filter(|text| !text.is_empty()).map(str::to_owned),
        params,
        tokens_max: u32::try_from(tokens).unwrap_or(u32::MAX),
        echo: request.boolean("echo")?.unwrap_or(false),
        stream: request.boolean("stream")?.unwrap_or(false),
        include_usage: include_usage(&request)?,
        user: user(&request)?,
    })
}

/// A whole answer; `echo` stands before it.
pub fn whole(head: &Head, echo: &str, answer: &Whole) -> Value {
    let text = format!("{echo}{}", answer.content);
    let logprobs =
        if head.logprobs { entries(&answer.logprobs, echo.chars().count()).0 } else { Value::Null };
    let choice = json!({
        "text": text, "index": 0, "logprobs": logprobs, "finish_reason": finish_reason(answer.end),
    });
    let mut value = shell(head, json!([choice]));
    value["usage"] = usage(&answer.usage);
    value
}

fn shell(head: &Head, choices: Value) -> Value {
    json!({
        "id": head.id,
        "object": "text_completion",
        "created": head.created,
        "model": head.model,
        "system_fingerprint": head.fingerprint,
        "choices": choices,
    })
}

/// Entries in the legacy form, whose texts begin at `offset` characters; and where they end.
fn entries(logprobs: &[Logprob], mut offset: usize) -> (Value, usize) {
    let mut tokens = Vec::new();
    let mut values = Vec::new();
    let mut tops = Vec::new();
    let mut offsets = Vec::new();
    for logprob in logprobs {
        let text = String::from_utf8_lossy(&logprob.bytes).into_owned();
        offsets.push(offset);
        offset += text.chars().count();
        tokens.push(text);
        values.push(logprob.value);
        let top = logprob.top.iter();
        let top: serde_json::Map<String, Value> = top
            .map(|(bytes, value)| (String::from_utf8_lossy(bytes).into_owned(), json!(value)))
            .collect();
        tops.push(top);
    }
    let value = json!({
        "tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets,
    });
    (value, offset)
}

/// A streamed answer.
#[derive(Debug)]
pub struct Chunks {
    head: Head,
    reader: Reader,
    echo: String,
    offset: usize,
    waiting: Vec<Logprob>,
}

impl Chunks {
    /// A stream that has sent nothing.
    pub fn new(head: Head, reader: Reader, echo: String) -> Self {
        let offset = echo.chars().count();
        Chunks { head, reader, echo, offset, waiting: Vec::new() }
    }

    fn send(&mut self, text: &str, end: Option<End>, cost: Option<&Usage>, out: &mut String) {
        let mut logprobs = Value::Null;
        if self.head.logprobs && !self.waiting.is_empty() {
            (logprobs, self.offset) = entries(&std::mem::take(&mut self.waiting), self.offset);
        }
        let choice = json!({
            "text": text, "index": 0, "logprobs": logprobs,
            "finish_reason": end.map(finish_reason),
        });
        let mut value = shell(&self.head, json!([choice]));
        match cost {
            Some(cost) if !self.head.include_usage => value["usage"] = usage(cost),
            _ if self.head.include_usage => value["usage"] = Value::Null,
            _ => {}
        }
        data(&value, out);
    }

    fn events(&mut self, pieces: Vec<Piece>, out: &mut String) {
        for piece in pieces {
            if let Piece::Content(text) = piece {
                self.send(&text, None, None, out);
            }
        }
    }

    fn end(&mut self, end: End, cost: &Usage, out: &mut String) {
        self.send("", Some(end), Some(cost), out);
        if self.head.include_usage {
            let mut value = shell(&self.head, json!([]));
            value["usage"] = usage(cost);
            data(&value, out);
        }
        out.push_str("data: [DONE]\n\n");
    }
}

impl Frames for Chunks {
    fn open(&mut self, out: &mut String) {
        let echo = std::mem::take(&mut self.echo);
        if !echo.is_empty() {
            self.send(&echo, None, None, out);
        }
    }

    fn update(&mut self, update: Update, out: &mut String) {
        match update {
            Update::Started { cached } => self.reader.started(cached),
            Update::Token { token, reasoning, events } => {
                let (pieces, logprob) = self.reader.token(&token, reasoning, events);
                self.waiting.extend(logprob);
                self.events(pieces, out);
            }
            _ => {}
        }
    }

    fn close(&mut self, update: Update, out: &mut String) {
        match update {
            Update::Finished { finish, stop, events, usage } => {
                let (pieces, end) = self.reader.finish(finish, stop, events);
                if matches!(end, End::StopString(_)) {
                    // Tokens of a stop string are no part of the text.
                    self.waiting.clear();
                }
                self.events(pieces, out);
                self.end(end, &usage, out);
            }
            Update::Failed(Failure::Stopping) => {
                let spent = self.reader.spent();
                self.end(End::Aborted, &spent, out);
            }
            Update::Failed(failure) => data(&super::error(&Fault::from(failure)), out),
            _ => {}
        }
    }

    fn ping(&self) -> &'static str {
        ": keep-alive\n\n"
    }
}
