//! Messages from JSON in the OpenAI form, with DeepSeek's additions (`reasoning_content`, `task`,
//! `response_format` and `tools` on a message). Types are strict; unknown fields are ignored.
//!
//! Not here: the rules of an HTTP API (which tools answer which calls, limits, other dialects).

use serde_json::{Map, Value};

use super::message::{Message, ToolCall};
use crate::text::control::Task;
use crate::text::error::{TextError, shown};
use crate::text::json::python_json;

/// Reads a JSON array of messages.
///
/// # Errors
/// `Request`, with the number of the message and the field, for a wrong type, an unknown role or
/// task, or content that is not text.
pub fn messages_from_json(value: &Value) -> Result<Vec<Message>, TextError> {
    let Value::Array(items) = value else {
        return Err(TextError::request("messages must be an array"));
    };
    let read = |(index, item): (usize, &Value)| {
        message(item).map_err(|error| TextError::request(format!("messages[{index}]: {error}")))
    };
    items.iter().enumerate().map(read).collect()
}

fn message(value: &Value) -> Result<Message, TextError> {
    let Value::Object(fields) = value else {
        return Err(TextError::request("a message must be an object"));
    };
    let role = string(fields, "role")?.ok_or_else(|| TextError::request("role is missing"))?;
    Ok(match role {
        "system" => Message::System {
            content: content(fields, "")?,
            tools: tools(fields)?,
            response_format: present(fields, "response_format").cloned(),
        },
        "developer" => Message::Developer {
            content: content(fields, "")?,
            tools: tools(fields)?,
            response_format: present(fields, "response_format").cloned(),
        },
        "user" => Message::User { content: content(fields, "")?, task: task(fields)? },
        "assistant" => Message::Assistant {
            content: content(fields, "")?,
            reasoning: string(fields, "reasoning_content")?.unwrap_or("").to_owned(),
            tool_calls: tool_calls(fields)?,
            task: task(fields)?,
            open: flag(fields, "prefix")?,
        },
        "tool" => Message::Tool {
            call_id: string(fields, "tool_call_id")?.unwrap_or("").to_owned(),
            content: content(fields, "\n\n")?,
        },
        "latest_reminder" => Message::LatestReminder { content: content(fields, "")? },
        other => return Err(TextError::request(format!("unknown role {:?}", shown(other)))),
    })
}

/// The field, unless it is absent or null.
fn present<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    fields.get(name).filter(|value| !value.is_null())
}

fn string<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, TextError> {
    match present(fields, name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(TextError::request(format!("{name} must be a string"))),
    }
}

fn flag(fields: &Map<String, Value>, name: &str) -> Result<bool, TextError> {
    match present(fields, name) {
        None => Ok(false),
        Some(Value::Bool(set)) => Ok(*set),
        Some(_) => Err(TextError::request(format!("{name} must be true or false"))),
    }
}

fn array<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<&'a [Value], TextError> {
    match present(fields, name) {
        None => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(_) => Err(TextError::request(format!("{name} must be an array"))),
    }
}

/// A string, nothing, or text parts joined by `between`.
fn content(fields: &Map<String, Value>, between: &str) -> Result<String, TextError> {
    let parts = match present(fields, "content") {
        None => return Ok(String::new()),
        Some(Value::String(text)) => return Ok(text.clone()),
        Some(Value::Array(parts)) => parts,
        Some(_) => return Err(TextError::request("content must be a string or an array of parts")),
    };
    let text = |part: &Value| match (part["type"].as_str(), part["text"].as_str()) {
        (Some("text"), Some(text)) => Ok(text.to_owned()),
        (Some(kind), _) => Err(TextError::request(format!(
            "content of type {:?} is not supported; only text is",
            shown(kind)
        ))),
        (None, _) => Err(TextError::request("a content part needs a type")),
    };
    Ok(parts.iter().map(text).collect::<Result<Vec<_>, _>>()?.join(between))
}

fn task(fields: &Map<String, Value>) -> Result<Option<Task>, TextError> {
    let Some(name) = string(fields, "task")? else { return Ok(None) };
    let unknown = || TextError::request(format!("unknown task {:?}", shown(name)));
    Task::by_name(name).ok_or_else(unknown).map(Some)
}

fn tools(fields: &Map<String, Value>) -> Result<Vec<Value>, TextError> {
    let function = |tool: &Value| match tool.get("function") {
        Some(function @ Value::Object(_)) => Ok(function.clone()),
        _ => Err(TextError::request("a tool needs an object `function`")),
    };
    array(fields, "tools")?.iter().map(function).collect()
}

fn tool_calls(fields: &Map<String, Value>) -> Result<Vec<ToolCall>, TextError> {
    let call = |call: &Value| {
        let function = &call["function"];
        let Some(name) = function["name"].as_str() else {
            return Err(TextError::request("a tool call needs function.name"));
        };
        let arguments = match &function["arguments"] {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => python_json(other),
        };
        let id = call["id"].as_str().unwrap_or("").to_owned();
        Ok(ToolCall { id, name: name.to_owned(), arguments, written: None })
    };
    array(fields, "tool_calls")?.iter().map(call).collect()
}
