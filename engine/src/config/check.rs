//! Whether a geometry can exist: ranges, divisibility, and relations between numbers. Names in the
//! messages are the released keys of config.json.

use super::{LayerSpec, ModelConfig, WeightFormat};
use crate::limits;
use crate::refusal::{Refusal, RefusalKind};

fn refuse(message: String) -> Refusal {
    Refusal::new(RefusalKind::Config, message)
}

impl ModelConfig {
    /// Checks every number of the configuration; what passes has sizes that fit `u64` in any product
    /// the engine forms.
    ///
    /// # Errors
    /// `Config`, naming the key, its value and what it must be.
    pub fn check(&self) -> Result<(), Refusal> {
        self.check_ranges()?;
        self.check_reals()?;
        self.check_relations()?;
        self.check_schedule()?;
        self.check_formats()
    }

    fn check_ranges(&self) -> Result<(), Refusal> {
        let ranges = [
            ("vocab_size", self.vocab, limits::VOCAB_MAX),
            ("hidden_size", self.hidden, limits::WIDTH_MAX),
            ("num_attention_heads", self.heads, limits::HEADS_MAX),
            ("head_dim", self.head_dim, limits::HEAD_WIDTH_MAX),
            ("q_lora_rank", self.q_rank, limits::WIDTH_MAX),
            ("o_groups", self.o_groups, limits::HEADS_MAX),
            ("o_lora_rank", self.o_rank, limits::WIDTH_MAX),
            ("sliding_window", self.window, limits::WINDOW_MAX),
            ("index_n_heads", self.index_heads, limits::HEADS_MAX),
            ("index_head_dim", self.index_head_dim, limits::HEAD_WIDTH_MAX),
            ("index_topk", self.index_top, limits::INDEX_TOP_MAX),
            ("n_routed_experts", self.experts, limits::EXPERTS_MAX),
            ("num_experts_per_tok", self.experts_per_token, limits::EXPERTS_PER_TOKEN_MAX),
            ("moe_intermediate_size", self.expert_width, limits::WIDTH_MAX),
            ("hc_mult", self.streams, limits::STREAMS_MAX),
            ("hc_sinkhorn_iters", self.sinkhorn_rounds, limits::SINKHORN_ROUNDS_MAX),
            ("max_position_embeddings", self.context, limits::CONTEXT_MAX),
            ("num_hidden_layers", self.layers.len() as u32, limits::LAYERS_MAX),
        ];
        for (key, value, most) in ranges {
            if !(1..=most).contains(&value) {
                return Err(refuse(format!("{key} is {value}; it must be 1 to {most}")));
            }
        }
        if self.mtp_blocks > limits::MTP_BLOCKS_MAX {
            let most = limits::MTP_BLOCKS_MAX;
            let blocks = self.mtp_blocks;
            return Err(refuse(format!(
                "num_nextn_predict_layers is {blocks}; it must be 0 to {most}"
            )));
        }
        Ok(())
    }

    fn check_reals(&self) -> Result<(), Refusal> {
        let positive = [
            ("routed_scaling_factor", self.routed_scaling),
            ("swiglu_limit", self.swiglu_limit),
            ("hc_eps", self.hc_epsilon),
            ("rms_norm_eps", self.norm_epsilon),
        ];
        for (key, value) in positive {
            // Each of them becomes an f32; what underflows or overflows there is no number to compute with.
            if !((value as f32).is_normal() && value > 0.0) {
                return Err(refuse(format!("{key} is {value}; it must be a positive f32")));
            }
        }
        for (key, theta) in
            [("rope_theta", self.rope.theta), ("compress_rope_theta", self.rope.compress_theta)]
        {
            if !((theta as f32).is_finite() && theta > 1.0) {
                return Err(refuse(format!("{key} is {theta}; it must be a number above 1")));
            }
        }
        let Some(yarn) = self.rope.yarn else { return Ok(()) };
        if !((yarn.factor as f32).is_finite() && yarn.factor >= 1.0) {
            let factor = yarn.factor;
            return Err(refuse(format!("rope_scaling.factor is {factor}; it must be 1 or more")));
        }
        let original = yarn.original_positions;
        if !(1..=limits::CONTEXT_MAX).contains(&original) {
            return Err(refuse(format!(
                "rope_scaling.original_max_position_embeddings is {original}; it must be 1 to {}",
                limits::CONTEXT_MAX
            )));
        }
        let (fast, slow) = (yarn.beta_fast, yarn.beta_slow);
        if !((slow as f32).is_normal() && slow > 0.0 && fast >= slow && (fast as f32).is_finite()) {
            return Err(refuse(format!(
                "rope_scaling.beta_fast is {fast} and beta_slow is {slow}; \
                 beta_slow must be positive and no larger than beta_fast"
            )));
        }
        Ok(())
    }

    fn check_relations(&self) -> Result<(), Refusal> {
        let (rope, head) = (self.rope.dims, self.head_dim);
        if rope < 2 || rope % 2 != 0 || rope > head {
            return Err(refuse(format!(
                "qk_rope_head_dim is {rope}; it must be even, at least 2 and at most head_dim, {head}"
            )));
        }
        let (groups, heads) = (self.o_groups, self.heads);
        if heads % groups != 0 {
            return Err(refuse(format!(
                "o_groups is {groups} and does not divide num_attention_heads, {heads}"
            )));
        }
        let latent = u64::from(self.o_groups) * u64::from(self.o_rank);
        if latent > u64::from(limits::WIDTH_MAX) {
            return Err(refuse(format!(
                "o_groups x o_lora_rank is {latent}; it must be at most {}",
                limits::WIDTH_MAX
            )));
        }
        let (taken, experts) = (self.experts_per_token, self.experts);
        if taken > experts {
            return Err(refuse(format!(
                "num_experts_per_tok is {taken} but n_routed_experts is {experts}"
            )));
        }
        for (key, token) in self.special_tokens() {
            if token >= self.vocab {
                return Err(refuse(format!(
                    "{key} is {token}; it must be below vocab_size, {}",
                    self.vocab
                )));
            }
        }
        Ok(())
    }

    fn special_tokens(&self) -> impl Iterator<Item = (&'static str, u32)> + '_ {
        let bos = self.bos.iter().map(|&token| ("bos_token_id", token));
        bos.chain(self.eos.iter().map(|&token| ("eos_token_id", token)))
    }

    fn check_schedule(&self) -> Result<(), Refusal> {
        for (index, layer) in self.layers.iter().enumerate() {
            self.check_layer(index, layer)?;
        }
        // The lists of a step are made once per ratio, for all layers that have it.
        for ratio in self.ratios() {
            let of_ratio = || self.layers.iter().filter(|layer| layer.ratio == ratio);
            if of_ratio().any(|layer| layer.indexed) && of_ratio().any(|layer| !layer.indexed) {
                return Err(refuse(format!(
                    "ratio {ratio} is used by CSA and by HCA layers; give the two kinds different ratios"
                )));
            }
        }
        if self.ratios().is_empty() || self.rope.yarn.is_some() {
            return Ok(());
        }
        Err(refuse("rope_scaling is missing but there are compressed layers, which need it".into()))
    }

    fn check_layer(&self, index: usize, layer: &LayerSpec) -> Result<(), Refusal> {
        let page = limits::PAGE_TOKENS;
        let ratio = layer.ratio;
        if ratio == 0 {
            return Ok(());
        }
        if ratio < 2 || !page.is_multiple_of(ratio) {
            return Err(refuse(format!(
                "layer {index} has compression ratio {ratio}; \
                 this build runs 0 and the divisors of {page} from 2 on"
            )));
        }
        if !layer.indexed {
            return Ok(());
        }
        let (width, rope) = (self.index_head_dim, self.rope.dims);
        if !width.is_power_of_two() || width < rope {
            return Err(refuse(format!(
                "index_head_dim is {width}; it must be a power of two (the Hadamard rotation) \
                 and at least qk_rope_head_dim, {rope}"
            )));
        }
        Ok(())
    }

    fn check_formats(&self) -> Result<(), Refusal> {
        for format in [self.dense_format, self.expert_format] {
            match format {
                WeightFormat::Fp8 { rows, cols } if rows == 0 || cols == 0 => {
                    return Err(refuse("quantization_config.weight_block_size holds a 0".into()));
                }
                WeightFormat::Fp4 { cols } => {
                    let cols = u32::from(cols);
                    for (key, width) in
                        [("hidden_size", self.hidden), ("moe_intermediate_size", self.expert_width)]
                    {
                        if width % cols != 0 {
                            return Err(refuse(format!(
                                "expert_dtype is fp4 but {key} is {width}, not a multiple of {cols}"
                            )));
                        }
                    }
                }
                WeightFormat::Fp8 { .. } | WeightFormat::Float => {}
            }
        }
        Ok(())
    }

    /// Whether the quantisation that V4 is served with (spec section 13) is defined for this
    /// geometry: keys in blocks of 64 without their rope part, index vectors in blocks of 32.
    ///
    /// # Errors
    /// `Config`, saying which width does not divide and that plain numerics remain.
    pub fn check_served(&self) -> Result<(), Refusal> {
        let body = self.head_dim - self.rope.dims;
        if !body.is_multiple_of(KEY_BLOCK) {
            return Err(refuse(format!(
                "served numerics quantise keys in blocks of {KEY_BLOCK}, but head_dim - \
                 qk_rope_head_dim is {body}; use plain numerics"
            )));
        }
        let selects = self.layers.iter().any(|layer| layer.indexed);
        if selects && !self.index_head_dim.is_multiple_of(INDEX_BLOCK) {
            return Err(refuse(format!(
                "served numerics quantise index keys in blocks of {INDEX_BLOCK}, but index_head_dim is \
                 {}; use plain numerics",
                self.index_head_dim
            )));
        }
        Ok(())
    }
}

/// Columns of a cached key that share a scale in served numerics.
pub const KEY_BLOCK: u32 = 64;
/// Columns of an index key that share a scale in served numerics.
pub const INDEX_BLOCK: u32 = 32;
