//! What came out: one outcome per check, printed so that nothing that was skipped is overlooked.

use std::collections::BTreeMap;
use std::fmt;

use hal::DType;

use crate::Suite;

/// Why a check did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It went wrong: what, where, by how much.
    Failed(String),
    /// It could not be tried, and why.
    Skipped(String),
}

impl From<hal::Error> for Trouble {
    fn from(error: hal::Error) -> Self {
        Trouble::Failed(format!("{error:?}"))
    }
}

/// Result of one check.
pub type Check = Result<(), Trouble>;

/// A failure unless `ok`.
pub(crate) fn ensure(ok: bool, message: impl FnOnce() -> String) -> Check {
    if ok { Ok(()) } else { Err(Trouble::Failed(message())) }
}

/// A check's result after the expectations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should be.
    Passed,
    /// Not as it should be.
    Failed(String),
    /// Not tried, or expected to fail.
    Skipped(String),
}

/// Passed and tried cases of one op and dtype.
#[derive(Clone, Copy, Debug, Default)]
struct Cover {
    passed: u32,
    tried: u32,
    native: u32,
}

/// Everything a run found.
#[derive(Clone, Debug)]
pub struct Report {
    device: String,
    checks: Vec<(Suite, String, Outcome)>,
    suites: Vec<Suite>,
    coverage: BTreeMap<(usize, String), Cover>,
}

impl Report {
    pub(crate) fn new(device: &str) -> Report {
        Report {
            device: device.into(),
            checks: Vec::new(),
            suites: Vec::new(),
            coverage: BTreeMap::new(),
        }
    }

    pub(crate) fn begin(&mut self, suite: Suite) {
        self.suites.push(suite);
    }

    pub(crate) fn push(&mut self, suite: Suite, id: String, outcome: Outcome) {
        self.checks.push((suite, id, outcome));
    }

    pub(crate) fn push_stale(&mut self, pattern: String) {
        let text = "this expectation matches no check: remove it".into();
        self.checks.push((Suite::Device, pattern, Outcome::Failed(text)));
    }

    pub(crate) fn cover(&mut self, op: &str, dtype: DType, native: bool, passed: bool) {
        let place = hal::Op::NAMES.iter().position(|name| *name == op).unwrap_or(usize::MAX);
        let cover = self.coverage.entry((place, format!("{dtype:?}"))).or_default();
        cover.tried += 1;
        cover.passed += u32::from(passed);
        cover.native += u32::from(native);
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = &str> {
        self.checks.iter().map(|(_, id, _)| &id[..])
    }

    fn count(&self, test: impl Fn(&Outcome) -> bool) -> usize {
        self.checks.iter().filter(|(_, _, outcome)| test(outcome)).count()
    }

    /// Checks that passed.
    pub fn passed(&self) -> usize {
        self.count(|outcome| *outcome == Outcome::Passed)
    }

    /// Checks that failed.
    pub fn failed(&self) -> usize {
        self.count(|outcome| matches!(outcome, Outcome::Failed(_)))
    }

    /// Checks that were skipped.
    pub fn skipped(&self) -> usize {
        self.count(|outcome| matches!(outcome, Outcome::Skipped(_)))
    }

    /// Id and message of every failed check.
    pub fn failures(&self) -> impl Iterator<Item = (&str, &str)> {
        self.checks.iter().filter_map(|(_, id, outcome)| match outcome {
            Outcome::Failed(text) => Some((&id[..], &text[..])),
            _ => None,
        })
    }

    /// Suites in which no check was even listed: a filter or a bug, never a success.
    fn empty_suites(&self) -> Vec<&'static str> {
        let ran = |suite: &Suite| self.checks.iter().any(|(other, ..)| other == suite);
        self.suites.iter().filter(|suite| !ran(suite)).map(|suite| suite.name()).collect()
    }

    /// Suites of which every check was skipped without the backend having excluded it.
    fn idle_suites(&self) -> Vec<&'static str> {
        let idle = |suite: &&Suite| {
            let mut outcomes = self
                .checks
                .iter()
                .filter(|(other, ..)| other == *suite)
                .map(|(.., o)| o)
                .peekable();
            outcomes.peek().is_some()
                && outcomes.all(|outcome| {
                    matches!(outcome, Outcome::Skipped(why) if !why.starts_with("unsupported: "))
                })
        };
        self.suites.iter().filter(idle).map(|suite| suite.name()).collect()
    }

    /// True if nothing failed and every suite ran something or was excluded with a reason.
    pub fn is_green(&self) -> bool {
        self.failed() == 0
            && self.passed() + self.skipped() > 0
            && self.empty_suites().is_empty()
            && self.idle_suites().is_empty()
    }

    /// Panics with the whole report unless it is green.
    ///
    /// # Panics
    /// If the report is red.
    pub fn assert_green(&self) {
        assert!(self.is_green(), "\n{self}");
    }

    /// Op × dtype: passed of tried cases, and which ran natively.
    pub fn coverage(&self) -> String {
        let mut text = String::from("op                 dtype   passed/cases  native\n");
        for ((place, dtype), cover) in &self.coverage {
            let op = hal::Op::NAMES.get(*place).copied().unwrap_or("?");
            let Cover { passed, tried, native } = cover;
            let native = match *native {
                0 => "lowered",
                n if n == *tried => "native",
                _ => "partly",
            };
            text += &format!("{op:<18} {dtype:<7} {passed:>6}/{tried:<6} {native}\n");
        }
        text
    }
}

impl fmt::Display for Report {
    /// Failures, skips by reason, counts by suite, and the summary line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "conformance of {}", self.device)?;
        for (id, text) in self.failures() {
            writeln!(f, "  FAILED {id}: {text}")?;
        }
        let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (_, id, outcome) in &self.checks {
            if let Outcome::Skipped(reason) = outcome {
                reasons.entry(reason).or_default().push(id);
            }
        }
        for (reason, ids) in reasons {
            writeln!(f, "  skipped {} ({reason}): {}, …", ids.len(), ids[0])?;
        }
        for suite in &self.suites {
            let of = |test: fn(&Outcome) -> bool| {
                let all = self.checks.iter().filter(|(other, ..)| other == suite);
                all.filter(|(.., outcome)| test(outcome)).count()
            };
            let passed = of(|outcome| *outcome == Outcome::Passed);
            writeln!(f, "  {:<8} {passed} of {}", suite.name(), of(|_| true))?;
        }
        for (what, suites) in [("nothing", self.empty_suites()), ("only skips", self.idle_suites())]
        {
            if !suites.is_empty() {
                writeln!(f, "  RED: {what} ran in {}", suites.join(", "))?;
            }
        }
        let (passed, failed, skipped) = (self.passed(), self.failed(), self.skipped());
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suite_that_ran_nothing_is_red() {
        let mut report = Report::new("x");
        report.begin(Suite::Ops);
        assert!(!report.is_green());
        report.push(Suite::Ops, "ops/a".into(), Outcome::Skipped("no hook".into()));
        assert!(!report.is_green(), "only skips, none of them excluded");
        report.push(Suite::Ops, "ops/b".into(), Outcome::Passed);
        assert!(report.is_green());
        report.begin(Suite::Rows);
        assert!(!report.is_green());
        assert!(report.to_string().contains("RED: nothing ran in rows"), "{report}");
    }

    #[test]
    fn skips_are_counted_and_printed_with_their_reason() {
        let mut report = Report::new("x");
        report.begin(Suite::Ops);
        report.push(Suite::Ops, "ops/a".into(), Outcome::Skipped("unsupported: no f16".into()));
        report.push(Suite::Ops, "ops/b".into(), Outcome::Failed("off by 2".into()));
        let text = report.to_string();
        assert!(text.contains("skipped 1 (unsupported: no f16): ops/a"), "{text}");
        assert!(text.contains("FAILED ops/b: off by 2"), "{text}");
        assert!(text.ends_with("0 passed, 1 failed, 1 skipped"), "{text}");
    }
}
