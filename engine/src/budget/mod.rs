//! What a model costs, before a byte of it is read: parameters, bytes of weights and state, bytes and
//! operations per token. Spec section 14 and the state layout of the op program, as arithmetic over the
//! tensors a configuration demands ([`crate::config::layer_demands`]); nothing here measures.
//!
//! `hadal plan` prints these figures, and opening a model refuses with [`require`] what does not fit.

mod plan;
mod state;
mod weights;

pub use plan::{Demanded, PlanReport};
pub use state::{KeyStorage, StateBytes};
pub use weights::{Ledger, Stored, released_ledger};

use crate::config::ModelConfig;
use crate::refusal::{Refusal, RefusalKind};

/// Floating-point operations of one decoded token at a context, a multiply and an add counted as two
/// (spec section 14).
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct TokenFlops {
    /// Products with weights: twice the active parameters.
    pub weights: f64,
    /// Scores of the indexer over every visible entry.
    pub index: f64,
    /// Attention over the window and the picked entries (CSA layers).
    pub selected: f64,
    /// Attention over the window and all entries (HCA layers).
    pub pooled: f64,
    /// Attention over the window (SWA layers).
    pub window: f64,
}

impl TokenFlops {
    /// All of it.
    pub fn total(&self) -> f64 {
        self.weights + self.index + self.selected + self.pooled + self.window
    }
}

/// Operations of the token at position `context - 1`.
pub fn token_flops(config: &ModelConfig, parameters_active: u64, context: u64) -> TokenFlops {
    let mut flops = TokenFlops {
        weights: 2.0 * parameters_active as f64,
        index: 0.0,
        selected: 0.0,
        pooled: 0.0,
        window: 0.0,
    };
    // A query times a key and a probability times the same key: four operations a component.
    let per_key = 4.0 * f64::from(config.heads) * f64::from(config.head_dim);
    let window = context.min(u64::from(config.window)) as f64;
    for layer in &config.layers {
        let entries = context.checked_div(u64::from(layer.ratio)).unwrap_or(0);
        if layer.indexed {
            let products = f64::from(config.index_heads) * f64::from(config.index_head_dim);
            flops.index += 2.0 * products * entries as f64;
            let picked = entries.min(u64::from(config.index_top)) as f64;
            flops.selected += per_key * (picked + window);
        } else if layer.compressed() {
            flops.pooled += per_key * (entries as f64 + window);
        } else {
            flops.window += per_key * window;
        }
    }
    flops
}

/// Bytes of cached state one decoded token reads at `context` (spec section 14).
pub fn cache_bytes_per_token(config: &ModelConfig, storage: KeyStorage, context: u64) -> u64 {
    let key = storage.key_bytes(config);
    let window = context.min(u64::from(config.window));
    let of_layer = |layer: &crate::config::LayerSpec| {
        let entries = context.checked_div(u64::from(layer.ratio)).unwrap_or(0);
        let (read, scored) = match layer.indexed {
            true => (entries.min(u64::from(config.index_top)), entries),
            false => (entries, 0),
        };
        (window + read) * key + scored * storage.index_bytes(config)
    };
    config.layers.iter().map(of_layer).sum()
}

/// What opening a model will hold, item by item, in bytes.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Need {
    /// Weights as stored.
    pub weights: u64,
    /// Compressed entries and index keys of all sequences at their full context, in whole pages.
    pub pages: u64,
    /// Rings of all sequences.
    pub rings: u64,
    /// Landing rows of one step.
    pub landing: u64,
    /// Step scratch and whatever else the caller knows of.
    pub scratch: u64,
}

impl Need {
    /// Weights of `weights` bytes, and state for `sequences` sequences of up to `context` tokens each
    /// in steps of at most `rows` rows.
    pub fn new(
        config: &ModelConfig,
        weights: u64,
        storage: KeyStorage,
        (sequences, context): (u32, u64),
        rows: u32,
    ) -> Self {
        let state = StateBytes::new(config, storage);
        let sequences = u64::from(sequences);
        let pages = context.div_ceil(u64::from(crate::limits::PAGE_TOKENS));
        Self {
            weights,
            pages: sequences * pages * state.page(),
            rings: sequences * state.rings(),
            landing: u64::from(rows) * state.landing_row,
            scratch: 0,
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.pages + self.rings + self.landing + self.scratch
    }
}

/// Refuses what does not fit in `available` bytes.
///
/// # Errors
/// `Memory`, with what is needed, what there is, and what would help.
pub fn require(need: &Need, available: u64, place: &str) -> Result<(), Refusal> {
    let total = need.total();
    if total <= available {
        return Ok(());
    }
    let state = total - need.weights;
    let help = if need.weights > available {
        "the weights alone do not fit; take a smaller model or another device"
    } else {
        "a shorter --context or fewer sequences would help"
    };
    Err(Refusal::new(
        RefusalKind::Memory,
        format!(
            "{place} has {} free but the model needs {}: {} of weights and {} of state; {help}",
            gigabytes(available),
            gigabytes(total),
            gigabytes(need.weights),
            gigabytes(state)
        ),
    ))
}

/// Bytes as text in units of 10^9 or 10^6.
pub fn gigabytes(bytes: u64) -> String {
    match bytes {
        0..100_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

/// A number of parameters as text in units of 10^9 or 10^6.
pub fn parameters(count: u64) -> String {
    match count {
        0..1_000_000_000 => format!("{:.2} M", count as f64 / 1e6),
        _ => format!("{:.2} B", count as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests;
