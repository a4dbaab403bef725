//! Parameters and weight bytes, summed tensor by tensor. The same sum serves a released geometry
//! (before there is a file) and a checkpoint on disk (with the dtypes its headers state).

use std::collections::BTreeMap;

use serde::Serialize;

use crate::config::{
    Class, Demand, Leaf, ModelConfig, WeightFormat, layer_demands, mtp_demands, top_demands,
};

/// How one demand is stored: bytes of all its copies, by the format's dtype names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// dtype of the numbers.
    pub dtype: &'static str,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of the E8M0 scales; 0 if there are none.
    pub scale_bytes: u64,
}

impl Stored {
    /// `demand` in the format the released checkpoints use for its class (spec section 12).
    pub fn released(config: &ModelConfig, demand: &Demand) -> Self {
        let plain = |dtype, size| Self { dtype, bytes: demand.elements() * size, scale_bytes: 0 };
        let format = match demand.class {
            Class::Dense => config.dense_format,
            Class::Expert => config.expert_format,
            Class::Table => return plain("I64", 8),
            Class::Matrix | Class::Vector if is_f32(demand.leaf) => return plain("F32", 4),
            Class::Matrix | Class::Vector => return plain("BF16", 2),
        };
        let copies = u64::from(demand.copies);
        let (rows, cols) = (u64::from(demand.rows), u64::from(demand.cols));
        match format {
            WeightFormat::Float => plain("BF16", 2),
            WeightFormat::Fp8 { rows: r, cols: c } => Self {
                dtype: "F8_E4M3",
                bytes: demand.elements(),
                scale_bytes: copies * rows.div_ceil(r.into()) * cols.div_ceil(c.into()),
            },
            WeightFormat::Fp4 { cols: c } => Self {
                dtype: "I8",
                bytes: copies * rows * cols.div_ceil(2),
                scale_bytes: copies * rows * cols.div_ceil(c.into()),
            },
        }
    }
}

/// Parameters that released checkpoints keep in f32: mixers, sinks, position biases, router bias.
fn is_f32(leaf: Leaf) -> bool {
    matches!(
        leaf,
        Leaf::Sink
            | Leaf::CompressBias
            | Leaf::IndexBias
            | Leaf::RouterBias
            | Leaf::HcHeadFn
            | Leaf::HcHeadBase
            | Leaf::HcHeadScale
            | Leaf::HcAttnFn
            | Leaf::HcAttnBase
            | Leaf::HcAttnScale
            | Leaf::HcFfnFn
            | Leaf::HcFfnBase
            | Leaf::HcFfnScale
    )
}

/// Sums over a model's tensors. "Active" and "per token" are those of one decoded token at batch 1:
/// the experts it takes, the head, and of the embedding one row, which is not counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ledger {
    /// Parameters of the main model. Scales and expert tables are not parameters.
    pub parameters_main: u64,
    /// Parameters of the MTP blocks.
    pub parameters_mtp: u64,
    /// Parameters of the main model that one token meets.
    pub parameters_active: u64,
    /// Stored bytes of the main model.
    pub bytes_main: u64,
    /// Stored bytes of the MTP blocks.
    pub bytes_mtp: u64,
    /// Stored bytes one token reads.
    pub bytes_per_token: u64,
    /// The same, by dtype.
    pub bytes_per_token_by_dtype: BTreeMap<&'static str, u64>,
}

impl Ledger {
    /// Enters one demand of the main model.
    pub fn add_main(&mut self, config: &ModelConfig, demand: &Demand, stored: Stored) {
        let parameters = parameters(demand);
        self.parameters_main += parameters;
        self.bytes_main += stored.bytes + stored.scale_bytes;
        if demand.leaf == Leaf::Embed || demand.class == Class::Table {
            return;
        }
        let share = |total: u64| match demand.class {
            Class::Expert => {
                total / u64::from(config.experts) * u64::from(config.experts_per_token)
            }
            _ => total,
        };
        self.parameters_active += share(parameters);
        for (dtype, bytes) in [(stored.dtype, stored.bytes), ("F8_E8M0", stored.scale_bytes)] {
            if bytes > 0 {
                *self.bytes_per_token_by_dtype.entry(dtype).or_default() += share(bytes);
                self.bytes_per_token += share(bytes);
            }
        }
    }

    /// Enters one demand of an MTP block.
    pub fn add_mtp(&mut self, demand: &Demand, stored: Stored) {
        self.parameters_mtp += parameters(demand);
        self.bytes_mtp += stored.bytes + stored.scale_bytes;
    }
}

fn parameters(demand: &Demand) -> u64 {
    if demand.class == Class::Table { 0 } else { demand.elements() }
}

/// The ledger of a geometry stored as its configuration says.
pub fn released_ledger(config: &ModelConfig) -> Ledger {
    let mut ledger = Ledger::default();
    let layers = config.layers.iter().flat_map(|layer| layer_demands(config, layer));
    for demand in top_demands(config).into_iter().chain(layers) {
        ledger.add_main(config, &demand, Stored::released(config, &demand));
    }
    for _ in 0..config.mtp_blocks {
        for demand in mtp_demands(config) {
            ledger.add_mtp(&demand, Stored::released(config, &demand));
        }
    }
    ledger
}
