//! Agreement with the reference implementation on the tiny checkpoints, in plain numerics, on whatever
//! device a test brings. Provenance of the references: tests/checkpoints/PROVENANCE.md.

use std::sync::Arc;

use engine::Numerics;
use hal::Device;

use super::{Reference, argmax, feed, open_on, options, relative, step};

/// Checkpoints, each with a reference of its logits over a prompt and a greedy continuation.
pub const REFERENCES: [(&str, &str); 5] = [
    ("csa-tiny", "csa-tiny.logits70"),
    ("flash-tiny", "flash-tiny.logits150"),
    ("hca8-tiny", "hca8-tiny.logits90"),
    ("pro-tiny", "pro-tiny.logits262"),
    ("flash-tiny-orig", "flash-tiny-orig.logits140"),
];

/// Largest difference over the largest logit that plain numerics may have: float32 against float32.
pub const PLAIN_TOLERANCE: f64 = 1e-4;

/// Where a reference stands on an edge: place, and the token beyond it. At token 4 of csa-tiny two experts
/// of layer 1 score 0.94343984 and 0.9434401, four steps of f32 apart; sums in AVX2's order put them on one
/// number, and the other one is chosen. The 319 other tokens are the reference's on every instruction set.
const EDGES: [(&str, usize, u32); 1] = [("csa-tiny", 4, 181)];

/// Logits of the reference's prompt, fed in chunks of each of these sizes (cycled).
pub fn logits_agree(device: Arc<dyn Device>, (name, reference): (&str, &str), chunks: &[&[usize]]) {
    let reference = Reference::read(reference);
    let (ids, want) = (reference.ids("input_ids"), reference.floats("logits"));
    let mut engine = open_on(device, name, &options(Numerics::Plain));
    for sizes in chunks {
        let mut sequence = engine.open_sequence().unwrap();
        let error = relative(&feed(&mut engine, &mut sequence, &ids, sizes), want);
        assert!(error <= PLAIN_TOLERANCE, "{name} in chunks of {sizes:?}: {error:e}");
    }
}

/// Logits of the reference's continuation, a token at a time.
pub fn decode_agrees(device: Arc<dyn Device>, (name, reference): (&str, &str)) {
    let reference = Reference::read(reference);
    let mut engine = open_on(device, name, &options(Numerics::Plain));
    let mut sequence = engine.open_sequence().unwrap();
    let ids = reference.ids("input_ids");
    let decode = reference.ids("decode_ids");
    let vocab = engine.config().vocab as usize;
    let prefill = feed(&mut engine, &mut sequence, &ids, &[512]);
    let mut got = prefill[prefill.len() - vocab..].to_vec();
    for &token in &decode[..decode.len() - 1] {
        got.extend(step(&mut engine, &mut sequence, &[token]));
    }
    let error = relative(&got, reference.floats("decode_logits"));
    assert!(error <= PLAIN_TOLERANCE, "{name}: {error:e}");
}

/// The first `count` of 64 greedy tokens.
pub fn continuation_agrees(device: Arc<dyn Device>, name: &str, count: usize) {
    let reference = Reference::read(&format!("{name}.greedy64"));
    let want = reference.ids("decode_ids");
    assert_eq!(want.len(), 64, "{name}");
    let mut engine = open_on(device, name, &options(Numerics::Plain));
    let mut sequence = engine.open_sequence().unwrap();
    let vocab = engine.config().vocab as usize;
    let mut logits = feed(&mut engine, &mut sequence, &reference.ids("input_ids"), &[512]);
    for (place, &token) in want[..count].iter().enumerate() {
        let got = argmax(&logits[logits.len() - vocab..]);
        let edge = EDGES.contains(&(name, place, got));
        assert!(got == token || edge, "{name}, token {place}: {got}, not {token}");
        logits = step(&mut engine, &mut sequence, &[token]);
    }
}
