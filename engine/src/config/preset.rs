//! The released geometries, by name: what `plan --model flash` computes with and what `inspect` names.

use super::{LayerSpec, ModelConfig, Rope, WeightFormat, Yarn};

/// Names of the known geometries.
pub const PRESETS: [&str; 4] = ["flash", "pro", "flash-base", "pro-base"];

const FP8: WeightFormat = WeightFormat::Fp8 { rows: 128, cols: 128 };
const FP4: WeightFormat = WeightFormat::Fp4 { cols: 32 };

/// The geometry called `name` (see [`PRESETS`]).
pub fn preset(name: &str) -> Option<ModelConfig> {
    match name {
        "flash" => Some(ModelConfig::flash()),
        "pro" => Some(ModelConfig::pro()),
        "flash-base" => Some(ModelConfig { expert_format: FP8, ..ModelConfig::flash() }),
        "pro-base" => Some(ModelConfig { expert_format: FP8, ..ModelConfig::pro() }),
        _ => None,
    }
}

impl ModelConfig {
    /// DeepSeek-V4-Flash: 284 B parameters, 13 B active (spec sections 1 and 2).
    pub fn flash() -> Self {
        Self {
            vocab: 129_280,
            hidden: 4096,
            heads: 64,
            head_dim: 512,
            q_rank: 1024,
            o_groups: 8,
            o_rank: 1024,
            window: 128,
            rope: released_rope(),
            index_heads: 64,
            index_head_dim: 128,
            index_top: 512,
            experts: 256,
            experts_per_token: 6,
            expert_width: 2048,
            routed_scaling: 1.5,
            swiglu_limit: 10.0,
            streams: 4,
            sinkhorn_rounds: 20,
            hc_epsilon: 1e-6,
            norm_epsilon: 1e-6,
            context: 1 << 20,
            layers: released_schedule(43, LayerSpec::window),
            mtp_blocks: 1,
            dense_format: FP8,
            expert_format: FP4,
            bos: Some(0),
            eos: vec![1],
        }
    }

    /// DeepSeek-V4-Pro: 1.6 T parameters, 49 B active (spec sections 1 and 2).
    pub fn pro() -> Self {
        Self {
            hidden: 7168,
            heads: 128,
            q_rank: 1536,
            o_groups: 16,
            index_top: 1024,
            experts: 384,
            expert_width: 3072,
            routed_scaling: 2.5,
            layers: released_schedule(61, |hashed| LayerSpec::pooled(128, hashed)),
            ..Self::flash()
        }
    }

    /// Name of the released model that has this geometry, if any; numbers of the vocabulary's special
    /// tokens do not count.
    pub fn preset_name(&self) -> Option<&'static str> {
        let same = |name: &&str| {
            preset(name).is_some_and(|known| {
                known == Self { bos: known.bos, eos: known.eos.clone(), ..self.clone() }
            })
        };
        PRESETS.iter().copied().find(same)
    }
}

fn released_rope() -> Rope {
    let yarn = Yarn { factor: 16.0, original_positions: 65_536, beta_fast: 32.0, beta_slow: 1.0 };
    Rope { dims: 64, theta: 10_000.0, compress_theta: 160_000.0, yarn: Some(yarn) }
}

/// Two first layers of one kind, then CSA and HCA in turn; three layers route by token id.
fn released_schedule(layers: u32, first: impl Fn(bool) -> LayerSpec) -> Vec<LayerSpec> {
    let layer = |index: u32| match (index, index % 2) {
        (0 | 1, _) => first(true),
        (_, 0) => LayerSpec::selected(4, index < 3),
        _ => LayerSpec::pooled(128, index < 3),
    };
    (0..layers).map(layer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_schedules_have_the_published_counts() {
        for (name, counts) in [("flash", (2, 21, 20)), ("pro", (0, 30, 31))] {
            let config = preset(name).expect("a preset");
            assert_eq!(
                (config.count("SWA"), config.count("CSA"), config.count("HCA")),
                counts,
                "{name}"
            );
            assert_eq!(config.layers.iter().filter(|layer| layer.hashed).count(), 3, "{name}");
            assert_eq!(config.ratios(), [4, 128]);
        }
    }

    #[test]
    fn presets_are_valid_and_know_their_names() {
        for name in PRESETS {
            let config = preset(name).expect("a preset");
            config.check().unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
            config.check_served().unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
            assert_eq!(config.preset_name(), Some(name));
        }
        assert_eq!(preset("turbo"), None);
        let other = ModelConfig { hidden: 4224, ..ModelConfig::flash() };
        assert_eq!(other.preset_name(), None);
    }
}
