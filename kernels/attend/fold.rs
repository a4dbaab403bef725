//! The arithmetic of the attention: sums of some heads over the keys of a split, and their merging.
//!
//! Order of sums: see `cpu.rs`. Vectors hold heads while scores are made and columns while keys are
//! summed: no sum over lanes. Bounds by arithmetic, once a piece has 16 heads or more; below that by
//! the decoding of keys.

use super::cpu::{Attend, Keys};
use super::score::{self, BLOCK, PAD, SKEW, word_floats};
use super::simd::{Simd, for_isa};
use crate::common::isa::Isa;
use crate::common::math::exp;
use crate::common::per_isa::per_isa;

/// Sums of some heads over some keys.
pub(super) struct Piece<'a> {
    /// `[heads, columns]`: Σ e^(score - top) · key.
    pub(super) sums: &'a mut [f32],
    /// Largest score of each head, -∞ without a key.
    pub(super) top: &'a mut [f32],
    /// Σ e^(score - top)
    pub(super) total: &'a mut [f32],
}

pub(super) fn piece_floats(group: usize, width: usize) -> usize {
    group * (width.next_multiple_of(PAD) + 2)
}

impl<'a> Piece<'a> {
    pub(super) fn new(floats: &'a mut [f32], group: usize) -> Piece<'a> {
        let (sums, rest) = floats.split_at_mut(floats.len() - 2 * group);
        let (top, total) = rest.split_at_mut(group);
        Piece { sums, top, total }
    }

    /// Takes in the keys of `other`, which come behind those of `self`.
    pub(super) fn merge(&mut self, isa: Isa, other: &Piece<'_>, heads: usize) {
        let columns = self.sums.len() / self.top.len();
        for head in 0..heads {
            let top = larger(self.top[head], other.top[head]);
            let (old, new) = (exp(self.top[head] - top), exp(other.top[head] - top));
            self.top[head] = top;
            self.total[head] = self.total[head] * old + other.total[head] * new;
            let range = head * columns..(head + 1) * columns;
            blend(isa, &mut self.sums[range.clone()], old, &other.sums[range], new);
        }
    }

    /// Divides by the denominator, sink included, and writes heads `first..` of query `row`.
    pub(super) fn finish(
        &mut self,
        isa: Isa,
        op: &Attend<'_>,
        row: usize,
        first: usize,
        heads: usize,
    ) {
        let (columns, width) = (self.sums.len() / self.top.len(), op.width());
        for head in 0..heads {
            let sink = op.sink[first + head];
            let top = larger(self.top[head], sink);
            let share = exp(self.top[head] - top);
            let total = self.total[head] * share + exp(sink - top);
            let factor = share / total;
            let sums = &mut self.sums[head * columns..head * columns + width];
            multiply(isa, sums, factor);
            // SAFETY: a part owns its heads of its row.
            unsafe { op.out.store_shared(isa, row, (first + head) * width, sums) };
        }
    }
}

per_isa! {
    /// `sums = sums · old + more · new`
    fn blend(sums: &mut [f32], old: f32, more: &[f32], new: f32) {
        for (sum, more) in sums.iter_mut().zip(more) {
            *sum = *sum * old + *more * new;
        }
    }

    /// `values = values · factor`
    fn multiply(values: &mut [f32], factor: f32) {
        for value in values {
            *value *= factor;
        }
    }
}

/// The larger; `a` if either is NaN.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// A thread's room for one part.
pub(super) struct Room<'a> {
    /// `[columns, heads]`: queries, so that a vector holds heads.
    pub(super) queries: &'a mut [f32],
    /// `[BLOCK, stride]`: decoded keys.
    keys: &'a mut [f32],
    /// The same as bf16, where tiles make the scores.
    words: &'a mut [f32],
    /// `[BLOCK, heads]`: scores, then exponentials.
    scores: &'a mut [f32],
    /// `[heads]`: what the sums so far are multiplied by.
    rescale: &'a mut [f32],
}

/// Cuts a room and `pieces` pieces out of a scratch block.
pub(super) fn rooms(
    block: &mut [f32],
    group: usize,
    width: usize,
    by_tiles: bool,
) -> (Room<'_>, &mut [f32]) {
    let columns = width.next_multiple_of(PAD);
    let (queries, block) = block.split_at_mut(columns * group);
    let (keys, block) = block.split_at_mut(BLOCK * (columns + SKEW));
    let (words, block) = block.split_at_mut(word_floats(by_tiles, columns));
    let (scores, block) = block.split_at_mut(BLOCK * group);
    let (rescale, rest) = block.split_at_mut(group);
    (Room { queries, keys, words, scores, rescale }, rest)
}

for_isa! {
    /// Sums of a split: `piece` is overwritten.
    pub(super) fn fold(
        op: &Attend<'_>,
        keys: &Keys,
        heads: usize,
        room: &mut Room<'_>,
        piece: &mut Piece<'_>,
    ) = fold_body
}

/// See [`fold`].
///
/// # Safety
/// The processor has the features of `S`.
#[inline(always)]
unsafe fn fold_body<S: Simd>(
    isa: Isa,
    op: &Attend<'_>,
    keys: &Keys,
    heads: usize,
    room: &mut Room<'_>,
    piece: &mut Piece<'_>,
) {
    let group = piece.top.len();
    let stride = room.keys.len() / BLOCK;
    let padded = heads.next_multiple_of(S::LANES);
    piece.top.fill(f32::NEG_INFINITY);
    piece.total.fill(0.0);
    for first in (0..keys.len).step_by(BLOCK) {
        let count = BLOCK.min(keys.len - first);
        // 1 decode
        keys.load(isa, op, first, room.keys, stride);
        // 2 scores
        // SAFETY: features by the caller; the room has BLOCK keys and `group` heads, all padded.
        unsafe {
            let Room { queries, keys, words, scores, .. } = room;
            score::scores::<S>(queries, keys, words, scores, group, padded, count);
        }
        // 3 maximum, exponentials, their sum
        for head in (0..padded).step_by(S::LANES) {
            match S::LANES {
                16 => softmax::<16>(room, piece, head, count, op.scale),
                _ => softmax::<8>(room, piece, head, count, op.scale),
            }
        }
        // 4 weighted sum of the keys
        // SAFETY: as above.
        unsafe { values::<S>(room, piece, heads, count, first == 0) };
    }
}

/// Scores of `LANES` heads from `head` on to exponentials; moves the maximum, rescales the total, adds to it.
#[inline(always)]
fn softmax<const LANES: usize>(
    room: &mut Room<'_>,
    piece: &mut Piece<'_>,
    head: usize,
    count: usize,
    scale: f32,
) {
    let group = piece.top.len();
    let lanes = |values: &mut [f32]| -> [f32; LANES] {
        values[head..head + LANES].try_into().expect("as many")
    };
    let (old, mut total) = (lanes(piece.top), lanes(piece.total));
    let mut top = old;
    for scores in room.scores.chunks_exact_mut(group).take(count) {
        let scores = &mut scores[head..head + LANES];
        for (score, top) in scores.iter_mut().zip(&mut top) {
            *score *= scale;
            *top = larger(*top, *score);
        }
    }
    let rescale = &mut room.rescale[head..head + LANES];
    for (((rescale, total), top), old) in rescale.iter_mut().zip(&mut total).zip(&top).zip(&old) {
        *rescale = exp(*old - *top);
        *total *= *rescale;
    }
    for scores in room.scores.chunks_exact_mut(group).take(count) {
        let scores = &mut scores[head..head + LANES];
        for ((score, total), top) in scores.iter_mut().zip(&mut total).zip(&top) {
            *score = exp(*score - *top);
            *total += *score;
        }
    }
    piece.top[head..head + LANES].copy_from_slice(&top);
    piece.total[head..head + LANES].copy_from_slice(&total);
}

/// `sums[h, d] = rescale[h] · sums[h, d] + Σ_k scores[k, h] · keys[k, d]`, k in order; `fresh`: the sums
/// so far are 0, whatever `sums` holds.
///
/// # Safety
/// The processor has the features of `S`.
#[inline(always)]
unsafe fn values<S: Simd>(
    room: &Room<'_>,
    piece: &mut Piece<'_>,
    heads: usize,
    count: usize,
    fresh: bool,
) {
    let (group, stride) = (piece.top.len(), room.keys.len() / BLOCK);
    let width = piece.sums.len() / group;
    assert!(room.keys.len() == BLOCK * stride && room.scores.len() == BLOCK * group);
    assert!(heads <= group && width <= stride && count <= BLOCK);
    // Tiles of equal size rather than full ones and a stump, whose few chains would wait for each other.
    let tile_heads = heads.div_ceil(heads.div_ceil(TILE_HEADS));
    let mut column = 0;
    while column < width {
        let vectors = (width - column) / S::LANES;
        let mut done = 0;
        for head in (0..heads).step_by(tile_heads) {
            let tile = ValueTile {
                scores: room.scores[head..].as_ptr(),
                rescale: room.rescale[head..].as_ptr(),
                keys: room.keys[column..].as_ptr(),
                sums: piece.sums[head * width + column..].as_mut_ptr(),
                group,
                stride,
                width,
                count,
                fresh,
            };
            // SAFETY: features by the caller; the addresses are good for these heads, `count` keys and
            // the columns up to `width`.
            done = unsafe { value_tile::<S>(tile_heads.min(heads - head), vectors, &tile) };
        }
        column += done * S::LANES;
    }
}

/// Most heads in a register tile of the weighted sum.
const TILE_HEADS: usize = 6;

/// Where a tile of the weighted sum lies.
struct ValueTile {
    scores: *const f32,
    rescale: *const f32,
    keys: *const f32,
    sums: *mut f32,
    group: usize,
    stride: usize,
    width: usize,
    count: usize,
    /// Whether sums start at 0 or at what `sums` holds, rescaled.
    fresh: bool,
}

/// One tile of up to `vectors` vectors of columns; returns how many vectors.
///
/// # Safety
/// Features of `S`; the tile's addresses are good for its heads and columns.
#[inline(always)]
unsafe fn value_tile<S: Simd>(heads: usize, vectors: usize, tile: &ValueTile) -> usize {
    // SAFETY: by the caller.
    unsafe {
        match (S::WIDE, vectors) {
            (true, 4..) => value_heads::<S, 4>(heads, tile),
            (_, 2..) => value_heads::<S, 2>(heads, tile),
            _ => value_heads::<S, 1>(heads, tile),
        }
    }
}

/// See [`value_tile`].
///
/// # Safety
/// As for [`value_tile`].
#[inline(always)]
unsafe fn value_heads<S: Simd, const V: usize>(heads: usize, tile: &ValueTile) -> usize {
    // SAFETY: by the caller.
    unsafe {
        match heads {
            1 => value_rows::<S, 1, V>(tile),
            2 => value_rows::<S, 2, V>(tile),
            3 => value_rows::<S, 3, V>(tile),
            4 => value_rows::<S, 4, V>(tile),
            5 => value_rows::<S, 5, V>(tile),
            _ => value_rows::<S, 6, V>(tile),
        }
    }
    V
}

/// H heads and V vectors of columns.
///
/// # Safety
/// As for [`value_tile`].
#[inline(always)]
unsafe fn value_rows<S: Simd, const H: usize, const V: usize>(tile: &ValueTile) {
    // SAFETY: all addresses are inside the tile's arrays, by the caller.
    unsafe {
        let mut sums = [[S::splat(0.0); V]; H];
        if !tile.fresh {
            for (h, sums) in sums.iter_mut().enumerate() {
                let rescale = S::splat(*tile.rescale.add(h));
                for (v, sum) in sums.iter_mut().enumerate() {
                    let old = S::load(tile.sums.add(h * tile.width + v * S::LANES));
                    *sum = S::mul(old, rescale);
                }
            }
        }
        for key in 0..tile.count {
            let mut columns = [S::splat(0.0); V];
            for (v, column) in columns.iter_mut().enumerate() {
                *column = S::load(tile.keys.add(key * tile.stride + v * S::LANES));
            }
            for (h, sums) in sums.iter_mut().enumerate() {
                let share = S::splat(*tile.scores.add(key * tile.group + h));
                for (sum, column) in sums.iter_mut().zip(columns) {
                    *sum = S::fma(share, column, *sum);
                }
            }
        }
        for (h, sums) in sums.iter().enumerate() {
            for (v, sum) in sums.iter().enumerate() {
                S::store(tile.sums.add(h * tile.width + v * S::LANES), *sum);
            }
        }
    }
}
