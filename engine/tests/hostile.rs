//! Random damage: whatever the bytes are, the parsers answer, never panic, and what they accept keeps
//! its promises. `HADAL_SEED` repeats a run, `HADAL_CASES` lengthens it.

mod common;

use common::{Model, tiny_model};
use engine::config::{Leaf, parse_config};
use engine::load::{Block, Checkpoint, Role, parse_header, parse_index, parse_name};

/// SplitMix64: small, seeded, the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs `check` on seeded cases; a failing case names its seed.
fn cases(count: u64, check: impl Fn(&mut Random)) {
    struct Named(u64);
    impl Drop for Named {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("repeat with HADAL_SEED={} HADAL_CASES=1", self.0);
            }
        }
    }
    let first = from_environment("HADAL_SEED").unwrap_or(1);
    let count = from_environment("HADAL_CASES").unwrap_or(count);
    for seed in first..first + count {
        let _named = Named(seed);
        check(&mut Random(seed));
    }
}

/// Fragments that parsers of JSON and numbers trip over.
const FRAGMENTS: [&str; 20] = [
    "0",
    "-1",
    "1e308",
    "1e-308",
    "18446744073709551615",
    "9223372036854775808",
    "4294967296",
    "null",
    "[]",
    "{}",
    "\"\"",
    "\"\\ud800\"",
    "[[[[",
    "}}",
    ",",
    ":",
    "\u{0}",
    "true",
    "NaN",
    "\"a\":1,",
];

/// A copy of `bytes` with one to four places damaged.
fn damaged(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        let fragment = FRAGMENTS[random.below(FRAGMENTS.len())].as_bytes();
        match random.below(6) {
            0 => bytes.truncate(at),
            1 if !bytes.is_empty() => bytes[at] = random.next() as u8,
            2 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            3 => drop(bytes.splice(at..at, fragment.iter().copied())),
            4 => {
                let end = (at + random.below(12)).min(bytes.len());
                drop(bytes.splice(at..end, fragment.iter().copied()));
            }
            _ => {
                let end = (at + random.below(40)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                let place = random.below(bytes.len());
                drop(bytes.splice(place..place, piece));
            }
        }
    }
    bytes
}

/// Replaces one number of a JSON text by another.
fn renumbered(text: &str, random: &mut Random) -> String {
    let digits: Vec<usize> =
        text.match_indices(|c: char| c.is_ascii_digit()).map(|(at, _)| at).collect();
    let at = digits[random.below(digits.len())];
    let fragment = match random.below(3) {
        0 => FRAGMENTS[random.below(FRAGMENTS.len())].to_owned(),
        1 => (random.next() % 300).to_string(),
        _ => (random.next() >> random.below(64)).to_string(),
    };
    format!("{}{fragment}{}", &text[..at], &text[at + 1..])
}

#[test]
fn damaged_configurations_never_panic_and_accepted_ones_hold() {
    let good = tiny_model().config.to_string();
    cases(20_000, |random| {
        let bytes = match random.below(2) {
            0 => damaged(good.as_bytes(), random),
            _ => renumbered(&good, random).into_bytes(),
        };
        if let Ok(config) = parse_config(&bytes) {
            config.check().expect("what is accepted was checked");
            assert_eq!(config.heads % config.o_groups, 0);
            let frequencies = config.rope.compress_frequencies();
            assert!(frequencies.iter().all(|frequency| frequency.is_finite()));
            engine::budget::released_ledger(&config);
        }
    });
}

#[test]
fn damaged_headers_never_panic_and_accepted_ones_tile_the_file() {
    let model = tiny_model();
    let good = common::safetensors(&model.tensors[..12]);
    let text = |file: &[u8]| {
        let end = 8 + u64::from_le_bytes(file[..8].try_into().expect("eight bytes")) as usize;
        (String::from_utf8(file[8..end].to_vec()).expect("our own JSON"), file[end..].to_vec())
    };
    let (json, data) = text(&good);
    cases(20_000, |random| {
        let file = match random.below(3) {
            0 => damaged(&good[..json.len() + 16], random),
            1 => {
                let json = damaged(json.as_bytes(), random);
                let length = (json.len() as u64).to_le_bytes();
                [&length[..], &json, &data].concat()
            }
            _ => common::with_header(&renumbered(&json, random), &data),
        };
        if let Ok(header) = parse_header(&file) {
            let covered: usize =
                header.tensors.iter().map(|tensor| tensor.end - tensor.begin).sum();
            assert!(covered <= file.len());
            assert!(header.tensors.windows(2).all(|pair| pair[0].end == pair[1].begin));
            assert!(header.tensors.last().is_none_or(|tensor| tensor.end == file.len()));
        }
    });
}

#[test]
fn damaged_indexes_and_names_never_panic() {
    let good =
        r#"{"metadata":{"total_size":8},"weight_map":{"a":"x.safetensors","b":"y.safetensors"}}"#;
    let names = [
        "layers.0.ffn.experts.17.w1.weight",
        "model.layers.12.self_attn.q_a_proj.weight_scale_inv",
    ];
    cases(20_000, |random| {
        if let Ok(index) = parse_index(&damaged(good.as_bytes(), random)) {
            assert!(index.shard_of.values().all(|&shard| shard < index.shards.len()));
        }
        let name = damaged(names[random.below(2)].as_bytes(), random);
        if let Some(key) = parse_name(&String::from_utf8_lossy(&name)) {
            assert_eq!(parse_name(&key.to_string()), Some(key), "the released name means the same");
        }
    });
}

/// Reads everything a checkpoint can be asked for; refusals are answers, panics are not.
fn read_everything(checkpoint: &Checkpoint) {
    let layers = checkpoint.config().layers.len() as u32;
    let blocks = (0..=layers).map(Block::Main).chain([Block::Top, Block::Mtp(0)]);
    for block in blocks {
        let stacks = [Role::OutDown, Role::Compress, Role::IndexCompress, Role::SharedGateUp];
        let experts = [Role::ExpertsGateUp, Role::ExpertsDown];
        let ones = Leaf::ALL.iter().map(|leaf| Role::One(*leaf));
        for role in stacks.into_iter().chain(experts).chain(ones) {
            checkpoint.weight(block, role).ok();
        }
        for leaf in Leaf::ALL {
            checkpoint.vector(block, *leaf).ok();
        }
    }
    (0..layers).for_each(|layer| drop(checkpoint.expert_table(layer)));
}

#[test]
fn models_that_open_after_damage_can_be_read() {
    let good = tiny_model();
    good.open().map(|checkpoint| read_everything(&checkpoint)).expect("the tiny model is good");
    cases(300, |random| {
        let mut model: Model = good.clone();
        for _ in 0..=random.below(2) {
            damage_model(&mut model, random);
        }
        if let Ok(checkpoint) = model.open() {
            read_everything(&checkpoint);
        }
    });
}

fn damage_model(model: &mut Model, random: &mut Random) {
    let place = random.below(model.tensors.len());
    match random.below(5) {
        0 => {
            let text = renumbered(&model.config.to_string(), random);
            model.config = serde_json::from_str(&text).unwrap_or_else(|_| model.config.clone());
        }
        1 => drop(model.tensors.remove(place)),
        2 => {
            let place = random.below(model.tensors[place].bytes.len());
            model.tensors[0].bytes.rotate_left(place % 64);
        }
        3 => {
            let bytes = &mut model.tensors[place].bytes;
            let at = random.below(bytes.len());
            bytes[at] = random.next() as u8;
        }
        _ => model.tensors[place].shape.reverse(),
    }
}
