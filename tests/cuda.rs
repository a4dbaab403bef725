//! The whole engine on the CUDA backend's kernels, executed by the CPU: the greedy tokens of the CPU backend, the
//! committed references of the tiny models, and state exactness, eager and captured. Nothing here is about
//! hardware. And the command that compiles the kernels ahead.
//!
//! `--ignored` sweeps wider: minutes.

mod common;
#[path = "../backends/cuda/tests/emulated/mod.rs"]
mod emulated;

use std::fs;
use std::process::Command;
use std::sync::Arc;

use backend_cuda::CudaBackend;
use common::laws::{self, Lab};
use common::{argmax, feed, open_on, options, parity, step};
use emulated::Emulated;
use engine::{ModelOptions, Numerics};
use hal::{Backend, Device, OpenOptions};

fn device() -> Arc<dyn Device> {
    CudaBackend::on(Arc::new(Emulated::default()))
        .open(0, &OpenOptions::default())
        .expect("it is emulated")
}

/// Tokens of an answer that are compared.
const TOKENS: usize = 8;

fn prompt(item: usize) -> Vec<u32> {
    let text = fs::read_to_string(common::path("models/demo/golden.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_str(&text).unwrap();
    let ids = golden["items"][item]["prompt_ids"].as_array().expect("items have prompts");
    ids.iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Greedy continuation of a prompt.
fn answer(device: Arc<dyn Device>, numerics: Numerics) -> Vec<u32> {
    let small = ModelOptions { context: 256, rows_max: 64, sequences: 1, ..options(numerics) };
    let mut engine = open_on(device, "demo", &small);
    let vocab = engine.config().vocab as usize;
    let mut sequence = engine.open_sequence().unwrap();
    let prefill = feed(&mut engine, &mut sequence, &prompt(3), &[64]);
    let mut row = prefill[prefill.len() - vocab..].to_vec();
    let mut tokens = Vec::new();
    for _ in 0..TOKENS {
        let token = argmax(&row);
        tokens.push(token);
        row = step(&mut engine, &mut sequence, &[token]);
    }
    tokens
}

#[test]
fn the_demo_model_answers_as_on_the_cpu() {
    for numerics in [Numerics::Plain, Numerics::Served] {
        assert_eq!(answer(device(), numerics), answer(common::cpu(), numerics), "{numerics}");
    }
}

#[test]
fn tiny_models_agree_with_transformers() {
    let device = device();
    for reference in parity::REFERENCES {
        parity::logits_agree(Arc::clone(&device), reference, &[&[512]]);
    }
}

#[test]
fn kernels_that_cannot_be_compiled_are_refused() {
    let missing = ["--arch", "sm_90a", "--nvrtc", "no/such/libnvrtc.so"];
    for (arguments, says) in [
        (&[][..], "--arch"),
        (&["--arch", "sm_70"], "sm_80 (Ampere) is the oldest"),
        (&["--arch", "hopper"], "sm_NUMBER or compute_NUMBER"),
        (&missing, "tried no/such/libnvrtc.so; `pip install"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hadal"));
        let done = command.args(["kernels", "no-such-folder"]).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&done.stderr);
        assert!(matches!(done.status.code(), Some(1 | 2)), "{arguments:?}: {text}");
        assert_eq!(text.lines().count(), 1, "{arguments:?}: {text}");
        assert!(text.starts_with("error: ") && text.contains(says), "{arguments:?}: {text}");
    }
}

/// Tokens the laws run over: past the windows and an entry of ratio 128.
const LENGTH: usize = 134;

fn held(name: &'static str, numerics: Numerics, length: usize, laws: fn(&Lab<'_>)) {
    let device = device();
    let options = ModelOptions { context: 256, rows_max: 128, ..options(numerics) };
    let same = |_: &[(&str, &str)]| Arc::clone(&device);
    laws(&Lab { name, options, device: &same, length, base_chunk: 128 });
}

#[test]
fn state_is_exact_in_served_numerics() {
    held("flash-tiny-orig", Numerics::Served, LENGTH, |lab| {
        laws::chunks(lab, 1, [9, 37].into_iter());
        laws::mixes(lab, 0..1);
        laws::taken_back(lab, [7].into_iter());
    });
}

#[test]
fn state_of_the_demo_model_is_exact() {
    held("demo", Numerics::Served, LENGTH, |lab| {
        laws::chunks(lab, 2, [3].into_iter());
        laws::cuts(lab, 61);
    });
}

#[test]
fn state_is_exact_in_plain_numerics() {
    held("hca8-tiny", Numerics::Plain, LENGTH, |lab| {
        laws::chunks(lab, 3, [5].into_iter());
        laws::mixes(lab, 1..2);
    });
}

#[test]
#[ignore = "wide: every law over more places and models, many minutes"]
fn state_is_exact_wherever_it_is_cut() {
    for (name, numerics) in [
        ("flash-tiny-orig", Numerics::Served),
        ("demo", Numerics::Served),
        ("hca8-tiny", Numerics::Plain),
        ("pro-tiny", Numerics::Plain),
    ] {
        held(name, numerics, 200, |lab| {
            laws::chunks(lab, 2, [1, 2, 3, 7, 31, 64, 127].into_iter());
            laws::mixes(lab, 1..4);
            laws::cuts(lab, 13);
            laws::copies(lab, &[1, 4, 63, 128, 180]);
            laws::disk(lab, 150);
            laws::chains(lab, 2);
            laws::taken_back(lab, 1..=8);
            laws::settings(lab, &[&[1], &[5], &[61, 3]], &[]);
        });
    }
}
