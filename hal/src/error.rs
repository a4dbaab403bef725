//! The one error type of the HAL. Anybody can construct it, so a backend can live in another repository.
//!
//! An error says what was attempted, on what, and what to do; [`Error::context`] puts the outer
//! circumstances in front while the inner ones stay. It refuses to swallow a driver's number.

use std::borrow::Cow;
use std::fmt;

/// What kind of failure this is; decides what the caller may do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller built something the contract forbids. A bug above the HAL, found at compile time.
    InvalidProgram,
    /// No native kernel and no lowering ends in kernels this device has. Found at compile time.
    Unsupported,
    /// The device (or host) cannot hold what was asked for. Nothing was allocated.
    OutOfMemory,
    /// Sticky: every later call on this device returns it. The owner must reopen the device.
    DeviceLost,
    /// A wait ran out of time; the work may still finish.
    Timeout,
    /// Reading a weight or a file failed.
    Io,
    /// The vendor library said no; [`Error::code`] holds its number.
    Driver,
    /// No such backend or device.
    NotFound,
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ErrorKind::InvalidProgram => "invalid program",
            ErrorKind::Unsupported => "unsupported",
            ErrorKind::OutOfMemory => "out of memory",
            ErrorKind::DeviceLost => "device lost",
            ErrorKind::Timeout => "timeout",
            ErrorKind::Io => "i/o",
            ErrorKind::Driver => "driver",
            ErrorKind::NotFound => "not found",
        })
    }
}

/// A failure of the HAL or of a backend. One pointer wide.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    code: Option<i64>,
    /// Outermost circumstance last.
    trail: Vec<Cow<'static, str>>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// `Result` with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `kind` with its message.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Error(Box::new(Inner { kind, code: None, trail: vec![message.into()], source: None }))
    }

    /// [`ErrorKind::InvalidProgram`] with its message.
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Error::new(ErrorKind::InvalidProgram, message)
    }

    /// [`ErrorKind::Unsupported`] with its message.
    pub fn unsupported(message: impl Into<Cow<'static, str>>) -> Self {
        Error::new(ErrorKind::Unsupported, message)
    }

    /// [`ErrorKind::OutOfMemory`] with its message.
    pub fn out_of_memory(message: impl Into<Cow<'static, str>>) -> Self {
        Error::new(ErrorKind::OutOfMemory, message)
    }

    /// [`ErrorKind::DeviceLost`] with its message.
    pub fn device_lost(message: impl Into<Cow<'static, str>>) -> Self {
        Error::new(ErrorKind::DeviceLost, message)
    }

    /// [`ErrorKind::Driver`] with the vendor's number kept.
    pub fn driver(code: i64, message: impl Into<Cow<'static, str>>) -> Self {
        let mut error = Error::new(ErrorKind::Driver, message);
        error.0.code = Some(code);
        error
    }

    /// The same error with an outer circumstance in front of its message.
    #[must_use]
    pub fn context(mut self, outer: impl Into<Cow<'static, str>>) -> Self {
        self.0.trail.push(outer.into());
        self
    }

    /// The same error with the cause attached.
    #[must_use]
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The vendor library's number, if it came from one.
    pub fn code(&self) -> Option<i64> {
        self.0.code
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, part) in self.0.trail.iter().rev().enumerate() {
            if place > 0 {
                f.write_str(": ")?;
            }
            f.write_str(part)?;
        }
        if let Some(code) = self.0.code {
            write!(f, " (code {code})")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {self}", self.0.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Error::new(ErrorKind::Io, error.to_string()).with_source(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_reads_from_the_outside_in_and_keeps_the_code() {
        let error = Error::driver(507018, "aclrtMalloc of 3 GiB").context("loading layer 4");
        assert_eq!(error.to_string(), "loading layer 4: aclrtMalloc of 3 GiB (code 507018)");
        assert_eq!(error.kind(), ErrorKind::Driver);
        assert_eq!(error.code(), Some(507018));
    }
}
