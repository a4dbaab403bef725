//! Calls as they were written: a bounded memory from a call's id to its exact text.
//!
//! A client sends a call back as JSON of its own making (`1.50` becomes `1.5`, `1e2` becomes `100`). The
//! prompt would then differ from what was drawn, and nothing behind the call would be found in the
//! prefix cache. So the text is kept, and put back where id, name and arguments are the same.
//!
//! Refuses to overrule a client: arguments that say something else are rendered as they came. What was
//! forgotten costs time only.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use engine::text::chat::{Message, ToolCall};
use serde_json::Value;

use crate::limits::{REPLAY_BYTES_MAX, REPLAYS_BYTES_MAX, REPLAYS_MAX};

/// Begins and ends a call's text; the `>` of the last tag is left to [`Written::end`].
const OPEN: &str = "<｜DSML｜invoke";
const CLOSE: &str = "</｜DSML｜invoke";

/// One call.
#[derive(Debug)]
struct Call {
    name: String,
    arguments: String,
    text: Arc<str>,
}

impl Call {
    fn bytes(&self) -> usize {
        self.name.len() + self.arguments.len() + self.text.len()
    }

    /// Whether a call that came back is this one.
    fn is(&self, call: &ToolCall) -> bool {
        if self.name != call.name {
            return false;
        }
        let parse = |text: &str| serde_json::from_str::<Value>(text).ok();
        self.arguments == call.arguments
            || match (parse(&self.arguments), parse(&call.arguments)) {
                (Some(here), Some(there)) => same(&here, &there),
                _ => false,
            }
    }
}

#[derive(Debug, Default)]
struct Calls {
    known: HashMap<String, Call>,
    /// Ids, the oldest first.
    order: VecDeque<String>,
    bytes: usize,
}

/// The memory. Shared by all answers.
#[derive(Debug, Default)]
pub struct Replays(Mutex<Calls>);

impl Replays {
    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, id: String, call: Call) {
        if call.bytes() > REPLAY_BYTES_MAX {
            return;
        }
        let mut calls = self.calls();
        calls.bytes += call.bytes();
        calls.order.push_back(id.clone());
        calls.known.insert(id, call);
        while calls.order.len() > REPLAYS_MAX || calls.bytes > REPLAYS_BYTES_MAX {
            let Some(oldest) = calls.order.pop_front() else { return };
            let gone = calls.known.remove(&oldest).map_or(0, |call| call.bytes());
            calls.bytes -= gone;
        }
    }

    /// Puts texts back into the calls of `messages` that are known.
    pub fn restore(&self, messages: &mut [Message]) {
        let calls = self.calls();
        for message in messages {
            let Message::Assistant { tool_calls, .. } = message else { continue };
            for call in tool_calls {
                call.written = calls
                    .known
                    .get(&call.id)
                    .filter(|known| known.is(call))
                    .map(|known| known.text.clone());
            }
        }
    }
}

/// Whether two values mean the same; numbers by their value.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            let found = |(key, a): (&String, &Value)| b.get(key).is_some_and(|b| same(a, b));
            a.len() == b.len() && a.iter().all(found)
        }
        _ => a == b,
    }
}

/// The calls of one answer while they are written.
#[derive(Debug)]
pub struct Written {
    replays: Arc<Replays>,
    /// The block so far, from its marker on.
    text: Vec<u8>,
    /// Bytes of it that belong to calls that ended.
    at: usize,
    open: Option<(String, Call)>,
}

impl Written {
    /// Of an answer without calls yet.
    pub fn new(replays: Arc<Replays>) -> Self {
        Written { replays, text: Vec::new(), at: 0, open: None }
    }

    /// Takes the bytes of a token of the block.
    pub fn token(&mut self, bytes: &[u8]) {
        if self.text.len() <= self.at + REPLAY_BYTES_MAX {
            self.text.extend_from_slice(bytes);
        }
    }

    /// A call begins.
    pub fn start(&mut self, id: &str, name: &str) {
        let call = Call { name: name.to_owned(), arguments: String::new(), text: "".into() };
        self.open = Some((id.to_owned(), call));
    }

    /// More of its arguments.
    pub fn argue(&mut self, text: &str) {
        if let Some((_, call)) = &mut self.open {
            call.arguments.push_str(text);
        }
    }

    /// It has ended well.
    pub fn end(&mut self) {
        let Some((id, call)) = self.open.take() else { return };
        let rest = String::from_utf8_lossy(&self.text[self.at..]);
        let Some(first) = rest.find(OPEN) else { return };
        let Some(last) = rest[first..].find(CLOSE).map(|at| first + at + CLOSE.len()) else {
            return;
        };
        let text = format!("{}>", &rest[first..last]);
        self.at += last;
        self.replays.keep(id, Call { text: text.into(), ..call });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(id: &str, arguments: &str) -> ToolCall {
        ToolCall { id: id.into(), name: "f".into(), arguments: arguments.into(), written: None }
    }

    fn write(replays: &Arc<Replays>, id: &str, arguments: &str, text: &str) {
        let mut written = Written::new(replays.clone());
        written.token("｜DSML｜tool_calls>\n".as_bytes());
        written.start(id, "f");
        written.argue(arguments);
        written.token(format!("{OPEN} name=\"f\">\n{text}{CLOSE}>").as_bytes());
        written.end();
    }

    fn restored(replays: &Replays, call: ToolCall) -> Option<String> {
        let mut messages = [Message::Assistant {
            content: String::new(),
            reasoning: String::new(),
            tool_calls: vec![call],
            task: None,
            open: false,
        }];
        replays.restore(&mut messages);
        let [Message::Assistant { tool_calls, .. }] = &messages else { return None };
        tool_calls[0].written.as_deref().map(str::to_owned)
    }

    #[test]
    fn a_call_is_put_back_where_it_means_the_same() {
        let replays = Arc::new(Replays::default());
        write(&replays, "c1", "{\"a\": 1.50, \"b\": [1e2, \"x\"]}", "as written");
        let text = format!("{OPEN} name=\"f\">\nas written{CLOSE}>");
        for (call, want) in [
            (call("c1", "{\"a\": 1.50, \"b\": [1e2, \"x\"]}"), true),
            (call("c1", "{\"b\":[100,\"x\"],\"a\":1.5}"), true),
            (call("c1", "{\"a\": 1.5, \"b\": [100, \"y\"]}"), false),
            (call("c1", "{\"a\": 1.5}"), false),
            (call("c1", "{\"a\": 1.5, \"b\": [100, \"x\"], \"c\": 1}"), false),
            (call("c1", "{"), false),
            (call("c2", "{\"a\": 1.50, \"b\": [1e2, \"x\"]}"), false),
            (
                ToolCall { name: "g".into(), ..call("c1", "{\"a\": 1.50, \"b\": [1e2, \"x\"]}") },
                false,
            ),
        ] {
            let said = format!("{call:?}");
            assert_eq!(restored(&replays, call), want.then(|| text.clone()), "{said}");
        }
    }

    #[test]
    fn the_memory_is_bounded_and_the_oldest_goes() {
        let replays = Arc::new(Replays::default());
        for place in 0..REPLAYS_MAX + 10 {
            write(&replays, &format!("c{place}"), "{}", "");
        }
        assert_eq!(replays.calls().known.len(), REPLAYS_MAX);
        assert_eq!(restored(&replays, call("c9", "{}")), None);
        assert!(restored(&replays, call("c10", "{}")).is_some());
        let long = "x".repeat(REPLAY_BYTES_MAX / 2);
        for place in 0..4 * REPLAYS_BYTES_MAX / REPLAY_BYTES_MAX {
            write(&replays, &format!("l{place}"), "{}", &long);
            assert!(replays.calls().bytes <= REPLAYS_BYTES_MAX);
        }
        write(&replays, "huge", "{}", &"x".repeat(2 * REPLAY_BYTES_MAX));
        assert_eq!(restored(&replays, call("huge", "{}")), None);
        let calls = replays.calls();
        assert_eq!(calls.bytes, calls.known.values().map(Call::bytes).sum::<usize>());
    }
}
