//! DeepSeek-V4's chat encoding, native (no template engine ships with the models). Byte-equal to
//! DeepSeek's own encoder on every recorded vector; where its result would be malformed
//! ([`render`] says where) we write what the protocol means.

mod constants;
mod effort;
mod merge;
mod message;
mod read;
mod render;

pub use effort::{Effort, EffortTable, Thinking};
pub use message::{Message, ToolCall};
pub use read::messages_from_json;
pub use render::{ChatOptions, OldReasoning, render};
