//! Names of tensors in every spelling a V4 checkpoint has been written with (spec section 12): the
//! released one, transformers', the hybrid that transformers' saver writes, and the conventions that
//! DeepSeek's converter accepts. A name becomes a [`Key`]; what has no key is unknown.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::LazyLock;

use crate::config::Leaf;

/// The part of the model a tensor belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Block {
    /// Outside the layers: embedding, head, last norm.
    Top,
    /// A main layer.
    Main(u32),
    /// An MTP block.
    Mtp(u32),
}

impl fmt::Display for Block {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Block::Top => Ok(()),
            Block::Main(layer) => write!(out, "layers.{layer}."),
            Block::Mtp(block) => write!(out, "mtp.{block}."),
        }
    }
}

/// Codes or their scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// The numbers themselves.
    Codes,
    /// Scales of a quantised matrix.
    Scales,
}

/// One tensor of the model, whatever a file calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Where.
    pub block: Block,
    /// What.
    pub leaf: Leaf,
    /// Which routed expert; 0 for everything else.
    pub expert: u32,
    /// Codes or scales.
    pub part: Part,
}

impl fmt::Display for Key {
    /// The released name.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.leaf.name().replace("{e}", &self.expert.to_string());
        match (self.part, name.strip_suffix("weight")) {
            (Part::Codes, _) => write!(out, "{}{name}", self.block),
            (Part::Scales, Some(stem)) => write!(out, "{}{stem}scale", self.block),
            (Part::Scales, None) => write!(out, "{}{name}_scale", self.block),
        }
    }
}

/// Other spellings of a leaf, with `self_attn.` and `mlp.` already written `attn.` and `ffn.`.
const ALIASES: &[(&str, Leaf)] = &[
    ("embed_tokens.weight", Leaf::Embed),
    ("lm_head.weight", Leaf::Head),
    ("hc_head.hc_fn", Leaf::HcHeadFn),
    ("hc_head.hc_base", Leaf::HcHeadBase),
    ("hc_head.hc_scale", Leaf::HcHeadScale),
    ("input_layernorm.weight", Leaf::AttnNorm),
    ("post_attention_layernorm.weight", Leaf::FfnNorm),
    ("attn_hc.fn", Leaf::HcAttnFn),
    ("attn_hc.base", Leaf::HcAttnBase),
    ("attn_hc.scale", Leaf::HcAttnScale),
    ("ffn_hc.fn", Leaf::HcFfnFn),
    ("ffn_hc.base", Leaf::HcFfnBase),
    ("ffn_hc.scale", Leaf::HcFfnScale),
    ("attn.q_a_proj.weight", Leaf::QueryDown),
    ("attn.q_a_norm.weight", Leaf::QueryNorm),
    ("attn.q_b_proj.weight", Leaf::QueryUp),
    ("attn.kv_proj.weight", Leaf::KeyValue),
    ("attn.sinks", Leaf::Sink),
    ("attn.o_a_proj.weight", Leaf::OutDown),
    ("attn.o_b_proj.weight", Leaf::OutUp),
    ("attn.compressor.kv_proj.weight", Leaf::CompressValue),
    ("attn.compressor.gate_proj.weight", Leaf::CompressGate),
    ("attn.compressor.position_bias", Leaf::CompressBias),
    ("attn.compressor.kv_norm.weight", Leaf::CompressNorm),
    ("attn.compressor.indexer.q_b_proj.weight", Leaf::IndexQuery),
    ("attn.compressor.indexer.scorer.weights_proj.weight", Leaf::IndexWeights),
    ("attn.compressor.indexer.weights_proj.weight", Leaf::IndexWeights),
    ("attn.compressor.indexer.kv_proj.weight", Leaf::IndexValue),
    ("attn.compressor.indexer.gate_proj.weight", Leaf::IndexGate),
    ("attn.compressor.indexer.position_bias", Leaf::IndexBias),
    ("attn.compressor.indexer.kv_norm.weight", Leaf::IndexNorm),
    ("ffn.gate.e_score_correction_bias", Leaf::RouterBias),
    ("ffn.shared_experts.gate_proj.weight", Leaf::SharedGate),
    ("ffn.shared_experts.up_proj.weight", Leaf::SharedUp),
    ("ffn.shared_experts.down_proj.weight", Leaf::SharedDown),
];

/// Spellings of the three matrices of a routed expert, behind its number.
const EXPERT_MATRICES: [(&str, Leaf); 6] = [
    ("w1", Leaf::ExpertGate),
    ("w2", Leaf::ExpertDown),
    ("w3", Leaf::ExpertUp),
    ("gate_proj", Leaf::ExpertGate),
    ("down_proj", Leaf::ExpertDown),
    ("up_proj", Leaf::ExpertUp),
];

static LEAVES: LazyLock<HashMap<&'static str, Leaf>> = LazyLock::new(|| {
    let released = Leaf::ALL.iter().map(|leaf| (leaf.name(), *leaf));
    released.filter(|(name, _)| !name.contains('{')).chain(ALIASES.iter().copied()).collect()
});

/// The key of a tensor's name in any spelling, or nothing if no V4 model has such a tensor.
pub fn parse_name(name: &str) -> Option<Key> {
    let name = name.strip_prefix("model.").unwrap_or(name);
    let (block, rest) = if let Some(rest) = name.strip_prefix("layers.") {
        let (layer, rest) = number(rest)?;
        (Block::Main(layer), rest)
    } else if let Some(rest) = name.strip_prefix("mtp.") {
        let (block, rest) = number(rest)?;
        (Block::Mtp(block), rest)
    } else {
        (Block::Top, name)
    };
    let (leaf, expert, part) = parse_leaf(&one_prefix(rest))?;
    Some(Key { block, leaf, expert, part })
}

/// Whether a name is an MTP block's or another draft head's.
pub fn is_draft(name: &str) -> bool {
    name.strip_prefix("model.").unwrap_or(name).starts_with("mtp.")
}

fn one_prefix(rest: &str) -> Cow<'_, str> {
    if let Some(rest) = rest.strip_prefix("self_attn.") {
        return Cow::Owned(format!("attn.{rest}"));
    }
    match rest.strip_prefix("mlp.") {
        Some(rest) => Cow::Owned(format!("ffn.{rest}")),
        None => Cow::Borrowed(rest),
    }
}

fn parse_leaf(rest: &str) -> Option<(Leaf, u32, Part)> {
    if let Some(&leaf) = LEAVES.get(rest) {
        return Some((leaf, 0, Part::Codes));
    }
    if let Some(behind) = rest.strip_prefix("ffn.experts.")
        && let Some((expert, behind)) = number(behind)
    {
        let (matrix, suffix) = behind.split_once('.')?;
        let leaf = EXPERT_MATRICES.iter().find(|(name, _)| *name == matrix)?.1;
        return Some((leaf, expert, part(suffix)?));
    }
    let stem = ["_scale_inv", "_scale"].iter().find_map(|suffix| rest.strip_suffix(suffix));
    let fused = [Leaf::FusedGateUp, Leaf::FusedDown];
    if let Some(leaf) = fused.into_iter().find(|leaf| stem == Some(leaf.name())) {
        return Some((leaf, 0, Part::Scales));
    }
    let (stem, suffix) = rest.rsplit_once('.')?;
    let leaf = *LEAVES.get(format!("{stem}.weight").as_str())?;
    Some((leaf, 0, part(suffix)?))
}

fn part(suffix: &str) -> Option<Part> {
    match suffix {
        "weight" => Some(Part::Codes),
        "scale" | "weight_scale_inv" => Some(Part::Scales),
        _ => None,
    }
}

/// A number in canonical decimal, then a dot.
fn number(text: &str) -> Option<(u32, &str)> {
    let (digits, rest) = text.split_once('.')?;
    let canonical = digits == "0" || !digits.starts_with('0');
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    (canonical && plain).then(|| digits.parse().ok().map(|number| (number, rest)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_names_the_same_tensor() {
        let rows = [
            ("embed.weight", &["model.embed_tokens.weight", "model.embed.weight"][..]),
            ("head.weight", &["lm_head.weight"]),
            ("hc_head_fn", &["model.hc_head.hc_fn"]),
            ("layers.3.attn.wq_a.weight", &["model.layers.3.self_attn.q_a_proj.weight"]),
            (
                "layers.3.attn.wq_a.scale",
                &[
                    "model.layers.3.attn.wq_a.scale",
                    "model.layers.3.self_attn.q_a_proj.weight_scale_inv",
                    "layers.3.self_attn.wq_a.weight_scale_inv",
                ],
            ),
            ("layers.3.hc_attn_scale", &["model.layers.3.attn_hc.scale"]),
            (
                "layers.0.attn.indexer.compressor.wkv.weight",
                &["model.layers.0.self_attn.compressor.indexer.kv_proj.weight"],
            ),
            ("layers.0.ffn.gate.bias", &["model.layers.0.mlp.gate.e_score_correction_bias"]),
            (
                "layers.0.ffn.experts.17.w3.weight",
                &["model.layers.0.mlp.experts.17.up_proj.weight"],
            ),
            ("layers.0.ffn.experts.17.w2.scale", &["layers.0.ffn.experts.17.w2.weight_scale_inv"]),
            ("layers.0.ffn.experts.gate_up_proj", &["model.layers.0.mlp.experts.gate_up_proj"]),
            (
                "layers.0.ffn.experts.down_proj_scale",
                &["model.layers.0.mlp.experts.down_proj_scale_inv"],
            ),
            ("mtp.0.e_proj.scale", &["mtp.0.e_proj.weight_scale_inv"]),
        ];
        for (released, others) in rows {
            let key = parse_name(released).unwrap_or_else(|| panic!("{released} has no key"));
            assert_eq!(key.to_string(), released);
            for other in others {
                assert_eq!(parse_name(other), Some(key), "{other}");
            }
        }
    }

    #[test]
    fn released_names_survive_the_round_trip() {
        for leaf in Leaf::ALL {
            for block in [Block::Top, Block::Main(41), Block::Mtp(0)] {
                let expert = if leaf.name().contains('{') { 255 } else { 0 };
                let key = Key { block, leaf: *leaf, expert, part: Part::Codes };
                assert_eq!(parse_name(&key.to_string()), Some(key), "{key}");
            }
        }
    }

    #[test]
    fn what_no_model_has_has_no_key() {
        for name in [
            "",
            "layers",
            "layers.",
            "layers.00.attn_norm.weight",
            "layers.-1.attn_norm.weight",
            "layers.99999999999.attn_norm.weight",
            "layers.0.attn.wq_a",
            "layers.0.attn.wq_c.weight",
            "layers.0.attn.wq_a.bias",
            "layers.0.ffn.experts.0.w4.weight",
            "layers.0.ffn.experts.{e}.w1.weight",
            "layers.0.hc_attn_fn.weight",
            "mtp.0.markov_head.weight",
            "vision.embed.weight",
        ] {
            assert_eq!(parse_name(name), None, "{name}");
        }
    }
}
