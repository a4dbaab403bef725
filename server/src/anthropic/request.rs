//! Messages requests: every field that means something here, strictly; others are ignored.

use engine::sample::SamplingParams;
use engine::text::chat::{Effort, Message, Thinking};
use serde_json::{Map, Value};

use super::blocks;
use crate::fault::{Fault, shown};
use crate::fields::{Fields, Place};
use crate::grammar::{Choice, Format, Tool};
use crate::limits::{STOPS_MAX, TOOLS_MAX};
use crate::model::{Ask, Model};
use crate::names::{Dialect, Habit};
use crate::openai::chat::{stops, tool_name};

/// Said where reasoning was lost, if that is refused; in the hosted API's words.
const LOST_REASONING: &str =
    "The `content[].thinking` in the thinking mode must be passed back to the API.";

/// A request that was read.
#[derive(Debug)]
pub struct MessagesRequest {
    /// The model, as it was asked for.
    pub name: String,
    /// What is asked.
    pub ask: Ask,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// Whose prefixes may be reused.
    pub user: Option<String>,
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// An answer: `max_tokens` must be there.
    Answer,
    /// The number of its tokens.
    Count,
}

/// Reads a request.
///
/// # Errors
/// `Invalid`, naming the field; `Model`.
pub fn read(body: &Value, model: &Model, purpose: Purpose) -> Result<MessagesRequest, Fault> {
    let request = Fields::new(body, Place::Root)?;
    let name = request.needed_string("model")?.to_owned();
    let habit = model.names.resolve(&name, Dialect::Anthropic)?;
    let tokens_max = request.integer("max_tokens", 1, u64::MAX)?;
    if tokens_max.is_none() && purpose == Purpose::Answer {
        return Err(request.missing("max_tokens"));
    }
    let conversation = blocks::read(&request)?;
    let thinking = thinking(&request, habit, model)?;
    if model.strict_reasoning && conversation.lost_reasoning && thinking != Thinking::Off {
        return Err(Fault::field("messages", LOST_REASONING));
    }
    let mut messages = conversation.messages;
    if let Some(system) = blocks::system(&request)? {
        messages.insert(0, Message::system(system));
    }
    let tools = tools(&request)?;
    let choice = choice(&request, &tools)?;
    let temperature = request.number("temperature", 0.0, 2.0)?.unwrap_or(1.0);
    let top_p = request.number("top_p", 0.0, 1.0)?.unwrap_or(1.0);
    let stop = stops(&request, "stop_sequences")?;
    debug_assert!(stop.len() <= STOPS_MAX);
    let params = SamplingParams {
        temperature: temperature as f32,
        top_p: top_p as f32,
        stop,
        ..SamplingParams::default()
    };
    let ask = Ask {
        messages,
        thinking,
        params,
        tokens_max: tokens_max.map(|tokens| u32::try_from(tokens).unwrap_or(u32::MAX)),
        tools,
        choice,
        format: Format::Text,
        format_text: None,
    };
    let stream = request.boolean("stream")?.unwrap_or(false);
    Ok(MessagesRequest { name, ask, stream, user: user(&request) })
}

/// Whose a request is; clients put whole objects into this field, so nothing is checked. Their sessions
/// are left out: a new one begins with the prompt of the last, and is the same user's.
fn user(request: &Fields<'_>) -> Option<String> {
    let user = request.get("metadata")?.get("user_id")?.as_str()?;
    if let Ok(Value::Object(mut parts)) = serde_json::from_str(user) {
        parts.remove("session_id");
        return Some(Value::Object(parts).to_string());
    }
    Some(user.split("_session_").next().unwrap_or(user).to_owned())
}

fn thinking(request: &Fields<'_>, habit: Habit, model: &Model) -> Result<Thinking, Fault> {
    let mut on = habit == Habit::Thinks;
    if let Some(options) = request.get("thinking") {
        let options = Fields::new(options, Place::At("thinking"))?;
        on = match options.needed_string("type")? {
            "enabled" | "adaptive" => true,
            "disabled" => false,
            _ => {
                let what = "it must be \"enabled\", \"adaptive\" or \"disabled\"";
                return Err(options.fault("type", what));
            }
        };
    }
    let mut asked = Thinking::On(Effort::High);
    if let Some(output) = request.get("output_config") {
        let output = Fields::new(output, Place::At("output_config"))?;
        if let Some(effort) = output.string("effort")? {
            asked = model
                .efforts
                .asked(effort)
                .map_err(|error| Fault::field("output_config.effort", error.to_string()))?;
        }
    }
    Ok(if on { asked } else { Thinking::Off })
}

/// The tools that are the client's own; tools of the hosted server are dropped.
fn tools(request: &Fields<'_>) -> Result<Vec<Tool>, Fault> {
    let items = request.array("tools")?.unwrap_or_default();
    if items.len() > TOOLS_MAX {
        return Err(request.fault("tools", format!("at most {TOOLS_MAX} tools are supported")));
    }
    let mut tools = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let fields = Fields::new(item, Place::Item("tools", index))?;
        let Some(schema) = fields.get("input_schema") else {
            if fields.string("type")?.is_some_and(|kind| kind != "custom") {
                continue;
            }
            return Err(fields.missing("input_schema"));
        };
        if !schema.is_object() {
            return Err(fields.fault("input_schema", "it must be a JSON object"));
        }
        let name = tool_name(&fields)?;
        let mut function = Map::new();
        function.insert("name".to_owned(), name.as_str().into());
        if let Some(description) = fields.string("description")? {
            function.insert("description".to_owned(), description.into());
        }
        function.insert("parameters".to_owned(), schema.clone());
        tools.push(Tool {
            name,
            function: Value::Object(function),
            parameters: Some(schema.clone()),
            strict: false,
        });
    }
    Ok(tools)
}

fn choice(request: &Fields<'_>, tools: &[Tool]) -> Result<Choice, Fault> {
    let Some(choice) = request.get("tool_choice") else {
        return Ok(if tools.is_empty() { Choice::Never } else { Choice::Auto });
    };
    let fields = Fields::new(choice, Place::At("tool_choice"))?;
    let name = fields.string("name")?;
    let choice = match fields.needed_string("type")? {
        "none" => return Ok(Choice::Never),
        "auto" if tools.is_empty() => return Ok(Choice::Never),
        "auto" => return Ok(Choice::Auto),
        "any" => Choice::Required,
        "tool" => Choice::Named(name.ok_or_else(|| fields.missing("name"))?.to_owned()),
        _ => return Err(fields.fault("type", "it must be auto, any, tool or none")),
    };
    match &choice {
        _ if tools.is_empty() => Err(fields.fault("type", "it needs tools to choose from")),
        Choice::Named(name) if !tools.iter().any(|tool| tool.name == *name) => {
            Err(fields.fault("name", format!("no tool is called \"{}\"", shown(name))))
        }
        _ => Ok(choice),
    }
}
