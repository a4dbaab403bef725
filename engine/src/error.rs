//! What goes wrong above the HAL: the world's mistakes, a device's, and a caller who stopped.

use std::fmt;

use crate::refusal::{Refusal, RefusalKind};

/// A failure of the engine.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// An input was refused; one line that says what, where and what to do.
    Refused(Refusal),
    /// A device failed or lacks something.
    Device(hal::Error),
    /// The caller asked to stop.
    Stopped,
}

/// `Result` with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A refused request: a prompt, a batch, a sequence.
    pub fn request(message: impl AsRef<str>) -> Self {
        Error::Refused(Refusal::new(RefusalKind::Request, message))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Refused(refusal) => refusal.fmt(f),
            Error::Device(error) => error.fmt(f),
            Error::Stopped => f.write_str("stopped"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Refused(refusal) => Some(refusal),
            Error::Device(error) => Some(error),
            Error::Stopped => None,
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Error::Refused(refusal)
    }
}

impl From<hal::Error> for Error {
    fn from(error: hal::Error) -> Self {
        Error::Device(error)
    }
}
