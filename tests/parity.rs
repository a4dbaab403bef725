//! Parity with the reference implementation (transformers 5.23.0, float32, CPU) on five tiny
//! checkpoints of all layer kinds and both file layouts, in plain numerics; and of served numerics with
//! the executable program of tools/reference. Provenance: tests/checkpoints/PROVENANCE.md.

mod common;

use common::{Reference, argmax, feed, open, options, parity, step};
use engine::Numerics;
use hal::Op;
use hal::op::MapFn;

#[test]
fn plain_logits_agree_with_transformers_however_the_prompt_is_cut() {
    for name in parity::REFERENCES {
        let chunks = [&[512][..], &[1], &[1, 2, 5, 3, 130, 11, 64], &[37]];
        parity::logits_agree(common::cpu(), name, &chunks);
    }
}

#[test]
fn plain_decode_agrees_with_transformers_through_its_cache() {
    for name in parity::REFERENCES {
        parity::decode_agrees(common::cpu(), name);
    }
}

#[test]
fn greedy_continuations_of_64_tokens_are_those_of_transformers() {
    for (name, _) in parity::REFERENCES {
        parity::continuation_agrees(common::cpu(), name, 64);
    }
}

/// Ops whose first output is the list of entries a query picks, lowered or not.
fn picks(op: &Op) -> bool {
    match op {
        Op::IndexSelect(_) => true,
        Op::Map(map) => matches!(map.f, MapFn::PageRow { .. }),
        _ => false,
    }
}

#[test]
fn indexer_picks_the_entries_transformers_picks() {
    let mut compared = 0;
    for reference in
        ["csa-tiny.act24", "flash-tiny.act40", "flash-tiny-orig.act40", "pro-tiny.act56"]
    {
        let name = reference.split('.').next().unwrap();
        let reference = Reference::read(reference);
        let (device, record) = common::tap::Tap::around(common::cpu(), picks);
        let mut engine = common::open_on(
            device,
            name,
            &engine::ModelOptions { exact_rows: true, ..options(Numerics::Plain) },
        );
        let mut sequence = engine.open_sequence().unwrap();
        let ids = reference.ids("input_ids");
        feed(&mut engine, &mut sequence, &ids, &[512]);
        let width = engine.config().index_top as usize;
        for kept in record.lock().unwrap().iter() {
            let key = format!("L{}.index_topk", kept.site.layer);
            if !reference.has(&key) {
                continue;
            }
            let got = kept.bytes.chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap()));
            let got: Vec<i64> = got.map(i64::from).collect();
            let want = reference.integers(&key);
            let columns = want.len() / ids.len();
            for (row, (got, want)) in got.chunks(width).zip(want.chunks(columns)).enumerate() {
                let set = |list: &[i64]| {
                    let mut set: Vec<i64> = list.iter().copied().filter(|&e| e >= 0).collect();
                    set.sort_unstable();
                    set
                };
                // One sequence in a fresh engine: its pages are 0, 1, …, so rows are entries.
                assert_eq!(set(got), set(want), "{name} layer {} row {row}", kept.site.layer);
                compared += 1;
            }
        }
    }
    assert!(compared > 100, "only {compared} rows had picks to compare");
}

#[test]
fn served_logits_of_the_trained_model_agree_with_the_reference_program() {
    parity::served_agrees(&mut open("demo", &options(Numerics::Served)));
}

/// Largest difference of a log-probability from the golden one, which is rounded to five decimals.
const LOGPROB_TOLERANCE: f32 = 1e-3;

#[test]
fn the_demo_model_reproduces_its_golden_continuations() {
    let text = std::fs::read_to_string(common::path("models/demo/golden.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_str(&text).unwrap();
    let items = golden["items"].as_array().expect("golden.json lists items");
    assert!(items.len() >= 20, "only {} golden continuations", items.len());
    let ids = |value: &serde_json::Value| -> Vec<u32> {
        value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
    };
    let mut engine =
        open("demo", &engine::ModelOptions { context: 8192, ..options(Numerics::Plain) });
    for (number, item) in items.iter().enumerate() {
        let (prompt, output) = (ids(&item["prompt_ids"]), ids(&item["output_ids"]));
        let vocab = engine.config().vocab as usize;
        let mut sequence = engine.open_sequence().unwrap();
        let mut logits = feed(&mut engine, &mut sequence, &prompt, &[512]);
        for (place, &token) in output.iter().enumerate() {
            let row = &logits[logits.len() - vocab..];
            assert_eq!(argmax(row), token, "item {number}, token {place}");
            same_logprobs(row, &item["top5_logprobs"][place], number, place);
            logits = step(&mut engine, &mut sequence, &[token]);
        }
    }
}

/// Compares the listed log-probabilities, `[[id, logprob], …]`, with those of a row of logits.
fn same_logprobs(row: &[f32], golden: &serde_json::Value, number: usize, place: usize) {
    let top = row.iter().fold(f32::NEG_INFINITY, |top, v| top.max(*v));
    let total: f64 = row.iter().map(|v| f64::from(v - top).exp()).sum();
    for pair in golden.as_array().expect("log-probabilities of every token") {
        let (id, want) = (pair[0].as_u64().unwrap() as usize, pair[1].as_f64().unwrap() as f32);
        let got = row[id] - top - total.ln() as f32;
        // Far from the top the golden numbers have few correct digits.
        let near = LOGPROB_TOLERANCE * want.abs().max(1.0);
        assert!(
            (got - want).abs() <= near,
            "item {number}, token {place}, id {id}: {got} is not {want}"
        );
    }
}
