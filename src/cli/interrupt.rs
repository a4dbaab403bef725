//! Ctrl-C as a flag that work looks at between steps.
//!
//! The first Ctrl-C asks; a second one before the first was answered ends the process with 130.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::SIGINT;
use signal_hook::flag;

use super::failure::{Failure, INTERRUPTED, Result};

/// Set by Ctrl-C.
#[derive(Clone, Debug)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Takes over Ctrl-C for this process.
    pub fn install() -> Result<Self> {
        Self::of(&[SIGINT])
    }

    /// Takes over Ctrl-C and what service managers send.
    #[cfg(feature = "serve")]
    pub fn install_for_service() -> Result<Self> {
        Self::of(&[SIGINT, signal_hook::consts::SIGTERM])
    }

    fn of(signals: &[i32]) -> Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        for &signal in signals {
            // Order matters: the first handler sees whether an earlier one is still unanswered.
            flag::register_conditional_shutdown(signal, INTERRUPTED.into(), asked.clone())
                .and_then(|_| flag::register(signal, asked.clone()))
                .map_err(|error| Failure::new(format!("cannot handle signal {signal}: {error}")))?;
        }
        Ok(Self(asked))
    }

    /// Whether Ctrl-C was pressed and not yet answered.
    pub fn asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Answers it: the program goes on.
    pub fn answer(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Ends the command if Ctrl-C was pressed.
    pub fn check(&self) -> Result<()> {
        if self.asked() { Err(Failure::Interrupted) } else { Ok(()) }
    }

    /// The flag itself, for the engine.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.0.clone()
    }
}
