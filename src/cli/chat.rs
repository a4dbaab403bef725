//! `hadal chat`: a conversation in the terminal.
//!
//! Ctrl-C ends the answer that is being written and not the program; Ctrl-D leaves. Lines are kept in
//! a history file, readable by its owner alone, unless no place for one is known. Lines that start
//! with a slash are commands.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use engine::ModelOptions;
use engine::generate::Finish;
use engine::text::chat::{Message, Thinking};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::args::ChatArgs;
use super::failure::{Failure, Result};
use super::interrupt::Interrupt;
use super::model::{self, Source};
use super::run::Printer;
use super::talk::{Talker, thinking};

const HELP: &str = "/clear  forget the conversation\n/think  reason before answering, or stop it\n\
                    /quit   leave (or Ctrl-D)\nCtrl-C ends an answer.";

/// A conversation and the means to hold it.
struct Chat {
    talker: Talker,
    interrupt: Interrupt,
    messages: Vec<Message>,
    thinking: Thinking,
    system: Option<String>,
}

/// Whether the conversation goes on.
enum Next {
    Go,
    Leave,
}

/// Talks until the user leaves.
pub fn chat(args: &ChatArgs) -> Result<()> {
    let interrupt = Interrupt::install()?;
    let thinking = thinking(args.think.asked())?;
    let source = Source::new(args.model.model.as_deref())?;
    let params = source.sampling(&args.sample)?;
    params.check().map_err(Failure::new)?;
    let checkpoint = source.checkpoint()?;
    let tokenizer = source.tokenizer(checkpoint.config().vocab)?;
    let options = ModelOptions::default();
    let engine = model::open(&source, &checkpoint, &args.model, options, &interrupt)?;
    let talker = Talker::new(engine, tokenizer, params, args.sample.max_tokens);
    let system = args.system.clone();
    let mut chat = Chat { talker, interrupt, messages: Vec::new(), thinking, system };
    chat.clear();
    eprintln!("{source}; /help lists commands");
    chat.hold()
}

impl Chat {
    fn hold(&mut self) -> Result<()> {
        let mut editor = DefaultEditor::new().map_err(Failure::new)?;
        let history = history();
        if let Some(path) = &history {
            // A first conversation has no history yet.
            let _ = editor.load_history(path);
        }
        loop {
            match editor.readline("> ") {
                Ok(line) => {
                    let line = line.trim();
                    if line.is_empty() {
                        continue;
                    }
                    let _ = editor.add_history_entry(line);
                    if let Next::Leave = self.line(line)? {
                        break;
                    }
                }
                Err(ReadlineError::Interrupted) => eprintln!("Ctrl-D leaves"),
                Err(ReadlineError::Eof) => break,
                Err(error) => return Err(Failure::new(format!("the terminal: {error}"))),
            }
        }
        if let Some(path) = &history {
            // Losing the history is no reason to fail a conversation that went well.
            let _ = editor.save_history(path);
        }
        Ok(())
    }

    fn line(&mut self, line: &str) -> Result<Next> {
        match line {
            "/quit" | "/exit" => return Ok(Next::Leave),
            "/clear" => self.clear(),
            "/help" => eprintln!("{HELP}"),
            "/think" => {
                let asked = if self.thinking == Thinking::Off { "high" } else { "none" };
                self.thinking = thinking(asked)?;
                let now = if asked == "none" { "at once" } else { "after reasoning" };
                eprintln!("answers come {now}");
            }
            command if command.starts_with('/') && !command.contains(' ') => {
                eprintln!("{command} is no command\n{HELP}");
            }
            _ => self.turn(line)?,
        }
        Ok(Next::Go)
    }

    fn clear(&mut self) {
        self.messages.clear();
        self.messages.extend(self.system.as_deref().map(Message::system));
    }

    /// One question and its answer. A question that is refused (too long a conversation) is taken
    /// back, and the conversation goes on.
    fn turn(&mut self, line: &str) -> Result<()> {
        self.interrupt.answer();
        self.messages.push(Message::user(line));
        let mut printer = Printer::new(false);
        let (thinking, flag) = (self.thinking, self.interrupt.flag());
        let answer =
            self.talker.answer(&self.messages, thinking, &flag, &mut |event| printer.show(event));
        printer.end()?;
        match answer {
            Ok(answer) => {
                match answer.finish {
                    Finish::Cancelled => eprintln!("(interrupted)"),
                    Finish::Context => eprintln!("(the context is full; /clear starts afresh)"),
                    _ => {}
                }
                self.messages.push(Message::assistant(answer.content, answer.reasoning));
            }
            Err(failure @ Failure::Failed(_)) => {
                self.messages.pop();
                eprintln!("error: {failure}");
            }
            Err(other) => return Err(other),
        }
        self.interrupt.answer();
        io::stdout().flush()?;
        Ok(())
    }
}

/// Where lines are remembered: `$XDG_STATE_HOME/hadal`, or `~/.local/state/hadal`.
fn history() -> Option<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = set("XDG_STATE_HOME").or_else(|| Some(set("HOME")?.join(".local/state")))?;
    let folder = state.join("hadal");
    fs::create_dir_all(&folder).ok()?;
    Some(folder.join("history"))
}
