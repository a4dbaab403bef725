//! What a model is: the geometry and the layer schedule that a `config.json` states.
//!
//! Three spellings are read (released keys, transformers keys, the keys of DeepSeek's own inference
//! code) and may be mixed in one file as long as they agree; where two keys contradict each other the
//! file is refused and both are named. The layer schedule is data: per layer a ratio, an overlap, a
//! selection and a routing rule; nothing else in the engine asks which model this is. Unknown
//! architectures are refused by name. Sources: spec sections 1, 2, 5, 12.

mod check;
mod json;
mod parse;
mod preset;
mod rope;
mod schedule;
mod tensors;

pub use check::{INDEX_BLOCK, KEY_BLOCK};
pub use parse::parse_config;
pub use preset::{PRESETS, preset};
pub use tensors::{Class, Demand, Leaf, layer_demands, mtp_demands, top_demands};

use serde::Serialize;

/// The `model_type`s this build runs.
pub const KNOWN_MODEL_TYPES: &[&str] = &["deepseek_v4"];
/// The `architectures` this build runs.
pub const KNOWN_ARCHITECTURES: &[&str] = &["DeepseekV4ForCausalLM"];

/// One layer of the schedule (spec section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct LayerSpec {
    /// Tokens per compressed entry; 0 in a layer that has only the sliding window.
    pub ratio: u32,
    /// Windows an entry pools: 2 where entries overlap (CSA), else 1; 0 without compression.
    pub halves: u32,
    /// Whether an indexer picks the entries a query sees (CSA); otherwise it sees all (HCA).
    pub indexed: bool,
    /// Whether experts are chosen by token id, otherwise by score.
    pub hashed: bool,
}

impl LayerSpec {
    /// A layer with the sliding window only.
    pub const fn window(hashed: bool) -> Self {
        Self { ratio: 0, halves: 0, indexed: false, hashed }
    }

    /// A layer whose overlapping entries are picked by an indexer.
    pub const fn selected(ratio: u32, hashed: bool) -> Self {
        Self { ratio, halves: 2, indexed: true, hashed }
    }

    /// A layer that sees all of its entries.
    pub const fn pooled(ratio: u32, hashed: bool) -> Self {
        Self { ratio, halves: 1, indexed: false, hashed }
    }

    /// The paper's name of this kind of layer: SWA, CSA or HCA.
    pub const fn kind(&self) -> &'static str {
        match (self.ratio, self.indexed) {
            (0, _) => "SWA",
            (_, true) => "CSA",
            (_, false) => "HCA",
        }
    }

    /// Whether the layer keeps compressed entries.
    pub const fn compressed(&self) -> bool {
        self.ratio > 0
    }
}

/// How a configuration says that matrices are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightFormat {
    /// BF16, F16 or F32.
    Float,
    /// E4M3 codes with one E8M0 scale per block (released: 128×128).
    Fp8 {
        /// Rows per scale.
        rows: u16,
        /// Columns per scale.
        cols: u16,
    },
    /// E2M1 codes, two per byte, with one E8M0 scale per `cols` columns of a row (released: 32).
    Fp4 {
        /// Columns per scale.
        cols: u16,
    },
}

/// YaRN's numbers, for the rope of compressed layers (spec section 5).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Yarn {
    /// Stretch of the slow frequencies.
    pub factor: f64,
    /// Context the unstretched model was trained on, in tokens.
    pub original_positions: u32,
    /// Rotations above which a frequency is kept.
    pub beta_fast: f64,
    /// Rotations below which a frequency is stretched fully.
    pub beta_slow: f64,
}

/// Rotary embedding: two sets of frequencies.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rope {
    /// Rotated components at the end of a head.
    pub dims: u32,
    /// Base of layers without compression (and of the MTP block).
    pub theta: f64,
    /// Base of compressed layers.
    pub compress_theta: f64,
    /// Stretch of compressed layers; absent only where no layer compresses.
    pub yarn: Option<Yarn>,
}

/// A model's geometry, schedule and numbers, checked (spec section 1).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelConfig {
    /// Token ids run over `0..vocab`.
    pub vocab: u32,
    /// Width of a stream.
    pub hidden: u32,
    /// Query heads.
    pub heads: u32,
    /// Width of a head, of the one key-value vector and of a compressed entry.
    pub head_dim: u32,
    /// Width of the query latent.
    pub q_rank: u32,
    /// Groups of the output projection; divides `heads`.
    pub o_groups: u32,
    /// Latent width of one group of the output projection.
    pub o_rank: u32,
    /// Sliding window in tokens, the current one included.
    pub window: u32,
    /// Rotary embedding.
    pub rope: Rope,
    /// Heads of the indexer.
    pub index_heads: u32,
    /// Width of an indexer head and of an index key.
    pub index_head_dim: u32,
    /// Entries the indexer picks per query.
    pub index_top: u32,
    /// Routed experts of a layer.
    pub experts: u32,
    /// Experts one token takes.
    pub experts_per_token: u32,
    /// Inner width of an expert, routed or shared.
    pub expert_width: u32,
    /// Factor on the routed experts' weights.
    pub routed_scaling: f64,
    /// Clamp inside SwiGLU.
    pub swiglu_limit: f64,
    /// Hyper-connection streams.
    pub streams: u32,
    /// Sinkhorn rounds of a stream mixer.
    pub sinkhorn_rounds: u32,
    /// Epsilon of the stream mixer.
    pub hc_epsilon: f64,
    /// Epsilon of every RMS statistic.
    pub norm_epsilon: f64,
    /// Longest context the model was made for, in tokens.
    pub context: u32,
    /// Main layers, in order.
    pub layers: Vec<LayerSpec>,
    /// MTP blocks the configuration promises; each is an SWA layer routed by score.
    pub mtp_blocks: u32,
    /// How attention, shared-expert and MTP projections are stored.
    pub dense_format: WeightFormat,
    /// How routed experts are stored.
    pub expert_format: WeightFormat,
    /// Token that begins every prompt.
    pub bos: Option<u32>,
    /// Tokens that end an answer.
    pub eos: Vec<u32>,
}

impl ModelConfig {
    /// Width of the output of a mixer site: pre, post and the stream matrix (24 for four streams).
    pub fn mix_width(&self) -> u32 {
        self.streams * self.streams + 2 * self.streams
    }

    /// Columns of one group of `wo_a`: the heads of a group side by side.
    pub fn group_width(&self) -> u32 {
        self.heads / self.o_groups * self.head_dim
    }

    /// The different compression ratios in use, ascending.
    pub fn ratios(&self) -> Vec<u32> {
        let mut ratios: Vec<u32> =
            self.layers.iter().map(|layer| layer.ratio).filter(|&ratio| ratio > 0).collect();
        ratios.sort_unstable();
        ratios.dedup();
        ratios
    }

    /// Number of layers of one kind ("SWA", "CSA", "HCA").
    pub fn count(&self, kind: &str) -> usize {
        self.layers.iter().filter(|layer| layer.kind() == kind).count()
    }
}
