//! Any bytes as a tokenizer.json.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| engine::text::fuzz::fuzz_tokenizer(data));
