//! Text in and out: tokenizer, streaming detokeniser, DeepSeek-V4's chat encoding, and the parsers
//! of what the model answers.
//!
//! The way of a conversation: [`chat::Message`]s → [`chat::render`] → [`Prompt`] (control tokens
//! and text, kept apart) → [`Tokenizer::encode_prompt`] → ids; the model's ids → [`Detokeniser`] →
//! [`dsml::ReplyStream`] → reasoning, content and tool calls.
//!
//! Two promises. Text that came from outside never becomes a control token, because control tokens
//! enter a prompt by id only. And nothing that was streamed is ever taken back: half characters,
//! half markers and half control strings are held until they are decided.
//!
//! Not here: sampling (`sample`), HTTP dialects, template engines (the encoding is native).

pub mod chat;
mod control;
mod detokenise;
pub mod dsml;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod json;
mod prompt;
mod scan;
mod split;
mod tokenizer;
mod vocabulary;

pub use control::{Control, Task};
pub use detokenise::{Controls, Detokeniser};
pub use error::{TextError, TextErrorKind};
pub use json::python_json;
pub use prompt::{Prompt, Segment};
pub use tokenizer::{Specials, TOKENIZER_BYTES_MAX, Tokenizer};
