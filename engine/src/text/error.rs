//! The error of everything under `text`: one line that names the thing, the place and the way out.

use std::fmt;

/// What was wrong; callers decide by it whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TextErrorKind {
    /// tokenizer.json is missing, unreadable, of a kind we do not run, or of another vocabulary.
    Tokenizer,
    /// Messages or options that cannot be rendered: the caller's request is wrong.
    Request,
    /// What the model wrote is not a well-formed reply.
    Reply,
}

/// A failure of the text layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextError {
    kind: TextErrorKind,
    message: String,
}

impl TextError {
    /// An error of `kind`. Control characters in `message` become spaces, so it stays one line.
    pub fn new(kind: TextErrorKind, message: impl AsRef<str>) -> Self {
        let clean = |c: char| if c.is_control() { ' ' } else { c };
        Self { kind, message: message.as_ref().chars().map(clean).collect() }
    }

    /// What was wrong.
    pub fn kind(&self) -> TextErrorKind {
        self.kind
    }

    pub(super) fn tokenizer(message: impl AsRef<str>) -> Self {
        Self::new(TextErrorKind::Tokenizer, message)
    }

    pub(super) fn request(message: impl AsRef<str>) -> Self {
        Self::new(TextErrorKind::Request, message)
    }

    pub(super) fn reply(message: impl AsRef<str>) -> Self {
        Self::new(TextErrorKind::Reply, message)
    }
}

impl fmt::Display for TextError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl std::error::Error for TextError {}

/// `text` as it may stand in a message: escaped and cut.
pub(super) fn shown(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 60;
    let mut out: String = text.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
        out.push('…');
    }
    out
}
