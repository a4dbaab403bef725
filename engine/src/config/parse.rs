//! config.json → [`ModelConfig`]. Every number has a list of keys it may stand under; all that are
//! present must agree. What V4 fixes (one key-value head, silu, no biases …) is checked where it is
//! stated, so that a configuration that asks for something else is refused and not misread.

use serde_json::{Map, Value};

use super::{
    KNOWN_ARCHITECTURES, KNOWN_MODEL_TYPES, ModelConfig, Rope, WeightFormat, Yarn, json, schedule,
};
use crate::limits;
use crate::refusal::{Refusal, RefusalKind, shown};

pub(super) fn refuse(message: String) -> Refusal {
    Refusal::new(RefusalKind::Config, message)
}

/// Reads a configuration and checks it ([`ModelConfig::check`]).
///
/// Never panics and never holds more than a small multiple of `bytes`, whatever they are.
///
/// # Errors
/// `Config`: not JSON, a key twice, an unknown architecture, something missing, out of range or said
/// twice in two ways.
pub fn parse_config(bytes: &[u8]) -> Result<ModelConfig, Refusal> {
    if bytes.len() > limits::CONFIG_BYTES_MAX {
        return Err(refuse(format!(
            "{} bytes long; a model's configuration has at most {}",
            bytes.len(),
            limits::CONFIG_BYTES_MAX
        )));
    }
    let root = json::object(bytes)?;
    let keys = Keys { root: &root };
    check_architecture(&keys)?;
    check_fixed(&keys)?;
    let config = read(&keys)?;
    config.check()?;
    check_partial_rotary(&keys, &config)?;
    Ok(config)
}

/// The model must be one we know; a configuration without `model_type` may be that of DeepSeek's
/// inference code, which is recognised by its own key for the hidden size.
fn check_architecture(keys: &Keys<'_>) -> Result<(), Refusal> {
    let known = KNOWN_MODEL_TYPES.join(", ");
    match keys.one(&["model_type"], text)? {
        Some(kind) if KNOWN_MODEL_TYPES.contains(&kind.as_str()) => {}
        Some(kind) => {
            let kind = shown(&kind);
            return Err(refuse(format!("model_type is \"{kind}\"; this build runs {known}")));
        }
        None if keys.find("dim").is_some() => {}
        None => return Err(refuse(format!("model_type is missing; this build runs {known}"))),
    }
    let Some(Value::Array(names)) = keys.find("architectures") else { return Ok(()) };
    for name in names {
        let name = name.as_str().unwrap_or("?");
        if !KNOWN_ARCHITECTURES.contains(&name) {
            let known = KNOWN_ARCHITECTURES.join(", ");
            return Err(refuse(format!(
                "architectures names {}; this build runs {known}",
                shown(name)
            )));
        }
    }
    Ok(())
}

/// Keys that have one legal value in V4 (spec sections 1 and 5).
fn check_fixed(keys: &Keys<'_>) -> Result<(), Refusal> {
    let fixed: [(&str, Value); 18] = [
        ("num_key_value_heads", 1.into()),
        ("n_shared_experts", 1.into()),
        ("scoring_func", "sqrtsoftplus".into()),
        ("score_func", "sqrtsoftplus".into()),
        ("topk_method", "noaux_tc".into()),
        ("norm_topk_prob", true.into()),
        ("hidden_act", "silu".into()),
        ("attention_bias", false.into()),
        ("mlp_bias", false.into()),
        ("tie_word_embeddings", false.into()),
        ("rope_scaling.type", "yarn".into()),
        ("rope_scaling.rope_type", "yarn".into()),
        ("rope_scaling.attention_factor", 1.0.into()),
        ("rope_parameters.main.rope_type", "default".into()),
        ("rope_parameters.compress.rope_type", "yarn".into()),
        ("rope_parameters.compress.attention_factor", 1.0.into()),
        ("quantization_config.fmt", "e4m3".into()),
        ("quantization_config.scale_fmt", "ue8m0".into()),
    ];
    for (key, want) in fixed {
        let Some(found) = keys.find(key) else { continue };
        let same = match (found.as_f64(), want.as_f64()) {
            (Some(found), Some(want)) => found == want,
            _ => *found == want,
        };
        if !same {
            let found = brief(found);
            return Err(refuse(format!("{key} is {found}; this build knows only {want}")));
        }
    }
    Ok(())
}

fn read(keys: &Keys<'_>) -> Result<ModelConfig, Refusal> {
    let mtp_blocks = keys.one(&["num_nextn_predict_layers", "n_mtp_layers"], count)?.unwrap_or(0);
    let layers = schedule::read(keys, mtp_blocks)?;
    let (dense_format, expert_format) = formats(keys)?;
    let context = keys.one(&["max_position_embeddings", "max_seq_len"], count)?;
    Ok(ModelConfig {
        vocab: keys.count(&["vocab_size"])?,
        hidden: keys.count(&["hidden_size", "dim"])?,
        heads: keys.count(&["num_attention_heads", "n_heads"])?,
        head_dim: keys.count(&["head_dim"])?,
        q_rank: keys.count(&["q_lora_rank"])?,
        o_groups: keys.count(&["o_groups"])?,
        o_rank: keys.count(&["o_lora_rank"])?,
        window: keys.count(&["sliding_window", "window_size"])?,
        rope: rope(keys)?,
        index_heads: keys.count(&["index_n_heads"])?,
        index_head_dim: keys.count(&["index_head_dim"])?,
        index_top: keys.count(&["index_topk"])?,
        experts: keys.count(&["n_routed_experts"])?,
        experts_per_token: keys.count(&["num_experts_per_tok", "n_activated_experts"])?,
        expert_width: keys.count(&["moe_intermediate_size", "moe_inter_dim"])?,
        routed_scaling: keys.real(&["routed_scaling_factor", "route_scale"])?,
        swiglu_limit: keys.real(&["swiglu_limit"])?,
        streams: keys.count(&["hc_mult"])?,
        sinkhorn_rounds: keys.count(&["hc_sinkhorn_iters"])?,
        hc_epsilon: keys.real(&["hc_eps"])?,
        norm_epsilon: keys.real(&["rms_norm_eps", "norm_eps"])?,
        context: context.unwrap_or(1 << 20),
        layers,
        mtp_blocks,
        dense_format,
        expert_format,
        bos: keys.one(&["bos_token_id"], count)?,
        eos: keys.one(&["eos_token_id"], counts)?.unwrap_or_default(),
    })
}

fn rope(keys: &Keys<'_>) -> Result<Rope, Refusal> {
    let factor =
        keys.one(&["rope_scaling.factor", "rope_parameters.compress.factor", "rope_factor"], real)?;
    let yarn = match factor {
        None => None,
        Some(factor) => Some(Yarn {
            factor,
            original_positions: keys.count(&[
                "rope_scaling.original_max_position_embeddings",
                "rope_parameters.compress.original_max_position_embeddings",
                "original_seq_len",
            ])?,
            beta_fast: keys.real(&[
                "rope_scaling.beta_fast",
                "rope_parameters.compress.beta_fast",
                "beta_fast",
            ])?,
            beta_slow: keys.real(&[
                "rope_scaling.beta_slow",
                "rope_parameters.compress.beta_slow",
                "beta_slow",
            ])?,
        }),
    };
    Ok(Rope {
        dims: keys.count(&["qk_rope_head_dim", "rope_head_dim"])?,
        theta: keys.real(&["rope_theta", "rope_parameters.main.rope_theta"])?,
        compress_theta: keys
            .real(&["compress_rope_theta", "rope_parameters.compress.rope_theta"])?,
        yarn,
    })
}

/// Storage of the matrices: FP8 blocks if there is a `quantization_config` (or DeepSeek's `dtype`),
/// and for the experts what `expert_dtype` says, which the -Base checkpoints leave out.
fn formats(keys: &Keys<'_>) -> Result<(WeightFormat, WeightFormat), Refusal> {
    let section = keys.find("quantization_config").is_some();
    let key = if section { "quantization_config.quant_method" } else { "dtype" };
    let dense = match (section, keys.one(&[key], text)?.as_deref()) {
        (_, Some("fp8")) => fp8_blocks(keys)?,
        (true, method) => {
            let method = method.map_or("missing".into(), shown);
            return Err(refuse(format!("{key} is {method}; this build reads fp8")));
        }
        (false, _) => WeightFormat::Float,
    };
    let expert = keys.one(&["expert_dtype", "quantization_config.expert_dtype"], text)?;
    let expert = match (expert.as_deref(), dense) {
        (Some("fp4"), _) => WeightFormat::Fp4 { cols: 32 },
        (Some("fp8"), WeightFormat::Float) => {
            return Err(refuse("expert_dtype is fp8 but quantization_config is missing".into()));
        }
        (Some("fp8") | None, dense) => dense,
        (Some("bf16" | "bfloat16" | "float16" | "float32"), _) => WeightFormat::Float,
        (Some(other), _) => {
            let other = shown(other);
            return Err(refuse(format!(
                "expert_dtype is \"{other}\"; this build reads fp4 and fp8"
            )));
        }
    };
    Ok((dense, expert))
}

fn fp8_blocks(keys: &Keys<'_>) -> Result<WeightFormat, Refusal> {
    let key = "quantization_config.weight_block_size";
    match keys.one(&[key], counts)?.as_deref() {
        None => Ok(WeightFormat::Fp8 { rows: 128, cols: 128 }),
        Some(&[rows, cols]) if rows <= 4096 && cols <= 4096 => {
            Ok(WeightFormat::Fp8 { rows: rows as u16, cols: cols as u16 })
        }
        Some(_) => Err(refuse(format!("{key} must be two numbers up to 4096"))),
    }
}

/// transformers repeats the rope width as a fraction of the head; it must be the same width.
fn check_partial_rotary(keys: &Keys<'_>, config: &ModelConfig) -> Result<(), Refusal> {
    for key in [
        "partial_rotary_factor",
        "rope_parameters.main.partial_rotary_factor",
        "rope_parameters.compress.partial_rotary_factor",
    ] {
        let Some(factor) = keys.one(&[key], real)? else { continue };
        let width = factor * f64::from(config.head_dim);
        if (width - f64::from(config.rope.dims)).abs() > 0.5 {
            return Err(refuse(format!(
                "{key} is {factor} of head_dim {}, but qk_rope_head_dim is {}; which is meant?",
                config.head_dim, config.rope.dims
            )));
        }
    }
    Ok(())
}

/// The keys of a configuration. A dot goes one object deeper; null counts as absent.
pub(super) struct Keys<'a> {
    root: &'a Map<String, Value>,
}

/// Reads a value, or says in words what it should have been.
pub(super) type Reader<T> = fn(&Value) -> Result<T, &'static str>;

impl Keys<'_> {
    pub(super) fn find(&self, path: &str) -> Option<&Value> {
        let mut parts = path.split('.');
        let mut value = self.root.get(parts.next()?)?;
        for part in parts {
            value = value.as_object()?.get(part)?;
        }
        (!value.is_null()).then_some(value)
    }

    /// The value all present keys of `paths` agree on.
    pub(super) fn one<T: PartialEq>(
        &self,
        paths: &[&str],
        reader: Reader<T>,
    ) -> Result<Option<T>, Refusal> {
        let mut first: Option<(T, &str)> = None;
        for path in paths {
            let Some(found) = self.find(path) else { continue };
            let value = reader(found)
                .map_err(|want| refuse(format!("{path} is {}; it must be {want}", brief(found))))?;
            match &first {
                None => first = Some((value, path)),
                Some((earlier, _)) if *earlier == value => {}
                Some((_, key)) => {
                    let before = brief(self.find(key).unwrap_or(&Value::Null));
                    return Err(refuse(format!(
                        "{key} is {before} but {path} is {}; make them agree or remove one",
                        brief(found)
                    )));
                }
            }
        }
        Ok(first.map(|(value, _)| value))
    }

    pub(super) fn count(&self, paths: &[&str]) -> Result<u32, Refusal> {
        self.one(paths, count)?.ok_or_else(|| missing(paths))
    }

    fn real(&self, paths: &[&str]) -> Result<f64, Refusal> {
        self.one(paths, real)?.ok_or_else(|| missing(paths))
    }
}

pub(super) fn missing(paths: &[&str]) -> Refusal {
    match paths {
        [key] => refuse(format!("{key} is missing")),
        [key, others @ ..] => refuse(format!("{key} (or {}) is missing", others.join(" or "))),
        [] => unreachable!("every number has a key"),
    }
}

/// A value as it may stand in a message: its JSON, which escapes what is not printable, cut short.
pub(super) fn brief(value: &Value) -> String {
    value.to_string().chars().take(80).collect()
}

pub(super) fn count(value: &Value) -> Result<u32, &'static str> {
    let whole =
        |real: f64| (real.fract() == 0.0 && (0.0..=4e9).contains(&real)).then_some(real as u64);
    value
        .as_u64()
        .or_else(|| value.as_f64().and_then(whole))
        .and_then(|number| u32::try_from(number).ok())
        .ok_or("a whole number below 2^32")
}

/// One whole number or a list of them.
pub(super) fn counts(value: &Value) -> Result<Vec<u32>, &'static str> {
    match value {
        Value::Array(items) => items.iter().map(count).collect(),
        single => Ok(vec![count(single)?]),
    }
}

pub(super) fn real(value: &Value) -> Result<f64, &'static str> {
    value.as_f64().filter(|real| real.is_finite()).ok_or("a number")
}

pub(super) fn text(value: &Value) -> Result<String, &'static str> {
    value.as_str().map(str::to_owned).ok_or("a string")
}

pub(super) fn texts(value: &Value) -> Result<Vec<String>, &'static str> {
    let Value::Array(items) = value else { return Err("a list of strings") };
    items.iter().map(|item| text(item).map_err(|_| "a list of strings")).collect()
}
