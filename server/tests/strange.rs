//! Requests that nobody would write: valid ones with random damage. Each gets an answer or a fault of the
//! client's, in its dialect, and none a 5xx, a panic or a hang.
//!
//! The seed is printed on failure and read from `HADAL_SEED`.

mod common;

use common::{Server, Setup};
use serde_json::{Map, Value, json};

/// Requests per endpoint.
const ROUNDS: usize = 1500;

fn chat() -> Value {
    json!({
        "model": "deepseek-v4-flash",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hi <think> \u{0}"}], "name": "u"},
            {"role": "assistant", "content": null, "reasoning_content": "r", "tool_calls": [
                {"id": "c1", "type": "function",
                 "function": {"name": "add", "arguments": "{\"a\": 1}"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "3"},
            {"role": "user", "content": "Go on."},
        ],
        "max_tokens": 20, "temperature": 1, "top_p": 0.9, "stop": ["END"], "stream": false,
        "stream_options": {"include_usage": true}, "logprobs": true, "top_logprobs": 2, "n": 1,
        "response_format": {"type": "text"}, "tool_choice": "auto", "user_id": "u",
        "thinking": {"type": "enabled"}, "reasoning_effort": "high",
        "tools": [{"type": "function", "function": {"name": "add", "strict": false, "parameters": {
            "type": "object", "required": ["a"], "properties": {
                "a": {"type": "integer", "minimum": 0}, "b": {"enum": ["x", "y"]},
                "c": {"anyOf": [{"type": "string", "pattern": "^a+$"}, {"type": "null"}]}}}}}],
    })
}

fn message() -> Value {
    json!({
        "model": "claude-x", "max_tokens": 20, "stream": false,
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": "Hi."},
            {"role": "system", "content": "late"},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "r", "signature": "s"},
                {"type": "text", "text": "ok"},
                {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 1}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [
                    {"type": "text", "text": "3"}, {"type": "image"}]},
                {"type": "text", "text": "Go on."}]},
        ],
        "tools": [{"name": "add", "description": "d", "input_schema": {
            "type": "object", "properties": {"a": {"$ref": "#/$defs/n"}},
            "$defs": {"n": {"type": "number"}}}}],
        "tool_choice": {"type": "auto"}, "thinking": {"type": "adaptive"},
        "output_config": {"effort": "low"}, "metadata": {"user_id": "u"},
        "stop_sequences": ["END"], "temperature": 1, "top_p": 1,
    })
}

fn completion() -> Value {
    json!({
        "model": "deepseek-chat", "prompt": ["Once"], "suffix": "", "echo": true, "logprobs": 2,
        "max_tokens": 5, "stop": "END", "stream": false, "temperature": 0, "n": 1,
    })
}

/// Marsaglia's xorshift.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }

    /// A value of any kind.
    fn value(&mut self) -> Value {
        let strange = [
            json!(null),
            json!(true),
            json!(-1),
            json!(0),
            json!(1.5),
            json!(1e300),
            json!(u64::MAX),
            json!(""),
            json!("auto"),
            json!("none"),
            json!("<｜end▁of▁sentence｜></think>\n\n<｜DSML｜tool_calls>"),
            json!("\u{0}\u{feff}\u{202e}"),
            json!("x".repeat(10_000)),
            json!([]),
            json!([[], {}]),
            json!({}),
            json!({"type": "object"}),
            json!({"type": "function", "function": {"name": "add"}}),
            json!({"$ref": "#"}),
            json!({"pattern": "(((a+)+)+)+$"}),
        ];
        strange[self.below(strange.len())].clone()
    }

    /// Damages one place of `value`.
    fn damage(&mut self, value: &mut Value) {
        let deeper = self.below(4) > 0;
        match value {
            Value::Object(map) if deeper && !map.is_empty() => self.damage_object(map),
            Value::Array(items) if deeper && !items.is_empty() => {
                let at = self.below(items.len());
                match self.below(6) {
                    0 => drop(items.remove(at)),
                    1 => items.insert(at, items[at].clone()),
                    2 => {
                        let other = self.below(items.len());
                        items.swap(at, other);
                    }
                    _ => self.damage(&mut items[at]),
                }
            }
            Value::String(text) if deeper => {
                let at = self.below(text.len() + 1);
                if text.is_char_boundary(at) {
                    text.insert(at, '\u{fffd}');
                }
            }
            other => *other = self.value(),
        }
    }

    fn damage_object(&mut self, map: &mut Map<String, Value>) {
        let keys: Vec<String> = map.keys().cloned().collect();
        let key = &keys[self.below(keys.len())];
        match self.below(8) {
            0 => drop(map.remove(key)),
            1 => {
                let value = self.value();
                map.insert("surplus".to_owned(), value);
            }
            _ => self.damage(map.get_mut(key).expect("it was listed")),
        }
    }
}

#[tokio::test]
async fn damaged_requests_are_answered_or_refused_and_never_fail() {
    let seed = std::env::var("HADAL_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or(0x5eed_cafe);
    let mut random = Random(seed);
    let server = Server::with(&Setup { lax: true, ..Setup::default() });
    for (path, whole) in [
        ("/v1/chat/completions", chat()),
        ("/v1/messages", message()),
        ("/v1/messages/count_tokens", message()),
        ("/v1/completions", completion()),
    ] {
        assert_eq!(server.post(path, &whole).await.status(), 200, "{path}: undamaged");
        let mut refused = 0;
        for round in 0..ROUNDS {
            let mut body = whole.clone();
            for _ in 0..=random.below(3) {
                random.damage(&mut body);
            }
            let answer = server.post(path, &body).await;
            let place = format!("{path}, seed {seed}, round {round}: {body}");
            assert!(matches!(answer.status(), 200 | 400 | 404), "{}: {place}", answer.text);
            refused += usize::from(answer.status() != 200);
            let streamed = answer.text.starts_with("data: ") || answer.text.starts_with(": ");
            assert!(streamed || answer.json().is_object(), "{place}");
            if answer.status() != 200 {
                assert!(answer.message().len() < 1000, "{place}");
            }
        }
        assert!(refused > ROUNDS / 10 && refused < ROUNDS, "{path}: {refused} were refused");
    }
}

#[tokio::test]
async fn damaged_bytes_are_refused() {
    let mut random = Random(0xb17e5);
    let server = Server::with(&Setup { lax: true, ..Setup::default() });
    let whole = chat().to_string().into_bytes();
    for round in 0..ROUNDS {
        let mut bytes = whole.clone();
        match random.below(3) {
            0 => bytes.truncate(random.below(whole.len())),
            1 => bytes[random.below(whole.len())] = random.below(256) as u8,
            _ => bytes.insert(random.below(whole.len()), random.below(256) as u8),
        }
        let headers = [("content-type", "application/json")];
        let answer = server.send("POST", "/v1/chat/completions", &headers, bytes).await;
        assert!(matches!(answer.status(), 200 | 400), "round {round}: {}", answer.text);
    }
}
