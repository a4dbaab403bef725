//! The control strings of DeepSeek-V4's protocol. Each is one token of the released tokenizer; the
//! bar in them is U+FF5C and the block U+2581. The ids are the tokenizer's business, not ours:
//! V4-Flash, V4-Pro and the demo model number them differently.

/// A quick task: one token that asks for a classification instead of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Task {
    /// Choose the next action; stands after the opening of the assistant's turn.
    Action,
    /// Write search queries.
    Query,
    /// Judge how authoritative the asked-for sources must be.
    Authority,
    /// Name the domain of the question.
    Domain,
    /// Write a title for the conversation; stands after the assistant's end token.
    Title,
    /// Decide which address to read.
    ReadUrl,
}

impl Task {
    /// Every task, in the order of the protocol's table.
    pub const ALL: [Task; 6] =
        [Task::Action, Task::Query, Task::Authority, Task::Domain, Task::Title, Task::ReadUrl];

    /// The name a message carries in its `task` field.
    pub fn name(self) -> &'static str {
        match self {
            Task::Action => "action",
            Task::Query => "query",
            Task::Authority => "authority",
            Task::Domain => "domain",
            Task::Title => "title",
            Task::ReadUrl => "read_url",
        }
    }

    /// The task called `name`.
    pub fn by_name(name: &str) -> Option<Task> {
        Task::ALL.into_iter().find(|task| task.name() == name)
    }
}

/// One control token of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Control {
    /// Stands once, at the very start.
    BeginOfSentence,
    /// Ends each turn of the assistant; the model writes it when it is done.
    EndOfSentence,
    /// Opens a turn of the user.
    User,
    /// Opens a turn of the assistant.
    Assistant,
    /// Opens reasoning.
    ThinkStart,
    /// Closes reasoning, or says that there is none.
    ThinkEnd,
    /// The word in every tag of a tool call.
    Dsml,
    /// Opens a reminder that stands before the user's turn.
    LatestReminder,
    /// A quick task.
    Task(Task),
}

impl Control {
    /// Every control token.
    pub const ALL: [Control; 14] = [
        Control::BeginOfSentence,
        Control::EndOfSentence,
        Control::User,
        Control::Assistant,
        Control::ThinkStart,
        Control::ThinkEnd,
        Control::Dsml,
        Control::LatestReminder,
        Control::Task(Task::Action),
        Control::Task(Task::Query),
        Control::Task(Task::Authority),
        Control::Task(Task::Domain),
        Control::Task(Task::Title),
        Control::Task(Task::ReadUrl),
    ];

    /// The control string, as the tokenizer names its token.
    pub const fn text(self) -> &'static str {
        match self {
            Control::BeginOfSentence => "<｜begin▁of▁sentence｜>",
            Control::EndOfSentence => "<｜end▁of▁sentence｜>",
            Control::User => "<｜User｜>",
            Control::Assistant => "<｜Assistant｜>",
            Control::ThinkStart => "<think>",
            Control::ThinkEnd => "</think>",
            Control::Dsml => "｜DSML｜",
            Control::LatestReminder => "<｜latest_reminder｜>",
            Control::Task(Task::Action) => "<｜action｜>",
            Control::Task(Task::Query) => "<｜query｜>",
            Control::Task(Task::Authority) => "<｜authority｜>",
            Control::Task(Task::Domain) => "<｜domain｜>",
            Control::Task(Task::Title) => "<｜title｜>",
            Control::Task(Task::ReadUrl) => "<｜read_url｜>",
        }
    }
}
