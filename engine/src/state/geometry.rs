//! Sizes of the sequence state: ring lengths, pages, and the buffers they live in (docs/program.md,
//! "Persistent state"). Pure arithmetic; nothing here allocates.

use hal::{DType, RowCodec};

use crate::config::{INDEX_BLOCK, KEY_BLOCK, LayerSpec, ModelConfig};
use crate::limits::{PAGE_TOKENS, ROLLBACK};
use crate::model::Numerics;

/// What the state is sized for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Live sequences.
    pub slots: u32,
    /// Pages of all sequences together.
    pub pages: u32,
    /// Pages one sequence can have: its longest context.
    pub sequence_pages: u32,
    /// Rows of the largest step.
    pub rows: u32,
}

/// Rows the window ring of one slot holds: what the next token needs of the past, plus the tokens a
/// sequence can be taken back.
pub fn window_ring(config: &ModelConfig) -> u32 {
    config.window - 1 + ROLLBACK
}

/// Rows the tail ring of one slot holds, for a compressed layer.
pub fn tail_ring(layer: &LayerSpec) -> u32 {
    layer.halves * layer.ratio - 1 + ROLLBACK
}

/// Entries on one page of a ratio.
pub fn entries_per_page(ratio: u32) -> u32 {
    PAGE_TOKENS / ratio
}

/// Most windows of `ratio` tokens that a step of `rows` rows of at most `sequences` runs completes.
pub fn entries_max(ratio: u32, rows: u32, sequences: u32) -> u32 {
    let runs = sequences.min(rows);
    rows.min((rows + runs * (ratio - 1)) / ratio)
}

/// The two compressors a layer may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pooled {
    /// Entries attention reads.
    Main,
    /// Keys the indexer scores.
    Index,
}

impl Pooled {
    /// The compressors of a layer.
    pub fn of(layer: &LayerSpec) -> &'static [Pooled] {
        match (layer.compressed(), layer.indexed) {
            (false, _) => &[],
            (true, false) => &[Pooled::Main],
            (true, true) => &[Pooled::Main, Pooled::Index],
        }
    }

    /// Columns of an entry.
    pub fn width(self, config: &ModelConfig) -> u32 {
        match self {
            Pooled::Main => config.head_dim,
            Pooled::Index => config.index_head_dim,
        }
    }

    /// How an entry is stored.
    pub fn codec(self, config: &ModelConfig, numerics: Numerics) -> RowCodec {
        match self {
            Pooled::Main => key_codec(config, numerics),
            Pooled::Index => match numerics {
                Numerics::Served => RowCodec::Fp4 { block: INDEX_BLOCK as u16 },
                Numerics::Plain => RowCodec::Plain,
            },
        }
    }
}

/// How window keys and compressed entries are stored.
pub fn key_codec(config: &ModelConfig, numerics: Numerics) -> RowCodec {
    match numerics {
        Numerics::Served => {
            RowCodec::Fp8 { block: KEY_BLOCK as u16, tail: config.rope.dims as u16 }
        }
        Numerics::Plain => RowCodec::Plain,
    }
}

/// Which rows of which layer a state buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// Window rings of all slots, then the landing rows of a step.
    Near,
    /// Rings of compressor inputs.
    Tail(Pooled),
    /// Pages of finished entries.
    Entries(Pooled),
}

/// One buffer of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartSpec {
    /// Layer it belongs to.
    pub layer: usize,
    /// What it holds.
    pub part: Part,
    /// Rows in all.
    pub rows: u64,
    /// Columns.
    pub width: u32,
    /// Type of the values.
    pub dtype: DType,
    /// Storage of a row.
    pub codec: RowCodec,
}

impl PartSpec {
    /// Bytes of one row.
    pub fn row_bytes(&self) -> u64 {
        self.codec.row_bytes(self.dtype, self.width)
    }

    /// Bytes in all.
    pub fn size_bytes(&self) -> u64 {
        self.rows * self.row_bytes()
    }
}

/// Every buffer of the state, layer by layer: the one list that allocation, emission and snapshots
/// read.
pub fn parts(config: &ModelConfig, numerics: Numerics, capacity: &Capacity) -> Vec<PartSpec> {
    let dtype = numerics.activation();
    let slots = u64::from(capacity.slots);
    let mut all = Vec::new();
    for (layer, spec) in config.layers.iter().enumerate() {
        all.push(PartSpec {
            layer,
            part: Part::Near,
            rows: slots * u64::from(window_ring(config)) + u64::from(capacity.rows),
            width: config.head_dim,
            dtype,
            codec: key_codec(config, numerics),
        });
        for &pooled in Pooled::of(spec) {
            all.push(PartSpec {
                layer,
                part: Part::Tail(pooled),
                rows: slots * u64::from(tail_ring(spec)),
                width: 2 * spec.halves * pooled.width(config),
                dtype: DType::F32,
                codec: RowCodec::Plain,
            });
            all.push(PartSpec {
                layer,
                part: Part::Entries(pooled),
                rows: u64::from(capacity.pages) * u64::from(entries_per_page(spec.ratio)),
                width: pooled.width(config),
                dtype,
                codec: pooled.codec(config, numerics),
            });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::preset;

    #[test]
    fn growing_state_of_flash_is_at_the_arithmetic_floor() {
        let config = preset("flash").expect("flash is a preset");
        let pages = 7;
        let capacity = Capacity { slots: 1, pages, sequence_pages: pages, rows: 1 };
        let bytes: u64 = parts(&config, Numerics::Served, &capacity)
            .iter()
            .filter(|part| matches!(part.part, Part::Entries(_)))
            .map(PartSpec::size_bytes)
            .sum();
        let per_token = bytes as f64 / f64::from(pages * PAGE_TOKENS);
        assert!((3514.0..=3690.0).contains(&per_token), "{per_token} bytes per token");
    }

    #[test]
    fn a_run_completes_at_most_entries_max_windows() {
        for ratio in [2, 4, 16, 128] {
            for start in 0..2 * ratio {
                for rows in 1..=300 {
                    let completed = (start + rows) / ratio - start / ratio;
                    assert!(completed <= entries_max(ratio, rows, 1), "{ratio} {start} {rows}");
                }
            }
        }
    }
}
