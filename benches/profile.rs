//! Where a step's time goes, op by op, on a device that times its ops.
//!
//!     cargo bench --bench profile [-- DEVICE [MODEL [DEPTH]]]
//!
//! DEVICE is a name of `hadal devices` [wgpu], MODEL a folder [the demo model], DEPTH the tokens in front
//! of the steps that are measured [64]. Prints totals of single-token steps, then of one chunk of a prompt;
//! what takes a few percent of a step is worth fusing. Tokens are arbitrary, numerics served. The times
//! of ops do not add up to the time of a step: a device that times ops runs them one by one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use engine::load::Checkpoint;
use engine::{Engine, ModelOptions, Run, Want};
use hal::profile::{OpEvent, Sink, Summary};
use hal::{DeviceInfo, OpenOptions, Profile};

/// Single-token steps that are added up.
const STEPS: usize = 16;
/// Tokens of the chunk.
const CHUNK: usize = 128;

/// Adds up what is measured while it is on.
#[derive(Debug, Default)]
struct Stretch {
    on: AtomicBool,
    summary: Summary,
}

impl Sink for Stretch {
    fn batch(&self, device: &DeviceInfo, events: &[OpEvent], dropped: u64) {
        if self.on.load(Ordering::Acquire) {
            self.summary.batch(device, events, dropped);
        }
    }
}

/// Tokens that mean nothing.
fn tokens(count: usize, vocab: u32) -> Vec<u32> {
    (0..count as u32).map(|at| 3 + at.wrapping_mul(2_654_435_761) % (vocab - 3)).collect()
}

/// Prints the totals of `steps` steps of `size` tokens behind `depth` others and an untimed step.
fn measure(device: &str, checkpoint: &Checkpoint, depth: usize, (steps, size): (usize, usize)) {
    let stretch = Arc::new(Stretch::default());
    let options = OpenOptions { sink: Some(stretch.clone()), ..OpenOptions::default() };
    let device = hadal::registry::registry().open(device, &options);
    let device = device.unwrap_or_else(|error| panic!("{error}"));
    println!("{}: {steps} steps of {size} tokens behind {}", device.info().name, depth + size);
    let options = ModelOptions {
        context: (depth + (steps + 1) * size + 1) as u32,
        sequences: 1,
        rows_max: CHUNK as u32,
        profile: Profile::Ops,
        ..ModelOptions::default()
    };
    let engine = Engine::open(device, checkpoint, &options, &mut |_, _| true);
    let mut engine = engine.unwrap_or_else(|error| panic!("{error}"));
    let all = tokens(depth + (steps + 1) * size, engine.config().vocab);
    let mut sequence = engine.open_sequence().expect("the engine is empty");
    let mut feed = |tokens: &[u32]| {
        let run = Run { sequence: &mut sequence, tokens, want: Want::Last };
        engine.step(&mut [run]).expect("the step fits");
    };
    let (before, timed) = all.split_at(depth + size);
    let (before, warm) = before.split_at(depth);
    before.chunks(CHUNK).for_each(&mut feed);
    feed(warm);
    stretch.on.store(true, Ordering::Release);
    timed.chunks(size).for_each(&mut feed);
    println!("{}\n", stretch.summary.totals());
}

fn main() {
    let words = std::env::args().skip(1).filter(|word| !word.starts_with("--"));
    let words: Vec<String> = words.collect();
    let device = words.first().map_or("wgpu", String::as_str);
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo");
    let folder = words.get(1).map_or(demo, PathBuf::from);
    let depth = words.get(2).map_or(64, |word| word.parse().expect("DEPTH is a number"));
    let checkpoint = Checkpoint::open(&folder).unwrap_or_else(|refusal| panic!("{refusal}"));
    measure(device, &checkpoint, depth, (STEPS, 1));
    measure(device, &checkpoint, depth, (1, CHUNK));
}
