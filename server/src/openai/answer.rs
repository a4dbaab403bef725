//! Answers of Chat Completions, whole and streamed.

use serde_json::{Value, json};

use crate::answer::{End, Frames, Logprob, Piece, Reader, Whole};
use crate::fault::Fault;
use crate::job::{Failure, Update, Usage};

/// What every part of one answer repeats.
#[derive(Clone, Debug)]
pub struct Head {
    /// The answer's id.
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The model, as it was asked for.
    pub model: String,
    /// Says which arithmetic computed it.
    pub fingerprint: String,
    /// Whether it thinks.
    pub thinks: bool,
    /// Whether log-probabilities were asked for.
    pub logprobs: bool,
    /// Whether a last chunk has the usage.
    pub include_usage: bool,
}

/// What an answer cost, in DeepSeek's words.
pub fn usage(usage: &Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
        "prompt_cache_hit_tokens": usage.cached,
        "prompt_cache_miss_tokens": usage.prompt - usage.cached.min(usage.prompt),
    })
}

/// Why an answer ended, in OpenAI's words.
pub fn finish_reason(end: End) -> &'static str {
    match end {
        End::Stop | End::StopString(_) => "stop",
        End::Length => "length",
        End::Calls => "tool_calls",
        End::Aborted => "insufficient_system_resource",
    }
}

/// A whole answer.
pub fn whole(head: &Head, answer: &Whole) -> Value {
    let mut message = json!({"role": "assistant", "content": answer.content});
    if head.thinks {
        message["reasoning_content"] = answer.reasoning.as_str().into();
    }
    if !answer.calls.is_empty() {
        let calls = answer.calls.iter().enumerate().map(|(index, call)| {
            json!({
                "index": index, "id": call.id, "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            })
        });
        message["tool_calls"] = calls.collect();
    }
    let logprobs = if head.logprobs { entries(&answer.logprobs, head.thinks) } else { Value::Null };
    json!({
        "id": head.id,
        "object": "chat.completion",
        "created": head.created,
        "model": head.model,
        "system_fingerprint": head.fingerprint,
        "choices": [{
            "index": 0,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": finish_reason(answer.end),
        }],
        "usage": usage(&answer.usage),
    })
}

fn entries(logprobs: &[Logprob], thinks: bool) -> Value {
    let of = |reasoning: bool| -> Vec<Value> {
        logprobs.iter().filter(|entry| entry.reasoning == reasoning).map(entry).collect()
    };
    let mut value = json!({"content": of(false)});
    if thinks {
        value["reasoning_content"] = of(true).into();
    }
    value
}

fn entry(logprob: &Logprob) -> Value {
    let one = |bytes: &[u8], value: f32| {
        let token = String::from_utf8_lossy(bytes);
        json!({"token": token, "logprob": value, "bytes": bytes})
    };
    let mut value = one(&logprob.bytes, logprob.value);
    let top = logprob.top.iter().map(|(bytes, value)| one(bytes, *value));
    value["top_logprobs"] = top.collect();
    value
}

/// A streamed answer.
#[derive(Debug)]
pub struct Chunks {
    head: Head,
    reader: Reader,
    /// Log-probabilities that wait for a chunk.
    waiting: Vec<Logprob>,
}

impl Chunks {
    /// A stream that has sent nothing.
    pub fn new(head: Head, reader: Reader) -> Self {
        Chunks { head, reader, waiting: Vec::new() }
    }

    fn send(&mut self, delta: Value, reason: Option<&str>, usage: Value, out: &mut String) {
        let logprobs = match (self.head.logprobs, self.waiting.is_empty()) {
            (true, false) => entries(&std::mem::take(&mut self.waiting), self.head.thinks),
            _ => Value::Null,
        };
        let choice =
            json!({"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason});
        self.frame(json!([choice]), usage, out);
    }

    fn frame(&self, choices: Value, usage: Value, out: &mut String) {
        let mut chunk = json!({
            "id": self.head.id,
            "object": "chat.completion.chunk",
            "created": self.head.created,
            "model": self.head.model,
            "system_fingerprint": self.head.fingerprint,
            "choices": choices,
        });
        if self.head.include_usage || !usage.is_null() {
            chunk["usage"] = usage;
        }
        data(&chunk, out);
    }

    fn pieces(&mut self, pieces: Vec<Piece>, out: &mut String) {
        for piece in pieces {
            let delta = match piece {
                Piece::Reasoning(text) => json!({"content": null, "reasoning_content": text}),
                Piece::Content(text) => json!({"content": text}),
                Piece::CallStart { index, id, name } => json!({"tool_calls": [{
                    "index": index, "id": id, "type": "function",
                    "function": {"name": name, "arguments": ""},
                }]}),
                Piece::CallArguments { index, text } => {
                    json!({"tool_calls": [{"index": index, "function": {"arguments": text}}]})
                }
                Piece::CallEnd => continue,
            };
            self.send(delta, None, Value::Null, out);
        }
    }

    fn end(&mut self, end: End, cost: &Usage, out: &mut String) {
        let reason = Some(finish_reason(end));
        if self.head.include_usage {
            self.send(json!({"content": ""}), reason, Value::Null, out);
            self.frame(json!([]), usage(cost), out);
        } else {
            self.send(json!({"content": ""}), reason, usage(cost), out);
        }
        out.push_str("data: [DONE]\n\n");
    }
}

impl Frames for Chunks {
    fn open(&mut self, out: &mut String) {
        let delta = if self.head.thinks {
            json!({"role": "assistant", "content": null, "reasoning_content": ""})
        } else {
            json!({"role": "assistant", "content": ""})
        };
        self.send(delta, None, Value::Null, out);
    }

    fn update(&mut self, update: Update, out: &mut String) {
        match update {
            Update::Started { cached } => self.reader.started(cached),
            Update::Token { token, reasoning, events } => {
                let (pieces, logprob) = self.reader.token(&token, reasoning, events);
                self.waiting.extend(logprob);
                self.pieces(pieces, out);
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
                self.pieces(pieces, out);
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

/// One frame of a stream.
pub fn data(value: &Value, out: &mut String) {
    out.push_str("data: ");
    out.push_str(&value.to_string());
    out.push_str("\n\n");
}
