//! Configurations: both dialects give the same model, and what is wrong is refused by name.

mod common;

use common::{check_refusal, repository, tiny_config};
use engine::config::{LayerSpec, ModelConfig, WeightFormat, parse_config};
use engine::refusal::{Refusal, RefusalKind};
use serde_json::{Value, json};

fn parse(value: &Value) -> Result<ModelConfig, Refusal> {
    parse_config(value.to_string().as_bytes())
}

/// The tiny configuration with some keys set; null removes a key, a dot goes one object deeper.
fn with(changes: &[(&str, Value)]) -> Value {
    let mut config = tiny_config();
    for (path, value) in changes {
        let (target, key) = match path.rsplit_once('.') {
            Some((outer, key)) => {
                (config.pointer_mut(&format!("/{}", outer.replace('.', "/"))), key)
            }
            None => (Some(&mut config), *path),
        };
        let target = target.and_then(Value::as_object_mut).expect("an object of the configuration");
        match value {
            Value::Null => drop(target.remove(key)),
            value => drop(target.insert(key.to_owned(), value.clone())),
        }
    }
    config
}

const SWA: &str = "sliding_attention";
const CSA: &str = "compressed_sparse_attention";
const HCA: &str = "heavily_compressed_attention";

fn transformers_keys() -> Value {
    with(&[
        ("compress_ratios", Value::Null),
        ("num_hash_layers", Value::Null),
        ("rope_scaling", Value::Null),
        ("layer_types", json!([SWA, CSA, HCA])),
        ("compress_rates", json!({CSA: 4, HCA: 16})),
        ("mlp_layer_types", json!(["hash_moe", "moe", "moe"])),
        ("partial_rotary_factor", json!(0.5)),
        (
            "rope_parameters",
            json!({
                "main": {"rope_type": "default", "rope_theta": 10000},
                "compress": {"rope_type": "yarn", "factor": 16, "original_max_position_embeddings": 4096,
                             "beta_fast": 32, "beta_slow": 1, "rope_theta": 160000,
                             "attention_factor": 1.0}
            }),
        ),
    ])
}

/// The tiny configuration under the keys of DeepSeek's inference code.
fn inference_keys() -> Value {
    let text = r#"{
        "vocab_size": 40, "dim": 64, "n_layers": 3, "n_heads": 4, "head_dim": 128, "rope_head_dim": 64,
        "q_lora_rank": 32, "o_groups": 2, "o_lora_rank": 32, "window_size": 8,
        "compress_ratios": [0, 4, 16, 0], "compress_rope_theta": 160000, "rope_theta": 10000,
        "rope_factor": 16, "original_seq_len": 4096, "beta_fast": 32, "beta_slow": 1,
        "max_seq_len": 65536, "index_n_heads": 2, "index_head_dim": 64, "index_topk": 4,
        "n_routed_experts": 4, "n_shared_experts": 1, "n_activated_experts": 2, "moe_inter_dim": 32,
        "n_hash_layers": 1, "score_func": "sqrtsoftplus", "route_scale": 1.5, "swiglu_limit": 10.0,
        "hc_mult": 4, "hc_sinkhorn_iters": 20, "hc_eps": 1e-6, "norm_eps": 1e-6, "n_mtp_layers": 1,
        "dtype": "fp8", "expert_dtype": "fp4", "bos_token_id": 0, "eos_token_id": 1
    }"#;
    serde_json::from_str(text).expect("valid JSON")
}

#[test]
fn three_dialects_state_one_model() {
    let released = parse(&tiny_config()).expect("released keys");
    assert_eq!(
        released.layers,
        [LayerSpec::window(true), LayerSpec::selected(4, false), LayerSpec::pooled(16, false)]
    );
    assert_eq!(parse(&transformers_keys()).expect("transformers keys"), released);
    assert_eq!(parse(&inference_keys()).expect("inference keys"), released);
    let mut both = transformers_keys();
    let both_keys = both.as_object_mut().expect("an object");
    both_keys.extend(tiny_config().as_object().expect("an object").clone());
    assert_eq!(parse(&both).expect("both dialects agree"), released);
    // Types without rates take the ratios of the list, whatever kind usually has them.
    let mixed = with(&[("layer_types", json!([SWA, HCA, CSA]))]);
    let mixed = parse(&mixed).expect("types and ratios together");
    assert_eq!(mixed.layers[1..], [LayerSpec::pooled(4, false), LayerSpec::selected(16, false)]);
}

#[test]
fn every_checkpoint_of_the_repository_has_the_geometry_its_maker_wrote() {
    let kinds = |config: &ModelConfig| {
        let letter = |layer: &LayerSpec| layer.kind().chars().next().expect("a name");
        config.layers.iter().map(letter).collect::<String>()
    };
    for (name, schedule, hashed, ratios) in [
        ("flash-tiny", "SSCHCH", 3, &[4, 128][..]),
        ("pro-tiny", "HHCHC", 3, &[4, 128]),
        ("hca8-tiny", "HCHS", 1, &[4, 8]),
        ("csa-tiny", "CCC", 0, &[4]),
        ("flash-tiny-orig", "SCHC", 2, &[4, 128]),
    ] {
        let folder = repository("tests/checkpoints").join(name);
        let bytes =
            std::fs::read(folder.join("config.json")).expect("a checkpoint of the repository");
        let config = parse_config(&bytes).unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
        assert_eq!(kinds(&config), schedule, "{name}");
        assert_eq!(config.layers.iter().filter(|layer| layer.hashed).count(), hashed, "{name}");
        assert_eq!(config.ratios(), ratios, "{name}");
        let Ok(keys) = std::fs::read(folder.join("released_keys.json")) else { continue };
        let mut both: Value = serde_json::from_slice(&bytes).expect("parsed above");
        let keys: Value = serde_json::from_slice(&keys).expect("JSON of the repository");
        both.as_object_mut()
            .expect("an object")
            .extend(keys.as_object().expect("an object").clone());
        assert_eq!(parse(&both).expect("its maker's two spellings agree"), config, "{name}");
    }
}

#[test]
fn storage_formats_follow_the_quantisation_section() {
    let fp8 = WeightFormat::Fp8 { rows: 128, cols: 128 };
    let small = WeightFormat::Fp8 { rows: 32, cols: 64 };
    let rows = [
        (with(&[]), fp8, WeightFormat::Fp4 { cols: 32 }),
        (with(&[("expert_dtype", Value::Null)]), fp8, fp8),
        (with(&[("expert_dtype", json!("fp8"))]), fp8, fp8),
        (
            with(&[
                ("quantization_config.weight_block_size", json!([32, 64])),
                ("expert_dtype", Value::Null),
            ]),
            small,
            small,
        ),
        (
            with(&[("expert_dtype", Value::Null), ("quantization_config", Value::Null)]),
            WeightFormat::Float,
            WeightFormat::Float,
        ),
    ];
    for (value, dense, expert) in rows {
        let config = parse(&value).unwrap_or_else(|refusal| panic!("{value}: {refusal}"));
        assert_eq!((config.dense_format, config.expert_format), (dense, expert), "{value}");
    }
}

#[test]
fn contradictions_are_refused_and_both_keys_named() {
    let types = json!([SWA, CSA, HCA]);
    for (changes, first, second) in [
        (vec![("dim", json!(65))], "hidden_size is 64", "dim is 65"),
        (vec![("window_size", json!(9))], "sliding_window is 8", "window_size is 9"),
        (
            vec![("layer_types", json!([CSA, CSA, HCA]))],
            "compress_ratios[0] is 0",
            "layer_types[0] is compressed_sparse_attention",
        ),
        (
            vec![("layer_types", types.clone()), ("compress_rates", json!({HCA: 128}))],
            "compress_ratios[2] is 16",
            "compress_rates.heavily_compressed_attention 128",
        ),
        (
            vec![("layer_types", json!([SWA, SWA, HCA]))],
            "compress_ratios[1] is 4",
            "layer_types[1] is sliding_attention",
        ),
        (
            vec![("mlp_layer_types", json!(["hash_moe", "hash_moe", "moe"]))],
            "num_hash_layers is 1",
            "mlp_layer_types is",
        ),
        (
            vec![("rope_parameters", json!({"main": {"rope_theta": 5}}))],
            "rope_theta is 10000",
            "rope_parameters.main.rope_theta is 5",
        ),
        (
            vec![("partial_rotary_factor", json!(0.25))],
            "partial_rotary_factor is 0.25",
            "qk_rope_head_dim is 64",
        ),
        (vec![("rope_factor", json!(8))], "rope_scaling.factor is 16", "rope_factor is 8"),
    ] {
        let value = with(&changes);
        let refusal = parse(&value).expect_err(first);
        check_refusal(&format!("{changes:?}"), &refusal, RefusalKind::Config, first);
        check_refusal(&format!("{changes:?}"), &refusal, RefusalKind::Config, second);
    }
}

#[test]
fn what_no_v4_model_is_gets_refused_by_name() {
    for (key, value, says) in [
        (
            "model_type",
            json!("deepseek_v3"),
            "model_type is \"deepseek_v3\"; this build runs deepseek_v4",
        ),
        ("model_type", json!("deepseek_v41"), "this build runs deepseek_v4"),
        ("model_type", json!("a\nb"), "model_type is \"a\\nb\""),
        ("model_type", json!(4), "model_type is 4; it must be a string"),
        ("model_type", Value::Null, "model_type is missing"),
        ("architectures", json!(["LlamaForCausalLM"]), "architectures names LlamaForCausalLM"),
        ("num_key_value_heads", json!(8), "num_key_value_heads is 8; this build knows only 1"),
        ("n_shared_experts", json!(2), "n_shared_experts is 2"),
        ("scoring_func", json!("softmax"), "scoring_func is \"softmax\""),
        ("topk_method", json!("greedy"), "topk_method"),
        ("norm_topk_prob", json!(false), "norm_topk_prob is false"),
        ("hidden_act", json!("gelu"), "hidden_act is \"gelu\""),
        ("attention_bias", json!(true), "attention_bias is true"),
        ("tie_word_embeddings", json!(true), "tie_word_embeddings is true"),
        ("rope_scaling.type", json!("linear"), "rope_scaling.type is \"linear\""),
        ("rope_scaling.attention_factor", json!(1.277), "attention_factor is 1.277"),
        (
            "quantization_config.quant_method",
            json!("awq"),
            "quant_method is awq; this build reads fp8",
        ),
        ("quantization_config.scale_fmt", json!("float"), "scale_fmt is \"float\""),
        ("quantization_config.weight_block_size", json!([0, 128]), "weight_block_size holds a 0"),
        ("quantization_config.weight_block_size", json!([128]), "must be two numbers"),
        ("expert_dtype", json!("int3"), "expert_dtype is \"int3\""),
        (
            "layer_types",
            json!(["linear_attention", SWA, SWA]),
            "layer_types holds \"linear_attention\"",
        ),
        ("mlp_layer_types", json!(["dense", "moe", "moe"]), "mlp_layer_types holds \"dense\""),
    ] {
        let refusal = parse(&with(&[(key, value.clone())])).expect_err(key);
        check_refusal(&format!("{key} = {value}"), &refusal, RefusalKind::Config, says);
    }
}

#[test]
fn impossible_numbers_are_refused_with_their_range() {
    for (key, value, says) in [
        ("vocab_size", json!(0), "vocab_size is 0; it must be 1 to"),
        ("vocab_size", json!(-1), "vocab_size is -1; it must be a whole number"),
        ("vocab_size", json!(1e300), "it must be a whole number"),
        ("vocab_size", json!("40"), "vocab_size is \"40\""),
        ("vocab_size", Value::Null, "vocab_size is missing"),
        ("hidden_size", json!(1.5), "hidden_size is 1.5"),
        ("hidden_size", json!(u32::MAX), "it must be 1 to 131072"),
        ("hidden_size", Value::Null, "hidden_size (or dim) is missing"),
        ("num_hidden_layers", json!(0), "num_hidden_layers is 0"),
        ("num_hidden_layers", json!(4_000_000_000u32), "num_hidden_layers is 4000000000"),
        ("num_hidden_layers", json!(5), "compress_ratios has 4 entries but num_hidden_layers is 5"),
        ("num_hidden_layers", json!(2), "more than num_hidden_layers 2"),
        (
            "head_dim",
            json!(32),
            "qk_rope_head_dim is 64; it must be even, at least 2 and at most head_dim, 32",
        ),
        ("qk_rope_head_dim", json!(63), "qk_rope_head_dim is 63; it must be even"),
        ("qk_rope_head_dim", json!(0), "qk_rope_head_dim is 0"),
        ("o_groups", json!(3), "o_groups is 3 and does not divide num_attention_heads, 4"),
        ("o_groups", json!(0), "o_groups is 0"),
        ("o_lora_rank", json!(131072), "o_groups x o_lora_rank is 262144"),
        ("sliding_window", json!(0), "sliding_window is 0"),
        ("index_topk", json!(0), "index_topk is 0"),
        ("index_head_dim", json!(96), "index_head_dim is 96; it must be a power of two"),
        ("index_head_dim", json!(32), "at least qk_rope_head_dim, 64"),
        ("num_experts_per_tok", json!(5), "num_experts_per_tok is 5 but n_routed_experts is 4"),
        ("moe_intermediate_size", json!(48), "expert_dtype is fp4 but moe_intermediate_size is 48"),
        ("hc_mult", json!(9), "hc_mult is 9; it must be 1 to 8"),
        ("hc_eps", json!(0), "hc_eps is 0; it must be a positive f32"),
        ("rms_norm_eps", json!(1e-60), "rms_norm_eps is"),
        ("routed_scaling_factor", json!(-1.5), "routed_scaling_factor is -1.5"),
        ("rope_theta", json!(1), "rope_theta is 1; it must be a number above 1"),
        ("rope_scaling.factor", json!(0.5), "rope_scaling.factor is 0.5; it must be 1 or more"),
        ("rope_scaling.beta_slow", json!(64), "beta_slow must be positive and no larger"),
        (
            "rope_scaling.original_max_position_embeddings",
            json!(0),
            "original_max_position_embeddings is 0",
        ),
        ("rope_scaling", Value::Null, "rope_scaling is missing but there are compressed layers"),
        ("compress_ratios", json!([0, 4, 48, 0]), "layer 2 has compression ratio 48"),
        ("compress_ratios", json!([0, 4, 1, 0]), "layer 2 has compression ratio 1"),
        ("compress_ratios", json!([0, 4, 16, 4]), "gives an MTP block the ratio 4"),
        ("compress_ratios", json!([0, 4, 16, 0, 0]), "has 5 entries, more than"),
        ("compress_ratios", json!("4"), "compress_ratios is"),
        ("num_hash_layers", json!(4), "num_hash_layers is 4 but num_hidden_layers is 3"),
        ("num_hash_layers", Value::Null, "num_hash_layers (or mlp_layer_types) is missing"),
        (
            "num_nextn_predict_layers",
            json!(99),
            "num_nextn_predict_layers is 99; it must be 0 to 16",
        ),
        ("max_position_embeddings", json!(1u64 << 31), "max_position_embeddings is 2147483648"),
        ("bos_token_id", json!(40), "bos_token_id is 40; it must be below vocab_size, 40"),
        ("eos_token_id", json!([1, 99]), "eos_token_id is 99"),
        ("layer_types", json!([SWA, SWA]), "layer_types has 2 entries"),
    ] {
        let refusal = parse(&with(&[(key, value.clone())])).expect_err(key);
        check_refusal(&format!("{key} = {value}"), &refusal, RefusalKind::Config, says);
    }
    let one_ratio =
        with(&[("layer_types", json!([SWA, CSA, HCA])), ("compress_ratios", json!([0, 4, 4]))]);
    let refusal = parse(&one_ratio).expect_err("one ratio for both kinds");
    check_refusal("one ratio", &refusal, RefusalKind::Config, "ratio 4 is used by CSA and by HCA");
}

#[test]
fn what_is_not_a_configuration_is_refused() {
    let long = vec![b' '; 2 << 20];
    let deep = "[".repeat(100_000);
    let twice = tiny_config().to_string().replacen('{', "{\"hidden_size\":64,", 1);
    for (bytes, says) in [
        (&b""[..], "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[1]", "not a JSON object"),
        (b"{} {}", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"{\"vocab_size\": 1e999}", "not valid JSON"),
        (deep.as_bytes(), "recursion limit"),
        (&long, "2097152 bytes long"),
        (twice.as_bytes(), "the key \"hidden_size\" occurs twice"),
    ] {
        let refusal = parse_config(bytes).expect_err(says);
        check_refusal(says, &refusal, RefusalKind::Config, says);
    }
}

#[test]
fn served_numerics_need_whole_blocks() {
    assert_eq!(parse(&with(&[])).expect("good").check_served(), Ok(()));
    let bytes = std::fs::read(repository("tests/checkpoints/flash-tiny/config.json"));
    let tiny = parse_config(&bytes.expect("a checkpoint of the repository")).expect("good");
    let refusal = tiny.check_served().expect_err("keys of 24 columns");
    check_refusal("flash-tiny", &refusal, RefusalKind::Config, "head_dim - qk_rope_head_dim is 24");
}
