//! Answers of Messages, whole and streamed. A stream holds at most one block open, numbers blocks
//! without gaps, and opens none that stays empty.

use serde_json::{Value, json};

use super::{error_message, error_type};
use crate::answer::{End, Frames, Piece, Reader, Whole};
use crate::fault::Fault;
use crate::ids;
use crate::job::{Update, Usage};

/// What every part of one answer repeats.
#[derive(Clone, Debug)]
pub struct Head {
    /// The answer's id.
    pub id: String,
    /// The model, as it was asked for.
    pub model: String,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// The stop strings of the request.
    pub stops: Vec<String>,
}

fn usage(prompt: u32, cached: u32, output: u32) -> Value {
    json!({
        "input_tokens": prompt - cached.min(prompt),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": output,
    })
}

fn stop_reason(end: End) -> &'static str {
    match end {
        End::Stop | End::Aborted => "end_turn",
        End::StopString(_) => "stop_sequence",
        End::Length => "max_tokens",
        End::Calls => "tool_use",
    }
}

fn stop_sequence(head: &Head, end: End) -> Value {
    match end {
        End::StopString(index) => head.stops.get(index).map_or(Value::Null, |stop| json!(stop)),
        _ => Value::Null,
    }
}

/// An opaque string that clients send back; nothing is ever checked with it.
fn signature() -> String {
    format!("hadal-{}", ids::random(32))
}

/// A whole answer.
pub fn whole(head: &Head, answer: &Whole) -> Value {
    let mut content = Vec::new();
    if !answer.reasoning.is_empty() {
        content.push(json!({
            "type": "thinking", "thinking": answer.reasoning, "signature": signature(),
        }));
    }
    if !answer.content.is_empty() {
        content.push(json!({"type": "text", "text": answer.content}));
    }
    for call in &answer.calls {
        let input = input(&call.arguments);
        content.push(json!({"type": "tool_use", "id": call.id, "name": call.name, "input": input}));
    }
    json!({
        "id": head.id,
        "type": "message",
        "role": "assistant",
        "model": head.model,
        "content": content,
        "stop_reason": stop_reason(answer.end),
        "stop_sequence": stop_sequence(head, answer.end),
        "usage": usage(answer.usage.prompt, answer.usage.cached, answer.usage.completion),
    })
}

/// The input of a call from its arguments; of arguments that were cut off, the members before the last.
fn input(arguments: &str) -> Value {
    if let Ok(input) = serde_json::from_str(arguments) {
        return input;
    }
    let (mut depth, mut quoted, mut escaped, mut end) = (0, false, false, None);
    for (at, byte) in arguments.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            b',' if depth == 1 => end = Some(at),
            _ => {}
        }
    }
    let whole = end.map(|end| format!("{}}}", &arguments[..end]));
    whole.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_else(|| json!({}))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    Thinking,
    Text,
    Call,
}

/// A streamed answer.
#[derive(Debug)]
pub struct Events {
    head: Head,
    reader: Reader,
    open: Option<Block>,
    /// Number of the block that is open or comes next.
    index: usize,
    started: bool,
}

impl Events {
    /// A stream that has sent nothing.
    pub fn new(head: Head, reader: Reader) -> Self {
        Events { head, reader, open: None, index: 0, started: false }
    }

    fn start(&mut self, cached: u32, out: &mut String) {
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        let message = json!({
            "id": self.head.id,
            "type": "message",
            "role": "assistant",
            "model": self.head.model,
            "content": [],
            "stop_reason": null,
            "stop_sequence": null,
            "usage": usage(self.head.prompt_tokens, cached, 0),
        });
        event("message_start", json!({"message": message}), out);
        event("ping", json!({}), out);
    }

    fn pieces(&mut self, pieces: Vec<Piece>, out: &mut String) {
        for piece in pieces {
            match piece {
                Piece::Reasoning(text) => {
                    let block = json!({"type": "thinking", "thinking": "", "signature": ""});
                    self.enter(Block::Thinking, &block, out);
                    self.delta(json!({"type": "thinking_delta", "thinking": text}), out);
                }
                Piece::Content(text) => {
                    self.enter(Block::Text, &json!({"type": "text", "text": ""}), out);
                    self.delta(json!({"type": "text_delta", "text": text}), out);
                }
                Piece::CallStart { id, name, .. } => {
                    self.leave(out);
                    let block = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
                    self.enter(Block::Call, &block, out);
                }
                Piece::CallArguments { text, .. } => {
                    self.delta(json!({"type": "input_json_delta", "partial_json": text}), out);
                }
                Piece::CallEnd => self.leave(out),
            }
        }
    }

    fn enter(&mut self, block: Block, content: &Value, out: &mut String) {
        if self.open == Some(block) && block != Block::Call {
            return;
        }
        self.leave(out);
        self.open = Some(block);
        let start = json!({"index": self.index, "content_block": content});
        event("content_block_start", start, out);
    }

    fn delta(&self, delta: Value, out: &mut String) {
        event("content_block_delta", json!({"index": self.index, "delta": delta}), out);
    }

    fn leave(&mut self, out: &mut String) {
        let Some(block) = self.open.take() else { return };
        if block == Block::Thinking {
            self.delta(json!({"type": "signature_delta", "signature": signature()}), out);
        }
        event("content_block_stop", json!({"index": self.index}), out);
        self.index += 1;
    }

    fn end(&mut self, end: End, cost: &Usage, out: &mut String) {
        self.leave(out);
        let delta = json!({
            "stop_reason": stop_reason(end), "stop_sequence": stop_sequence(&self.head, end),
        });
        let cost = usage(cost.prompt, cost.cached, cost.completion);
        event("message_delta", json!({"delta": delta, "usage": cost}), out);
        event("message_stop", json!({}), out);
    }
}

impl Frames for Events {
    fn open(&mut self, out: &mut String) {
        out.push_str(": queued\n\n");
    }

    fn update(&mut self, update: Update, out: &mut String) {
        match update {
            Update::Started { cached } => self.start(cached, out),
            Update::Token { token, reasoning, events } => {
                self.start(0, out);
                let (pieces, _) = self.reader.token(&token, reasoning, events);
                self.pieces(pieces, out);
            }
            _ => {}
        }
    }

    fn close(&mut self, update: Update, out: &mut String) {
        match update {
            Update::Finished { finish, stop, events, usage } => {
                self.start(usage.cached, out);
                let (pieces, end) = self.reader.finish(finish, stop, events);
                if end == End::Aborted {
                    fault(&Fault::stopping(), out);
                    return;
                }
                self.pieces(pieces, out);
                self.end(end, &usage, out);
            }
            Update::Failed(failure) => fault(&Fault::from(failure), out),
            _ => {}
        }
    }

    fn ping(&self) -> &'static str {
        if self.started { "event: ping\ndata: {\"type\":\"ping\"}\n\n" } else { ": queued\n\n" }
    }
}

/// A failure after the headers.
fn fault(fault: &Fault, out: &mut String) {
    let error = json!({"type": error_type(fault), "message": error_message(fault)});
    event("error", json!({"error": error}), out);
}

/// One frame; the type stands first in its data too.
fn event(kind: &str, fields: Value, out: &mut String) {
    let mut data = json!({"type": kind});
    if let (Value::Object(data), Value::Object(fields)) = (&mut data, fields) {
        data.extend(fields);
    }
    out.push_str("event: ");
    out.push_str(kind);
    out.push_str("\ndata: ");
    out.push_str(&data.to_string());
    out.push_str("\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_was_cut_keeps_its_whole_members() {
        for (arguments, want) in [
            ("{}", json!({})),
            ("{\"a\": 1, \"b\": [2]}", json!({"a": 1, "b": [2]})),
            ("{\"a\": 1, \"b\": [2", json!({"a": 1})),
            ("{\"a\": {\"x\": 1, \"y\": 2}, \"b", json!({"a": {"x": 1, "y": 2}})),
            ("{\"a\": \"q, \\\"r, \", \"b\": \"x, ", json!({"a": "q, \"r, "})),
            ("{\"a\": \"half", json!({})),
            ("{\"a\": 12", json!({})),
            ("", json!({})),
        ] {
            assert_eq!(input(arguments), want, "{arguments}");
        }
    }
}
