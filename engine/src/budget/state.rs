//! Bytes of a sequence's state (the op program's section on persistent state): what grows per token,
//! what each live sequence has whatever its length, and what a device has once.

use hal::{DType, RowCodec};
use serde::Serialize;

use crate::config::{INDEX_BLOCK, KEY_BLOCK, LayerSpec, ModelConfig};
use crate::limits::{PAGE_TOKENS, ROLLBACK};

/// How cached rows are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyStorage {
    /// The served model's own: keys E4M3 in blocks of 64 with a bf16 rope part, index keys E2M1 in
    /// blocks of 32. Nothing is lost, the values were rounded so before (spec section 13).
    Coded,
    /// bf16 throughout.
    Bf16,
    /// f32 throughout.
    F32,
}

impl KeyStorage {
    /// Bytes of one window key or compressed entry.
    pub fn key_bytes(self, config: &ModelConfig) -> u64 {
        let coded = RowCodec::Fp8 { block: KEY_BLOCK as u16, tail: config.rope.dims as u16 };
        self.row_bytes(coded, config.head_dim)
    }

    /// Bytes of one index key.
    pub fn index_bytes(self, config: &ModelConfig) -> u64 {
        self.row_bytes(RowCodec::Fp4 { block: INDEX_BLOCK as u16 }, config.index_head_dim)
    }

    fn row_bytes(self, coded: RowCodec, width: u32) -> u64 {
        match self {
            KeyStorage::Coded => coded.row_bytes(DType::Bf16, width),
            KeyStorage::Bf16 => RowCodec::Plain.row_bytes(DType::Bf16, width),
            KeyStorage::F32 => RowCodec::Plain.row_bytes(DType::F32, width),
        }
    }
}

/// State bytes of a model, with the engine's ring lengths ([`ROLLBACK`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct StateBytes {
    /// Entries and index keys of one page ([`PAGE_TOKENS`] tokens of every layer), the sum of what
    /// grows; divide by the page's tokens for bytes per token.
    page_bytes: u64,
    /// Window rings of one sequence.
    pub window_rings: u64,
    /// Tails of overlapping compressors and their indexers, of one sequence.
    pub selected_tails: u64,
    /// Tails of the other compressors, of one sequence.
    pub pooled_tails: u64,
    /// Landing space of one row of a step, all layers.
    pub landing_row: u64,
}

impl StateBytes {
    /// The state of a geometry.
    pub fn new(config: &ModelConfig, storage: KeyStorage) -> Self {
        let key = storage.key_bytes(config);
        let layers = config.layers.len() as u64;
        let ring = u64::from(config.window - 1 + ROLLBACK);
        let mut bytes = Self {
            page_bytes: 0,
            window_rings: layers * ring * key,
            selected_tails: 0,
            pooled_tails: 0,
            landing_row: layers * key,
        };
        for layer in config.layers.iter().filter(|layer| layer.compressed()) {
            let index = if layer.indexed { storage.index_bytes(config) } else { 0 };
            bytes.page_bytes += u64::from(PAGE_TOKENS / layer.ratio) * (key + index);
            let tails = tail_bytes(config, layer);
            match layer.indexed {
                true => bytes.selected_tails += tails,
                false => bytes.pooled_tails += tails,
            }
        }
        bytes
    }

    /// Bytes of one page, of all layers.
    pub fn page(&self) -> u64 {
        self.page_bytes
    }

    /// Growing bytes per token.
    pub fn per_token(&self) -> f64 {
        self.page_bytes as f64 / f64::from(PAGE_TOKENS)
    }

    /// Bytes every live sequence has, whatever its length.
    pub fn rings(&self) -> u64 {
        self.window_rings + self.selected_tails + self.pooled_tails
    }
}

/// Tails are f32 whatever the keys are: they feed an f32 softmax. A row holds values, then gates.
fn tail_bytes(config: &ModelConfig, layer: &LayerSpec) -> u64 {
    let rows = u64::from(layer.halves * layer.ratio - 1 + ROLLBACK);
    let index = if layer.indexed { config.index_head_dim } else { 0 };
    let width = 2 * u64::from(layer.halves) * u64::from(config.head_dim + index);
    rows * width * 4
}
