//! The laws of state exactness (law 8), on whatever device a test brings: the same logits, to the bit, for
//! any chunking, batch mix, cut, save, restore, roll-back, padding and mode.
//!
//! A law panics where it does not hold, with the place. How wide it sweeps is its caller's choice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use engine::{Engine, ModelOptions, Run, Sequence, Snapshot, Want};
use hal::{Device, Mode};

use super::{Random, feed, open_on, random_ids, same_bits, step};

/// Gives a device, with settings.
pub type Opens<'a> = &'a dyn Fn(&[(&str, &str)]) -> Arc<dyn Device>;

/// Where laws are tried: a model, how it is opened, and the device; engines differ, the device may be one.
pub struct Lab<'a> {
    /// Name of the checkpoint.
    pub name: &'static str,
    /// Numerics and sizes of every engine: at least four sequences.
    pub options: ModelOptions,
    /// Gives the device, with settings of its own.
    pub device: Opens<'a>,
    /// Tokens a sweep runs over.
    pub length: usize,
    /// Tokens per step of the run that all others are compared with.
    pub base_chunk: usize,
}

impl Lab<'_> {
    fn open(&self, options: &ModelOptions) -> Engine {
        open_on((self.device)(&[]), self.name, options)
    }

    fn base(&self, seed: u64) -> Base {
        let mut engine = self.open(&self.options);
        let vocab = engine.config().vocab;
        let ids = random_ids(seed, self.length, vocab);
        let mut sequence = engine.open_sequence().unwrap();
        let logits = feed(&mut engine, &mut sequence, &ids, &[self.base_chunk]);
        let what = format!("{} {} seed {seed}", self.name, self.options.numerics);
        drop(sequence);
        Base { engine, ids, logits, vocab: vocab as usize, what }
    }
}

/// A model, token ids, and their logits alone.
struct Base {
    engine: Engine,
    ids: Vec<u32>,
    logits: Vec<f32>,
    vocab: usize,
    what: String,
}

impl Base {
    fn rows(&self, first: usize, count: usize) -> &[f32] {
        &self.logits[first * self.vocab..(first + count) * self.vocab]
    }

    fn same(&self, got: &[f32], first: usize, what: &str) {
        let want = self.rows(first, got.len() / self.vocab);
        same_bits(got, want, self.vocab, &format!("{}: {what}", self.what));
    }
}

/// Chunks of these sizes give the bits of the base run.
pub fn chunks(lab: &Lab<'_>, seed: u64, sizes: impl Iterator<Item = usize>) {
    let mut base = lab.base(seed);
    for size in sizes {
        let mut sequence = base.engine.open_sequence().unwrap();
        let got = feed(&mut base.engine, &mut sequence, &base.ids, &[size]);
        base.same(&got, 0, &format!("chunks of {size}"));
    }
}

/// Feeds three sequences in random chunks and batches, with wrong speculation taken back, accepted
/// tokens taken back and fed again, and saves restored elsewhere after others used the place.
pub fn mixes(lab: &Lab<'_>, trials: std::ops::Range<u64>) {
    let mut bases = [lab.base(11), lab.base(12), lab.base(13)];
    for trial in trials {
        mix(lab, &mut bases, trial);
    }
}

fn mix(lab: &Lab<'_>, bases: &mut [Base; 3], trial: u64) {
    let mut random = Random(trial);
    let what = format!("mix {trial}");
    let length = lab.length;
    let engine = &mut lab.open(&lab.options);
    let mut live: Vec<Option<Sequence>> =
        (0..3).map(|_| Some(engine.open_sequence().unwrap())).collect();
    let position =
        |live: &[Option<Sequence>], k: usize| live[k].as_ref().unwrap().position() as usize;
    while (0..3).any(|k| position(&live, k) < length) {
        mixed_step(engine, bases, &mut live, &mut random, &what);
        for (k, base) in bases.iter().enumerate() {
            if position(&live, k) == 0 {
                continue;
            }
            let sequence = live[k].as_mut().unwrap();
            if random.chance(0.15) {
                let wrong = 1 + random.below(5) as usize;
                let tokens = random_ids(random.next(), wrong, base.vocab as u32);
                if sequence.position() as usize + wrong <= length {
                    step(engine, sequence, &tokens);
                    assert!(sequence.roll_back(wrong as u32), "{what}: speculation taken back");
                }
            } else if sequence.position() > sequence.floor() && random.chance(0.15) {
                let most = u64::from(sequence.position() - sequence.floor());
                assert!(sequence.roll_back(1 + random.below(most) as u32), "{what}: taken back");
            }
            if random.chance(0.1) {
                live[k] = Some(moved(engine, live[k].take().unwrap(), &mut random));
            }
        }
    }
}

/// One step of a random choice of sequences in random order, compared with each one alone.
fn mixed_step(
    engine: &mut Engine,
    bases: &[Base; 3],
    live: &mut [Option<Sequence>],
    random: &mut Random,
    what: &str,
) {
    let mut chosen: Vec<(usize, usize, usize)> = Vec::new();
    let mut order = [0, 1, 2];
    order.swap(0, random.below(3) as usize);
    order.swap(1, 1 + random.below(2) as usize);
    let mut room = engine.capacity().rows as usize;
    for k in order {
        let at = live[k].as_ref().unwrap().position() as usize;
        let size = [1, 1, 1, 2, 4, 9, 33, 90][random.below(8) as usize];
        let size = size.min(bases[k].ids.len() - at).min(room);
        if size > 0 && random.chance(0.8) {
            chosen.push((k, at, size));
            room -= size;
        }
    }
    if chosen.is_empty() {
        return;
    }
    let mut taken: Vec<Sequence> = chosen.iter().map(|&(k, ..)| live[k].take().unwrap()).collect();
    let mut runs: Vec<Run<'_>> = taken
        .iter_mut()
        .zip(&chosen)
        .map(|(sequence, &(k, at, size))| Run {
            sequence,
            tokens: &bases[k].ids[at..at + size],
            want: Want::All,
        })
        .collect();
    let logits = engine.step(&mut runs).expect("the step fits").clone();
    let mut row = 0;
    for (&(k, at, size), sequence) in chosen.iter().zip(taken) {
        let base = &bases[k];
        let got = &logits.values()[row * base.vocab..(row + size) * base.vocab];
        base.same(got, at, &format!("{what}: sequence {k} at {at}"));
        live[k] = Some(sequence);
        row += size;
    }
}

/// The sequence saved, evicted, and restored after another one used its slot and pages.
fn moved(engine: &mut Engine, sequence: Sequence, random: &mut Random) -> Sequence {
    let saved = engine.save(&sequence).unwrap();
    drop(sequence);
    let mut other = engine.open_sequence().unwrap();
    let vocab = engine.config().vocab;
    step(engine, &mut other, &random_ids(random.next(), 40, vocab));
    let bytes = saved.to_bytes();
    let restored = engine.restore(&Snapshot::from_bytes(&bytes).unwrap()).unwrap();
    drop(other);
    restored
}

/// A prefix cut at every so many positions continues, restored, with the bits of no cut.
pub fn cuts(lab: &Lab<'_>, every: usize) {
    let mut base = lab.base(3);
    let ids = base.ids.clone();
    let mut sequence = base.engine.open_sequence().unwrap();
    for position in (every..lab.length - 2).step_by(every) {
        step(&mut base.engine, &mut sequence, &ids[position - every..position]);
        let saved = base.engine.save(&sequence).unwrap();
        let mut twin = base.engine.restore(&saved).unwrap();
        let got = step(&mut base.engine, &mut twin, &ids[position..position + 2]);
        base.same(&got, position, &format!("cut at {position}"));
    }
}

/// A copy continues with the same bits and leaves the original alone.
pub fn copies(lab: &Lab<'_>, positions: &[usize]) {
    let mut base = lab.base(4);
    let ids = base.ids.clone();
    for &position in positions {
        let mut sequence = base.engine.open_sequence().unwrap();
        feed(&mut base.engine, &mut sequence, &ids[..position], &[64]);
        let mut twin = base.engine.copy(&sequence).unwrap();
        let vocab = base.vocab as u32;
        step(&mut base.engine, &mut twin, &random_ids(9, 12, vocab));
        let mut second = base.engine.copy(&sequence).unwrap();
        for sequence in [&mut sequence, &mut second] {
            let got = step(&mut base.engine, sequence, &ids[position..position + 8]);
            base.same(&got, position, &format!("copy at {position}"));
        }
    }
}

/// A sequence saved to disk after `position` tokens continues in another engine.
pub fn disk(lab: &Lab<'_>, position: usize) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let file = std::env::temp_dir().join(format!("hadal-laws-{}-{number}", std::process::id()));
    let mut base = lab.base(5);
    let ids = base.ids.clone();
    let mut sequence = base.engine.open_sequence().unwrap();
    feed(&mut base.engine, &mut sequence, &ids[..position], &[64]);
    std::fs::write(&file, base.engine.save(&sequence).unwrap().to_bytes()).unwrap();
    let mut second = lab.open(&lab.options);
    let bytes = std::fs::read(&file).unwrap();
    let mut restored = second.restore(&Snapshot::from_bytes(&bytes).unwrap()).unwrap();
    let got = feed(&mut second, &mut restored, &ids[position..], &[7]);
    base.same(&got, position, "restored from disk");
    std::fs::remove_file(&file).unwrap();
}

/// A chain of saves, each from the one before, continues with the bits of no cut.
pub fn chains(lab: &Lab<'_>, trials: u32) {
    let mut base = lab.base(8);
    let mut random = Random(8);
    for trial in 0..trials {
        chain(&mut base, &mut random, trial);
    }
}

fn chain(base: &mut Base, random: &mut Random, trial: u32) {
    let ids = base.ids.clone();
    let length = ids.len();
    let mut sequence = base.engine.open_sequence().unwrap();
    let mut chain: Vec<Snapshot> = Vec::new();
    while (sequence.position() as usize) < length - 30 && chain.len() < 6 {
        let first = sequence.position() as usize;
        let count = 1 + random.below(100.min((length - 20 - first) as u64)) as usize;
        feed(&mut base.engine, &mut sequence, &ids[first..first + count], &[64]);
        let from = chain.last().map_or(0, |last| last.position);
        chain.push(base.engine.save_from(&sequence, from).unwrap());
    }
    drop(sequence);
    // Others use the place meanwhile.
    let other = random_ids(random.next(), length - 10, base.vocab as u32);
    let mut strangers: Vec<_> = (0..4).map(|_| base.engine.open_sequence().unwrap()).collect();
    let most = 290.min(base.engine.capacity().rows as usize);
    for stranger in &mut strangers {
        feed(&mut base.engine, stranger, &other, &[most]);
    }
    drop(strangers);
    let last = chain.pop().unwrap();
    let mut chain: Vec<Snapshot> = chain.iter().map(Snapshot::entries).collect();
    chain.push(last);
    let links: Vec<&Snapshot> = chain.iter().collect();
    let mut restored = base.engine.restore_chain(&links).unwrap();
    let first = restored.position() as usize;
    let got = feed(&mut base.engine, &mut restored, &ids[first..], &[9]);
    base.same(&got, first, &format!("chain of {}, trial {trial}", links.len()));
    if links.len() > 2 {
        let gap = [links[0], links[2]];
        assert!(base.engine.restore_chain(&gap).is_err(), "a chain with a gap");
        assert!(base.engine.restore_chain(&links[..1]).is_err(), "entries alone");
    }
}

/// So many tokens taken back, of fed ones and of wrong ones, leave no trace.
pub fn taken_back(lab: &Lab<'_>, counts: impl Iterator<Item = u32>) {
    let mut base = lab.base(6);
    let ids = base.ids.clone();
    for tokens in counts {
        let mut sequence = base.engine.open_sequence().unwrap();
        let mut position = 0;
        while position + 20 < lab.length {
            let size = 11 + tokens as usize;
            step(&mut base.engine, &mut sequence, &ids[position..position + size]);
            assert!(sequence.roll_back(tokens));
            position += size - tokens as usize;
            let wrong = random_ids(position as u64, tokens as usize, base.vocab as u32);
            step(&mut base.engine, &mut sequence, &wrong);
            assert!(sequence.roll_back(tokens));
            let got = step(&mut base.engine, &mut sequence, &ids[position..position + 1]);
            base.same(&got, position, &format!("{tokens} back at {position}"));
            position += 1;
        }
    }
}

/// Padding, mode, sizes of the engine, device settings and a second run do not show.
pub fn settings(lab: &Lab<'_>, chunks: &[&[usize]], devices: &[&[(&str, &str)]]) {
    let base = lab.base(7);
    let exact = ModelOptions { exact_rows: true, ..lab.options.clone() };
    let eager = ModelOptions { mode: Mode::Eager, ..lab.options.clone() };
    let alone = ModelOptions { sequences: 1, rows_max: 64, ..lab.options.clone() };
    for sizes in chunks {
        agrees(&base, lab.open(&exact), sizes, "exact rows");
        agrees(&base, lab.open(&eager), sizes, "eager");
        agrees(&base, lab.open(&alone), sizes, "one slot, small steps");
        agrees(&base, lab.open(&lab.options), sizes, "a second run");
        for settings in devices {
            let engine = open_on((lab.device)(settings), lab.name, &lab.options);
            agrees(&base, engine, sizes, &format!("{settings:?}"));
        }
    }
}

/// The same ids in an engine opened differently.
fn agrees(base: &Base, mut engine: Engine, sizes: &[usize], what: &str) {
    let mut sequence = engine.open_sequence().unwrap();
    let got = feed(&mut engine, &mut sequence, &base.ids, sizes);
    base.same(&got, 0, what);
}
