//! Agreement with the reference implementation on the tiny checkpoints, in plain numerics, on whatever
//! device a test brings. Provenance of the references: tests/checkpoints/PROVENANCE.md.

use std::sync::Arc;

use engine::{Engine, Numerics};
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
    let mut engine = open_on(device, name, &options(Numerics::Plain));
    let (_, error) = errors_of(&mut engine, &Reference::read(reference), &[512]);
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

/// Largest relative difference of an engine's logits from a reference's: those of its prompt, fed in chunks
/// of these sizes, and those of the tokens it went on with, one at a time.
pub fn errors_of(engine: &mut Engine, reference: &Reference, sizes: &[usize]) -> (f64, f64) {
    let (ids, decode) = (reference.ids("input_ids"), reference.ids("decode_ids"));
    let mut sequence = engine.open_sequence().unwrap();
    let prefill = feed(engine, &mut sequence, &ids, sizes);
    let mut got = prefill[prefill.len() - engine.config().vocab as usize..].to_vec();
    for &token in &decode[..decode.len() - 1] {
        got.extend(step(engine, &mut sequence, &[token]));
    }
    let prefill = relative(&prefill, reference.floats("logits"));
    (prefill, relative(&got, reference.floats("decode_logits")))
}

/// Share of rows whose served error (against the reference rounded to bf16 at the same places) may
/// exceed [`SERVED_TOLERANCE`]: sums in another order land on another side of a rounding edge, and one
/// flipped expert or entry is a finite jump. Trained weights have few such edges, random ones many.
const SERVED_OUTLIERS: f64 = 0.05;
/// Largest difference over the largest logit of a row without a flip.
const SERVED_TOLERANCE: f64 = 0.05;

/// Fails where the demo model's served logits are not those of the reference program.
pub fn served_agrees(engine: &mut Engine) {
    let reference = Reference::read("demo.served");
    let vocab = engine.config().vocab as usize;
    let mut sequence = engine.open_sequence().unwrap();
    let got = feed(engine, &mut sequence, &reference.ids("input_ids"), &[100]);
    // The second reference rounds no bf16 tensor: it is further away.
    for (name, least) in [("logits_bf16", 97), ("logits", 95)] {
        let want = reference.floats(name);
        let scale = want.iter().fold(0f32, |top, v| top.max(v.abs()));
        let rows = got.chunks(vocab).zip(want.chunks(vocab));
        let (mut outliers, mut agree, mut count) = (0, 0, 0);
        for (got, want) in rows {
            let worst = got.iter().zip(want).fold(0f32, |top, (a, b)| top.max((a - b).abs()));
            outliers += usize::from(f64::from(worst / scale) > SERVED_TOLERANCE);
            agree += usize::from(argmax(got) == argmax(want));
            count += 1;
        }
        println!("{name}: {outliers} of {count} rows are off, {agree} choose alike");
        let share = outliers as f64 / count as f64;
        assert!(share <= SERVED_OUTLIERS, "{name}: {outliers} of {count} rows are off");
        assert!(agree * 100 >= count * least, "{name}: {agree} of {count} rows choose alike");
    }
}
