//! Any bytes as what a model wrote: cut in two anywhere, the streaming parser agrees with the whole one.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| engine::text::fuzz::fuzz_splits(data));
