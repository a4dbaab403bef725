//! Compiles grammars within a bound of time, whatever they are.
//!
//! The library bounds its work in fuel and cannot be interrupted; fuel is no clock. So each grammar is
//! compiled on a thread of its own, and who asked waits no longer than the bound. A thread that is late
//! goes on until its fuel is used up and keeps its place until then: there are never more than a few.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};

/// Why there is no matcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The grammar is to blame; a message.
    Grammar(String),
    /// Others are being compiled, and none ended in time.
    Crowded,
}

/// Compiles grammars.
pub struct Compiler {
    factory: Arc<ParserFactory>,
    places: Arc<Places>,
    time: Duration,
}

impl Compiler {
    /// At most `at_once` grammars at a time, each for at most `time`.
    pub fn new(factory: ParserFactory, at_once: usize, time: Duration) -> Self {
        let places = Places { free: Mutex::new(at_once), freed: Condvar::new() };
        Compiler { factory: Arc::new(factory), places: Arc::new(places), time }
    }

    /// With so much time.
    pub fn hurried(self, time: Duration) -> Self {
        Compiler { time, ..self }
    }

    /// The matcher of a grammar in Lark's form.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn compile(&self, text: String) -> Result<Matcher, Trouble> {
        let place = Places::take(&self.places, self.time).ok_or(Trouble::Crowded)?;
        let factory = Arc::clone(&self.factory);
        let (done, outcome) = mpsc::sync_channel(1);
        let begun = std::thread::Builder::new().name("hadal-grammar".into()).spawn(move || {
            let matcher = matcher(&factory, text);
            // Before it is sent: who has its answer may ask again at once.
            drop(place);
            // Nobody waits for what is late.
            let _ = done.send(matcher);
        });
        if begun.is_err() {
            return Err(Trouble::Crowded);
        }
        let asked = Instant::now();
        match outcome.recv_timeout(self.time) {
            Ok(matcher) if asked.elapsed() <= self.time => matcher.map_err(Trouble::Grammar),
            _ => Err(Trouble::Grammar(format!("it takes more than {:?} to compile", self.time))),
        }
    }
}

/// Compiles in its own time.
fn matcher(factory: &ParserFactory, text: String) -> Result<Matcher, String> {
    let grammar = TopLevelGrammar::from_lark(text);
    let parser = llguidance::panic_utils::catch_unwind(AssertUnwindSafe(|| {
        let matcher = Matcher::new(factory.create_parser(grammar));
        // The first mask finds out about grammars that nothing satisfies.
        matcher.deep_clone().compute_mask_or_eos()?;
        Ok(matcher)
    }));
    let matcher = parser.map_err(|error| error.to_string())?;
    match matcher.get_error() {
        Some(message) => Err(message),
        None => Ok(matcher),
    }
}

/// Places for threads.
#[derive(Debug)]
struct Places {
    free: Mutex<usize>,
    freed: Condvar,
}

/// A thread's place; it is free when this is dropped.
#[derive(Debug)]
struct Place(Arc<Places>);

impl Places {
    fn free(&self) -> MutexGuard<'_, usize> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place, if one is free within `time`.
    fn take(places: &Arc<Self>, time: Duration) -> Option<Place> {
        let none = |free: &mut usize| *free == 0;
        let waited = places.freed.wait_timeout_while(places.free(), time, none);
        let (mut free, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *free = free.checked_sub(1)?;
        Some(Place(Arc::clone(places)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *self.0.free() += 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_come_back() {
        let places = Arc::new(Places { free: Mutex::new(2), freed: Condvar::new() });
        let take = |time| Places::take(&places, time);
        let (first, second) = (take(Duration::ZERO), take(Duration::ZERO));
        assert!(first.is_some() && second.is_some());
        assert!(take(Duration::from_millis(5)).is_none());
        let waits = std::thread::scope(|scope| {
            let waits = scope.spawn(|| take(Duration::from_secs(600)).is_some());
            drop(first);
            waits.join().expect("it ends")
        });
        assert!(waits);
    }
}
