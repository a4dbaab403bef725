//! How a command ends badly: one line on standard error and an exit code that is not 0.
//!
//! Every error of the libraries ends here. A message that would break the line is flattened; a closed
//! pipe on standard output is no failure of ours and ends quietly.

use std::fmt::{self, Display};
use std::io;
use std::process::ExitCode;

/// Exit code of a failed command.
const FAILED: u8 = 1;
/// Exit code of a command line that makes no sense.
const USAGE: u8 = 2;
/// Exit code after Ctrl-C: 128 + SIGINT.
pub const INTERRUPTED: u8 = 130;

/// `Result` with [`Failure`].
pub type Result<T> = std::result::Result<T, Failure>;

/// Why a command ended.
#[derive(Debug)]
pub enum Failure {
    /// Something was wrong; the message says what, where, and what to do.
    Failed(String),
    /// The command line makes no sense.
    Usage(String),
    /// The user pressed Ctrl-C.
    Interrupted,
    /// Whoever read our output went away.
    PipeClosed,
}

impl Failure {
    /// A failure with its message.
    pub fn new(message: impl Display) -> Self {
        Failure::Failed(message.to_string())
    }

    /// A command line that makes no sense.
    pub fn usage(message: impl Display) -> Self {
        Failure::Usage(message.to_string())
    }

    /// The same failure with the place in front of its message.
    #[must_use]
    pub fn at(self, place: impl Display) -> Self {
        match self {
            Failure::Failed(message) => Failure::Failed(format!("{place}: {message}")),
            other => other,
        }
    }

    /// Says what happened and gives the code to exit with.
    pub fn report(&self) -> ExitCode {
        let code = match self {
            Failure::Failed(_) => FAILED,
            Failure::Usage(_) => USAGE,
            Failure::Interrupted => INTERRUPTED,
            Failure::PipeClosed => return ExitCode::SUCCESS,
        };
        eprintln!("error: {self}");
        ExitCode::from(code)
    }
}

/// The message, one line.
impl Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Failed(message) | Failure::Usage(message) => out.write_str(&one_line(message)),
            Failure::Interrupted => out.write_str("interrupted"),
            Failure::PipeClosed => out.write_str("the reader of our output went away"),
        }
    }
}

/// `text` with every run of control characters as one space.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for part in text.split(|c: char| c.is_control() || c == '\u{2028}' || c == '\u{2029}') {
        let part = part.trim();
        if !part.is_empty() && !line.is_empty() {
            line.push(' ');
        }
        line.push_str(part);
    }
    line
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::PipeClosed,
            _ => Failure::new(error),
        }
    }
}

impl From<engine::refusal::Refusal> for Failure {
    fn from(refusal: engine::refusal::Refusal) -> Self {
        Failure::new(refusal)
    }
}

impl From<engine::text::TextError> for Failure {
    fn from(error: engine::text::TextError) -> Self {
        Failure::new(error)
    }
}

impl From<engine::Error> for Failure {
    fn from(error: engine::Error) -> Self {
        match error {
            engine::Error::Stopped => Failure::Interrupted,
            other => Failure::new(other),
        }
    }
}

impl From<hal::Error> for Failure {
    fn from(error: hal::Error) -> Self {
        Failure::new(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_one_line() {
        for (text, want) in [
            ("a", "a"),
            ("a\nb\r\n\tc", "a b c"),
            ("\n a \u{2028}b\u{1b}[31m", "a b [31m"),
            ("", ""),
        ] {
            assert_eq!(one_line(text), want);
        }
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let error = io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(matches!(Failure::from(error), Failure::PipeClosed));
    }
}
