//! `hadal run`: one prompt, one answer, streamed.
//!
//! The answer is all that goes to standard output; reasoning and statistics go to standard error, so
//! that a pipe gets the answer alone.

use std::io::{self, IsTerminal, Read, Write};

use engine::ModelOptions;
use engine::generate::Finish;
use engine::text::chat::Message;
use engine::text::dsml::Event;
use serde_json::json;

use super::args::RunArgs;
use super::failure::{Failure, Result};
use super::interrupt::Interrupt;
use super::model::{self, Source};
use super::talk::{Answer, Talker, thinking};
use super::term::{self, Style};

/// Longest prompt that is read from standard input, in bytes.
const PROMPT_BYTES_MAX: u64 = 64 << 20;

/// Answers.
pub fn run(args: &RunArgs) -> Result<()> {
    let interrupt = Interrupt::install()?;
    let prompt = prompt(args.prompt.as_deref())?;
    let thinking = thinking(args.think.asked())?;
    let source = Source::new(args.model.model.as_deref())?;
    let params = source.sampling(&args.sample)?;
    params.check().map_err(Failure::new)?;
    let checkpoint = source.checkpoint()?;
    let tokenizer = source.tokenizer(checkpoint.config().vocab)?;
    let options = ModelOptions::default();
    let engine = model::open(&source, &checkpoint, &args.model, options, &interrupt)?;
    let mut talker = Talker::new(engine, tokenizer, params, args.sample.max_tokens);
    let mut messages = Vec::new();
    messages.extend(args.system.as_deref().map(Message::system));
    messages.push(Message::user(prompt));
    let mut printer = Printer::new(args.json);
    let answer =
        talker.answer(&messages, thinking, &interrupt.flag(), &mut |event| printer.show(event))?;
    printer.end()?;
    if args.json {
        writeln!(io::stdout(), "{}", report(&answer))?;
    }
    if args.stats {
        eprintln!(
            "{} prompt tokens in {}, {} answer tokens at {:.1} per second, {}",
            answer.prompt_tokens,
            term::seconds(answer.prefill),
            answer.answer_tokens,
            answer.decode_rate(),
            finish_name(answer.finish),
        );
    }
    if answer.finish == Finish::Cancelled { Err(Failure::Interrupted) } else { Ok(()) }
}

/// The prompt of the command line, or that of standard input.
fn prompt(given: Option<&str>) -> Result<String> {
    let text = match given.filter(|&text| text != "-") {
        Some(text) => text.to_owned(),
        None if given.is_none() && io::stdin().is_terminal() => {
            return Err(Failure::usage("no prompt; give one, or pipe one to standard input"));
        }
        None => {
            let mut text = String::new();
            let read = io::stdin().lock().take(PROMPT_BYTES_MAX + 1).read_to_string(&mut text);
            read.map_err(|error| Failure::new(format!("standard input: {error}")))?;
            if text.len() as u64 > PROMPT_BYTES_MAX {
                return Err(Failure::new(format!(
                    "standard input is longer than {}; no model takes such a prompt",
                    term::bytes(PROMPT_BYTES_MAX)
                )));
            }
            text
        }
    };
    match text.trim_end_matches(['\n', '\r']) {
        "" => Err(Failure::new("the prompt is empty; give it at least one word")),
        text => Ok(text.to_owned()),
    }
}

/// Prints an answer as it comes.
pub struct Printer {
    silent: bool,
    dim: Style,
    reasoning: bool,
    /// Whether the last thing printed ended its line.
    fresh: bool,
}

impl Printer {
    /// A printer; a silent one prints nothing.
    pub fn new(silent: bool) -> Self {
        Self { silent, dim: Style::stderr(), reasoning: false, fresh: true }
    }

    /// Prints one piece.
    pub fn show(&mut self, event: &Event) -> Result<()> {
        match event {
            _ if self.silent => Ok(()),
            Event::Reasoning(text) => {
                let mut out = io::stderr().lock();
                if !self.reasoning {
                    write!(out, "{}", self.dim.dim)?;
                }
                (self.reasoning, self.fresh) = (true, text.ends_with('\n'));
                write!(out, "{text}")?;
                Ok(out.flush()?)
            }
            Event::Content(text) => self.content(text),
            Event::CallStart { name, .. } => self.content(&format!("\n[calls {name}(")),
            Event::CallArguments { text, .. } => self.content(text),
            Event::CallEnd { .. } => self.content(")]\n"),
        }
    }

    fn content(&mut self, text: &str) -> Result<()> {
        self.close_reasoning()?;
        self.fresh = text.ends_with('\n');
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }

    fn close_reasoning(&mut self) -> Result<()> {
        if std::mem::take(&mut self.reasoning) {
            let newline = if self.fresh { "" } else { "\n" };
            write!(io::stderr(), "{}{newline}", self.dim.reset)?;
            self.fresh = true;
        }
        Ok(())
    }

    /// Ends the last line.
    pub fn end(&mut self) -> Result<()> {
        self.close_reasoning()?;
        if !self.fresh {
            writeln!(io::stdout())?;
            self.fresh = true;
        }
        Ok(())
    }
}

fn report(answer: &Answer) -> serde_json::Value {
    let calls = answer.calls.iter();
    let calls: Vec<_> =
        calls.map(|(name, arguments)| json!({"name": name, "arguments": arguments})).collect();
    json!({
        "content": answer.content,
        "reasoning": answer.reasoning,
        "tool_calls": calls,
        "finish_reason": finish_name(answer.finish),
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.answer_tokens,
        "prefill_s": answer.prefill.as_secs_f64(),
        "decode_s": answer.decode.as_secs_f64(),
    })
}

fn finish_name(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::StopString => "stop_string",
        Finish::Length => "length",
        Finish::Context => "context",
        Finish::Cancelled => "cancelled",
    }
}
