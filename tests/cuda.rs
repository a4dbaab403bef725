//! The whole engine on the CUDA backend's kernels, executed by the CPU: the greedy tokens of the CPU backend, the
//! committed references of the tiny models, and state exactness, eager and captured. Nothing here is about
//! hardware. And the command that compiles the kernels ahead.
//!
//! `--ignored` sweeps wider: minutes.

mod common;
#[path = "../backends/cuda/tests/emulated/mod.rs"]
mod emulated;

use std::process::Command;
use std::sync::Arc;

use backend_cuda::CudaBackend;
use common::laws::{self, Lab};
use common::{
    argmax, continuation, feed, golden_prompt, open_on, options, parity, random_ids, same_bits,
    step,
};
use emulated::Emulated;
use engine::config::{ModelConfig, preset};
use engine::load::Checkpoint;
use engine::{Engine, ModelOptions, Numerics};
use hal::profile::Ring;
use hal::{Backend, Device, OpenOptions, Profile};

fn device() -> Arc<dyn Device> {
    CudaBackend::on(Arc::new(Emulated::default()))
        .open(0, &OpenOptions::default())
        .expect("it is emulated")
}

/// Tokens of an answer that are compared.
const TOKENS: usize = 8;

/// Greedy continuation of a prompt.
fn answer(device: Arc<dyn Device>, numerics: Numerics) -> Vec<u32> {
    let small = ModelOptions { context: 256, rows_max: 64, sequences: 1, ..options(numerics) };
    let mut engine = open_on(device, "demo", &small);
    continuation(&mut engine, &golden_prompt(3), 64, TOKENS)
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

/// Logits of a model with noise for weights: a prompt in chunks of `chunk`, then a token.
fn synthetic(
    device: Arc<dyn Device>,
    config: &ModelConfig,
    chunk: usize,
    profile: Profile,
) -> Vec<f32> {
    let checkpoint = Checkpoint::synthetic(config.clone()).unwrap();
    let options = ModelOptions {
        context: 256,
        rows_max: 160,
        sequences: 1,
        profile,
        ..options(Numerics::Served)
    };
    let mut engine = Engine::open(device, &checkpoint, &options, &mut |_, _| true).unwrap();
    let ids = random_ids(5, 150, config.vocab);
    let mut sequence = engine.open_sequence().unwrap();
    let mut logits = feed(&mut engine, &mut sequence, &ids, &[chunk]);
    logits.extend(step(&mut engine, &mut sequence, &ids[..1]));
    logits
}

#[test]
fn what_the_bench_times_without_a_checkpoint_runs_and_is_profiled() {
    let config = ModelConfig { mtp_blocks: 0, ..common::checkpoint("demo").config().clone() };
    let ring = Arc::new(Ring::new(1 << 16));
    let options = OpenOptions { sink: Some(ring.clone()), settings: Vec::new() };
    let device = CudaBackend::on(Arc::new(Emulated::default())).open(0, &options).unwrap();
    let got = synthetic(device, &config, 150, Profile::Ops);
    let want = synthetic(common::cpu(), &config, 150, Profile::Off);
    let vocab = config.vocab as usize;
    let alike = got.chunks(vocab).zip(want.chunks(vocab)).filter(|(a, b)| argmax(a) == argmax(b));
    assert!(alike.count() > 120, "of 151 rows");
    let (events, dropped) = ring.take();
    let layers = config.layers.len();
    assert!(events.len() > 2 * layers && dropped == 0, "{} events", events.len());
    for op in ["attend_project", "index_select", "moe_experts", "head"] {
        assert!(events.iter().any(|event| event.op == op), "no {op}");
    }
}

#[test]
#[ignore = "wide: heads, indexer and lists of Flash, in a narrow model; minutes"]
fn heads_of_flash_keep_state_exact() {
    let flash = preset("flash").unwrap();
    let mut config = ModelConfig {
        vocab: 512,
        hidden: 1024,
        q_rank: 256,
        o_rank: 64,
        experts: 8,
        experts_per_token: 2,
        expert_width: 128,
        index_top: 16,
        mtp_blocks: 0,
        ..flash
    };
    config.layers.truncate(4);
    for wide in [false, true] {
        let machine = Arc::new(Emulated { wide, ..Emulated::default() });
        let open = || CudaBackend::on(machine.clone()).open(0, &OpenOptions::default()).unwrap();
        let whole = synthetic(open(), &config, 150, Profile::Off);
        assert!(whole.iter().all(|value| value.is_finite()));
        for chunk in [13, 47] {
            let cut = synthetic(open(), &config, chunk, Profile::Off);
            same_bits(&cut, &whole, 512, &format!("chunks of {chunk}, wide {wide}"));
        }
    }
}

#[test]
#[ignore = "wide: the laws that are not run on every change, minutes"]
fn state_is_exact_wherever_it_is_cut() {
    for (name, numerics) in [("flash-tiny-orig", Numerics::Served), ("pro-tiny", Numerics::Plain)] {
        held(name, numerics, LENGTH, |lab| {
            laws::cuts(lab, 44);
            laws::copies(lab, &[5, 120]);
            laws::disk(lab, 100);
            laws::chains(lab, 1);
            laws::settings(lab, &[&[61, 3]], &[]);
        });
    }
}
