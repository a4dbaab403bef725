//! Messages and their blocks, to the messages of the encoder.
//!
//! System messages stay where they stand: moving one to the front would change the prefix with every
//! turn. What a model cannot see (pictures inside results) becomes a word, because a refusal there would
//! end a session for good; what a user sends as a picture is refused by name.

use std::collections::HashSet;

use engine::text::chat::{Message, ToolCall};
use engine::text::python_json;
use serde_json::Value;

use crate::fault::{Fault, shown};
use crate::fields::{Fields, Place};
use crate::limits::MESSAGES_MAX;

/// First line of a system block that clients send for billing; it differs from request to request.
const BILLING: &str = "x-anthropic-billing-header:";
/// Stands for a picture inside a tool's result.
const PICTURE: &str = "[image omitted]";
/// Between blocks of text.
const BETWEEN: &str = "\n\n";

/// A conversation.
#[derive(Debug)]
pub struct Conversation {
    /// Its messages.
    pub messages: Vec<Message>,
    /// A turn with calls came back without its reasoning.
    pub lost_reasoning: bool,
}

/// The text of the field `system`.
///
/// # Errors
/// `Invalid`, if it is no text.
pub fn system(request: &Fields<'_>) -> Result<Option<String>, Fault> {
    let texts = match request.get("system") {
        None => return Ok(None),
        Some(Value::String(text)) if text.starts_with(BILLING) => {
            vec![text.split_once('\n').map_or("", |(_, rest)| rest)]
        }
        Some(Value::String(text)) => vec![text.as_str()],
        Some(Value::Array(blocks)) => texts(blocks, "system")?,
        Some(_) => return Err(request.fault("system", "it must be a string or text blocks")),
    };
    let kept: Vec<&str> = texts.into_iter().filter(|text| !text.starts_with(BILLING)).collect();
    Ok(Some(kept.join(BETWEEN)))
}

fn texts<'a>(blocks: &'a [Value], list: &str) -> Result<Vec<&'a str>, Fault> {
    let text = |(index, block): (usize, &'a Value)| {
        let block = Fields::new(block, Place::Item(list, index))?;
        match block.needed_string("type")? {
            "text" => block.needed_string("text"),
            other => {
                let what = format!("\"{}\" is not supported here; only text is", shown(other));
                Err(block.fault("type", what))
            }
        }
    };
    blocks.iter().enumerate().map(text).collect()
}

/// Reads `messages`.
///
/// # Errors
/// `Invalid`, naming the message and the block.
pub fn read(request: &Fields<'_>) -> Result<Conversation, Fault> {
    let items = request.array("messages")?.ok_or_else(|| request.missing("messages"))?;
    if items.is_empty() || items.len() > MESSAGES_MAX {
        let what = format!("it must have 1 to {MESSAGES_MAX} messages");
        return Err(request.fault("messages", what));
    }
    let mut reader = Reader::default();
    for (index, item) in items.iter().enumerate() {
        let fields = Fields::new(item, Place::Item("messages", index))?;
        match fields.needed_string("role")? {
            "user" => reader.user(&fields)?,
            "assistant" => reader.assistant(&fields)?,
            "system" => reader.system(&fields)?,
            other => {
                let what =
                    format!("unknown role \"{}\"; known: user, assistant, system", shown(other));
                return Err(fields.fault("role", what));
            }
        }
    }
    if let Some(Message::Assistant { open, tool_calls, .. }) = reader.messages.last_mut() {
        *open = tool_calls.is_empty();
    }
    Ok(Conversation { messages: reader.messages, lost_reasoning: reader.lost_reasoning })
}

#[derive(Default)]
struct Reader<'a> {
    messages: Vec<Message>,
    calls: HashSet<&'a str>,
    lost_reasoning: bool,
}

/// The blocks of a message: a string is one block of text.
enum Content<'a> {
    Text(&'a str),
    Blocks(&'a [Value]),
}

fn content<'a>(fields: &Fields<'a>) -> Result<Content<'a>, Fault> {
    match fields.get("content") {
        None => Err(fields.missing("content")),
        Some(Value::String(text)) => Ok(Content::Text(text)),
        Some(Value::Array(blocks)) => Ok(Content::Blocks(blocks)),
        Some(_) => Err(fields.fault("content", "it must be a string or an array of blocks")),
    }
}

impl<'a> Reader<'a> {
    fn system(&mut self, fields: &Fields<'a>) -> Result<(), Fault> {
        let text = match content(fields)? {
            Content::Text(text) => text.to_owned(),
            Content::Blocks(blocks) => texts(blocks, &fields.name("content"))?.join(BETWEEN),
        };
        self.messages.push(Message::system(text));
        Ok(())
    }

    fn user(&mut self, fields: &Fields<'a>) -> Result<(), Fault> {
        let blocks = match content(fields)? {
            Content::Text(text) => {
                self.messages.push(Message::user(text));
                return Ok(());
            }
            Content::Blocks(blocks) => blocks,
        };
        let list = fields.name("content");
        for (index, block) in blocks.iter().enumerate() {
            let block = Fields::new(block, Place::Item(&list, index))?;
            match block.needed_string("type")? {
                "text" => self.messages.push(Message::user(block.needed_string("text")?)),
                "tool_result" => {
                    let message = self.result(&block)?;
                    self.messages.push(message);
                }
                kind @ ("image" | "document") => {
                    let what = format!("content of type \"{kind}\" is not supported; only text is");
                    return Err(block.fault("type", what));
                }
                _ => self.messages.extend(aside(&block).map(Message::user)),
            }
        }
        if blocks.is_empty() {
            self.messages.push(Message::user(""));
        }
        Ok(())
    }

    fn result(&mut self, block: &Fields<'a>) -> Result<Message, Fault> {
        let id = block.needed_string("tool_use_id")?;
        if !self.calls.contains(id) {
            let what = format!("no earlier tool_use has the id \"{}\"", shown(id));
            return Err(block.fault("tool_use_id", what));
        }
        let content = match block.get("content") {
            None => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(parts)) => {
                let list = block.name("content");
                let mut texts = Vec::new();
                for (index, part) in parts.iter().enumerate() {
                    let part = Fields::new(part, Place::Item(&list, index))?;
                    match part.needed_string("type")? {
                        "text" => texts.push(part.needed_string("text")?.to_owned()),
                        "image" => texts.push(PICTURE.to_owned()),
                        _ => texts.extend(aside(&part)),
                    }
                }
                texts.join("\n")
            }
            Some(_) => return Err(block.fault("content", "it must be a string or blocks")),
        };
        Ok(Message::Tool { call_id: id.to_owned(), content })
    }

    fn assistant(&mut self, fields: &Fields<'a>) -> Result<(), Fault> {
        let mut turn = Turn::default();
        match content(fields)? {
            Content::Text(text) => turn.content.push_str(text),
            Content::Blocks(blocks) => {
                let list = fields.name("content");
                for (index, block) in blocks.iter().enumerate() {
                    let block = Fields::new(block, Place::Item(&list, index))?;
                    self.assistant_block(&block, &mut turn)?;
                }
            }
        }
        self.lost_reasoning |= !turn.tool_calls.is_empty() && !turn.thought;
        if let Some(Message::Assistant { content, reasoning, tool_calls, .. }) =
            self.messages.last_mut()
        {
            content.push_str(&turn.content);
            reasoning.push_str(&turn.reasoning);
            tool_calls.extend(turn.tool_calls);
            return Ok(());
        }
        self.messages.push(Message::Assistant {
            content: turn.content,
            reasoning: turn.reasoning,
            tool_calls: turn.tool_calls,
            task: None,
            open: false,
        });
        Ok(())
    }

    fn assistant_block(&mut self, block: &Fields<'a>, turn: &mut Turn) -> Result<(), Fault> {
        match block.needed_string("type")? {
            "text" => turn.content.push_str(block.needed_string("text")?),
            "thinking" => {
                turn.thought = true;
                turn.reasoning.push_str(block.string("thinking")?.unwrap_or_default());
            }
            "redacted_thinking" => turn.thought = true,
            "tool_use" => {
                let id = block.needed_string("id")?;
                self.calls.insert(id);
                let arguments = match block.get("input") {
                    None => "{}".to_owned(),
                    Some(input @ Value::Object(_)) => python_json(input),
                    Some(_) => return Err(block.fault("input", "it must be a JSON object")),
                };
                let name = block.needed_string("name")?.to_owned();
                let id = id.to_owned();
                turn.tool_calls.push(ToolCall { id, name, arguments, written: None });
            }
            _ => turn.content.push_str(&aside(block).unwrap_or_default()),
        }
        Ok(())
    }
}

#[derive(Default)]
struct Turn {
    content: String,
    reasoning: String,
    tool_calls: Vec<ToolCall>,
    /// A block of thinking was there, empty or not.
    thought: bool,
}

/// The text of a block that has no place of its own here (search results, references, what other
/// servers' tools did), if it has any.
fn aside(block: &Fields<'_>) -> Option<String> {
    let mut texts: Vec<&str> = Vec::new();
    for key in ["title", "source", "tool_name", "text"] {
        texts.extend(block.get(key).and_then(Value::as_str));
    }
    if let Some(Value::Array(parts)) = block.get("content") {
        for key in ["title", "url", "text"] {
            texts.extend(parts.iter().filter_map(|part| part.get(key)).filter_map(Value::as_str));
        }
    }
    (!texts.is_empty()).then(|| texts.join("\n"))
}
