//! Chat Completions requests: every field that means something here, strictly; others are ignored.

use engine::sample::SamplingParams;
use engine::text::chat::{Effort, Thinking};
use serde_json::{Value, json};

use super::messages;
use crate::fault::Fault;
use crate::fields::{Fields, Place};
use crate::grammar::{Choice, Format, Tool};
use crate::limits::{STOPS_MAX, TOKENS_ASKED_MAX, TOOL_NAME_MAX, TOOLS_MAX, USER_BYTES_MAX};
use crate::model::{Ask, Model};
use crate::names::{Dialect, Habit};

/// A request that was read.
#[derive(Debug)]
pub struct ChatRequest {
    /// The model, as it was asked for.
    pub name: String,
    /// What is asked.
    pub ask: Ask,
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
pub fn read(body: &Value, model: &Model) -> Result<ChatRequest, Fault> {
    let request = Fields::new(body, Place::Root)?;
    let name = request.needed_string("model")?.to_owned();
    let habit = model.names.resolve(&name, Dialect::OpenAi)?;
    let conversation = messages::read(&request)?;
    let thinking = thinking(&request, habit, model)?;
    if model.strict_reasoning && conversation.lost_reasoning && thinking != Thinking::Off {
        return Err(Fault::field("messages", messages::LOST_REASONING));
    }
    let stream = request.boolean("stream")?.unwrap_or(false);
    let include_usage = include_usage(&request)?;
    let params = sampling(&request)?;
    let (format, format_text) = format(&request)?;
    let tools = tools(&request)?;
    let choice = choice(&request, &tools)?;
    if request.integer("n", 1, 1).is_err() {
        return Err(request.fault("n", "only n = 1 is supported"));
    }
    let ask = Ask {
        messages: conversation.messages,
        thinking,
        params,
        tokens_max: tokens_max(&request)?,
        tools,
        choice,
        format,
        format_text,
    };
    let open = matches!(
        ask.messages.last(),
        Some(engine::text::chat::Message::Assistant { open: true, .. })
    );
    if open && ask.format != Format::Text {
        return Err(request.fault("response_format", "it cannot be combined with a prefix"));
    }
    let user = user(&request)?;
    Ok(ChatRequest { name, ask, stream, include_usage, user })
}

/// What of a stream's options concerns us.
///
/// # Errors
/// `Invalid`.
pub fn include_usage(request: &Fields<'_>) -> Result<bool, Fault> {
    let Some(options) = request.get("stream_options") else { return Ok(false) };
    let options = Fields::new(options, Place::At("stream_options"))?;
    Ok(options.boolean("include_usage")?.unwrap_or(false))
}

/// Whose a request is.
///
/// # Errors
/// `Invalid`, if the name is too long.
pub fn user(request: &Fields<'_>) -> Result<Option<String>, Fault> {
    let user = request.string("user_id")?;
    if user.is_some_and(|user| user.len() > USER_BYTES_MAX) {
        return Err(request.fault("user_id", format!("it has more than {USER_BYTES_MAX} bytes")));
    }
    Ok(user.map(str::to_owned))
}

/// The smaller of both fields.
fn tokens_max(request: &Fields<'_>) -> Result<Option<u32>, Fault> {
    let mut least = None;
    for name in ["max_tokens", "max_completion_tokens"] {
        if let Some(tokens) = request.integer(name, 1, TOKENS_ASKED_MAX)? {
            let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
            least = Some(least.map_or(tokens, |least: u32| least.min(tokens)));
        }
    }
    Ok(least)
}

/// Whether and how much it thinks. An explicit `thinking` beats the name's habit; the effort `none`
/// beats both.
fn thinking(request: &Fields<'_>, habit: Habit, model: &Model) -> Result<Thinking, Fault> {
    let mut on = habit == Habit::Thinks;
    for (object, keys) in [("chat_template_kwargs", ["thinking", "enable_thinking"])] {
        let Some(options) = request.get(object) else { continue };
        let options = Fields::new(options, Place::At(object))?;
        for key in keys {
            on = options.boolean(key)?.unwrap_or(on);
        }
    }
    on = request.boolean("think")?.unwrap_or(on);
    if let Some(options) = request.get("thinking") {
        let options = Fields::new(options, Place::At("thinking"))?;
        on = match options.needed_string("type")? {
            "enabled" => true,
            "disabled" => false,
            _ => return Err(options.fault("type", "it must be \"enabled\" or \"disabled\"")),
        };
    }
    let asked = match request.string("reasoning_effort")? {
        None => Thinking::On(Effort::High),
        Some(effort) => model
            .efforts
            .asked(effort)
            .map_err(|error| Fault::field("reasoning_effort", error.to_string()))?,
    };
    Ok(if on { asked } else { Thinking::Off })
}

fn sampling(request: &Fields<'_>) -> Result<SamplingParams, Fault> {
    let temperature = request.number("temperature", 0.0, 2.0)?.unwrap_or(1.0);
    let top_p = request.number("top_p", 0.0, 1.0)?.unwrap_or(1.0);
    for name in ["frequency_penalty", "presence_penalty"] {
        request.number(name, -2.0, 2.0)?;
    }
    let wanted = request.boolean("logprobs")?.unwrap_or(false);
    let top = request.integer("top_logprobs", 0, 20)?;
    if top.is_some() && !wanted {
        return Err(request.fault("top_logprobs", "logprobs must be true to use top_logprobs"));
    }
    Ok(SamplingParams {
        temperature: temperature as f32,
        top_p: top_p as f32,
        seed: request
            .get("seed")
            .and_then(|seed| seed.as_u64().or(seed.as_i64().map(|s| s as u64))),
        logprobs: wanted.then(|| top.unwrap_or(0) as u32),
        stop: stops(request, "stop")?,
        ..SamplingParams::default()
    })
}

/// A stop string or several; empty ones mean nothing.
///
/// # Errors
/// `Invalid`, if there are too many, one is too long, or something else stands there.
pub fn stops(request: &Fields<'_>, name: &str) -> Result<Vec<String>, Fault> {
    let single;
    let items = match request.get(name) {
        None => return Ok(Vec::new()),
        Some(text @ Value::String(_)) => {
            single = [text.clone()];
            &single[..]
        }
        Some(Value::Array(items)) => items,
        Some(_) => return Err(request.fault(name, "it must be a string or an array of strings")),
    };
    if items.len() > STOPS_MAX {
        return Err(request.fault(name, format!("at most {STOPS_MAX} stop strings are supported")));
    }
    let mut stops = Vec::new();
    for item in items {
        match item.as_str() {
            Some("") => {}
            Some(text) if text.len() <= engine::sample::STOP_BYTES_MAX => {
                stops.push(text.to_owned());
            }
            Some(_) => return Err(request.fault(name, "a stop string is too long")),
            None => return Err(request.fault(name, "it must be a string or an array of strings")),
        }
    }
    Ok(stops)
}

/// What the content must be, and what the prompt says about it.
fn format(request: &Fields<'_>) -> Result<(Format, Option<Value>), Fault> {
    let Some(format) = request.get("response_format") else { return Ok((Format::Text, None)) };
    let format = Fields::new(format, Place::At("response_format"))?;
    match format.needed_string("type")? {
        "text" => Ok((Format::Text, None)),
        "json_object" => Ok((Format::Json(json!({"type": "object"})), None)),
        "json_schema" => {
            let outer = format.get("json_schema").ok_or_else(|| format.missing("json_schema"))?;
            let outer = Fields::new(outer, Place::At("response_format.json_schema"))?;
            outer.string("name")?;
            outer.boolean("strict")?;
            let schema = outer.get("schema").ok_or_else(|| outer.missing("schema"))?;
            if !schema.is_object() {
                return Err(outer.fault("schema", "it must be a JSON object"));
            }
            Ok((Format::Json(schema.clone()), Some(schema.clone())))
        }
        _ => Err(format.fault("type", "it must be text, json_object or json_schema")),
    }
}

fn tools(request: &Fields<'_>) -> Result<Vec<Tool>, Fault> {
    let items = request.array("tools")?.unwrap_or_default();
    if items.len() > TOOLS_MAX {
        return Err(request.fault("tools", format!("at most {TOOLS_MAX} tools are supported")));
    }
    let tool = |(index, item): (usize, &Value)| {
        let tool = Fields::new(item, Place::Item("tools", index))?;
        if tool.needed_string("type")? != "function" {
            return Err(tool.fault("type", "it must be \"function\""));
        }
        let function = tool.get("function").ok_or_else(|| tool.missing("function"))?;
        let place = tool.name("function");
        let fields = Fields::new(function, Place::At(&place))?;
        fields.string("description")?;
        let parameters = fields.get("parameters");
        if parameters.is_some_and(|parameters| !parameters.is_object()) {
            return Err(fields.fault("parameters", "it must be a JSON object"));
        }
        Ok(Tool {
            name: tool_name(&fields)?,
            function: function.clone(),
            parameters: parameters.cloned(),
            strict: fields.boolean("strict")?.unwrap_or(false),
        })
    };
    items.iter().enumerate().map(tool).collect()
}

/// The name of a tool.
///
/// # Errors
/// `Invalid`, if it is missing or no name.
pub fn tool_name(fields: &Fields<'_>) -> Result<String, Fault> {
    let name = fields.needed_string("name")?;
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || name.len() > TOOL_NAME_MAX || !name.chars().all(legal) {
        let what = format!("it must match ^[a-zA-Z0-9_-]{{1,{TOOL_NAME_MAX}}}$");
        return Err(fields.fault("name", what));
    }
    Ok(name.to_owned())
}

fn choice(request: &Fields<'_>, tools: &[Tool]) -> Result<Choice, Fault> {
    let choice = match request.get("tool_choice") {
        None if tools.is_empty() => return Ok(Choice::Never),
        None => return Ok(Choice::Auto),
        Some(Value::String(name)) => match name.as_str() {
            "none" => return Ok(Choice::Never),
            "auto" if tools.is_empty() => return Ok(Choice::Never),
            "auto" => return Ok(Choice::Auto),
            "required" => Choice::Required,
            _ => {
                let what = "it must be none, auto, required, or an object that names a function";
                return Err(request.fault("tool_choice", what));
            }
        },
        Some(named) => {
            let named = Fields::new(named, Place::At("tool_choice"))?;
            if named.needed_string("type")? != "function" {
                return Err(named.fault("type", "it must be \"function\""));
            }
            let function = named.get("function").ok_or_else(|| named.missing("function"))?;
            let function = Fields::new(function, Place::At("tool_choice.function"))?;
            Choice::Named(function.needed_string("name")?.to_owned())
        }
    };
    match &choice {
        _ if tools.is_empty() => Err(request.fault("tool_choice", "it needs tools to choose from")),
        Choice::Named(name) if !tools.iter().any(|tool| tool.name == *name) => {
            let what = format!("no tool is called \"{}\"", crate::fault::shown(name));
            Err(request.fault("tool_choice", what))
        }
        _ => Ok(choice),
    }
}
