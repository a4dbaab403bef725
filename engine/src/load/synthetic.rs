//! A model without files: the right shapes and formats, noise for numbers. It measures what a geometry costs on
//! a device; what it says is meaningless.
//!
//! Noise is small enough that activations stay finite through any number of layers. Large matrices are handed
//! out as a recipe ([`hal::Noise`]), which a device may follow in its own memory.

use std::collections::{BTreeMap, HashMap};

use hal::{DType, Encoding, Noise, WeightPart, WeightSource, WeightSpec};

use super::Checkpoint;
use super::inspection::Inspection;
use super::names::Block;
use super::survey::refuse;
use super::weight::Role;
use crate::budget::{Stored, released_ledger};
use crate::config::{Demand, Leaf, ModelConfig, WeightFormat, layer_demands, top_demands};
use crate::refusal::Refusal;

/// A weight of noise.
#[derive(Clone, Debug)]
pub struct SyntheticWeight {
    spec: WeightSpec,
    seed: u32,
}

impl SyntheticWeight {
    fn recipe(&self, segment: u32, part: WeightPart) -> Noise {
        let (and, or) = match (part, self.spec.encoding) {
            // E8M0: 2^-7 and, for the larger values of E2M1, 2^-8.
            (WeightPart::Scales, Encoding::Fp4Block { .. }) => (0, 0x7777_7777),
            (WeightPart::Scales, _) => (0, 0x7878_7878),
            // Magnitudes below 2.
            (_, Encoding::Fp8Block { .. }) => (0xbfbf_bfbf, 0),
            (_, Encoding::Fp4Block { .. }) => (u32::MAX, 0),
            // Either sign, 2^-7 to 2^-6.
            (_, Encoding::Plain(DType::Bf16)) => (0x807f_807f, 0x3c00_3c00),
            _ => (0x807f_ffff, 0x3c00_0000),
        };
        Noise { seed: self.seed.wrapping_add(segment.wrapping_mul(0x9e37_79b9)), and, or }
    }
}

impl WeightSource for SyntheticWeight {
    fn spec(&self) -> &WeightSpec {
        &self.spec
    }

    fn read(&mut self, segment: u32, part: WeightPart, out: &mut [u8]) -> hal::Result<()> {
        self.recipe(segment, part).fill(out);
        Ok(())
    }

    fn noise(&self, segment: u32, part: WeightPart) -> Option<Noise> {
        Some(self.recipe(segment, part))
    }
}

/// Seed of a tensor: from its name, so that no two are alike.
fn seed(block: Block, name: &str) -> u32 {
    let text = format!("{block}{name}");
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

impl Checkpoint {
    /// A model of this geometry with noise for weights.
    ///
    /// # Errors
    /// `Config` if the geometry contradicts itself.
    pub fn synthetic(config: ModelConfig) -> Result<Self, Refusal> {
        config.check()?;
        let inspection = Inspection {
            released: config.preset_name(),
            size: released_ledger(&ModelConfig { mtp_blocks: 0, ..config.clone() }),
            config: config.clone(),
            mtp_blocks: 0,
            dtypes: BTreeMap::new(),
            files: Vec::new(),
            notes: vec!["synthetic weights".to_owned()],
        };
        Ok(Self { config, files: Vec::new(), places: HashMap::new(), inspection, synthetic: true })
    }

    fn demand(&self, block: Block, leaf: Leaf) -> Result<Demand, Refusal> {
        let config = &self.config;
        let demands = match block {
            Block::Top => top_demands(config),
            Block::Main(layer) => layer_demands(config, &config.layers[layer as usize]),
            Block::Mtp(_) => Vec::new(),
        };
        let found = demands.into_iter().find(|demand| demand.leaf == leaf);
        found.ok_or_else(|| refuse(format!("this model has no tensor {block}{}", leaf.name())))
    }

    /// A matrix of noise.
    pub(super) fn synthetic_weight(
        &self,
        block: Block,
        role: Role,
    ) -> Result<SyntheticWeight, Refusal> {
        let config = &self.config;
        let (leaves, groups) = (role.leaves(), role.groups(config));
        let demand = self.demand(block, leaves[0])?;
        let stored = Stored::released(config, &demand);
        let encoding = match (stored.dtype, config.dense_format, config.expert_format) {
            ("F32", ..) => Encoding::Plain(DType::F32),
            ("F8_E4M3", _, WeightFormat::Fp8 { rows, cols })
            | ("F8_E4M3", WeightFormat::Fp8 { rows, cols }, _) => Encoding::Fp8Block { rows, cols },
            ("I8", _, WeightFormat::Fp4 { cols }) => Encoding::Fp4Block { cols },
            _ => Encoding::Plain(DType::Bf16),
        };
        let rows = demand.rows * demand.copies * leaves.len() as u32;
        let name: std::sync::Arc<str> = format!("{block}{}", role.name()).into();
        let spec = WeightSpec {
            name: name.clone(),
            groups,
            rows: rows / groups,
            cols: demand.cols.max(1),
            segment_rows: demand.rows,
            encoding,
        };
        Ok(SyntheticWeight { spec, seed: seed(block, &name) })
    }

    /// A small tensor: ones where it is a gain, small numbers elsewhere.
    pub(super) fn synthetic_vector(&self, block: Block, leaf: Leaf) -> Result<Vec<f32>, Refusal> {
        let count = self.demand(block, leaf)?.elements();
        if leaf.name().contains("norm") {
            return Ok(vec![1.0; count as usize]);
        }
        let noise = Noise { seed: seed(block, leaf.name()), and: 0x807f_ffff, or: 0x3c00_0000 };
        Ok((0..count).map(|place| f32::from_bits(noise.word(place))).collect())
    }

    /// Experts of every token id: as many different ones as a token takes.
    pub(super) fn synthetic_table(&self, layer: u32) -> Result<Vec<i32>, Refusal> {
        let demand = self.demand(Block::Main(layer), Leaf::RouterTable)?;
        let (experts, each) = (self.config.experts, self.config.experts_per_token);
        let noise = Noise { seed: layer, and: u32::MAX, or: 0 };
        let first = |token: u32| noise.word(token.into()) % experts;
        let picks = (0..demand.rows).flat_map(|token| {
            (0..each).map(move |place| ((first(token) + place) % experts) as i32)
        });
        Ok(picks.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_gives_the_bytes_that_reading_gives() {
        let model = Checkpoint::synthetic(ModelConfig::flash()).expect("a released geometry");
        let role = Role::ExpertsGateUp;
        let mut source = model.synthetic_weight(Block::Main(3), role).expect("every layer has it");
        let spec = source.spec().clone();
        assert_eq!((spec.groups, spec.rows, spec.cols, spec.segment_rows), (256, 4096, 4096, 2048));
        assert_eq!(spec.encoding, Encoding::Fp4Block { cols: 32 });
        for (segment, part) in
            [(0, WeightPart::Codes), (7, WeightPart::Codes), (7, WeightPart::Scales)]
        {
            let (mut read, mut made) = ([0; 64], [0; 64]);
            source.read(segment, part, &mut read).expect("noise is always there");
            source.noise(segment, part).expect("it is noise").fill(&mut made);
            assert_eq!(read, made);
        }
    }

    #[test]
    fn synthetic_models_are_as_large_as_released_ones() {
        for config in [ModelConfig::flash(), ModelConfig::pro()] {
            let model = Checkpoint::synthetic(config.clone()).expect("a released geometry");
            let roles = [
                (Role::One(Leaf::QueryUp), config.heads * config.head_dim),
                (Role::OutDown, config.o_rank),
                (Role::ExpertsDown, config.hidden),
                (Role::SharedGateUp, 2 * config.expert_width),
            ];
            for (role, rows) in roles {
                let weight =
                    model.synthetic_weight(Block::Main(4), role).expect("every layer has it");
                assert_eq!(weight.spec().rows, rows, "{}", weight.spec().name);
            }
            assert_eq!(model.inspection().size.bytes_main, released_ledger(&config).bytes_main);
        }
    }
}
