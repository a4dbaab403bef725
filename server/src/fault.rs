//! What is wrong with a request, or with us, before a dialect gives it a shape.
//!
//! A fault's message is for the client and says what, where and what to do; it never holds a key, a
//! prompt, or more than a few characters of what was sent.

use crate::job::Failure;
use crate::limits::SHOWN_CHARS_MAX;

/// What kind of fault: decides status and type in both dialects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request is wrong.
    Invalid,
    /// The prompt does not fit the context.
    TooLong {
        /// Tokens of the prompt.
        prompt: u32,
        /// Tokens a sequence can hold.
        context: u32,
    },
    /// The model is not known here.
    Model,
    /// No such path, or no such model where one is looked up.
    NotFound,
    /// The path has no such method; the value of `Allow`.
    Method(&'static str),
    /// The key is wrong or missing.
    Key,
    /// The body is longer than the limit.
    TooLarge,
    /// The body is no JSON by its headers.
    MediaType,
    /// The client was too slow.
    Slow,
    /// The queue is full; seconds to wait.
    Busy(u32),
    /// Loading or stopping; seconds to wait.
    Unavailable(u32),
    /// Our fault.
    Internal,
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What kind.
    pub kind: Kind,
    /// For the client.
    pub message: String,
    /// The field that is wrong, if one is.
    pub param: Option<String>,
}

impl Fault {
    /// A fault of `kind`.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Fault { kind, message: message.into(), param: None }
    }

    /// A wrong request.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    /// A wrong field.
    pub fn field(name: impl Into<String>, message: impl Into<String>) -> Self {
        Fault { param: Some(name.into()), ..Self::invalid(message) }
    }

    /// A prompt that does not fit.
    pub fn too_long(prompt: u32, context: u32) -> Self {
        let message = format!(
            "This model's maximum context length is {context} tokens. However, you requested \
             {prompt} tokens in the messages. Please reduce the length of the messages."
        );
        Self::new(Kind::TooLong { prompt, context }, message)
    }

    /// The server is stopping.
    pub fn stopping() -> Self {
        Self::new(Kind::Unavailable(5), "The server is shutting down. Please try again later.")
    }

    /// Our fault; the reason goes to the log only.
    pub fn internal() -> Self {
        Self::new(Kind::Internal, "Internal server error. Its log says more.")
    }

    /// The status in the OpenAI dialect; Anthropic's differs for [`Kind::Model`] alone.
    pub fn status(&self) -> u16 {
        match self.kind {
            Kind::Invalid | Kind::TooLong { .. } | Kind::Model => 400,
            Kind::Key => 401,
            Kind::NotFound => 404,
            Kind::Method(_) => 405,
            Kind::Slow => 408,
            Kind::TooLarge => 413,
            Kind::MediaType => 415,
            Kind::Busy(_) => 429,
            Kind::Internal => 500,
            Kind::Unavailable(_) => 503,
        }
    }

    /// Seconds for `retry-after`.
    pub fn retry_after_s(&self) -> Option<u32> {
        match self.kind {
            Kind::Busy(seconds) | Kind::Unavailable(seconds) => Some(seconds.max(1)),
            _ => None,
        }
    }
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Busy { retry_after_s } => Fault::new(
                Kind::Busy(retry_after_s),
                "The server is busy: its queue is full. Please try again later.",
            ),
            Failure::TooLong { prompt, context } => Fault::too_long(prompt, context),
            Failure::Stopping => Fault::stopping(),
            Failure::Fault(reason) => {
                tracing::error!(reason, "a job failed");
                Fault::internal()
            }
        }
    }
}

/// A client's text as it may stand in a message or a log line: escaped and cut.
pub fn shown(text: &str) -> String {
    let mut out: String = text.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
        out.push('…');
    }
    out
}
