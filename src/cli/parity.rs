//! The demo model on a device beside the CPU: the logits of some prompts, and whether the device keeps
//! state exactly (chunks, eager and replayed, saved and restored).
//!
//! It fails where the two choose other tokens too often, or where bits differ on the device itself.

use engine::text::Specials;
use engine::{Engine, ModelOptions, Run, Sequence, Want};
use hadal::demo;
use hal::Mode;
use serde::Deserialize;

use super::args::{ModelArgs, Numerics};
use super::failure::{Failure, Result};
use super::interrupt::Interrupt;
use super::model::{self, Source};

/// Prompts compared: the first question of as many skills.
const PROMPTS: usize = 3;
/// Most tokens of a prompt.
const TOKENS_MAX: usize = 48;
/// Rows of a step.
const ROWS: u32 = 64;
/// Context opened.
const CONTEXT: u32 = 256;
/// Least share of places that choose the CPU's token: sums in another order turn near ties.
const ALIKE: f64 = 0.95;

#[derive(Deserialize)]
struct Question {
    prompt: String,
}

/// Compares and prints.
pub fn parity(device: &str) -> Result<()> {
    let interrupt = Interrupt::install()?;
    let prompts = prompts()?;
    let mut cpu = open("cpu", Mode::Replay, &interrupt)?;
    let mut tried = open(device, Mode::Replay, &interrupt)?;
    let mut eager = open(device, Mode::Eager, &interrupt)?;
    println!("arithmetic: {}", tried.identity());
    let (mut alike, mut places) = (0, 0);
    let mut inexact = Vec::new();
    for (number, ids) in prompts.iter().enumerate() {
        let want = logits(&mut cpu, ids, ROWS as usize)?;
        let whole = logits(&mut tried, ids, ROWS as usize)?;
        let vocab = tried.config().vocab as usize;
        let same = whole.chunks(vocab).zip(want.chunks(vocab));
        alike += same.filter(|(a, b)| largest(a) == largest(b)).count();
        places += ids.len();
        println!(
            "prompt {number}: {} tokens, logits differ from the CPU's by {:.2e} of the largest",
            ids.len(),
            distance(&whole, &want)
        );
        let chunks = logits(&mut tried, ids, 7)?;
        let issued = logits(&mut eager, ids, ROWS as usize)?;
        let restored = restored(&mut tried, ids)?;
        for (what, got) in [("chunks", chunks), ("eager", issued), ("restored", restored)] {
            let from = whole.len() - got.len();
            let same = whole[from..].iter().zip(&got).all(|(a, b)| a.to_bits() == b.to_bits());
            println!("prompt {number}: {what}: {}", if same { "same bits" } else { "other bits" });
            if !same {
                inexact.push(format!("{what} of prompt {number}"));
            }
        }
    }
    println!("{alike} of {places} places choose the CPU's token");
    if (alike as f64) < ALIKE * places as f64 {
        return Err(Failure::new(format!("{alike} of {places} places choose the CPU's token")));
    }
    match inexact.as_slice() {
        [] => Ok(()),
        inexact => Err(Failure::new(format!("other bits: {}", inexact.join(", ")))),
    }
}

fn prompts() -> Result<Vec<Vec<u32>>> {
    let source = Source::Demo;
    let vocab = source.checkpoint()?.config().vocab;
    let tokenizer = source.tokenizer(vocab)?;
    let first = |(name, bytes): &(&str, &[u8])| {
        let line = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let question: Question =
            serde_json::from_slice(line).map_err(|error| Failure::new(error).at(name))?;
        let mut ids = tokenizer.encode(&question.prompt, Specials::Allow)?;
        ids.truncate(TOKENS_MAX);
        Ok(ids)
    };
    demo::EVAL_SETS.iter().take(PROMPTS).map(first).collect()
}

fn open(device: &str, mode: Mode, interrupt: &Interrupt) -> Result<Engine> {
    let args = ModelArgs {
        model: None,
        device: device.to_owned(),
        context: Some(CONTEXT),
        numerics: Numerics::Served,
        threads: None,
        isa: None,
        weights: None,
    };
    let options = ModelOptions { mode, rows_max: ROWS, sequences: 2, ..ModelOptions::default() };
    let checkpoint = Source::Demo.checkpoint()?;
    model::open(&Source::Demo, &checkpoint, &args, options, interrupt)
}

fn step(engine: &mut Engine, sequence: &mut Sequence, tokens: &[u32]) -> Result<Vec<f32>> {
    let run = Run { sequence, tokens, want: Want::All };
    Ok(engine.step(&mut [run])?.values().to_vec())
}

/// Logits of every place.
fn logits(engine: &mut Engine, ids: &[u32], chunk: usize) -> Result<Vec<f32>> {
    let mut sequence = engine.open_sequence()?;
    let mut all = Vec::new();
    for tokens in ids.chunks(chunk) {
        all.extend(step(engine, &mut sequence, tokens)?);
    }
    Ok(all)
}

/// Logits of the second half, behind a state that was saved and restored.
fn restored(engine: &mut Engine, ids: &[u32]) -> Result<Vec<f32>> {
    let (first, rest) = ids.split_at(ids.len() / 2);
    let mut sequence = engine.open_sequence()?;
    step(engine, &mut sequence, first)?;
    let saved = engine.save(&sequence)?;
    drop(sequence);
    let mut sequence = engine.restore(&saved)?;
    step(engine, &mut sequence, rest)
}

fn largest(row: &[f32]) -> usize {
    let order = |a: &(usize, &f32), b: &(usize, &f32)| a.1.total_cmp(b.1);
    row.iter().enumerate().max_by(order).map_or(0, |(id, _)| id)
}

/// Largest difference over the largest value.
fn distance(got: &[f32], want: &[f32]) -> f32 {
    let scale = want.iter().fold(f32::MIN_POSITIVE, |top, value| top.max(value.abs()));
    let worst = got.iter().zip(want).fold(0f32, |top, (a, b)| match (a - b).abs() {
        difference if difference.is_nan() => f32::INFINITY,
        difference => top.max(difference),
    });
    worst / scale
}
