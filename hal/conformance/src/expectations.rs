//! What a backend is known not to do, with reasons. Nothing is excused without one.

use crate::report::{Check, Outcome, Report, Trouble};
use crate::{Settings, Suite};

/// The list of one backend.
#[derive(Clone, Debug, Default)]
pub struct Expectations {
    entries: Vec<Entry>,
    excluded: Vec<(Suite, String)>,
}

#[derive(Clone, Debug)]
struct Entry {
    pattern: String,
    reason: String,
    /// "unsupported" or "known failure".
    kind: &'static str,
}

impl Expectations {
    /// Everything must pass.
    pub fn none() -> Self {
        Expectations::default()
    }

    /// Checks matching `pattern` fail for good: the hardware or the backend's purpose does not allow
    /// them. `*` in a pattern stands for anything. They still run, and must not pass.
    #[must_use]
    pub fn unsupported(self, pattern: &str, reason: &str) -> Self {
        self.with(pattern, reason, "unsupported")
    }

    /// Checks matching `pattern` fail for now: a bug somebody will fix. They still run, and must not
    /// pass; remove the entry when they do.
    #[must_use]
    pub fn known_failure(self, pattern: &str, reason: &str) -> Self {
        self.with(pattern, reason, "known failure")
    }

    /// A whole suite is not run and counts as skipped: for devices that are not meant to compute.
    #[must_use]
    pub fn excluded(mut self, suite: Suite, reason: &str) -> Self {
        assert!(!reason.is_empty(), "an expectation needs a reason");
        self.excluded.push((suite, format!("unsupported: {reason}")));
        self
    }

    fn with(mut self, pattern: &str, reason: &str, kind: &'static str) -> Self {
        assert!(!reason.is_empty(), "an expectation needs a reason");
        self.entries.push(Entry { pattern: pattern.into(), reason: reason.into(), kind });
        self
    }

    pub(crate) fn excluded_reason(&self, suite: Suite) -> Option<&str> {
        self.excluded.iter().find(|(other, _)| *other == suite).map(|(_, reason)| &reason[..])
    }

    /// What a check's result means under these expectations.
    pub(crate) fn judge(&self, id: &str, result: Check) -> Outcome {
        let entry = self.entries.iter().find(|entry| matches(&entry.pattern, id));
        match (result, entry) {
            (Ok(()), None) => Outcome::Passed,
            (Ok(()), Some(entry)) => Outcome::Failed(format!(
                "passes, but is listed as {} ({}): remove the entry {:?}",
                entry.kind, entry.reason, entry.pattern
            )),
            (Err(Trouble::Failed(_)), Some(entry)) => {
                Outcome::Skipped(format!("{}: {}", entry.kind, entry.reason))
            }
            (Err(Trouble::Failed(text)), None) => Outcome::Failed(text),
            (Err(Trouble::Skipped(text)), _) => Outcome::Skipped(text),
        }
    }

    /// Entries that matched no check although all were run: they excuse nothing.
    pub(crate) fn unused(&self, report: &Report, settings: &Settings<'_>) -> Vec<String> {
        if settings.suites.len() < Suite::ALL.len() || !settings.filter.is_empty() {
            return Vec::new();
        }
        let used = |entry: &&Entry| report.ids().any(|id| matches(&entry.pattern, id));
        self.entries
            .iter()
            .filter(|entry| !used(entry))
            .map(|entry| entry.pattern.clone())
            .collect()
    }
}

/// True if `text` is `pattern` with every `*` replaced by something.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let parts: Vec<&str> = rest.split('*').collect();
    for part in &parts[..parts.len() - 1] {
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    text.ends_with(parts[parts.len() - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, text, want) in [
            ("ops/*", "ops/rows/map", true),
            ("ops/*", "rows/map", false),
            ("*f16*", "ops/rows/map/f16 odd", true),
            ("*f16", "ops/f16 odd", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("exact", "exact", true),
            ("exact", "exactly", false),
        ] {
            assert_eq!(matches(pattern, text), want, "{pattern} {text}");
        }
    }

    #[test]
    fn an_unexpected_success_fails_and_an_expected_failure_is_a_skip() {
        let list = Expectations::none()
            .unsupported("ops/*f16*", "no f16")
            .known_failure("rows/*", "issue 7");
        let failed = || Err(Trouble::Failed("off".into()));
        assert_eq!(list.judge("ops/x", Ok(())), Outcome::Passed);
        assert_eq!(list.judge("ops/x", failed()), Outcome::Failed("off".into()));
        assert!(matches!(list.judge("ops/f16", Ok(())), Outcome::Failed(_)));
        let skipped = Outcome::Skipped("unsupported: no f16".into());
        assert_eq!(list.judge("ops/f16", failed()), skipped);
        let skipped = Outcome::Skipped("known failure: issue 7".into());
        assert_eq!(list.judge("rows/x", failed()), skipped);
    }
}
