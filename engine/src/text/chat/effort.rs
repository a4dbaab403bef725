//! How much the model thinks. The tiers and their prefixes changed between releases of the weights,
//! so they are data that belongs to a model, and the mapping from what clients ask stands here and
//! nowhere else.

use std::borrow::Cow;

use super::constants::{EFFORT_ABSOLUTE_MAXIMUM, EFFORT_BEYOND_MAXIMUM};
use crate::text::error::{TextError, shown};

/// A tier of thinking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effort {
    /// Short reasoning. Only later releases know it.
    Low,
    /// The usual reasoning.
    High,
    /// As much as it takes; wants at least 384K tokens of room.
    Max,
}

/// Whether and how the next turn thinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Thinking {
    /// The turn begins with `</think>`.
    Off,
    /// The turn begins with `<think>`.
    On(Effort),
}

/// The tiers a model knows: the text that stands right after the begin token, or `None` where the
/// model has no such tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffortTable {
    /// Prefix of [`Effort::Low`].
    pub low: Option<Cow<'static, str>>,
    /// Prefix of [`Effort::High`].
    pub high: Option<Cow<'static, str>>,
    /// Prefix of [`Effort::Max`].
    pub max: Option<Cow<'static, str>>,
}

impl EffortTable {
    /// V4-Flash and V4-Pro of April 2026: no low tier, `high` without a prefix.
    pub const PREVIEW: EffortTable = EffortTable {
        low: None,
        high: Some(Cow::Borrowed("")),
        max: Some(Cow::Borrowed(EFFORT_ABSOLUTE_MAXIMUM)),
    };

    /// V4-Flash-0731: every tier one lower, and a stronger `max`.
    pub const RELEASE_0731: EffortTable = EffortTable {
        low: Some(Cow::Borrowed("")),
        high: Some(Cow::Borrowed(EFFORT_ABSOLUTE_MAXIMUM)),
        max: Some(Cow::Borrowed(EFFORT_BEYOND_MAXIMUM)),
    };

    /// The prefix of a tier.
    ///
    /// # Errors
    /// `Request` if the model has no such tier.
    pub fn prefix(&self, effort: Effort) -> Result<&str, TextError> {
        let (prefix, name) = match effort {
            Effort::Low => (&self.low, "low"),
            Effort::High => (&self.high, "high"),
            Effort::Max => (&self.max, "max"),
        };
        prefix.as_deref().ok_or_else(|| {
            TextError::request(format!("this model has no reasoning effort {name:?}"))
        })
    }

    /// What a client means by `asked`. Names that a release does not know go to the tier DeepSeek's
    /// API gives them.
    ///
    /// # Errors
    /// `Request` for any other name.
    pub fn asked(&self, asked: &str) -> Result<Thinking, TextError> {
        let knows_low = self.low.is_some();
        let effort = match asked {
            "none" => return Ok(Thinking::Off),
            "minimal" | "low" if knows_low => Effort::Low,
            "xhigh" if knows_low => Effort::High,
            "minimal" | "low" | "medium" | "high" => Effort::High,
            "xhigh" | "max" | "ultra" => Effort::Max,
            other => {
                return Err(TextError::request(format!(
                    "unknown reasoning effort {:?}; \
                     known: none, minimal, low, medium, high, xhigh, max",
                    shown(other)
                )));
            }
        };
        Ok(Thinking::On(effort))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asked_names_map_as_the_api_says() {
        use Effort::{High, Low, Max};
        for (asked, preview, release) in [
            ("minimal", High, Low),
            ("low", High, Low),
            ("medium", High, High),
            ("high", High, High),
            ("xhigh", Max, High),
            ("max", Max, Max),
            ("ultra", Max, Max),
        ] {
            assert_eq!(
                EffortTable::PREVIEW.asked(asked).unwrap(),
                Thinking::On(preview),
                "{asked}"
            );
            let got = EffortTable::RELEASE_0731.asked(asked).unwrap();
            assert_eq!(got, Thinking::On(release), "{asked}");
        }
        assert_eq!(EffortTable::PREVIEW.asked("none").unwrap(), Thinking::Off);
        assert!(EffortTable::PREVIEW.asked("High").is_err());
        assert!(EffortTable::PREVIEW.prefix(Low).is_err());
    }
}
