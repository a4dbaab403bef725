//! Dot products of queries and decoded keys by AMX tiles: bf16 queries with keys whose values are exact in bf16.
//!
//! 16 keys are a tile of 32 columns, natural; 16 heads are another, columns down. A score is one sum that
//! every 32 columns are added to, in order (`common::tiles`), whatever other keys and heads there are.

use super::keys::KeyRows;
use super::score::{BLOCK, Heads, SKEW};
use crate::common::isa::Isa;
use crate::common::rows::RealRows;
use crate::common::tiles::{self, At, PLANE, ROW_BYTES, ROWS, TILE};
use std::arch::x86_64::*;

/// Widest key that goes this way: what fits a thread's scratch beside the rest.
const WIDTH_MAX: usize = 1024;

/// Whether scores of `q` and keys of these caches are made here: a question of dtypes and width alone.
pub(super) fn takes(isa: Isa, q: &RealRows, near: &KeyRows, far: &KeyRows) -> bool {
    let exact =
        |keys: &KeyRows| matches!(keys, KeyRows::Real(RealRows::Bf16(_)) | KeyRows::Coded { .. });
    let width = near.width();
    let fits = width.is_multiple_of(PLANE) && width <= WIDTH_MAX;
    isa.has_tiles() && fits && matches!(q, RealRows::Bf16(_)) && exact(near) && exact(far)
}

/// Floats of room for a block of keys as bf16.
pub(super) const fn word_floats(columns: usize) -> usize {
    BLOCK * (columns + SKEW) / 2
}

/// Writes heads of query `row` as tiles `[heads / 16, width / 32, 16 pairs of columns, 16 heads]`.
///
/// # Safety
/// [`takes`] said yes; `queries` has room for whole tiles.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn load_heads(q: &RealRows, heads: &Heads, queries: &mut [f32]) {
    let Heads { row, heads, width } = heads.clone();
    let RealRows::Bf16(q) = q else { unreachable!("`takes` saw bf16") };
    let (q, planes) = (q.row(row), width / PLANE);
    assert!(heads.len().div_ceil(ROWS) * planes * TILE <= queries.len());
    assert!(heads.end * width <= q.len());
    let mut target: *mut u32 = queries.as_mut_ptr().cast();
    for first in heads.clone().step_by(ROWS) {
        let rows = ROWS.min(heads.end - first);
        for plane in 0..planes {
            // SAFETY: heads of the row and tiles of the room, by the assertions; the loads need no alignment.
            unsafe {
                let source = q.as_ptr().add(first * width + plane * PLANE).cast();
                tiles::turn(source, width / 2, rows, target, ROWS);
                target = target.add(TILE);
            }
        }
    }
}

/// As `score::scores`, with `queries` of [`load_heads`] and `words` of [`word_floats`]; whole tiles of heads.
///
/// # Safety
/// [`takes`] said yes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn scores(
    queries: &[f32],
    keys: &[f32],
    words: &mut [f32],
    scores: &mut [f32],
    width: usize,
    count: usize,
) {
    let (stride, group) = (keys.len() / BLOCK, scores.len() / BLOCK);
    assert!(group.is_multiple_of(ROWS) && width <= stride && count <= BLOCK);
    assert!(queries.len() >= group / ROWS * (width / PLANE) * TILE);
    assert!(words.len() >= word_floats(width));
    let place = Place { queries: queries.as_ptr().cast(), words: words.as_mut_ptr().cast(), width };
    // SAFETY: features by the caller; sizes by the assertions; tiles are given back below.
    unsafe {
        for key in 0..count {
            narrow(keys.as_ptr().add(key * stride), place.words.add(key * (width + SKEW)), width);
        }
        tiles::configure(ROWS as u16);
        for key in (0..count).step_by(2 * ROWS) {
            for head in (0..group).step_by(2 * ROWS) {
                let target = scores.as_mut_ptr().add(key * group + head);
                score_tiles(&place, (key, count), (head, group), target);
            }
        }
        tiles::release();
    }
}

/// Where tiles of queries and rows of keys lie.
struct Place {
    queries: *const u32,
    words: *mut u16,
    width: usize,
}

/// The upper halves of `width` floats, which is all there is of them.
#[inline(always)]
unsafe fn narrow(source: *const f32, target: *mut u16, width: usize) {
    // SAFETY: `width` numbers of both, whole planes; features by the caller.
    unsafe {
        let odd = _mm512_loadu_si512((&raw const tiles::ODD_WORDS).cast());
        for at in (0..width).step_by(PLANE) {
            let low = _mm512_loadu_si512(source.add(at).cast());
            let high = _mm512_loadu_si512(source.add(at + PLANE / 2).cast());
            let words = _mm512_permutex2var_epi16(low, odd, high);
            _mm512_storeu_si512(target.add(at).cast(), words);
        }
    }
}

/// One or two tiles of keys from `key` on with one or two of heads from `head` on.
#[inline(always)]
unsafe fn score_tiles(
    place: &Place,
    (key, count): (usize, usize),
    (head, group): (usize, usize),
    target: *mut f32,
) {
    let (two, pair) = (count - key > ROWS, group - head > ROWS);
    let (planes, row) = (place.width / PLANE, 2 * (place.width + SKEW));
    // SAFETY: tiles inside the rooms, whose rows are whole tiles; features by the caller.
    unsafe {
        tiles::clear_sums();
        let keys = place.words.cast_const().cast::<u8>().add(key * row);
        let heads = place.queries.add(head / ROWS * planes * TILE);
        for plane in 0..planes {
            let keys = At { base: keys.add(plane * ROW_BYTES), row, next: ROWS * row };
            let base = heads.add(plane * TILE).cast();
            let heads = At { base, row: ROW_BYTES, next: 4 * planes * TILE };
            tiles::add_plane(keys, heads, two, pair);
        }
        tiles::store::<0>(target.cast(), 4 * group);
        if pair {
            tiles::store::<1>(target.add(ROWS).cast(), 4 * group);
        }
        let target = target.add(ROWS * group);
        if two {
            tiles::store::<2>(target.cast(), 4 * group);
        }
        if two && pair {
            tiles::store::<3>(target.add(ROWS).cast(), 4 * group);
        }
    }
}
