//! Any bytes as the body of a legacy completions request.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use server::fuzz::Bench;

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/demo");
static BENCH: LazyLock<Bench> = LazyLock::new(|| Bench::new(Path::new(DEMO)));

libfuzzer_sys::fuzz_target!(|data: &[u8]| BENCH.completion(data));
