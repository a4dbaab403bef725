//! The tensors a configuration demands: every leaf of the model with its shape and how it may be
//! stored. The loader compares a checkpoint's headers with this list, and the arithmetic of memory and
//! cost is a sum over it; there is no second list of shapes.
//!
//! Names are the released ones (spec section 12); the loader knows the other spellings.

use super::{LayerSpec, ModelConfig};

/// How a tensor is used, which decides the dtypes it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// A matrix that quantised checkpoints store in FP8 blocks.
    Dense,
    /// A routed expert's matrix; FP4 or FP8 in quantised checkpoints.
    Expert,
    /// A matrix that is always BF16, F16 or F32.
    Matrix,
    /// Norm gains, biases, sinks, position biases: always BF16, F16 or F32, read as f32.
    Vector,
    /// Expert numbers per token id: integers.
    Table,
}

macro_rules! leaves {
    ($($(#[$doc:meta])* $leaf:ident = $name:literal,)*) => {
        /// One kind of tensor of the model.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Leaf { $($(#[$doc])* $leaf,)* }

        impl Leaf {
            /// Every leaf.
            pub const ALL: &'static [Leaf] = &[$(Leaf::$leaf,)*];

            /// The released name behind `layers.N.`, `mtp.N.` or nothing; `{e}` stands for an
            /// expert's number.
            pub const fn name(self) -> &'static str {
                match self { $(Leaf::$leaf => $name,)* }
            }
        }
    };
}

leaves! {
    /// Token embedding.
    Embed = "embed.weight",
    /// Vocabulary projection.
    Head = "head.weight",
    /// Gain of the last norm (also of an MTP block's).
    Norm = "norm.weight",
    /// Stream collapse before the head.
    HcHeadFn = "hc_head_fn",
    /// Its bias.
    HcHeadBase = "hc_head_base",
    /// Its scale.
    HcHeadScale = "hc_head_scale",
    /// Gain in front of attention.
    AttnNorm = "attn_norm.weight",
    /// Query latent projection.
    QueryDown = "attn.wq_a.weight",
    /// Gain of the query latent.
    QueryNorm = "attn.q_norm.weight",
    /// Query heads from the latent.
    QueryUp = "attn.wq_b.weight",
    /// The one key-value vector.
    KeyValue = "attn.wkv.weight",
    /// Its gain.
    KeyValueNorm = "attn.kv_norm.weight",
    /// One logit per head that takes attention and gives nothing.
    Sink = "attn.attn_sink",
    /// Output projection inside a group of heads.
    OutDown = "attn.wo_a.weight",
    /// Output projection of the groups' latents.
    OutUp = "attn.wo_b.weight",
    /// Compressor: values.
    CompressValue = "attn.compressor.wkv.weight",
    /// Compressor: gates.
    CompressGate = "attn.compressor.wgate.weight",
    /// Compressor: bias of the gates per place in the window.
    CompressBias = "attn.compressor.ape",
    /// Gain of an entry.
    CompressNorm = "attn.compressor.norm.weight",
    /// Indexer: query heads from the latent.
    IndexQuery = "attn.indexer.wq_b.weight",
    /// Indexer: weight of each head.
    IndexWeights = "attn.indexer.weights_proj.weight",
    /// Indexer's compressor: values.
    IndexValue = "attn.indexer.compressor.wkv.weight",
    /// Indexer's compressor: gates.
    IndexGate = "attn.indexer.compressor.wgate.weight",
    /// Indexer's compressor: bias of the gates.
    IndexBias = "attn.indexer.compressor.ape",
    /// Gain of an index key.
    IndexNorm = "attn.indexer.compressor.norm.weight",
    /// Stream mixer in front of attention.
    HcAttnFn = "hc_attn_fn",
    /// Its bias.
    HcAttnBase = "hc_attn_base",
    /// Its scales of pre, post and matrix.
    HcAttnScale = "hc_attn_scale",
    /// Stream mixer in front of the experts.
    HcFfnFn = "hc_ffn_fn",
    /// Its bias.
    HcFfnBase = "hc_ffn_base",
    /// Its scales of pre, post and matrix.
    HcFfnScale = "hc_ffn_scale",
    /// Gain in front of the experts.
    FfnNorm = "ffn_norm.weight",
    /// Router.
    Router = "ffn.gate.weight",
    /// Router's selection bias (score-routed layers).
    RouterBias = "ffn.gate.bias",
    /// Experts per token id (hash-routed layers).
    RouterTable = "ffn.gate.tid2eid",
    /// Shared expert: gate.
    SharedGate = "ffn.shared_experts.w1.weight",
    /// Shared expert: up.
    SharedUp = "ffn.shared_experts.w3.weight",
    /// Shared expert: down.
    SharedDown = "ffn.shared_experts.w2.weight",
    /// Routed expert: gate.
    ExpertGate = "ffn.experts.{e}.w1.weight",
    /// Routed expert: up.
    ExpertUp = "ffn.experts.{e}.w3.weight",
    /// Routed expert: down.
    ExpertDown = "ffn.experts.{e}.w2.weight",
    /// All routed experts' gate and up rows in one tensor (transformers).
    FusedGateUp = "ffn.experts.gate_up_proj",
    /// All routed experts' down matrices in one tensor (transformers).
    FusedDown = "ffn.experts.down_proj",
    /// MTP: gain of the next token's embedding.
    MtpEmbedNorm = "enorm.weight",
    /// MTP: gain of the streams.
    MtpStreamNorm = "hnorm.weight",
    /// MTP: projection of the next token's embedding.
    MtpEmbedProjection = "e_proj.weight",
    /// MTP: projection of the streams.
    MtpStreamProjection = "h_proj.weight",
}

/// One tensor (or `copies` equal ones, for experts) that a configuration demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Which.
    pub leaf: Leaf,
    /// How it is used.
    pub class: Class,
    /// Outer dimension.
    pub rows: u32,
    /// Inner dimension; 0 where the tensor has one dimension.
    pub cols: u32,
    /// Equal tensors: the number of routed experts, else 1.
    pub copies: u32,
}

impl Demand {
    const fn vector(leaf: Leaf, rows: u32) -> Self {
        Self { leaf, class: Class::Vector, rows, cols: 0, copies: 1 }
    }

    const fn matrix(leaf: Leaf, class: Class, rows: u32, cols: u32) -> Self {
        Self { leaf, class, rows, cols, copies: 1 }
    }

    /// Numbers in all copies together.
    pub fn elements(&self) -> u64 {
        u64::from(self.copies) * u64::from(self.rows) * u64::from(self.cols.max(1))
    }
}

/// Tensors outside the layers.
pub fn top_demands(config: &ModelConfig) -> Vec<Demand> {
    let mut demands = vec![
        Demand::matrix(Leaf::Embed, Class::Matrix, config.vocab, config.hidden),
        Demand::matrix(Leaf::Head, Class::Matrix, config.vocab, config.hidden),
        Demand::vector(Leaf::Norm, config.hidden),
    ];
    demands.extend(collapse_demands(config));
    demands
}

/// Tensors of one main layer. Routed experts are given as one demand per matrix with `copies`.
pub fn layer_demands(config: &ModelConfig, layer: &LayerSpec) -> Vec<Demand> {
    let mut demands = attention_demands(config);
    if layer.compressed() {
        let width = layer.halves * config.head_dim;
        demands.extend([
            Demand::matrix(Leaf::CompressValue, Class::Matrix, width, config.hidden),
            Demand::matrix(Leaf::CompressGate, Class::Matrix, width, config.hidden),
            Demand::matrix(Leaf::CompressBias, Class::Vector, layer.ratio, width),
            Demand::vector(Leaf::CompressNorm, config.head_dim),
        ]);
    }
    if layer.indexed {
        demands.extend(index_demands(config, layer));
    }
    demands.extend(mixer_demands(config));
    demands.extend(moe_demands(config, layer.hashed));
    demands
}

/// Tensors of one MTP block: an SWA layer routed by score, and what joins it to the main model
/// (spec section 11).
pub fn mtp_demands(config: &ModelConfig) -> Vec<Demand> {
    let hidden = config.hidden;
    let mut demands = layer_demands(config, &LayerSpec::window(false));
    demands.extend([
        Demand::vector(Leaf::MtpEmbedNorm, hidden),
        Demand::vector(Leaf::MtpStreamNorm, hidden),
        Demand::vector(Leaf::Norm, hidden),
        Demand::matrix(Leaf::MtpEmbedProjection, Class::Dense, hidden, hidden),
        Demand::matrix(Leaf::MtpStreamProjection, Class::Dense, hidden, hidden),
    ]);
    demands.extend(collapse_demands(config));
    demands
}

fn collapse_demands(config: &ModelConfig) -> [Demand; 3] {
    let streams = config.streams;
    [
        Demand::matrix(Leaf::HcHeadFn, Class::Matrix, streams, streams * config.hidden),
        Demand::vector(Leaf::HcHeadBase, streams),
        Demand::vector(Leaf::HcHeadScale, 1),
    ]
}

fn attention_demands(config: &ModelConfig) -> Vec<Demand> {
    let ModelConfig { hidden, heads, head_dim, q_rank, .. } = *config;
    let latent = config.o_groups * config.o_rank;
    vec![
        Demand::vector(Leaf::AttnNorm, hidden),
        Demand::matrix(Leaf::QueryDown, Class::Dense, q_rank, hidden),
        Demand::vector(Leaf::QueryNorm, q_rank),
        Demand::matrix(Leaf::QueryUp, Class::Dense, heads * head_dim, q_rank),
        Demand::matrix(Leaf::KeyValue, Class::Dense, head_dim, hidden),
        Demand::vector(Leaf::KeyValueNorm, head_dim),
        Demand::vector(Leaf::Sink, heads),
        Demand::matrix(Leaf::OutDown, Class::Dense, latent, config.group_width()),
        Demand::matrix(Leaf::OutUp, Class::Dense, hidden, latent),
    ]
}

fn index_demands(config: &ModelConfig, layer: &LayerSpec) -> [Demand; 6] {
    let ModelConfig { hidden, index_heads, index_head_dim, q_rank, .. } = *config;
    let width = layer.halves * index_head_dim;
    [
        Demand::matrix(Leaf::IndexQuery, Class::Dense, index_heads * index_head_dim, q_rank),
        Demand::matrix(Leaf::IndexWeights, Class::Matrix, index_heads, hidden),
        Demand::matrix(Leaf::IndexValue, Class::Matrix, width, hidden),
        Demand::matrix(Leaf::IndexGate, Class::Matrix, width, hidden),
        Demand::matrix(Leaf::IndexBias, Class::Vector, layer.ratio, width),
        Demand::vector(Leaf::IndexNorm, index_head_dim),
    ]
}

fn mixer_demands(config: &ModelConfig) -> [Demand; 6] {
    let mix = config.mix_width();
    let wide = config.streams * config.hidden;
    [
        Demand::matrix(Leaf::HcAttnFn, Class::Matrix, mix, wide),
        Demand::vector(Leaf::HcAttnBase, mix),
        Demand::vector(Leaf::HcAttnScale, 3),
        Demand::matrix(Leaf::HcFfnFn, Class::Matrix, mix, wide),
        Demand::vector(Leaf::HcFfnBase, mix),
        Demand::vector(Leaf::HcFfnScale, 3),
    ]
}

fn moe_demands(config: &ModelConfig, hashed: bool) -> Vec<Demand> {
    let ModelConfig { hidden, experts, expert_width: width, .. } = *config;
    let expert =
        |leaf, rows, cols| Demand { leaf, class: Class::Expert, rows, cols, copies: experts };
    let choice = if hashed {
        Demand::matrix(Leaf::RouterTable, Class::Table, config.vocab, config.experts_per_token)
    } else {
        Demand::vector(Leaf::RouterBias, experts)
    };
    vec![
        Demand::vector(Leaf::FfnNorm, hidden),
        Demand::matrix(Leaf::Router, Class::Matrix, experts, hidden),
        choice,
        Demand::matrix(Leaf::SharedGate, Class::Dense, width, hidden),
        Demand::matrix(Leaf::SharedUp, Class::Dense, width, hidden),
        Demand::matrix(Leaf::SharedDown, Class::Dense, hidden, width),
        expert(Leaf::ExpertGate, width, hidden),
        expert(Leaf::ExpertUp, width, hidden),
        expert(Leaf::ExpertDown, hidden, width),
    ]
}
