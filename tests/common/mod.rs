//! What the root tests share: tiny checkpoints, reference files, engines on the CPU, feeding in chunks.
//!
//! One helper touches each API; a test that needs the engine goes through here.
#![allow(dead_code, reason = "every test binary uses its own part of this module")]

pub mod laws;
pub mod parity;
pub mod tap;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use engine::load::{Checkpoint, Dtype, parse_header};
use engine::{Engine, ModelOptions, Numerics, Run, Sequence, Want};
use hal::{Backend, Device, OpenOptions};

/// A file of `tests/`.
pub fn path(parts: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(parts)
}

/// A tiny checkpoint by name, or `demo`.
pub fn checkpoint(name: &str) -> Checkpoint {
    let folder = match name {
        "demo" => path("models/demo"),
        name => path("tests/checkpoints").join(name),
    };
    Checkpoint::open(&folder).unwrap_or_else(|refusal| panic!("{name}: {refusal}"))
}

/// The CPU with these settings.
pub fn cpu_with(settings: &[(&str, &str)]) -> Arc<dyn Device> {
    let settings = settings.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    let options = OpenOptions { settings, ..OpenOptions::default() };
    backend_cpu::CpuBackend.open(0, &options).expect("there is a CPU")
}

/// The CPU as it is.
pub fn cpu() -> Arc<dyn Device> {
    cpu_with(&[])
}

/// Options of a small test engine: four sequences of up to 1,024 tokens.
pub fn options(numerics: Numerics) -> ModelOptions {
    ModelOptions { numerics, context: 1024, sequences: 4, rows_max: 512, ..ModelOptions::default() }
}

/// An engine for a tiny checkpoint.
pub fn open(name: &str, options: &ModelOptions) -> Engine {
    open_on(cpu(), name, options)
}

/// An engine on a device of the test's own.
pub fn open_on(device: Arc<dyn Device>, name: &str, options: &ModelOptions) -> Engine {
    Engine::open(device, &checkpoint(name), options, &mut |_, _| true)
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Feeds `ids` in chunks of the given sizes, cycled; returns the logits of every row.
pub fn feed(
    engine: &mut Engine,
    sequence: &mut Sequence,
    ids: &[u32],
    sizes: &[usize],
) -> Vec<f32> {
    let mut all = Vec::new();
    let mut rest = ids;
    for &size in sizes.iter().cycle() {
        if rest.is_empty() {
            return all;
        }
        let (chunk, after) = rest.split_at(size.min(rest.len()));
        all.extend_from_slice(&step(engine, sequence, chunk));
        rest = after;
    }
    unreachable!("chunk sizes are not empty");
}

/// One step of one sequence; logits of every row.
pub fn step(engine: &mut Engine, sequence: &mut Sequence, tokens: &[u32]) -> Vec<f32> {
    let run = Run { sequence, tokens, want: Want::All };
    engine.step(&mut [run]).expect("the step fits").values().to_vec()
}

/// Prompt of one of the demo model's golden continuations.
pub fn golden_prompt(item: usize) -> Vec<u32> {
    let text = std::fs::read_to_string(path("models/demo/golden.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_str(&text).unwrap();
    let ids = golden["items"][item]["prompt_ids"].as_array().expect("items have prompts");
    ids.iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Greedy continuation of a prompt that is fed in chunks.
pub fn continuation(engine: &mut Engine, prompt: &[u32], chunk: usize, count: usize) -> Vec<u32> {
    let vocab = engine.config().vocab as usize;
    let mut sequence = engine.open_sequence().unwrap();
    let prefill = feed(engine, &mut sequence, prompt, &[chunk]);
    let mut row = prefill[prefill.len() - vocab..].to_vec();
    let mut tokens = Vec::new();
    for _ in 0..count {
        let token = argmax(&row);
        tokens.push(token);
        row = step(engine, &mut sequence, &[token]);
    }
    tokens
}

/// Index of the largest value, the first of equals.
pub fn argmax(row: &[f32]) -> u32 {
    let mut best = 0;
    for (place, value) in row.iter().enumerate() {
        if *value > row[best] {
            best = place;
        }
    }
    best as u32
}

/// Largest difference over the largest value of the reference.
pub fn relative(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len(), "sizes differ");
    let scale = want.iter().fold(0f32, |top, v| top.max(v.abs()));
    let worst = got.iter().zip(want).fold(0f32, |top, (a, b)| match (a - b).abs() {
        difference if difference.is_nan() => f32::INFINITY,
        difference => top.max(difference),
    });
    f64::from(worst) / f64::from(scale)
}

/// Fails at the first row whose bits differ.
pub fn same_bits(got: &[f32], want: &[f32], width: usize, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: number of logits");
    for (row, (a, b)) in got.chunks(width).zip(want.chunks(width)).enumerate() {
        let differs = a.iter().zip(b).position(|(x, y)| x.to_bits() != y.to_bits());
        if let Some(column) = differs {
            panic!("{what}: row {row}, column {column}: {} is not {}", a[column], b[column]);
        }
    }
}

/// Seeded token ids, none of the first three (control tokens).
pub fn random_ids(seed: u64, count: usize, vocab: u32) -> Vec<u32> {
    let mut random = Random(seed);
    (0..count).map(|_| 3 + random.below(u64::from(vocab) - 3) as u32).collect()
}

/// A small generator (SplitMix64); its seed is in every message that matters.
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64 <= probability
    }
}

/// A reference file: tensors by name.
pub struct Reference {
    floats: HashMap<String, Vec<f32>>,
    integers: HashMap<String, Vec<i64>>,
}

impl Reference {
    /// Reads `tests/checkpoints/refs/NAME.safetensors`.
    pub fn read(name: &str) -> Reference {
        let file = path("tests/checkpoints/refs").join(format!("{name}.safetensors"));
        let bytes = std::fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let header = parse_header(&bytes).expect("references are well-formed");
        let mut reference = Reference { floats: HashMap::new(), integers: HashMap::new() };
        for tensor in &header.tensors {
            let data = &bytes[tensor.begin..tensor.end];
            let name = tensor.name.to_string();
            match tensor.dtype {
                Dtype::F32 => {
                    let values =
                        data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
                    reference.floats.insert(name, values.collect());
                }
                Dtype::I64 => {
                    let values =
                        data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()));
                    reference.integers.insert(name, values.collect());
                }
                _ => {}
            }
        }
        reference
    }

    /// A float tensor, flat.
    pub fn floats(&self, name: &str) -> &[f32] {
        self.floats.get(name).unwrap_or_else(|| panic!("the reference has no {name}"))
    }

    /// An integer tensor, flat.
    pub fn integers(&self, name: &str) -> &[i64] {
        self.integers.get(name).unwrap_or_else(|| panic!("the reference has no {name}"))
    }

    /// An integer tensor as token ids.
    pub fn ids(&self, name: &str) -> Vec<u32> {
        self.integers(name).iter().map(|&id| id as u32).collect()
    }

    /// Whether there is an integer tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.integers.contains_key(name)
    }
}
