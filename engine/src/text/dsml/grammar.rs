//! The strings of the grammar and the rules that both parsers share, so that they cannot drift.

use crate::text::error::{TextError, shown};

pub(super) const BEGIN_OF_SENTENCE: &str = "<｜begin▁of▁sentence｜>";
pub(super) const END_OF_SENTENCE: &str = "<｜end▁of▁sentence｜>";
pub(super) const THINK_START: &str = "<think>";
pub(super) const THINK_END: &str = "</think>";
pub(super) const DSML: &str = "｜DSML｜";

/// Opens the block of calls; the `>` belongs to the rule that follows.
pub(super) const CALLS: &str = "\n\n<｜DSML｜tool_calls";
pub(super) const INVOKE_END: &str = "</｜DSML｜invoke";
pub(super) const PARAMETER: &str = "<｜DSML｜parameter";
/// Closes a value, without the `<` that must stand before it.
pub(super) const PARAMETER_END: &str = "/｜DSML｜parameter";

/// Between the block's opening or a call's end, and what follows.
pub(super) const NEXT_CALL: [&str; 2] = [">\n<｜DSML｜invoke", ">\n</｜DSML｜tool_calls>"];
/// Between a parameter's end and what follows.
pub(super) const NEXT_PARAMETER: [&str; 2] = [">\n<｜DSML｜parameter", ">\n</｜DSML｜invoke"];
/// Ends a parameter's name and says what kind its value is.
pub(super) const KINDS: [&str; 2] = ["\" string=\"true\">", "\" string=\"false\">"];

/// Longest name of a tool or a parameter with what stands around it, in bytes.
pub const HEADER_BYTES_MAX: usize = 4096;

/// The tool's name from what stands between `<｜DSML｜invoke` and the next tag.
pub(super) fn tool_name(header: &str) -> Result<&str, TextError> {
    let inner = header
        .trim_start_matches(|c: char| c.is_whitespace() || matches!(c, '\x1c'..='\x1f'))
        .strip_prefix("name=\"")
        .and_then(|rest| rest.strip_suffix("\">\n\n").or_else(|| rest.strip_suffix("\">\n")));
    inner.ok_or_else(|| bad("name of a tool", header))
}

/// Checks a value of `string="false"`.
pub(super) fn check_json(value: &str) -> Result<(), TextError> {
    match serde_json::from_str::<serde::de::IgnoredAny>(value) {
        Ok(_) => Ok(()),
        Err(_) => Err(bad("JSON value", value)),
    }
}

/// The error for `got` where `wanted` should stand.
pub(super) fn bad(wanted: &str, got: &str) -> TextError {
    TextError::reply(format!("reply: malformed {wanted} at \"{}\"", shown(got)))
}
