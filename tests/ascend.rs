//! The demo model on the simulated Ascend: the same greedy tokens as the CPU's, on every generation that
//! keeps the formats' values (910B and 910C as bf16, 950 as stored), and the same bits however a prompt is
//! cut. It proves that the whole engine runs through the backend; nothing about hardware.

mod common;
#[path = "../backends/ascend/tests/common/mod.rs"]
mod sim;

use engine::{ModelOptions, Numerics};

use common::{argmax, feed, open_on, options, same_bits, step};
use sim::{SOCS, Sim};

/// Tokens of each answer that are compared.
const TOKENS: usize = 8;

fn small(numerics: Numerics) -> ModelOptions {
    ModelOptions { context: 256, rows_max: 32, sequences: 1, ..options(numerics) }
}

fn prompt() -> Vec<u32> {
    let text = std::fs::read_to_string(common::path("models/demo/golden.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_str(&text).unwrap();
    let ids = golden["items"][3]["prompt_ids"].as_array().expect("items have prompts");
    ids.iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Greedy continuation, fed in chunks of `chunk`, and the logits of the prompt.
fn answer(engine: &mut engine::Engine, chunk: usize) -> (Vec<u32>, Vec<f32>) {
    let vocab = engine.config().vocab as usize;
    let mut sequence = engine.open_sequence().unwrap();
    let prefill = feed(engine, &mut sequence, &prompt(), &[chunk]);
    let mut row = prefill[prefill.len() - vocab..].to_vec();
    let mut tokens = Vec::new();
    for _ in 0..TOKENS {
        let token = argmax(&row);
        tokens.push(token);
        row = step(engine, &mut sequence, &[token]);
    }
    (tokens, prefill)
}

#[test]
fn the_demo_model_answers_as_on_the_cpu_on_every_generation() {
    let options = small(Numerics::Served);
    let (want, _) = answer(&mut open_on(common::cpu(), "demo", &options), 16);
    for (name, soc) in SOCS {
        let sim = Sim::new(soc, 1);
        let mut engine = open_on(sim.device(&[]), "demo", &options);
        let (got, _) = answer(&mut engine, 16);
        drop(engine);
        assert_eq!(got, want, "{name}");
        sim.assert_clean();
    }
}

#[test]
fn chunks_do_not_show_in_the_bits() {
    let options = small(Numerics::Served);
    let sim = Sim::new(0, 1);
    let mut engine = open_on(sim.device(&[]), "demo", &options);
    let vocab = engine.config().vocab as usize;
    let (_, whole) = answer(&mut engine, 32);
    for chunk in [5, 16] {
        let (_, cut) = answer(&mut engine, chunk);
        same_bits(&cut, &whole, vocab, &format!("chunks of {chunk}"));
    }
    drop(engine);
    sim.assert_clean();
}
