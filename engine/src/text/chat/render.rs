//! Turns to a prompt. The rules are those of DeepSeek's encoder; its surprising ones are named
//! where they are followed.

use serde_json::Value;

use super::constants::{
    BLANK_LINE, RESPONSE_FORMAT_BEFORE, RESULT_AFTER, RESULT_BEFORE, TOOLS_AFTER, TOOLS_BEFORE,
};
use super::effort::{EffortTable, Thinking};
use super::merge::{Answer, Instructions, Part, Turn, turns};
use super::message::{Message, ToolCall};
use crate::text::control::{Control, Task};
use crate::text::error::TextError;
use crate::text::json::python_json;
use crate::text::prompt::Prompt;

/// What happens to the reasoning of turns before the last question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OldReasoning {
    /// Dropped, unless a message brings tools: what the model was trained on.
    #[default]
    DropUnlessTools,
    /// Kept. For a history with tool calls whose tools are no longer offered.
    Keep,
}

/// How to render.
#[derive(Clone, Copy, Debug)]
pub struct ChatOptions<'a> {
    /// Whether the next turn thinks.
    pub thinking: Thinking,
    /// The tiers of the model at hand.
    pub efforts: &'a EffortTable,
    /// What happens to old reasoning.
    pub old_reasoning: OldReasoning,
}

/// Renders a conversation up to where the model writes.
///
/// A system message between a question and its answer, or after the last question, is rendered bare
/// where it stands, and the opening of the assistant's turn follows it. (DeepSeek's encoder leaves
/// the opening out there, and the model would continue the system message.)
///
/// # Errors
/// `Request` if there are no messages, a developer message is empty, or the model lacks the effort.
pub fn render(messages: &[Message], options: &ChatOptions<'_>) -> Result<Prompt, TextError> {
    if messages.is_empty() {
        return Err(TextError::request("a conversation needs at least one message"));
    }
    let keep =
        options.old_reasoning == OldReasoning::Keep || messages.iter().any(Message::has_tools);
    let thinks = options.thinking != Thinking::Off;
    let mut turns = turns(messages);
    if thinks && !keep {
        drop_old_developers(&mut turns);
    }
    let last_question = turns.iter().rposition(Turn::asks);
    let mut writer = Writer { prompt: Prompt::new(), thinks, keep, last_question };
    writer.prompt.push_control(Control::BeginOfSentence);
    if let Thinking::On(effort) = options.thinking {
        writer.prompt.push_text(options.efforts.prefix(effort)?);
    }
    let mut owed = None;
    for (index, turn) in turns.iter().enumerate() {
        let after_task = index > 0 && turns[index - 1].task().is_some();
        writer.turn(index, turn, after_task)?;
        let question_waits = owed.is_some_and(|owing: usize| turns[owing].asks());
        if !(question_waits && matches!(turn, Turn::System(_))) {
            owed = Some(index);
        }
        let next = turns.get(index + 1);
        if matches!(next, None | Some(Turn::Assistant(_) | Turn::LatestReminder(_)))
            && let Some(owing) = owed.take()
        {
            writer.transition(owing, &turns[owing]);
        }
    }
    Ok(writer.prompt)
}

/// Developer turns before the last question go with the old reasoning.
fn drop_old_developers(turns: &mut Vec<Turn<'_>>) {
    let Some(last) = turns.iter().rposition(Turn::asks) else { return };
    let mut index = 0;
    turns.retain(|turn| {
        let old = index < last;
        index += 1;
        !(old && matches!(turn, Turn::Developer(_)))
    });
}

struct Writer {
    prompt: Prompt,
    thinks: bool,
    /// Old reasoning is kept.
    keep: bool,
    last_question: Option<usize>,
}

impl Writer {
    fn turn(&mut self, index: usize, turn: &Turn<'_>, after_task: bool) -> Result<(), TextError> {
        match turn {
            Turn::System(instructions) => self.instructions(instructions),
            Turn::Developer(instructions) => {
                if instructions.content.is_empty() {
                    return Err(TextError::request("a developer message must not be empty"));
                }
                self.prompt.push_control(Control::User);
                self.instructions(instructions);
            }
            Turn::User { parts, .. } => {
                self.prompt.push_control(Control::User);
                self.parts(parts);
            }
            Turn::LatestReminder(content) => {
                self.prompt.push_control(Control::LatestReminder);
                self.prompt.push_text(content);
            }
            Turn::Assistant(answer) => {
                let recent = self.last_question.is_none_or(|last| index > last);
                if self.thinks && !after_task && (self.keep || recent) {
                    self.prompt.push_text(answer.reasoning);
                    self.prompt.push_control(Control::ThinkEnd);
                }
                self.answer(answer);
            }
        }
        Ok(())
    }

    fn instructions(&mut self, instructions: &Instructions<'_>) {
        self.prompt.push_text(instructions.content);
        if !instructions.tools.is_empty() {
            self.prompt.push_text(BLANK_LINE);
            self.prompt.push_template(TOOLS_BEFORE);
            for (index, tool) in instructions.tools.iter().enumerate() {
                self.prompt.push_text(if index > 0 { "\n" } else { "" });
                self.prompt.push_text(&python_json(tool));
            }
            self.prompt.push_template(TOOLS_AFTER);
        }
        if let Some(format) = instructions.response_format {
            self.prompt.push_text(BLANK_LINE);
            self.prompt.push_text(RESPONSE_FORMAT_BEFORE);
            self.prompt.push_text(&python_json(format));
        }
    }

    fn parts(&mut self, parts: &[Part<'_>]) {
        for (index, part) in parts.iter().enumerate() {
            self.prompt.push_text(if index > 0 { BLANK_LINE } else { "" });
            match part {
                Part::Text(text) => self.prompt.push_text(text),
                Part::Result { content, .. } => {
                    self.prompt.push_text(RESULT_BEFORE);
                    self.prompt.push_text(content);
                    self.prompt.push_text(RESULT_AFTER);
                }
            }
        }
    }

    fn answer(&mut self, answer: &Answer<'_>) {
        self.prompt.push_text(answer.content);
        if !answer.tool_calls.is_empty() {
            self.prompt.push_text(BLANK_LINE);
            self.tag("<", "tool_calls>\n");
            for (index, call) in answer.tool_calls.iter().enumerate() {
                self.prompt.push_text(if index > 0 { "\n" } else { "" });
                self.call(call);
            }
            self.prompt.push_text("\n");
            self.tag("</", "tool_calls>");
        }
        if !answer.open {
            self.prompt.push_control(Control::EndOfSentence);
        }
    }

    fn call(&mut self, call: &ToolCall) {
        if let Some(written) = &call.written {
            for (index, text) in written.split(Control::Dsml.text()).enumerate() {
                if index > 0 {
                    self.prompt.push_control(Control::Dsml);
                }
                self.prompt.push_text(text);
            }
            return;
        }
        self.tag("<", "invoke name=\"");
        self.prompt.push_text(&call.name);
        self.prompt.push_text("\">\n");
        match serde_json::from_str(&call.arguments) {
            Ok(Value::Object(arguments)) => {
                for (index, (key, value)) in arguments.iter().enumerate() {
                    self.prompt.push_text(if index > 0 { "\n" } else { "" });
                    match value {
                        Value::String(text) => self.parameter(key, "true", text),
                        other => self.parameter(key, "false", &python_json(other)),
                    }
                }
            }
            _ => self.parameter("arguments", "true", &call.arguments),
        }
        self.prompt.push_text("\n");
        self.tag("</", "invoke>");
    }

    fn parameter(&mut self, key: &str, is_string: &str, value: &str) {
        self.tag("<", "parameter name=\"");
        self.prompt.push_text(key);
        self.prompt.push_text("\" string=\"");
        self.prompt.push_text(is_string);
        self.prompt.push_text("\">");
        self.prompt.push_text(value);
        self.tag("</", "parameter>");
    }

    fn tag(&mut self, before: &str, after: &str) {
        self.prompt.push_text(before);
        self.prompt.push_control(Control::Dsml);
        self.prompt.push_text(after);
    }

    /// What follows the turn at `index` before the model, the next answer or a reminder.
    fn transition(&mut self, index: usize, turn: &Turn<'_>) {
        match turn.task() {
            Some(Task::Action) => {
                self.prompt.push_control(Control::Assistant);
                let think = if self.thinks { Control::ThinkStart } else { Control::ThinkEnd };
                self.prompt.push_control(think);
                self.prompt.push_control(Control::Task(Task::Action));
            }
            Some(task) => self.prompt.push_control(Control::Task(task)),
            None if turn.asks() => {
                self.prompt.push_control(Control::Assistant);
                let recent = self.last_question.is_none_or(|last| index >= last);
                let think = self.thinks && (self.keep || recent);
                self.prompt.push_control(if think {
                    Control::ThinkStart
                } else {
                    Control::ThinkEnd
                });
            }
            None => {}
        }
    }
}
