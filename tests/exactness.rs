//! State exactness, bitwise (law 8): the same logits for any chunking, batch mix, cut, save, restore,
//! roll-back, padding, mode and number of threads. `--ignored` sweeps wider.

mod common;

use std::sync::atomic::Ordering;

use common::{Random, cpu_with, feed, open, open_on, options, random_ids, same_bits, step};
use engine::{Engine, ModelOptions, Numerics, Run, Sequence, Snapshot, Want};
use hal::{DType, Mode, Op};

/// Tokens a sweep runs over: past every window of the tiny models and two entries of ratio 128.
const LENGTH: usize = 300;

/// What the default run sweeps: all layer kinds, coded and plain state, both layouts.
const SUBJECTS: [(&str, Numerics); 2] =
    [("flash-tiny-orig", Numerics::Served), ("hca8-tiny", Numerics::Plain)];

/// What the wide run sweeps.
const ALL: [(&str, Numerics); 8] = [
    ("flash-tiny-orig", Numerics::Served),
    ("flash-tiny-orig", Numerics::Plain),
    ("flash-tiny", Numerics::Plain),
    ("pro-tiny", Numerics::Plain),
    ("hca8-tiny", Numerics::Plain),
    ("csa-tiny", Numerics::Plain),
    ("demo", Numerics::Served),
    ("demo", Numerics::Plain),
];

/// A model, token ids, and their logits fed token by token, alone.
struct Base {
    engine: Engine,
    ids: Vec<u32>,
    logits: Vec<f32>,
    vocab: usize,
    what: String,
}

fn base((name, numerics): (&str, Numerics), seed: u64) -> Base {
    let mut engine = open(name, &options(numerics));
    let vocab = engine.config().vocab;
    let ids = random_ids(seed, LENGTH, vocab);
    let mut sequence = engine.open_sequence().unwrap();
    let logits = feed(&mut engine, &mut sequence, &ids, &[1]);
    let what = format!("{name} {numerics} seed {seed}");
    Base { engine, ids, logits, vocab: vocab as usize, what }
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

fn sweep_chunks(base: &mut Base, sizes: impl Iterator<Item = usize>) {
    for size in sizes {
        let mut sequence = base.engine.open_sequence().unwrap();
        let got = feed(&mut base.engine, &mut sequence, &base.ids, &[size]);
        base.same(&got, 0, &format!("chunks of {size}"));
    }
}

#[test]
fn chunks_of_any_size_give_the_bits_of_single_tokens() {
    for subject in SUBJECTS {
        sweep_chunks(&mut base(subject, 1), (1..=LENGTH).step_by(7).chain(126..=131).chain([300]));
    }
}

#[test]
#[ignore = "wide sweep: every chunk size of every subject, minutes"]
fn chunks_of_every_size_give_the_bits_of_single_tokens() {
    for subject in ALL {
        sweep_chunks(&mut base(subject, 2), 1..=LENGTH);
    }
}

/// Feeds three sequences in random chunks and batches, with wrong speculation taken back, accepted
/// tokens taken back and fed again, and saves restored elsewhere after others used the place.
fn mix(bases: &mut [Base; 3], trial: u64) {
    let mut random = Random(trial);
    let what = format!("mix {trial}");
    let engine = &mut open(MIX.0, &options(MIX.1));
    let mut live: Vec<Option<Sequence>> =
        (0..3).map(|_| Some(engine.open_sequence().unwrap())).collect();
    let position =
        |live: &[Option<Sequence>], k: usize| live[k].as_ref().unwrap().position() as usize;
    while (0..3).any(|k| position(&live, k) < LENGTH) {
        mixed_step(engine, bases, &mut live, &mut random, &what);
        for (k, base) in bases.iter().enumerate() {
            if position(&live, k) == 0 {
                continue;
            }
            let sequence = live[k].as_mut().unwrap();
            if random.chance(0.15) {
                let wrong = 1 + random.below(5) as usize;
                let tokens = random_ids(random.next(), wrong, base.vocab as u32);
                if sequence.position() as usize + wrong <= LENGTH {
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

const MIX: (&str, Numerics) = SUBJECTS[0];

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
    for k in order {
        let at = live[k].as_ref().unwrap().position() as usize;
        let size = [1, 1, 1, 2, 4, 9, 33, 90][random.below(8) as usize].min(LENGTH - at);
        if size > 0 && random.chance(0.8) {
            chosen.push((k, at, size));
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

fn mixes(trials: std::ops::Range<u64>) {
    let mut bases = [base(MIX, 11), base(MIX, 12), base(MIX, 13)];
    for trial in trials {
        mix(&mut bases, trial);
    }
}

#[test]
fn batches_speculation_and_moves_give_the_bits_of_being_alone() {
    mixes(0..3);
}

#[test]
#[ignore = "wide sweep: many random mixes, minutes"]
fn many_batches_speculation_and_moves_give_the_bits_of_being_alone() {
    mixes(100..160);
}

#[test]
fn a_prefix_cut_at_every_position_continues_with_the_same_bits() {
    for subject in SUBJECTS {
        let mut base = base(subject, 3);
        let mut sequence = base.engine.open_sequence().unwrap();
        for position in 1..LENGTH - 2 {
            let ids = base.ids.clone();
            step(&mut base.engine, &mut sequence, &ids[position - 1..position]);
            let saved = base.engine.save(&sequence).unwrap();
            let mut twin = base.engine.restore(&saved).unwrap();
            let got = step(&mut base.engine, &mut twin, &ids[position..position + 2]);
            base.same(&got, position, &format!("cut at {position}"));
        }
    }
}

#[test]
fn a_copy_continues_with_the_same_bits_and_leaves_the_original_alone() {
    for subject in SUBJECTS {
        let mut base = base(subject, 4);
        let ids = base.ids.clone();
        for position in [1, 3, 4, 127, 128, 129, 255, 256, 257, 280] {
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
}

#[test]
fn a_sequence_saved_to_disk_continues_in_another_engine() {
    let folder = std::env::temp_dir().join(format!("hadal-exactness-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for (number, subject) in SUBJECTS.into_iter().enumerate() {
        let mut base = base(subject, 5);
        let ids = base.ids.clone();
        let mut sequence = base.engine.open_sequence().unwrap();
        feed(&mut base.engine, &mut sequence, &ids[..200], &[64]);
        let file = folder.join(format!("{number}.seq"));
        std::fs::write(&file, base.engine.save(&sequence).unwrap().to_bytes()).unwrap();
        let mut second = open(subject.0, &options(subject.1));
        let bytes = std::fs::read(&file).unwrap();
        let mut restored = second.restore(&Snapshot::from_bytes(&bytes).unwrap()).unwrap();
        let got = feed(&mut second, &mut restored, &ids[200..], &[7]);
        base.same(&got, 200, "restored from disk");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_chain_of_cuts_continues_with_the_bits_of_no_cut() {
    for subject in SUBJECTS {
        let mut base = base(subject, 8);
        let ids = base.ids.clone();
        let mut random = Random(8);
        for trial in 0..5 {
            let mut sequence = base.engine.open_sequence().unwrap();
            let mut chain: Vec<Snapshot> = Vec::new();
            while (sequence.position() as usize) < 270 && chain.len() < 6 {
                let first = sequence.position() as usize;
                let count = 1 + random.below(100.min(280 - first as u64)) as usize;
                feed(&mut base.engine, &mut sequence, &ids[first..first + count], &[64]);
                let from = chain.last().map_or(0, |last| last.position);
                chain.push(base.engine.save_from(&sequence, from).unwrap());
            }
            drop(sequence);
            // Others use the place meanwhile.
            let other = random_ids(random.next(), 290, base.vocab as u32);
            let mut strangers: Vec<_> =
                (0..4).map(|_| base.engine.open_sequence().unwrap()).collect();
            for stranger in &mut strangers {
                feed(&mut base.engine, stranger, &other, &[290]);
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
    }
}

#[test]
fn taking_1_to_8_tokens_back_gives_the_bits_of_never_having_fed_them() {
    for subject in SUBJECTS {
        let mut base = base(subject, 6);
        let ids = base.ids.clone();
        for tokens in 1..=8u32 {
            let mut sequence = base.engine.open_sequence().unwrap();
            let mut position = 0;
            while position + 20 < LENGTH {
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
}

#[test]
fn more_than_the_rings_hold_cannot_be_taken_back() {
    let mut engine = open("hca8-tiny", &options(Numerics::Plain));
    let mut sequence = engine.open_sequence().unwrap();
    step(&mut engine, &mut sequence, &random_ids(1, 40, 384));
    assert!(!sequence.roll_back(9));
    assert!(sequence.roll_back(8));
    assert!(!sequence.roll_back(1), "the floor counts from the highest position");
}

/// The same ids in an engine opened differently.
fn agrees(base: &Base, mut engine: Engine, sizes: &[usize], what: &str) {
    let mut sequence = engine.open_sequence().unwrap();
    let got = feed(&mut engine, &mut sequence, &base.ids, sizes);
    base.same(&got, 0, what);
}

#[test]
fn padding_modes_threads_and_runs_do_not_show_in_the_bits() {
    for subject in SUBJECTS {
        let base = base(subject, 7);
        let (name, numerics) = subject;
        let exact = ModelOptions { exact_rows: true, ..options(numerics) };
        let eager = ModelOptions { mode: Mode::Eager, ..options(numerics) };
        let alone = ModelOptions { sequences: 1, rows_max: 64, ..options(numerics) };
        for sizes in [&[1][..], &[5], &[61, 3]] {
            agrees(&base, open(name, &exact), sizes, "exact rows");
            agrees(&base, open(name, &eager), sizes, "eager");
            agrees(&base, open(name, &alone), sizes, "one slot, small steps");
            agrees(&base, open(name, &options(numerics)), sizes, "a second run");
            let device = cpu_with(&[("threads", "1")]);
            agrees(&base, open_on(device, name, &options(numerics)), sizes, "one thread");
        }
    }
}

/// What gives ids of chosen experts, lowered or not; of an index too, whose site is another.
fn routes(op: &Op) -> bool {
    match op {
        Op::Route(_) | Op::RouteTable(_) | Op::TopK(_) => true,
        Op::Gather(gather) => gather.out.dtype() == DType::I32,
        _ => false,
    }
}

/// Counting reads what the routers wrote: no bit differs, no choice is missed, padding counts nowhere.
#[test]
fn counting_experts_changes_no_bit_and_misses_no_choice() {
    for (name, numerics) in [("demo", Numerics::Served), ("flash-tiny", Numerics::Plain)] {
        let ids = random_ids(3, 120, open(name, &options(numerics)).config().vocab);
        let sizes = [1, 7, 40, 3];
        let mut plain = open(name, &options(numerics));
        let mut sequence = plain.open_sequence().unwrap();
        let want = feed(&mut plain, &mut sequence, &ids, &sizes);
        assert!(plain.expert_counts().is_none(), "only who asks pays");
        let (device, record) = common::tap::Tap::around(common::cpu(), routes);
        let counting = ModelOptions { count_experts: true, ..options(numerics) };
        let mut engine = open_on(device, name, &counting);
        let mut sequence = engine.open_sequence().unwrap();
        let got = feed(&mut engine, &mut sequence, &ids, &sizes);
        same_bits(&got, &want, engine.config().vocab as usize, name);

        let config = engine.config();
        let (layers, k) = (config.layers.len(), config.experts_per_token as usize);
        let mut chosen = vec![vec![0u64; config.experts as usize]; layers];
        let mut fed = 0;
        let record = record.lock().unwrap();
        let record: Vec<_> = record.iter().filter(|kept| kept.site.name == "ffn").collect();
        for (step, &size) in record.chunks(layers).zip(sizes.iter().cycle()) {
            let rows = size.min(ids.len() - fed);
            fed += rows;
            for kept in step {
                for id in kept.bytes[..rows * k * 4].chunks_exact(4) {
                    let id = i32::from_le_bytes(id.try_into().unwrap());
                    chosen[kept.site.layer as usize][id as usize] += 1;
                }
            }
        }
        assert_eq!(fed, ids.len(), "{name}: every step was seen");
        let counts = engine.expert_counts().expect("it counts");
        let counted: Vec<Vec<u64>> = counts
            .layers()
            .map(|counts| counts.iter().map(|count| count.load(Ordering::Relaxed)).collect())
            .collect();
        assert_eq!(counted, chosen, "{name}");
        assert_eq!(counted[0].iter().sum::<u64>(), (ids.len() * k) as u64, "{name}");
    }
}
