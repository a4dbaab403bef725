//! Any bytes as the messages of a conversation, rendered in every mode.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| engine::text::fuzz::fuzz_chat(data));
