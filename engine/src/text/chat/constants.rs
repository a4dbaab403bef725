//! The texts of the protocol, byte for byte as DeepSeek's encoder writes them (MIT-licensed
//! protocol data; `tests/vectors/chat_constants.json` holds the same and a test compares). The long ones are files,
//! whose last line breaks count.

/// What stands before the tool schemas, one JSON object a line.
pub(super) const TOOLS_BEFORE: &str = include_str!("protocol/tools_before.txt");

/// What stands after the tool schemas.
pub(super) const TOOLS_AFTER: &str = include_str!("protocol/tools_after.txt");

/// What stands before the schema of a response format.
pub(super) const RESPONSE_FORMAT_BEFORE: &str =
    "## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n";

/// Opens a tool's result inside a turn of the user. Ordinary text, not a control token.
pub(super) const RESULT_BEFORE: &str = "<tool_result>";
/// Closes a tool's result.
pub(super) const RESULT_AFTER: &str = "</tool_result>";

/// Between parts that share a turn, and before sections of a system message.
pub(super) const BLANK_LINE: &str = "\n\n";

/// April's Think Max; the 0731 release calls the same text `high`.
pub(super) const EFFORT_ABSOLUTE_MAXIMUM: &str =
    include_str!("protocol/effort_absolute_maximum.txt");

/// Think Max of the 0731 release. From public copies of that release's encoder, which agree; the
/// vectors do not cover it.
pub(super) const EFFORT_BEYOND_MAXIMUM: &str = include_str!("protocol/effort_beyond_maximum.txt");

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::text::{Control, Task};

    #[test]
    fn constants_equal_the_recorded_ones() {
        let text = include_str!("../../../../tests/vectors/chat_constants.json");
        let recorded: Value = serde_json::from_str(text).unwrap();
        let tools = format!("{TOOLS_BEFORE}{{TOOL_SCHEMAS}}{TOOLS_AFTER}");
        assert_eq!(recorded["tools_section"], tools.as_str());
        let format = format!("{RESPONSE_FORMAT_BEFORE}{{schema}}");
        assert_eq!(recorded["response_format"], format.as_str());
        let result = format!("{RESULT_BEFORE}{{content}}{RESULT_AFTER}");
        assert_eq!(recorded["tool_result"], result.as_str());
        assert_eq!(recorded["reasoning_effort_prefix"]["max"], EFFORT_ABSOLUTE_MAXIMUM);
        for (key, control) in [
            ("bos", Control::BeginOfSentence),
            ("eos", Control::EndOfSentence),
            ("user", Control::User),
            ("assistant", Control::Assistant),
            ("latest_reminder", Control::LatestReminder),
            ("think_start", Control::ThinkStart),
            ("think_end", Control::ThinkEnd),
            ("dsml", Control::Dsml),
        ] {
            assert_eq!(recorded[key], control.text(), "{key}");
        }
        let tasks = recorded["tasks"].as_object().unwrap();
        assert_eq!(tasks.len(), Task::ALL.len());
        for task in Task::ALL {
            assert_eq!(tasks[task.name()], Control::Task(task).text());
        }
    }
}
