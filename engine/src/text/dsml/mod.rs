//! What the model answers: reasoning, content, tool calls (DSML). [`parse`] is the strict
//! definition; [`ReplyStream`] gives the same while the text arrives; [`Malformed::Recover`] is for
//! whoever answers with what a model wrote, [`Malformed::Cut`] for whoever holds it to its form.
//!
//! The form, after the opening of the assistant's turn (`·` is a line break):
//!
//! ```text
//! [reasoning </think>] content [··<｜DSML｜tool_calls>·
//!   (<｜DSML｜invoke name="NAME">·
//!      (<｜DSML｜parameter name="KEY" string="true|false">VALUE</｜DSML｜parameter>·)*
//!    </｜DSML｜invoke>·)*
//!  </｜DSML｜tool_calls>] <｜end▁of▁sentence｜>
//! ```
//!
//! An invoke without parameters has one more, empty line. A value of `string="true"` is raw text,
//! any other is JSON. Stricter than DeepSeek's parser in two points: a JSON value must be JSON, and
//! `</｜DSML｜parameter>` may not be broken by a line break after its `<`.

mod batch;
mod grammar;
mod stream;

pub use batch::{parse, parse_recovering};
pub use grammar::HEADER_BYTES_MAX;
pub use stream::{Event, Malformed, ReplyStream};

/// Where a reply begins: decided by how the prompt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// After `<think>`.
    Reasoning,
    /// After `</think>`.
    Content,
}

/// A parsed reply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// What stood before `</think>`.
    pub reasoning: String,
    /// The answer.
    pub content: String,
    /// The tools it calls, in order.
    pub calls: Vec<Call>,
}

/// A call as the model wrote it; ids are given by whoever serves it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// The tool's name.
    pub name: String,
    /// A JSON object, in the order of the parameters, in Python's form.
    pub arguments: String,
}
