//! The whole engine on the CUDA backend's kernels, executed by the CPU: the greedy tokens of the CPU backend, the
//! committed references of the tiny models, and state exactness, eager and captured. Nothing here is about
//! hardware. And the command that compiles the kernels ahead.
//!
//! `--ignored` sweeps wider: minutes.

mod common;
#[path = "../backends/cuda/tests/emulated/mod.rs"]
mod emulated;
#[path = "../backends/cuda/tests/paper/mod.rs"]
mod paper;

use std::collections::BTreeMap;
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
use engine::{Engine, ModelOptions, Numerics, Run, Want};
use hal::profile::Ring;
use hal::{Backend, Device, Mode, OpenOptions, Profile};
use paper::Paper;

fn device() -> Arc<dyn Device> {
    CudaBackend::on(Arc::new(Emulated::default()))
        .open(0, &OpenOptions::default())
        .expect("it is emulated")
}

/// With this setting of `join`.
fn joining(device: Emulated, join: &str) -> Arc<dyn Device> {
    let settings = vec![("join".to_owned(), join.to_owned())];
    let options = OpenOptions { settings, ..OpenOptions::default() };
    CudaBackend::on(Arc::new(device)).open(0, &options).expect("it is emulated")
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

/// Logits of a prompt in chunks and of tokens behind it: every rung up to 8 rows, past entries of all ratios.
fn logits_in_steps(device: Arc<dyn Device>, name: &str, numerics: Numerics) -> Vec<f32> {
    let options = ModelOptions { context: 256, rows_max: 64, ..options(numerics) };
    let mut engine = open_on(device, name, &options);
    let ids = random_ids(11, 150, engine.config().vocab);
    let mut sequence = engine.open_sequence().expect("the first one");
    let sizes = [64, 64, 1, 1, 1, 2, 1, 4, 1, 7, 1, 1, 1, 1];
    feed(&mut engine, &mut sequence, &ids, &sizes)
}

#[test]
fn joined_launches_give_the_bits_of_separate_ones() {
    for (name, numerics) in [
        ("flash-tiny-orig", Numerics::Served),
        ("demo", Numerics::Served),
        ("hca8-tiny", Numerics::Plain),
    ] {
        let vocab = common::checkpoint(name).config().vocab as usize;
        let apart = logits_in_steps(joining(Emulated::default(), "off"), name, numerics);
        for (wide, bulk) in [(false, false), (true, false), (true, true)] {
            let device = joining(Emulated { wide, bulk, ..Emulated::default() }, "on");
            let joined = logits_in_steps(device, name, numerics);
            let what = format!("{name} {numerics}, backwards {wide}, bulk copies {bulk}");
            same_bits(&joined, &apart, vocab, &what);
        }
    }
}

/// Launches of a step of so many rows and of its head, 128 K tokens being possible: Flash, but for its vocabulary,
/// or its first layers.
fn launches_of_flash(layers: usize, rows: usize, join: &str) -> usize {
    kernels_of_flash(layers, rows, join, Paper::new(false)).values().sum()
}

/// The same by kernel, on a machine on paper.
fn kernels_of_flash(
    layers: usize,
    rows: usize,
    join: &str,
    paper: Paper,
) -> BTreeMap<String, usize> {
    let flash = preset("flash").expect("it is known");
    let mut config = ModelConfig { vocab: 512, mtp_blocks: 0, ..flash };
    config.layers.truncate(layers);
    let checkpoint = Checkpoint::synthetic(config).expect("it is whole");
    let options = ModelOptions {
        context: 131_072,
        rows_max: 64,
        sequences: 1,
        mode: Mode::Eager,
        ..options(Numerics::Served)
    };
    let settings = vec![("join".to_owned(), join.to_owned())];
    let open = OpenOptions { settings, ..OpenOptions::default() };
    let device = CudaBackend::on(Arc::new(paper.clone())).open(0, &open).expect("it is there");
    let mut engine = Engine::open(device, &checkpoint, &options, &mut |_, _| true).unwrap();
    let mut sequence = engine.open_sequence().expect("the first one");
    paper.take();
    let run = Run { sequence: &mut sequence, tokens: &vec![1; rows], want: Want::Last };
    engine.step(&mut [run]).expect("the step fits");
    let counts = paper.take();
    println!("{layers} layers, {rows} rows, join={join}: {counts:?}");
    counts
}

/// All weights of few rows, with what is joined to them, and no more launches than without.
#[test]
fn every_product_of_few_rows_of_flash_takes_bulk_copies() {
    for (rows, join) in [(1, "off"), (1, "on"), (8, "on"), (64, "on")] {
        let usual = kernels_of_flash(4, rows, join, Paper::new(false));
        let mut got = kernels_of_flash(4, rows, join, Paper::new(true));
        for (name, bulk) in
            [("matmul_few", "matmul_bulk"), ("matmul_several", "matmul_several_bulk")]
        {
            assert!(!got.contains_key(name), "{rows} rows, join={join}: {got:?}");
            if let Some(count) = got.remove(bulk) {
                got.insert(name.into(), count);
            }
        }
        assert_eq!(got, usual, "{rows} rows, join={join}");
        assert!(usual["matmul_few"] > 0);
    }
}

/// docs/cuda-roofline.md counts with these.
#[test]
fn a_step_of_flash_has_the_launches_that_are_predicted() {
    // Of a window, of CSA and of HCA: the first layers are of these kinds.
    for (rows, join, [window, csa, hca]) in [
        (1, "off", [31, 45, 34]),
        (1, "on", [14, 18, 15]),
        (8, "on", [21, 26, 22]),
        (64, "on", [27, 40, 30]),
    ] {
        let of = [1, 2, 3, 4].map(|layers| launches_of_flash(layers, rows, join));
        let all = launches_of_flash(43, rows, join);
        println!("{rows} rows, join={join}: {all}; {of:?}");
        let steps = [of[1] - of[0], of[2] - of[1], of[3] - of[2]];
        assert_eq!(steps, [window, csa, hca], "{rows} rows, join={join}");
        assert_eq!(all, of[0] + window + 21 * csa + 20 * hca, "{rows} rows, join={join}");
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
    for (wide, bulk) in [(false, false), (true, false), (false, true)] {
        let machine = Arc::new(Emulated { wide, bulk, ..Emulated::default() });
        let open = || CudaBackend::on(machine.clone()).open(0, &OpenOptions::default()).unwrap();
        let whole = synthetic(open(), &config, 150, Profile::Off);
        assert!(whole.iter().all(|value| value.is_finite()));
        for chunk in [13, 47] {
            let cut = synthetic(open(), &config, chunk, Profile::Off);
            same_bits(&cut, &whole, 512, &format!("chunks of {chunk}, wide {wide}, bulk {bulk}"));
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
