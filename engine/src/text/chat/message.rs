//! The messages of a conversation, as the encoder wants them: roles are variants, so a field that a
//! role lacks cannot be set.

use std::sync::Arc;

use serde_json::Value;

use crate::text::control::Task;

/// One message.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// Instructions. Legal at any place; rendered where it stands.
    System {
        /// The text, maybe empty.
        content: String,
        /// OpenAI `function` objects (name, description, parameters), rendered in key order.
        tools: Vec<Value>,
        /// What `response_format` holds, if the answer must follow a schema.
        response_format: Option<Value>,
    },
    /// DeepSeek's internal role: like a user's turn, but may carry tools. (OpenAI's role of that
    /// name is a [`Message::System`].)
    Developer {
        /// The text; must not be empty.
        content: String,
        /// As in [`Message::System`].
        tools: Vec<Value>,
        /// As in [`Message::System`].
        response_format: Option<Value>,
    },
    /// What the user says.
    User {
        /// The text.
        content: String,
        /// Asks for a quick task instead of an answer.
        task: Option<Task>,
    },
    /// What the model said.
    Assistant {
        /// The answer.
        content: String,
        /// The reasoning before it, without `<think>`. Empty if there was none or it is not known.
        reasoning: String,
        /// The tools it called, in order.
        tool_calls: Vec<ToolCall>,
        /// A quick task that follows the turn ([`Task::Title`]).
        task: Option<Task>,
        /// True: the turn is not over and the model continues it (no end token).
        open: bool,
    },
    /// What a tool answered. Rendered inside a turn of the user.
    Tool {
        /// [`ToolCall::id`] of the call it answers.
        call_id: String,
        /// The result.
        content: String,
    },
    /// A reminder (date, place) that stands before the user's turn.
    LatestReminder {
        /// The text.
        content: String,
    },
}

/// A call of a tool by the model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolCall {
    /// What a result refers to; unique in a conversation.
    pub id: String,
    /// The tool's name.
    pub name: String,
    /// A JSON object as text. Anything else is rendered as one string parameter `arguments`.
    pub arguments: String,
    /// What the model wrote, tags included, where that is known: rendered instead of name and arguments.
    pub written: Option<Arc<str>>,
}

impl Message {
    /// A user's message without a task.
    pub fn user(content: impl Into<String>) -> Self {
        Message::User { content: content.into(), task: None }
    }

    /// A system message without tools.
    pub fn system(content: impl Into<String>) -> Self {
        Message::System { content: content.into(), tools: Vec::new(), response_format: None }
    }

    /// A finished answer of the model.
    pub fn assistant(content: impl Into<String>, reasoning: impl Into<String>) -> Self {
        Message::Assistant {
            content: content.into(),
            reasoning: reasoning.into(),
            tool_calls: Vec::new(),
            task: None,
            open: false,
        }
    }

    /// Whether the message brings tools.
    pub(super) fn has_tools(&self) -> bool {
        match self {
            Message::System { tools, .. } | Message::Developer { tools, .. } => !tools.is_empty(),
            _ => false,
        }
    }
}
