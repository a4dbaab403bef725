//! The life of a captured plan, once for all backends: Empty → Warmed → Captured → Retired.
//!
//! | state | `run` does | then | `retire` |
//! |---|---|---|---|
//! | `Empty` | `warm`: issue eagerly, making whatever is made lazily | `Warmed` | → `Retired` |
//! | `Warmed` | `begin` · `issue` · `end` · `replay` | `Captured` | → `Retired` |
//! | `Captured` | `replay` | `Captured` | releases, → `Retired` |
//! | `Eager` | `issue`; the reason stays readable | `Eager` | → `Retired` |
//! | `Retired` | refuses | | nothing |
//!
//! A capture that fails is no failure of the step: the step runs eagerly, the state becomes `Eager`,
//! and [`Ran::Fallback`] says why, once. Nothing is tried a second time: a device that refused a
//! capture will refuse it every step. A lost device is never hidden behind a fallback.
//!
//! Not here: what a capture is (the backend's [`Capturable`]) and queues (the caller holds them).

use crate::error::{Error, ErrorKind, Result};

/// What a backend supplies: what each transition brackets. Calls arrive in the order of the states
/// in the module's table, never two at a time.
pub trait Capturable {
    /// Runs the plan once eagerly and makes everything made lazily (workspaces, modules), so that
    /// nothing allocates while capturing.
    ///
    /// # Errors
    /// Those of running the plan.
    fn warm(&mut self) -> Result<()>;

    /// Starts recording. On an error nothing is being recorded.
    ///
    /// # Errors
    /// Whatever the device says; the step then runs eagerly.
    fn begin(&mut self) -> Result<()>;

    /// Issues the plan's launches: recorded between `begin` and `end`, executed otherwise.
    ///
    /// # Errors
    /// Those of running the plan.
    fn issue(&mut self) -> Result<()>;

    /// Stops recording and makes the recording runnable. Called after every successful `begin`, also
    /// if `issue` failed: recording must stop either way.
    ///
    /// # Errors
    /// Whatever the device says; the step then runs eagerly.
    fn end(&mut self) -> Result<()>;

    /// Runs the recording.
    ///
    /// # Errors
    /// Those of running the plan.
    fn replay(&mut self) -> Result<()>;

    /// Frees the recording. Called once per successful `end`, and only once it is not in flight.
    fn retire(&mut self);
}

/// Where a capture stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing has run.
    Empty,
    /// It ran once; the next run captures.
    Warmed,
    /// Runs replay.
    Captured,
    /// Capturing failed for this reason; runs are eager for good.
    Eager(String),
    /// Over.
    Retired,
}

impl State {
    /// Name in messages.
    pub fn name(&self) -> &'static str {
        match self {
            State::Empty => "empty",
            State::Warmed => "warmed",
            State::Captured => "captured",
            State::Eager(_) => "eager",
            State::Retired => "retired",
        }
    }
}

/// What a run was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ran {
    /// Launch by launch.
    Eagerly,
    /// From the recording.
    Replayed,
    /// Eagerly, because capturing failed just now for this reason. Said once; log it.
    Fallback(String),
}

/// The state machine. Plain state: the thing captured arrives with each call.
#[derive(Debug)]
pub struct Capture {
    state: State,
}

impl Default for Capture {
    fn default() -> Self {
        Capture::new()
    }
}

impl Capture {
    /// In state `Empty`.
    pub fn new() -> Self {
        Capture { state: State::Empty }
    }

    /// Where it stands.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Runs the plan once, by the module's table.
    ///
    /// # Errors
    /// Those of running the plan, the state unchanged; `DeviceLost` also from capturing;
    /// `InvalidProgram` if it is retired.
    pub fn run(&mut self, target: &mut dyn Capturable) -> Result<Ran> {
        match &self.state {
            State::Empty => {
                target.warm()?;
                self.state = State::Warmed;
                Ok(Ran::Eagerly)
            }
            State::Warmed => self.capture(target),
            State::Captured => target.replay().map(|()| Ran::Replayed),
            State::Eager(_) => target.issue().map(|()| Ran::Eagerly),
            State::Retired => Err(Error::invalid("a retired plan was submitted")),
        }
    }

    fn capture(&mut self, target: &mut dyn Capturable) -> Result<Ran> {
        match record(target) {
            Ok(()) => {
                self.state = State::Captured;
                target.replay().map(|()| Ran::Replayed)
            }
            Err(error) if error.kind() == ErrorKind::DeviceLost => Err(error),
            Err(error) => {
                let reason = error.to_string();
                self.state = State::Eager(reason.clone());
                target.issue().map(|()| Ran::Fallback(reason))
            }
        }
    }

    /// Ends it; frees the recording if there is one. The caller has waited for the last run.
    pub fn retire(&mut self, target: &mut dyn Capturable) {
        if self.state == State::Captured {
            target.retire();
        }
        self.state = State::Retired;
    }
}

/// Begin, issue, end; after a failed issue the recording is stopped and thrown away.
fn record(target: &mut dyn Capturable) -> Result<()> {
    target.begin().map_err(|error| error.context("begin of capture"))?;
    let issued = target.issue();
    let ended = target.end();
    match (issued, ended) {
        (Ok(()), Ok(())) => Ok(()),
        (Ok(()), Err(error)) => Err(error.context("end of capture")),
        (Err(error), ended) => {
            if ended.is_ok() {
                target.retire();
            }
            Err(error.context("launches under capture"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes down what is called; fails the calls named in `failing`, each time.
    #[derive(Default)]
    struct Recorder {
        calls: Vec<&'static str>,
        recording: bool,
        failing: Vec<&'static str>,
        lost: bool,
    }

    impl Recorder {
        fn call(&mut self, name: &'static str) -> Result<()> {
            self.calls.push(name);
            match self.failing.contains(&name) {
                true if self.lost => Err(Error::device_lost(name)),
                true => Err(Error::driver(906, name)),
                false => Ok(()),
            }
        }
        fn take(&mut self) -> String {
            std::mem::take(&mut self.calls).join(" ")
        }
    }

    impl Capturable for Recorder {
        fn warm(&mut self) -> Result<()> {
            self.call("warm")
        }
        fn begin(&mut self) -> Result<()> {
            assert!(!self.recording);
            self.call("begin").inspect(|()| self.recording = true)
        }
        fn issue(&mut self) -> Result<()> {
            self.call(if self.recording { "record" } else { "issue" })
        }
        fn end(&mut self) -> Result<()> {
            assert!(self.recording);
            self.recording = false;
            self.call("end")
        }
        fn replay(&mut self) -> Result<()> {
            self.call("replay")
        }
        fn retire(&mut self) {
            self.calls.push("retire");
        }
    }

    #[test]
    fn a_plan_warms_captures_replays_and_retires() {
        let (mut capture, mut target) = (Capture::new(), Recorder::default());
        for (ran, calls, state) in [
            (Ran::Eagerly, "warm", "warmed"),
            (Ran::Replayed, "begin record end replay", "captured"),
            (Ran::Replayed, "replay", "captured"),
        ] {
            assert_eq!(capture.run(&mut target).unwrap(), ran);
            assert_eq!((target.take().as_str(), capture.state().name()), (calls, state));
        }
        capture.retire(&mut target);
        capture.retire(&mut target);
        assert_eq!(target.take(), "retire");
        assert_eq!(capture.run(&mut target).unwrap_err().kind(), ErrorKind::InvalidProgram);
        assert_eq!(target.take(), "");
    }

    #[test]
    fn a_failed_capture_runs_eagerly_and_says_so_once() {
        for (failing, calls, reason) in [
            ("begin", "begin issue", "begin of capture: begin (code 906)"),
            (
                "record",
                "begin record end retire issue",
                "launches under capture: record (code 906)",
            ),
            ("end", "begin record end issue", "end of capture: end (code 906)"),
        ] {
            let mut target = Recorder { failing: vec![failing], ..Recorder::default() };
            let mut capture = Capture::new();
            capture.run(&mut target).unwrap();
            target.take();
            assert_eq!(capture.run(&mut target).unwrap(), Ran::Fallback(reason.into()));
            assert_eq!(target.take(), calls, "{failing} fails");
            assert_eq!(capture.state(), &State::Eager(reason.into()));
            assert_eq!(capture.run(&mut target).unwrap(), Ran::Eagerly);
            capture.retire(&mut target);
            assert_eq!(target.take(), "issue", "nothing was captured, nothing is freed");
        }
    }

    #[test]
    fn a_lost_device_is_not_hidden_behind_a_fallback() {
        for failing in ["begin", "record", "end"] {
            let mut target = Recorder { failing: vec![failing], lost: true, ..Recorder::default() };
            let mut capture = Capture::new();
            capture.run(&mut target).unwrap();
            let error = capture.run(&mut target).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::DeviceLost, "{failing}");
            assert!(!target.recording, "{failing}");
        }
    }

    #[test]
    fn a_failed_warm_up_stays_empty_and_may_be_tried_again() {
        let mut target = Recorder { failing: vec!["warm"], ..Recorder::default() };
        let mut capture = Capture::new();
        assert!(capture.run(&mut target).is_err());
        assert_eq!(capture.state(), &State::Empty);
        target.failing.clear();
        assert_eq!(capture.run(&mut target).unwrap(), Ran::Eagerly);
        assert_eq!(target.take(), "warm warm");
    }

    #[test]
    fn a_failed_replay_keeps_the_recording_until_it_is_retired() {
        let mut target = Recorder { failing: vec!["replay"], ..Recorder::default() };
        let mut capture = Capture::new();
        capture.run(&mut target).unwrap();
        assert!(capture.run(&mut target).is_err());
        assert_eq!(capture.state(), &State::Captured);
        target.take();
        capture.retire(&mut target);
        assert_eq!(target.take(), "retire");
    }
}
