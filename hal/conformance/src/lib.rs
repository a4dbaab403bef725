//! The conformance kit: what a backend must do, as a library anybody can run against theirs.
//!
//! ```no_run
//! # fn my_backend() -> std::sync::Arc<dyn hal::Backend> { unimplemented!() }
//! use conformance::Expectations;
//! let report = conformance::run(&*my_backend(), &Expectations::none());
//! report.assert_green();
//! ```
//!
//! Seven suites: [`Suite::Device`] (memory, transfers, order, points, drops in flight, loss),
//! [`Suite::Ops`] (every case of every op against its f64 definition), [`Suite::Rows`] (a row's bits
//! do not depend on the rows beside it), [`Suite::Lower`] (fused ops against what they lower to),
//! [`Suite::Program`] (a small whole step: eager = replay, padded = exact), [`Suite::Weights`] (every
//! encoding, segments, groups), [`Suite::Collectives`] (ranks that act together).
//!
//! What a backend cannot do is written down in [`Expectations`], each entry with its reason; an
//! expected failure that passes is a failure. Skips are counted and printed. A suite that ran nothing
//! is red. The device is opened once and shared by all suites.
//!
//! It refuses to judge speed, and to know any backend.
#![forbid(unsafe_code)]

mod bed;
pub mod cli;
mod expectations;
mod report;
mod suite;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use hal::op::Communicator;
use hal::{Backend, Device, OpenOptions, Queue, Result};

pub use bed::Bed;
pub use expectations::Expectations;
pub use report::{Check, Outcome, Report, Trouble};

/// The suites, in the order they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Suite {
    /// Memory, transfers, order, points, drops in flight, loss.
    Device,
    /// Every case of every op against its f64 definition.
    Ops,
    /// Bits of a row alone, among others, permuted, padded, twice (law 7).
    Rows,
    /// Fused ops against what they lower to.
    Lower,
    /// A small whole step.
    Program,
    /// Every encoding, odd sizes, segments, groups.
    Weights,
    /// One rank, and as many as [`Settings::ranks`] gives.
    Collectives,
}

impl Suite {
    /// All of them.
    pub const ALL: [Suite; 7] = [
        Suite::Device,
        Suite::Ops,
        Suite::Rows,
        Suite::Lower,
        Suite::Program,
        Suite::Weights,
        Suite::Collectives,
    ];

    /// First part of the ids of its checks.
    pub fn name(self) -> &'static str {
        match self {
            Suite::Device => "device",
            Suite::Ops => "ops",
            Suite::Rows => "rows",
            Suite::Lower => "lower",
            Suite::Program => "program",
            Suite::Weights => "weights",
            Suite::Collectives => "collectives",
        }
    }

    /// The suite of this name.
    pub fn from_name(name: &str) -> Option<Suite> {
        Suite::ALL.into_iter().find(|suite| suite.name() == name)
    }
}

/// Gives a device that has just been lost, and a queue of it: how the kit sees that loss is sticky.
/// There is no portable way to lose a device, so its author supplies one.
pub type LostDevice<'a> = &'a dyn Fn() -> Result<(Arc<dyn Device>, Arc<dyn Queue>)>;

/// Gives devices that act together: as many as asked for, each with its communicator, by rank.
pub type Ranks<'a> = &'a dyn Fn(u32) -> Result<Vec<(Arc<dyn Device>, Arc<dyn Communicator>)>>;

/// What is run.
#[derive(Clone)]
pub struct Settings<'a> {
    /// These suites.
    pub suites: Vec<Suite>,
    /// Checks whose id contains this; all if empty.
    pub filter: String,
    /// How to lose a device; without it the check of sticky loss is skipped.
    pub lost: Option<LostDevice<'a>>,
    /// How to get several ranks; without it collectives of more than one rank are skipped.
    pub ranks: Option<Ranks<'a>>,
}

impl Default for Settings<'_> {
    /// Everything, but no way to lose a device and none to get several.
    fn default() -> Self {
        Settings { suites: Suite::ALL.to_vec(), filter: String::new(), lost: None, ranks: None }
    }
}

/// Opens device 0 of `backend` and runs everything on it. A device that does not open is one failed
/// check.
pub fn run(backend: &dyn Backend, expectations: &Expectations) -> Report {
    match backend.open(0, &OpenOptions::default()) {
        Ok(device) => run_on(&device, &Settings::default(), expectations),
        Err(error) => {
            let mut report = Report::new(backend.name());
            let failed = Outcome::Failed(format!("{error:?}"));
            report.push(Suite::Device, "device/open".into(), failed);
            report
        }
    }
}

/// Runs `settings` on an open device.
pub fn run_on(
    device: &Arc<dyn Device>,
    settings: &Settings<'_>,
    expectations: &Expectations,
) -> Report {
    let info = device.info();
    let mut report = Report::new(&format!("{}:{} {}", info.backend, info.ordinal, info.name));
    for &suite in &settings.suites {
        let checks = suite::checks(suite, device, settings);
        report.begin(suite);
        for check in checks {
            let id = format!("{}/{}", suite.name(), check.id);
            if !id.contains(&settings.filter) {
                continue;
            }
            let outcome = match expectations.excluded_reason(suite) {
                Some(reason) => Outcome::Skipped(reason.to_owned()),
                None => expectations.judge(&id, run_check(&*check.run)),
            };
            let passed = outcome == Outcome::Passed;
            report.push(suite, id, outcome);
            if let (Some((op, dtype)), Suite::Ops) = (check.covers, suite) {
                report.cover(op, dtype, check.native, passed);
            }
        }
    }
    for unused in expectations.unused(&report, settings) {
        report.push_stale(unused);
    }
    report
}

/// Runs one check; a panic is a failure with its message.
fn run_check(check: &dyn Fn() -> Check) -> Check {
    catch_unwind(AssertUnwindSafe(check)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(Trouble::Failed(format!("panicked: {}", text.unwrap_or_default())))
    })
}
