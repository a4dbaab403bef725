//! What the engine says when it will not take an input: one line that names the thing, the place
//! and the way out.
//!
//! Only for the outside world's mistakes (files, configurations, memory). A mistake of ours is a panic
//! or `hal`'s `InvalidProgram`. A message never holds a line break or a control character, whatever a
//! hostile file called its tensors.

use std::fmt;

/// What kind of input was refused; scripts and tests match on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefusalKind {
    /// config.json: unknown architecture, missing, impossible or contradictory values.
    Config,
    /// A file or folder that is not there or cannot be read.
    File,
    /// The header of a safetensors file.
    Header,
    /// model.safetensors.index.json and the shards it names.
    Index,
    /// A tensor whose name, shape or dtype is not what the configuration asks for.
    Tensor,
    /// Bytes of a tensor that no model may hold: NaN scales, expert numbers out of range.
    Value,
    /// Not enough memory, known before loading.
    Memory,
    /// A prompt, a batch or a sequence the engine cannot run.
    Request,
    /// A saved sequence that is damaged or belongs elsewhere.
    Snapshot,
}

/// One refused input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    kind: RefusalKind,
    message: String,
}

impl Refusal {
    /// A refusal with a message of one line; control characters in it become spaces.
    pub fn new(kind: RefusalKind, message: impl AsRef<str>) -> Self {
        let clean =
            |c: char| if c.is_control() || c == '\u{2028}' || c == '\u{2029}' { ' ' } else { c };
        Self { kind, message: message.as_ref().chars().map(clean).collect() }
    }

    /// The kind of input that was refused.
    pub fn kind(&self) -> RefusalKind {
        self.kind
    }

    /// The same refusal with the place (usually a file name) in front.
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self = Self::new(self.kind, format!("{place}: {}", self.message));
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}

/// A name from a file as it may stand in a message: escaped, and cut where it is longer than any
/// tensor's real name.
pub fn shown(name: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 120;
    let mut text: String =
        name.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect();
    if name.chars().nth(SHOWN_CHARS_MAX).is_some() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_one_line_whatever_names_hold() {
        let refusal = Refusal::new(RefusalKind::Tensor, "a\nb\r\u{2028}c\u{7}").at("x\ny");
        assert_eq!(refusal.to_string(), "x y: a b  c ");
        assert_eq!(shown("a\n"), "a\\n");
        assert_eq!(shown(&"x".repeat(500)).chars().count(), 121);
    }
}
