//! From messages to turns: tool results have no role of their own, they share a turn of the user
//! with each other and with what the user says next, and stand in the order of the calls they
//! answer.

use std::collections::HashMap;

use serde_json::Value;

use super::message::{Message, ToolCall};
use crate::text::control::Task;

/// A part of a user's turn.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part<'a> {
    Text(&'a str),
    Result { call_id: &'a str, content: &'a str },
}

/// A turn of the rendered conversation.
#[derive(Debug)]
pub(super) enum Turn<'a> {
    System(Instructions<'a>),
    Developer(Instructions<'a>),
    User { parts: Vec<Part<'a>>, task: Option<Task> },
    Assistant(Answer<'a>),
    LatestReminder(&'a str),
}

/// What a system or developer message holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Instructions<'a> {
    pub content: &'a str,
    pub tools: &'a [Value],
    pub response_format: Option<&'a Value>,
}

/// What an assistant's message holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer<'a> {
    pub content: &'a str,
    pub reasoning: &'a str,
    pub tool_calls: &'a [ToolCall],
    pub task: Option<Task>,
    pub open: bool,
}

impl Turn<'_> {
    /// Turns that the assistant answers.
    pub(super) fn asks(&self) -> bool {
        matches!(self, Turn::User { .. } | Turn::Developer(_))
    }

    pub(super) fn task(&self) -> Option<Task> {
        match self {
            Turn::User { task, .. } => *task,
            Turn::Assistant(answer) => answer.task,
            _ => None,
        }
    }
}

/// The turns of `messages`, results sorted.
pub(super) fn turns(messages: &[Message]) -> Vec<Turn<'_>> {
    let mut turns = Vec::with_capacity(messages.len());
    for message in messages {
        add(&mut turns, message);
    }
    sort_results(&mut turns);
    turns
}

fn add<'a>(turns: &mut Vec<Turn<'a>>, message: &'a Message) {
    let turn = match message {
        Message::Tool { call_id, content } => {
            let part = Part::Result { call_id, content };
            if let Some(Turn::User { parts, .. }) = turns.last_mut() {
                parts.push(part);
                return;
            }
            Turn::User { parts: vec![part], task: None }
        }
        Message::User { content, task } => {
            // As in the reference, a text that joins an earlier turn loses its task.
            if let Some(Turn::User { parts, task: None }) = turns.last_mut() {
                parts.push(Part::Text(content));
                return;
            }
            Turn::User { parts: vec![Part::Text(content)], task: *task }
        }
        Message::System { content, tools, response_format } => {
            Turn::System(Instructions { content, tools, response_format: response_format.as_ref() })
        }
        Message::Developer { content, tools, response_format } => Turn::Developer(Instructions {
            content,
            tools,
            response_format: response_format.as_ref(),
        }),
        Message::Assistant { content, reasoning, tool_calls, task, open } => {
            Turn::Assistant(Answer { content, reasoning, tool_calls, task: *task, open: *open })
        }
        Message::LatestReminder { content } => Turn::LatestReminder(content),
    };
    turns.push(turn);
}

/// Puts the results of each turn into the order of the last calls before it. A result of an unknown
/// call counts as the first call's; texts keep their places.
fn sort_results(turns: &mut [Turn<'_>]) {
    let mut order: HashMap<&str, usize> = HashMap::new();
    for turn in turns {
        match turn {
            Turn::Assistant(Answer { tool_calls, .. }) if !tool_calls.is_empty() => {
                let named = tool_calls.iter().enumerate().filter(|(_, call)| !call.id.is_empty());
                order = named.map(|(index, call)| (call.id.as_str(), index)).collect();
            }
            Turn::User { parts, .. } if !order.is_empty() => {
                let place = |part: &Part<'_>| match part {
                    Part::Result { call_id, .. } => order.get(call_id).copied().unwrap_or(0),
                    Part::Text(_) => unreachable!("texts were filtered out"),
                };
                let is_result = |part: &&Part<'_>| matches!(part, Part::Result { .. });
                let mut results: Vec<_> = parts.iter().filter(is_result).copied().collect();
                results.sort_by_key(place);
                let mut results = results.into_iter();
                for part in parts.iter_mut().filter(|part| matches!(part, Part::Result { .. })) {
                    *part = results.next().expect("as many results as before");
                }
            }
            _ => {}
        }
    }
}
