//! The strict parser of a whole reply: the definition that the streaming one is tested against.

use std::collections::HashSet;

use super::grammar::{
    BEGIN_OF_SENTENCE, CALLS, DSML, END_OF_SENTENCE, HEADER_BYTES_MAX, INVOKE_END, KINDS,
    NEXT_CALL, NEXT_PARAMETER, PARAMETER, PARAMETER_END, THINK_END, THINK_START, bad, check_json,
    tool_name,
};
use super::stream::{Event, Malformed, ReplyStream};
use super::{Begin, Call, Reply};
use crate::text::error::TextError;
use crate::text::json::escape_into;
use crate::text::scan::find;

/// Parses one complete reply, end token included.
///
/// # Errors
/// `Reply` for anything that is not of the form above: no `</think>`, no end token, control strings
/// in reasoning or content, other text between tags or after the end, duplicate parameters, JSON
/// values that are not JSON, names beyond [`HEADER_BYTES_MAX`].
pub fn parse(text: &str, begin: Begin) -> Result<Reply, TextError> {
    let mut reply = Reply::default();
    let mut rest = text;
    if begin == Begin::Reasoning {
        let (reasoning, stop, after) = until(rest, &[THINK_END, CALLS]);
        if stop != Some(0) {
            return Err(TextError::reply("reply: reasoning does not end with </think>"));
        }
        reply.reasoning = plain(reasoning)?;
        rest = after;
    }
    let (content, stop, after) = until(rest, &[END_OF_SENTENCE, CALLS]);
    reply.content = plain(content)?;
    rest = after;
    match stop {
        None => return Err(TextError::reply("reply: no end token")),
        Some(0) => {}
        Some(_) => {
            (reply.calls, rest) = calls(rest)?;
            rest = rest.strip_prefix(END_OF_SENTENCE).unwrap_or(rest);
        }
    }
    if rest.is_empty() { Ok(reply) } else { Err(bad("end", rest)) }
}

/// Parses whatever a model wrote, complete or not, and never fails: what [`Malformed::Recover`]
/// gives for the whole text.
pub fn parse_recovering(text: &str, begin: Begin) -> Reply {
    let mut stream = ReplyStream::new(begin, Malformed::Recover);
    let mut events = Vec::new();
    let fed = stream.push(text, &mut events).and_then(|()| stream.finish(&mut events));
    fed.expect("recovering parsers do not fail");
    let mut reply = Reply::default();
    for event in events {
        match event {
            Event::Reasoning(text) => reply.reasoning.push_str(&text),
            Event::Content(text) => reply.content.push_str(&text),
            Event::CallStart { name, .. } => {
                reply.calls.push(Call { name, arguments: String::new() });
            }
            Event::CallArguments { index, text } => reply.calls[index].arguments.push_str(&text),
            Event::CallEnd { .. } => {}
        }
    }
    reply
}

/// Text up to the stop that begins first, that stop, and what follows it.
fn until<'a>(text: &'a str, stops: &[&str]) -> (&'a str, Option<usize>, &'a str) {
    match find(text, stops) {
        Some((at, stop)) => (&text[..at], Some(stop), &text[at + stops[stop].len()..]),
        None => (text, None, ""),
    }
}

/// Reasoning and content may hold no control string.
fn plain(text: &str) -> Result<String, TextError> {
    for control in [BEGIN_OF_SENTENCE, END_OF_SENTENCE, THINK_START, THINK_END, DSML] {
        if text.contains(control) {
            return Err(TextError::reply(format!("reply: control string {control} in the text")));
        }
    }
    Ok(text.to_owned())
}

/// The calls of a block, and what follows it.
fn calls(mut rest: &str) -> Result<(Vec<Call>, &str), TextError> {
    let mut calls = Vec::new();
    loop {
        if let Some(after) = rest.strip_prefix(NEXT_CALL[1]) {
            return Ok((calls, after));
        }
        rest = rest.strip_prefix(NEXT_CALL[0]).ok_or_else(|| bad("tool call", rest))?;
        let (call, after) = call(rest)?;
        calls.push(call);
        rest = after;
    }
}

/// One call after its `<｜DSML｜invoke`, and what follows its `</｜DSML｜invoke`.
fn call(rest: &str) -> Result<(Call, &str), TextError> {
    let (header, mut stop, mut rest) = until(rest, &[PARAMETER, INVOKE_END]);
    if stop.is_none() || header.len() > HEADER_BYTES_MAX {
        return Err(bad("name of a tool", header));
    }
    let name = tool_name(header)?.to_owned();
    let mut arguments = String::from("{");
    let mut seen = HashSet::new();
    while stop == Some(0) {
        let (inner, end, after) = until(rest, &[PARAMETER_END]);
        let inside = inner.strip_suffix('<').filter(|_| end.is_some());
        let inside = inside.and_then(|inside| inside.strip_prefix(" name=\""));
        let (key, kind, value) = until(inside.ok_or_else(|| bad("parameter", inner))?, &KINDS);
        let Some(kind) = kind else { return Err(bad("parameter", inner)) };
        if key.len() > HEADER_BYTES_MAX || !seen.insert(key) {
            return Err(bad("name of a parameter (too long, or there twice)", key));
        }
        if seen.len() > 1 {
            arguments.push_str(", ");
        }
        arguments.push('"');
        escape_into(key, &mut arguments);
        arguments.push_str("\": ");
        if kind == 0 {
            arguments.push('"');
            escape_into(value, &mut arguments);
            arguments.push('"');
        } else {
            check_json(value)?;
            arguments.push_str(value);
        }
        stop = NEXT_PARAMETER.iter().position(|next| after.starts_with(next));
        let Some(next) = stop else { return Err(bad("parameter", after)) };
        rest = &after[NEXT_PARAMETER[next].len()..];
    }
    arguments.push('}');
    Ok((Call { name, arguments }, rest))
}
