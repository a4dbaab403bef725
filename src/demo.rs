//! The demo model inside the binary: a tiny trained DeepSeek-V4 that runs when no `--model` is given.
//!
//! The files are those of `models/demo`, byte for byte; the evaluation sets are its held-out questions.

/// `config.json`.
pub const CONFIG: &[u8] = include_bytes!("../models/demo/config.json");
/// `generation_config.json`.
pub const GENERATION: &[u8] = include_bytes!("../models/demo/generation_config.json");
/// `tokenizer.json`.
pub const TOKENIZER: &[u8] = include_bytes!("../models/demo/tokenizer.json");
/// Held-out questions: name and JSON lines of each set, in order of names.
pub const EVAL_SETS: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/eval_sets.rs"));
/// What the model is called in reports.
pub const NAME: &str = "demo (embedded)";

/// `model.safetensors`, aligned like a mapped file, so that weights are used where they lie.
pub fn weights() -> &'static [u8] {
    static BYTES: &Aligned<[u8]> = &Aligned(*include_bytes!("../models/demo/model.safetensors"));
    &BYTES.0
}

#[repr(C, align(4096))]
struct Aligned<T: ?Sized>(T);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_aligned_like_a_mapped_file() {
        assert_eq!(weights().as_ptr().addr() % 4096, 0);
    }

    #[test]
    fn every_set_has_questions() {
        assert!(EVAL_SETS.len() >= 10);
        for (name, bytes) in EVAL_SETS {
            assert!(bytes.split(|&byte| byte == b'\n').count() > 20, "{name}");
        }
    }
}
