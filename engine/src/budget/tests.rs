//! The figures of the specification's section 14 and of the op program's section on state.

use super::*;
use crate::config::preset;

fn close(what: &str, got: f64, want: f64, digits: f64) {
    assert!((got - want).abs() <= digits, "{what}: {got}, the specification says {want}");
}

#[test]
fn parameters_are_the_published_ones() {
    for (name, main, mtp, active) in
        [("flash", 284.33, 6.61, 13.27), ("pro", 1572.99, 25.84, 48.85)]
    {
        let ledger = released_ledger(&preset(name).expect("a preset"));
        // 1572.997 for Pro; the specification cuts where it does not round.
        close(name, ledger.parameters_main as f64 / 1e9, main, 0.01);
        close(name, ledger.parameters_mtp as f64 / 1e9, mtp, 0.005);
        close(name, ledger.parameters_active as f64 / 1e9, active, 0.005);
    }
}

#[test]
fn checkpoint_and_decode_bytes_are_the_specifications() {
    let rows = [
        ("flash", 159.6, 11.2, [5.9, 3.4, 1.8, 0.1]),
        ("pro", 864.7, 39.7, [22.7, 12.8, 3.8, 0.3]),
    ];
    for (name, checkpoint, token, by_dtype) in rows {
        let ledger = released_ledger(&preset(name).expect("a preset"));
        let all = (ledger.bytes_main + ledger.bytes_mtp) as f64 / 1e9;
        close(name, all, checkpoint, 0.05);
        close(name, ledger.bytes_per_token as f64 / 1e9, token, 0.05);
        let of = |dtype: &str| {
            ledger.bytes_per_token_by_dtype.get(dtype).copied().unwrap_or(0) as f64 / 1e9
        };
        close(name, of("BF16"), by_dtype[2], 0.05);
        close(name, of("F32"), by_dtype[3], 0.05);
        // The specification counts the scales with the codes they belong to.
        let (codes, want) = (of("F8_E4M3") + of("I8") + of("F8_E8M0"), by_dtype[0] + by_dtype[1]);
        close(name, codes, want, 0.1);
    }
}

#[test]
fn growing_state_is_at_the_arithmetic_floor() {
    let rows = [
        ("flash", KeyStorage::Coded, 3514.0),
        ("pro", KeyStorage::Coded, 5031.0),
        ("flash", KeyStorage::Bf16, 6880.0),
        ("pro", KeyStorage::Bf16, 9848.0),
    ];
    for (name, storage, want) in rows {
        let state = StateBytes::new(&preset(name).expect("a preset"), storage);
        close(name, state.per_token(), want, 0.5);
    }
    let flash = StateBytes::new(&ModelConfig::flash(), KeyStorage::Coded);
    assert_eq!(flash.page(), 899_648);
    assert!(flash.per_token() <= 3690.0);
}

#[test]
fn fixed_state_is_that_of_the_op_program() {
    let flash = StateBytes::new(&ModelConfig::flash(), KeyStorage::Coded);
    close("windows", flash.window_rings as f64 / 1e6, 3.39, 0.005);
    close("CSA tails", flash.selected_tails as f64 / 1e6, 3.23, 0.005);
    close("HCA tails", flash.pooled_tails as f64 / 1e6, 11.06, 0.005);
    close("flash", flash.rings() as f64 / 1e6, 17.7, 0.05);
    close("landing", 2048.0 * flash.landing_row as f64 / 1e6, 51.0, 0.5);
    let pro = StateBytes::new(&ModelConfig::pro(), KeyStorage::Coded);
    close("pro", pro.rings() as f64 / 1e6, 26.6, 0.05);
}

#[test]
fn operations_at_a_million_tokens_are_the_specifications() {
    let rows = [
        ("flash", [26.5, 90.2, 1.8, 21.8], 140.0, 0.48),
        ("pro", [97.7, 128.8, 9.1, 67.6], 303.0, 0.71),
    ];
    for (name, parts, total, cache) in rows {
        let config = preset(name).expect("a preset");
        let active = released_ledger(&config).parameters_active;
        let flops = token_flops(&config, active, 1 << 20);
        for (got, want) in
            [flops.weights, flops.index, flops.selected, flops.pooled].iter().zip(parts)
        {
            close(name, got / 1e9, want, 0.05);
        }
        close(name, flops.total() / 1e9, total, 0.6);
        let read = cache_bytes_per_token(&config, KeyStorage::Coded, 1 << 20);
        close(name, read as f64 / 1e9, cache, 0.01);
    }
}

#[test]
fn what_does_not_fit_is_refused_with_the_sizes() {
    let flash = ModelConfig::flash();
    let weights = released_ledger(&flash).bytes_main;
    let need = Need::new(&flash, weights, KeyStorage::Coded, (1, 1 << 20), 2048);
    assert_eq!(need.total(), need.weights + need.pages + need.rings + need.landing);
    assert_eq!(need.pages, 4096 * 899_648);
    assert!(require(&need, need.total(), "this machine").is_ok());
    let tight = require(&need, need.total() - 1, "this machine").expect_err("one byte short");
    assert_eq!(tight.kind(), RefusalKind::Memory);
    assert!(tight.to_string().contains("a shorter --context"), "{tight}");
    let small = require(&need, 16_000_000_000, "this machine").expect_err("a tenth of it");
    assert!(small.to_string().starts_with("this machine has 16.00 GB free"), "{small}");
    assert!(small.to_string().contains("the weights alone do not fit"), "{small}");
}

/// A checkpoint of 1.37 GB in the released layout that another program wrote and counted
/// (hidden 1,024, 16 layers of Flash's schedule, 64 experts of width 512).
#[test]
fn sums_are_those_of_an_independent_count() {
    let flash = ModelConfig::flash();
    let config = ModelConfig {
        vocab: 32_768,
        hidden: 1024,
        heads: 16,
        q_rank: 512,
        o_groups: 4,
        o_rank: 512,
        experts: 64,
        expert_width: 512,
        layers: flash.layers[..16].to_vec(),
        ..flash
    };
    let ledger = released_ledger(&config);
    assert_eq!(ledger.parameters_main, 1_947_711_269);
    assert_eq!(ledger.bytes_per_token, 455_560_852);
    assert_eq!(ledger.bytes_main + ledger.bytes_mtp, 1_372_488_800);
    let by_dtype: Vec<(&str, u64)> = ledger.bytes_per_token_by_dtype.into_iter().collect();
    let counted = [
        ("BF16", 121_620_224),
        ("F32", 14_634_644),
        ("F8_E4M3", 239_075_328),
        ("F8_E8M0", 4_733_184),
        ("I8", 75_497_472),
    ];
    assert_eq!(by_dtype, counted);
}

#[test]
fn a_plan_says_whether_it_fits() {
    let flash = ModelConfig::flash();
    let size = released_ledger(&flash);
    let demanded = Demanded { context: 1 << 20, ..Demanded::default() };
    let plan =
        |free| PlanReport::new(&flash, size.clone(), demanded, free).expect("a legal context");
    assert_eq!(plan(None).fits(), None);
    assert_eq!(plan(Some(200_000_000_000)).fits(), Some(true));
    assert_eq!(plan(Some(100_000_000_000)).fits(), Some(false));
    let text = plan(Some(100_000_000_000)).to_string();
    for line in
        ["3514 B per token + 17.7 MB per sequence", "284.33 B, active 13.27 B", "does not fit"]
    {
        assert!(text.contains(line), "{text}");
    }
    for context in [0, (1 << 20) + 1] {
        let demanded = Demanded { context, ..demanded };
        let refusal =
            PlanReport::new(&flash, size.clone(), demanded, None).expect_err("no such context");
        assert!(refusal.to_string().contains("this model has 1 to 1048576"), "{refusal}");
    }
}

/// The arithmetic here and the buffers the engine allocates are two sums over one layout.
#[test]
fn planned_state_is_the_allocated_state() {
    use crate::model::Numerics;
    use crate::state::{Capacity, geometry::parts};
    let capacity = Capacity { slots: 3, pages: 17, sequence_pages: 9, rows: 64 };
    for name in crate::config::PRESETS {
        for (numerics, storage) in
            [(Numerics::Served, KeyStorage::Coded), (Numerics::Plain, KeyStorage::F32)]
        {
            let config = preset(name).expect("a preset");
            let state = StateBytes::new(&config, storage);
            let planned = 3 * state.rings() + 17 * state.page() + 64 * state.landing_row;
            let allocated: u64 =
                parts(&config, numerics, &capacity).iter().map(|part| part.size_bytes()).sum();
            assert_eq!(planned, allocated, "{name} {storage:?}");
        }
    }
}
