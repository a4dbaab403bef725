//! State exactness on the CPU, bitwise (law 8): the same logits for any chunking, batch mix, cut, save,
//! restore, roll-back, padding, mode and number of threads. `--ignored` sweeps wider. The laws themselves
//! are in `common/laws.rs`; other devices are held to them, too.

mod common;

use std::sync::atomic::Ordering;

use common::laws::{self, Lab};
use common::{cpu_with, feed, open, open_on, options, random_ids, same_bits, step};
use engine::{ModelOptions, Numerics};
use hal::{DType, Op};

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

/// The CPU; everything is compared with tokens fed one by one.
fn lab((name, numerics): (&'static str, Numerics)) -> Lab<'static> {
    let options = options(numerics);
    Lab { name, options, device: &cpu_with, length: LENGTH, base_chunk: 1 }
}

#[test]
fn chunks_of_any_size_give_the_bits_of_single_tokens() {
    for subject in SUBJECTS {
        let sizes = (1..=LENGTH).step_by(7).chain(126..=131).chain([300]);
        laws::chunks(&lab(subject), 1, sizes);
    }
}

#[test]
#[ignore = "wide sweep: every chunk size of every subject, minutes"]
fn chunks_of_every_size_give_the_bits_of_single_tokens() {
    for subject in ALL {
        laws::chunks(&lab(subject), 2, 1..=LENGTH);
    }
}

#[test]
fn batches_speculation_and_moves_give_the_bits_of_being_alone() {
    laws::mixes(&lab(SUBJECTS[0]), 0..3);
}

#[test]
#[ignore = "wide sweep: many random mixes, minutes"]
fn many_batches_speculation_and_moves_give_the_bits_of_being_alone() {
    laws::mixes(&lab(SUBJECTS[0]), 100..160);
}

#[test]
fn a_prefix_cut_at_every_position_continues_with_the_same_bits() {
    for subject in SUBJECTS {
        laws::cuts(&lab(subject), 1);
    }
}

#[test]
fn a_copy_continues_with_the_same_bits_and_leaves_the_original_alone() {
    for subject in SUBJECTS {
        laws::copies(&lab(subject), &[1, 3, 4, 127, 128, 129, 255, 256, 257, 280]);
    }
}

#[test]
fn a_sequence_saved_to_disk_continues_in_another_engine() {
    for subject in SUBJECTS {
        laws::disk(&lab(subject), 200);
    }
}

#[test]
fn a_chain_of_cuts_continues_with_the_bits_of_no_cut() {
    for subject in SUBJECTS {
        laws::chains(&lab(subject), 5);
    }
}

#[test]
fn taking_1_to_8_tokens_back_gives_the_bits_of_never_having_fed_them() {
    for subject in SUBJECTS {
        laws::taken_back(&lab(subject), 1..=8);
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

#[test]
fn padding_modes_threads_and_runs_do_not_show_in_the_bits() {
    for subject in SUBJECTS {
        laws::settings(&lab(subject), &[&[1], &[5], &[61, 3]], &[&[("threads", "1")]]);
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
