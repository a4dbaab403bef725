//! Every bound of the engine, in one place. A file or a request beyond one of these is refused with
//! the bound in the message; nothing grows without one.
//!
//! Bounds of a model are several times the largest released one, so that they stop nonsense and not
//! the next model; together they keep every product of four of them inside `u64`.

/// Longest config.json that is read, in bytes (released ones are 2 KB).
pub const CONFIG_BYTES_MAX: usize = 1 << 20;
/// Longest safetensors header that is read, in bytes; the format's own bound.
pub const HEADER_BYTES_MAX: u64 = 100_000_000;
/// Longest model.safetensors.index.json, in bytes (V4-Pro's names take about 20 MB).
pub const INDEX_BYTES_MAX: u64 = 200_000_000;
/// Most tensors in one safetensors file (V4-Pro has about 146,000 in all its shards).
pub const TENSORS_MAX: usize = 1 << 20;
/// Most dimensions of a tensor in a file.
pub const RANK_MAX: usize = 8;
/// Most shards of a checkpoint (V4-Pro has 64).
pub const SHARDS_MAX: usize = 4096;

/// Most main layers of a model (V4-Pro has 61).
pub const LAYERS_MAX: u32 = 512;
/// Most extra MTP blocks of a model.
pub const MTP_BLOCKS_MAX: u32 = 16;
/// Largest vocabulary (V4: 129,280).
pub const VOCAB_MAX: u32 = 1 << 22;
/// Largest hidden size, latent or expert width (V4-Pro: 7,168).
pub const WIDTH_MAX: u32 = 1 << 17;
/// Most query heads, index heads or output groups (V4-Pro: 128).
pub const HEADS_MAX: u32 = 1 << 12;
/// Widest head (V4: 512).
pub const HEAD_WIDTH_MAX: u32 = 1 << 13;
/// Longest sliding window, in tokens (V4: 128).
pub const WINDOW_MAX: u32 = 1 << 14;
/// Most compressed entries the indexer picks for one query (V4-Pro: 1,024).
pub const INDEX_TOP_MAX: u32 = 1 << 16;
/// Most routed experts of a layer (V4-Pro: 384).
pub const EXPERTS_MAX: u32 = 1 << 13;
/// Most experts one token takes (V4: 6).
pub const EXPERTS_PER_TOKEN_MAX: u32 = 64;
/// Most hyper-connection streams (V4: 4).
pub const STREAMS_MAX: u32 = 8;
/// Most Sinkhorn rounds (V4: 20).
pub const SINKHORN_ROUNDS_MAX: u32 = 1000;
/// Longest context a configuration may promise, in tokens (V4: 2^20). Positions stay exact in f32
/// up to 2^24.
pub const CONTEXT_MAX: u32 = 1 << 24;

/// Tokens of one page of compressed entries, of every layer. A compression ratio must divide it.
pub const PAGE_TOKENS: u32 = 256;
/// Most tokens a sequence can be taken back; sizes the rings.
pub const ROLLBACK: u32 = 8;
/// Rows per step the engine will ever build a plan for.
pub const ROWS_MAX: u32 = 2048;

const _: () = assert!(PAGE_TOKENS.is_power_of_two());
const _: () = assert!(ROLLBACK < PAGE_TOKENS);
const _: () = assert!((WIDTH_MAX as u64) * (WIDTH_MAX as u64) < 1 << 40);
const _: () = assert!((HEADS_MAX as u64) * (HEAD_WIDTH_MAX as u64) < 1 << 32);

/// Live sequences of one engine.
pub const SEQUENCES_MAX: u32 = 256;
/// Rows projected to the vocabulary at a time; more are done in pieces.
pub const HEAD_ROWS_MAX: u32 = 64;
/// Seconds one step may take before the device is given up.
pub const STEP_TIMEOUT_S: u64 = 3600;

/// Ladder of padded step sizes: at most half as much padding as rows, and the common sizes exact.
/// Sorted, ends at [`ROWS_MAX`].
pub const RUNGS: [u32; 22] =
    [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048];
const _: () = assert!(RUNGS[RUNGS.len() - 1] == ROWS_MAX);

/// Smallest rung that holds `rows`.
///
/// # Panics
/// If `rows` is 0 or above [`ROWS_MAX`]: the engine checked the step.
pub fn rung_for(rows: u32) -> u32 {
    assert!(rows > 0);
    assert!(rows <= ROWS_MAX);
    RUNGS[RUNGS.partition_point(|&rung| rung < rows)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rung_edges() {
        for (rows, want) in [(1, 1), (2, 2), (5, 6), (9, 12), (33, 48), (2047, 2048), (2048, 2048)]
        {
            assert_eq!(rung_for(rows), want, "rows {rows}");
        }
    }
}
