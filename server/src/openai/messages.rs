//! Messages of Chat Completions: roles, parts, calls and their results.

use std::collections::HashSet;

use engine::text::chat::{Message, ToolCall};
use engine::text::python_json;
use serde_json::Value;

use crate::fault::{Fault, shown};
use crate::fields::{Fields, Place, text_content};
use crate::limits::MESSAGES_MAX;

/// Said where a result answers no call; in the hosted API's words.
const ORPHAN: &str = "Messages with role 'tool' must be a response to a preceding message with \
                      'tool_calls'";
/// Said where reasoning was lost, if that is refused; in the hosted API's words.
pub const LOST_REASONING: &str =
    "The `reasoning_content` in the thinking mode must be passed back to the API.";

/// A conversation.
#[derive(Debug)]
pub struct Conversation {
    /// Its messages.
    pub messages: Vec<Message>,
    /// A turn with calls came back without its reasoning.
    pub lost_reasoning: bool,
}

/// Reads `messages`.
///
/// # Errors
/// `Invalid`, naming the message and the field.
pub fn read(request: &Fields<'_>) -> Result<Conversation, Fault> {
    let items = request.array("messages")?.ok_or_else(|| request.missing("messages"))?;
    if items.is_empty() || items.len() > MESSAGES_MAX {
        let what = format!("it must have 1 to {MESSAGES_MAX} messages");
        return Err(request.fault("messages", what));
    }
    let mut conversation = Conversation { messages: Vec::new(), lost_reasoning: false };
    let mut calls = HashSet::new();
    for (index, item) in items.iter().enumerate() {
        let fields = Fields::new(item, Place::Item("messages", index))?;
        let last = index + 1 == items.len();
        let message = one(&fields, last, &mut calls, &mut conversation.lost_reasoning)?;
        conversation.messages.push(message);
    }
    Ok(conversation)
}

fn one<'a>(
    fields: &Fields<'a>,
    last: bool,
    calls: &mut HashSet<&'a str>,
    lost_reasoning: &mut bool,
) -> Result<Message, Fault> {
    let needed = || text_content(fields, "")?.ok_or_else(|| fields.missing("content"));
    Ok(match fields.needed_string("role")? {
        "system" | "developer" => Message::system(needed()?),
        "user" => Message::user(needed()?),
        "assistant" => assistant(fields, last, calls, lost_reasoning)?,
        "tool" => {
            let id = fields.needed_string("tool_call_id")?;
            if !calls.contains(id) {
                return Err(Fault::field(fields.name("tool_call_id"), ORPHAN));
            }
            let content = text_content(fields, "")?.unwrap_or_default();
            Message::Tool { call_id: id.to_owned(), content }
        }
        other => {
            let what = format!(
                "unknown role \"{}\"; known: system, developer, user, assistant, tool",
                shown(other)
            );
            return Err(fields.fault("role", what));
        }
    })
}

fn assistant<'a>(
    fields: &Fields<'a>,
    last: bool,
    calls: &mut HashSet<&'a str>,
    lost_reasoning: &mut bool,
) -> Result<Message, Fault> {
    let content = text_content(fields, "")?.unwrap_or_default();
    let reasoning = fields.string("reasoning_content")?;
    let open = fields.boolean("prefix")?.unwrap_or(false);
    if open && !last {
        return Err(fields.fault("prefix", "only the last message may be a prefix"));
    }
    if last && !open {
        let what = "the last message is the assistant's; set \"prefix\": true to have it continued";
        return Err(fields.fault("role", what));
    }
    let mut tool_calls = Vec::new();
    for (index, item) in fields.array("tool_calls")?.unwrap_or_default().iter().enumerate() {
        let list = fields.name("tool_calls");
        let call = Fields::new(item, Place::Item(&list, index))?;
        let id = match item.get("id") {
            Some(Value::String(id)) => id.as_str(),
            _ => return Err(call.fault("id", "it must be a string")),
        };
        calls.insert(id);
        tool_calls.push(called(&call, id)?);
    }
    *lost_reasoning |= !tool_calls.is_empty() && reasoning.is_none();
    let reasoning = reasoning.unwrap_or_default().to_owned();
    Ok(Message::Assistant { content, reasoning, tool_calls, task: None, open })
}

fn called(call: &Fields<'_>, id: &str) -> Result<ToolCall, Fault> {
    let function = call.get("function").ok_or_else(|| call.missing("function"))?;
    let place = call.name("function");
    let function = Fields::new(function, Place::At(&place))?;
    let name = function.needed_string("name")?.to_owned();
    let arguments = match function.get("arguments") {
        None => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(object @ Value::Object(_)) => python_json(object),
        Some(_) => return Err(function.fault("arguments", "it must be a string")),
    };
    Ok(ToolCall { id: id.to_owned(), name, arguments, written: None })
}
