//! The layer schedule from either dialect: `compress_ratios` and `num_hash_layers`, or `layer_types`,
//! `compress_rates` and `mlp_layer_types`; where both are there, they must say the same.

use super::LayerSpec;
use super::parse::{Keys, brief, count, counts, missing, refuse, texts};
use crate::limits;
use crate::refusal::{Refusal, shown};

/// Ratio that marks an overlapping, indexed layer where the configuration gives ratios only.
const SELECTED_RATIO: u32 = 4;
/// Ratios transformers assumes where a configuration has layer types only.
const DEFAULT_RATES: [u32; 2] = [4, 128];
const RATE_KEYS: [&str; 2] =
    ["compress_rates.compressed_sparse_attention", "compress_rates.heavily_compressed_attention"];

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Window,
    Selected,
    Pooled,
}

/// The main layers, in order. `mtp_blocks` is how many further entries `compress_ratios` may have.
pub(super) fn read(keys: &Keys<'_>, mtp_blocks: u32) -> Result<Vec<LayerSpec>, Refusal> {
    let layers = keys.count(&["num_hidden_layers", "n_layers"])?;
    if !(1..=limits::LAYERS_MAX).contains(&layers) {
        let most = limits::LAYERS_MAX;
        return Err(refuse(format!("num_hidden_layers is {layers}; it must be 1 to {most}")));
    }
    let ratios = ratios(keys, layers, mtp_blocks)?;
    let kinds = kinds(keys, layers)?;
    let hashed = hashed(keys, layers)?;
    if ratios.is_none() && kinds.is_none() {
        return Err(missing(&["compress_ratios", "layer_types"]));
    }
    let rates = [keys.one(&RATE_KEYS[..1], count)?, keys.one(&RATE_KEYS[1..], count)?];
    let layer = |index: usize| {
        let kind = kinds.as_ref().map(|kinds| kinds[index]);
        let ratio = ratios.as_ref().map(|ratios| ratios[index]);
        let (kind, ratio) = settle(index, kind, ratio, rates)?;
        Ok(match kind {
            Kind::Window => LayerSpec::window(hashed[index]),
            Kind::Selected => LayerSpec::selected(ratio, hashed[index]),
            Kind::Pooled => LayerSpec::pooled(ratio, hashed[index]),
        })
    };
    (0..layers as usize).map(layer).collect()
}

/// One layer's kind and ratio from what the two dialects say of it.
fn settle(
    index: usize,
    kind: Option<Kind>,
    ratio: Option<u32>,
    rates: [Option<u32>; 2],
) -> Result<(Kind, u32), Refusal> {
    let Some(kind) = kind else {
        let ratio = ratio.expect("read() saw that one of the two lists is there");
        return Ok(match ratio {
            0 => (Kind::Window, 0),
            SELECTED_RATIO => (Kind::Selected, ratio),
            _ => (Kind::Pooled, ratio),
        });
    };
    let (name, rate, key) = match kind {
        Kind::Window => ("sliding_attention", Some(0), ""),
        Kind::Selected => ("compressed_sparse_attention", rates[0], RATE_KEYS[0]),
        Kind::Pooled => ("heavily_compressed_attention", rates[1], RATE_KEYS[1]),
    };
    let default = DEFAULT_RATES[usize::from(kind == Kind::Pooled)];
    match (ratio, rate) {
        (None, rate) => Ok((kind, rate.unwrap_or(default))),
        (Some(ratio), Some(rate)) if ratio == rate => Ok((kind, ratio)),
        (Some(ratio), None) if ratio > 0 => Ok((kind, ratio)),
        (Some(ratio), rate) => {
            let at = match rate {
                Some(rate) if kind != Kind::Window => format!(" with {key} {rate}"),
                _ => String::new(),
            };
            Err(refuse(format!(
                "compress_ratios[{index}] is {ratio} but layer_types[{index}] is {name}{at}; \
                 make them agree or remove one"
            )))
        }
    }
}

/// `compress_ratios`, without the entries of the MTP blocks.
fn ratios(keys: &Keys<'_>, layers: u32, mtp_blocks: u32) -> Result<Option<Vec<u32>>, Refusal> {
    let Some(mut ratios) = keys.one(&["compress_ratios"], counts)? else { return Ok(None) };
    let entries = ratios.len();
    let extra = ratios.split_off(entries.min(layers as usize));
    if ratios.len() < layers as usize {
        return Err(refuse(format!(
            "compress_ratios has {entries} entries but num_hidden_layers is {layers}"
        )));
    }
    if extra.len() > mtp_blocks as usize {
        return Err(refuse(format!(
            "compress_ratios has {entries} entries, more than num_hidden_layers {layers} and \
             num_nextn_predict_layers {mtp_blocks} together"
        )));
    }
    if let Some(ratio) = extra.iter().find(|&&ratio| ratio != 0) {
        return Err(refuse(format!(
            "compress_ratios gives an MTP block the ratio {ratio}; this build knows only 0"
        )));
    }
    Ok(Some(ratios))
}

/// `layer_types` as kinds.
fn kinds(keys: &Keys<'_>, layers: u32) -> Result<Option<Vec<Kind>>, Refusal> {
    let Some(types) = keys.one(&["layer_types"], texts)? else { return Ok(None) };
    same_length("layer_types", types.len(), layers)?;
    let kind = |name: &String| match name.as_str() {
        "sliding_attention" => Ok(Kind::Window),
        "compressed_sparse_attention" => Ok(Kind::Selected),
        "heavily_compressed_attention" => Ok(Kind::Pooled),
        other => Err(refuse(format!(
            "layer_types holds \"{}\"; this build runs sliding_attention, \
             compressed_sparse_attention and heavily_compressed_attention",
            shown(other)
        ))),
    };
    types.iter().map(kind).collect::<Result<_, _>>().map(Some)
}

/// Which layers route by token id, from `num_hash_layers` or `mlp_layer_types`.
fn hashed(keys: &Keys<'_>, layers: u32) -> Result<Vec<bool>, Refusal> {
    let first = keys.one(&["num_hash_layers", "n_hash_layers"], count)?;
    if let Some(first) = first.filter(|&first| first > layers) {
        return Err(refuse(format!(
            "num_hash_layers is {first} but num_hidden_layers is {layers}"
        )));
    }
    let by_count = first.map(|first| (0..layers).map(|layer| layer < first).collect::<Vec<_>>());
    let Some(types) = keys.one(&["mlp_layer_types"], texts)? else {
        return by_count.ok_or_else(|| missing(&["num_hash_layers", "mlp_layer_types"]));
    };
    same_length("mlp_layer_types", types.len(), layers)?;
    let by_type = |name: &String| match name.as_str() {
        "hash_moe" => Ok(true),
        "moe" => Ok(false),
        other => Err(refuse(format!(
            "mlp_layer_types holds \"{}\"; this build runs hash_moe and moe",
            shown(other)
        ))),
    };
    let by_type = types.iter().map(by_type).collect::<Result<Vec<_>, _>>()?;
    match by_count {
        Some(by_count) if by_count != by_type => Err(refuse(format!(
            "num_hash_layers is {} but mlp_layer_types is {}; make them agree or remove one",
            first.unwrap_or(0),
            brief(keys.find("mlp_layer_types").unwrap_or(&serde_json::Value::Null)),
        ))),
        _ => Ok(by_type),
    }
}

fn same_length(key: &str, entries: usize, layers: u32) -> Result<(), Refusal> {
    if entries == layers as usize {
        return Ok(());
    }
    Err(refuse(format!("{key} has {entries} entries but num_hidden_layers is {layers}")))
}
