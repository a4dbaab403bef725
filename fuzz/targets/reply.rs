//! Any bytes as what a model wrote: whole and streamed, the parsers agree.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| engine::text::fuzz::fuzz_reply(data));
