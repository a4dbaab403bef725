//! Dot products of queries and decoded keys, for the attention and the indexer.
//!
//! A vector holds heads: queries lie as `[columns, heads]`, keys as rows, and a key's column is spread
//! over the lanes. So there is no sum over lanes, and one product is one chain of additions over the
//! columns in order, whatever the tiles. Where the processor has tiles of its own, `tiles.rs` does it instead.

use super::keys::KeyRows;
use super::simd::Simd;
use super::tiles;
use crate::common::isa::Isa;
use crate::common::rows::RealRows;
use std::ops::Range;

/// Keys decoded at a time: keys and scores of a block stay in the second-level cache.
pub(crate) const BLOCK: usize = 64;

/// Floats added to a decoded key so that keys do not fall on the same cache sets.
pub(crate) const SKEW: usize = 16;

/// Columns and heads are padded to this, a multiple of every vector.
pub(crate) const PAD: usize = 16;

/// Heads put in columns at a time.
const QUARTET: usize = 4;

/// Whether scores of `q` and keys of these caches are made by tiles: a question of dtypes and width alone.
pub(crate) fn by_tiles(isa: Isa, q: &RealRows, near: &KeyRows, far: &KeyRows) -> bool {
    tiles::takes(isa, q, near, far)
}

/// Floats that [`scores`] wants as `words`: none without tiles.
pub(crate) fn word_floats(by_tiles: bool, columns: usize) -> usize {
    if by_tiles { tiles::word_floats(columns) } else { 0 }
}

/// Heads of a query.
#[derive(Clone)]
pub(crate) struct Heads {
    pub(crate) row: usize,
    pub(crate) heads: Range<usize>,
    pub(crate) width: usize,
}

/// Writes heads of a query as `[columns, group]`, zero behind the width and behind the heads, or as tiles.
/// `q` is `[n, H · width]`; `room` takes four padded heads.
pub(crate) fn load_heads(
    isa: Isa,
    by_tiles: bool,
    q: &RealRows,
    heads: &Heads,
    room: &mut [f32],
    queries: &mut [f32],
) {
    if by_tiles {
        // SAFETY: tiles take these dtypes and this width, says the caller; what has no room panics.
        return unsafe { tiles::load_heads(q, heads, queries) };
    }
    let Heads { row, heads, width } = heads.clone();
    let columns = width.next_multiple_of(PAD);
    let group = queries.len() / columns;
    for place in (0..group).step_by(QUARTET) {
        let room = &mut room[..QUARTET * columns];
        for (head, query) in (heads.start + place..).zip(room.chunks_exact_mut(columns)) {
            let (query, tail) = query.split_at_mut(width);
            tail.fill(0.0);
            match head < heads.end {
                true => q.load(isa, row, head * width, query),
                false => query.fill(0.0),
            }
        }
        let rows: [&[f32]; QUARTET] = std::array::from_fn(|i| &room[i * columns..][..columns]);
        turn(rows, &mut queries[place..], group);
    }
}

/// Rows to columns of `stride`, in squares of four.
fn turn(rows: [&[f32]; QUARTET], columns: &mut [f32], stride: usize) {
    let squares = rows.map(|row| row.as_chunks::<QUARTET>().0);
    for square in 0..squares[0].len() {
        for i in 0..QUARTET {
            let column = squares.map(|row| row[square][i]);
            let start = (square * QUARTET + i) * stride;
            columns[start..start + QUARTET].copy_from_slice(&column);
        }
    }
}

/// `scores[k, h] = Σ_d queries[d, h] · keys[k, d]`, d in order, for the first `count` keys and
/// `padded` heads (whole vectors). `queries` is what [`load_heads`] wrote, `keys` [`BLOCK`] rows of `columns`
/// and [`SKEW`], `scores` `[BLOCK, group]`; scores behind `count` are overwritten with anything. Where there are
/// `words` ([`word_floats`]), tiles do it.
///
/// # Safety
/// The processor has the features of `S`.
#[inline(always)]
pub(crate) unsafe fn scores<S: Simd>(
    queries: &[f32],
    keys: &[f32],
    words: &mut [f32],
    scores: &mut [f32],
    group: usize,
    padded: usize,
    count: usize,
) {
    let width = queries.len() / group;
    if !words.is_empty() {
        // SAFETY: room for words is made where tiles take the dtypes and the width, a multiple of `PAD`.
        return unsafe { tiles::scores(queries, keys, words, scores, width, count) };
    }
    let stride = width + SKEW;
    assert!(keys.len() == BLOCK * stride && scores.len() == BLOCK * group);
    assert!(padded <= group && padded.is_multiple_of(S::LANES) && count <= BLOCK);
    for column in (0..width).step_by(CHUNK) {
        let mut head = 0;
        while head < padded {
            let vectors = (padded - head) / S::LANES;
            let tile = ScoreTile {
                queries: queries[column * group + head..].as_ptr(),
                keys: keys[column..].as_ptr(),
                scores: scores[head..].as_mut_ptr(),
                group,
                stride,
                columns: CHUNK.min(width - column),
                count,
                first: column == 0,
            };
            // SAFETY: features by the caller. Queries `[columns, V · LANES]`, keys `[BLOCK, columns]`
            // and scores `[BLOCK, V · LANES]` lie in the room from these addresses on.
            head += S::LANES * unsafe { score_tiles::<S>(vectors, &tile) };
        }
    }
}

/// Columns of queries and keys worked on at a time, so that both stay in the first-level cache.
const CHUNK: usize = 64;

/// Where a column of score tiles lies; strides are `group` and `stride`.
struct ScoreTile {
    queries: *const f32,
    keys: *const f32,
    scores: *mut f32,
    group: usize,
    stride: usize,
    columns: usize,
    count: usize,
    /// Whether sums start at 0 or at what `scores` holds.
    first: bool,
}

/// Score tiles of up to `vectors` vectors of heads for all keys; returns how many vectors.
///
/// # Safety
/// Features of `S`; the tile's addresses are good for `BLOCK` keys.
#[inline(always)]
unsafe fn score_tiles<S: Simd>(vectors: usize, tile: &ScoreTile) -> usize {
    // SAFETY: by the caller.
    unsafe {
        match (S::WIDE, vectors) {
            (true, 4..) => score_column::<S, 4, 4>(tile),
            (true, 3) => score_column::<S, 3, 4>(tile),
            (_, 2..) => score_column::<S, 2, 4>(tile),
            _ => score_column::<S, 1, 8>(tile),
        }
    }
}

/// Tiles of V vectors of heads and K keys; K divides [`BLOCK`].
///
/// # Safety
/// As for [`score_tiles`].
#[inline(always)]
unsafe fn score_column<S: Simd, const V: usize, const K: usize>(tile: &ScoreTile) -> usize {
    for key in (0..tile.count).step_by(K) {
        // SAFETY: all addresses are inside the tile's three arrays, by the caller.
        unsafe {
            let keys = tile.keys.add(key * tile.stride);
            let scores = tile.scores.add(key * tile.group);
            let mut sums = [[S::splat(0.0); V]; K];
            if !tile.first {
                for (k, sums) in sums.iter_mut().enumerate() {
                    for (v, sum) in sums.iter_mut().enumerate() {
                        *sum = S::load(scores.add(k * tile.group + v * S::LANES));
                    }
                }
            }
            for column in 0..tile.columns {
                let queries = tile.queries.add(column * tile.group);
                let mut query = [S::splat(0.0); V];
                for (v, query) in query.iter_mut().enumerate() {
                    *query = S::load(queries.add(v * S::LANES));
                }
                for (k, sums) in sums.iter_mut().enumerate() {
                    let key = S::splat(*keys.add(k * tile.stride + column));
                    for (sum, query) in sums.iter_mut().zip(query) {
                        *sum = S::fma(query, key, *sum);
                    }
                }
            }
            for (k, sums) in sums.iter().enumerate() {
                for (v, sum) in sums.iter().enumerate() {
                    S::store(scores.add(k * tile.group + v * S::LANES), *sum);
                }
            }
        }
    }
    V
}
