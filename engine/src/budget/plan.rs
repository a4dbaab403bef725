//! The answer of `hadal plan`: what one model needs at one context, and whether that fits.

use std::fmt;

use serde::Serialize;

use super::{
    KeyStorage, Ledger, Need, StateBytes, TokenFlops, cache_bytes_per_token, gigabytes, parameters,
    token_flops,
};
use crate::config::ModelConfig;
use crate::limits;
use crate::refusal::{Refusal, RefusalKind};

/// What is asked of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Demanded {
    /// Tokens of context per sequence.
    pub context: u64,
    /// Sequences at the same time.
    pub sequences: u32,
    /// How cached rows are kept.
    pub storage: KeyStorage,
    /// Most rows of one step.
    pub rows: u32,
}

impl Default for Demanded {
    /// One sequence of 8,192 tokens in the served model's own storage.
    fn default() -> Self {
        Self { context: 8192, sequences: 1, storage: KeyStorage::Coded, rows: limits::ROWS_MAX }
    }
}

/// Memory and cost of a model at a context.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlanReport {
    /// Name of the released geometry, if it is one.
    pub released: Option<&'static str>,
    /// What was asked.
    pub demanded: Demanded,
    /// Parameters and bytes of the weights.
    pub size: Ledger,
    /// Growing state, in bytes per token of context.
    pub state_bytes_per_token: f64,
    /// State every live sequence has, in bytes.
    pub state_bytes_per_sequence: u64,
    /// Cached bytes one token reads at the end of the context.
    pub cache_bytes_per_token: u64,
    /// Operations of one token at the end of the context.
    pub flops_per_token: TokenFlops,
    /// Bytes to hold, item by item.
    pub need: Need,
    /// Bytes there are, if known.
    pub available: Option<u64>,
}

impl PlanReport {
    /// Computes the report. `size` is that of the files, or [`super::released_ledger`] where there are
    /// none; `available` is the device's free memory.
    ///
    /// # Errors
    /// `Config` if the context is 0 or longer than the model was made for.
    pub fn new(
        config: &ModelConfig,
        size: Ledger,
        demanded: Demanded,
        available: Option<u64>,
    ) -> Result<Self, Refusal> {
        let Demanded { context, sequences, storage, rows } = demanded;
        if !(1..=u64::from(config.context)).contains(&context) {
            return Err(Refusal::new(
                RefusalKind::Config,
                format!("a context of {context} tokens; this model has 1 to {}", config.context),
            ));
        }
        let state = StateBytes::new(config, storage);
        let active = size.parameters_active;
        Ok(Self {
            released: config.preset_name(),
            demanded,
            state_bytes_per_token: state.per_token(),
            state_bytes_per_sequence: state.rings(),
            cache_bytes_per_token: cache_bytes_per_token(config, storage, context),
            flops_per_token: token_flops(config, active, context),
            need: Need::new(config, size.bytes_main, storage, (sequences, context), rows),
            size,
            available,
        })
    }

    /// Whether the need is met; nothing if it is not known what there is.
    pub fn fits(&self) -> Option<bool> {
        self.available.map(|available| self.need.total() <= available)
    }
}

/// The report as text, a line per fact.
impl fmt::Display for PlanReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Demanded { context, sequences, .. } = self.demanded;
        let (size, need) = (&self.size, &self.need);
        writeln!(
            out,
            "parameters        {}, active {}",
            parameters(size.parameters_main),
            parameters(size.parameters_active)
        )?;
        writeln!(out, "weights           {}", gigabytes(need.weights))?;
        writeln!(
            out,
            "state             {:.0} B per token + {} per sequence",
            self.state_bytes_per_token,
            gigabytes(self.state_bytes_per_sequence)
        )?;
        writeln!(
            out,
            "at {sequences} x {context:<8}   {} entries, {} rings, {} landing rows",
            gigabytes(need.pages),
            gigabytes(need.rings),
            gigabytes(need.landing)
        )?;
        writeln!(
            out,
            "read per token    {} weights, {} cache",
            gigabytes(size.bytes_per_token),
            gigabytes(self.cache_bytes_per_token)
        )?;
        let flops = &self.flops_per_token;
        writeln!(
            out,
            "work per token    {:.2} GFLOP ({:.2} weights, {:.2} indexer, {:.2} attention)",
            flops.total() / 1e9,
            flops.weights / 1e9,
            flops.index / 1e9,
            (flops.selected + flops.pooled + flops.window) / 1e9
        )?;
        write!(out, "memory            {}", gigabytes(need.total()))?;
        match (self.available, self.fits()) {
            (Some(free), Some(true)) => writeln!(out, " of {} free: it fits", gigabytes(free)),
            (Some(free), _) => writeln!(out, ", but {} are free: it does not fit", gigabytes(free)),
            (None, _) => writeln!(out),
        }
    }
}
