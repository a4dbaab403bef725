//! The indexer's scores on the CPU, and the selection that keeps only a few rows of them.
//!
//! **Order of sums**, a function of the query and the key alone: a head's dot over columns in order;
//! then, in lane l, the weighted relus of heads l, l + lanes, …; then the lanes as a tree of halves;
//! then the scale. A part scores some rows on some entries, so that neighbouring rows of a prefill
//! decode a key once; rows of different sequences just do not share.
//!
//! What bounds it: arithmetic (64 heads × 128 columns a key).
//!
//! Not here: checks of shapes (`hal` makes them once per program).

use super::select::pick;
use crate::attend::score::{self, BLOCK, PAD, SKEW};
use crate::attend::simd::{Simd, for_isa};
use crate::attend::{KeyRows, Visible};
use crate::common::isa::Isa;
use crate::common::pool::Pool;
use crate::common::rows::{RealRows, RowsMut};
use crate::common::scratch;
use hal::op::Order;
use std::ops::Range;

/// Query rows that share decoded keys.
const SHARE: usize = 4;
/// Most entries in a part.
const STRETCH_MAX: usize = 1024;
/// Fewest where threads would have nothing to do: queries are turned anew for each part.
const STRETCH_MIN: usize = 2 * BLOCK;
/// Rows whose scores exist at a time in [`index_select`].
const TILE: usize = 16;

/// Most padded `heads · columns` of a query: what fits a thread's scratch [`SHARE`] times.
const QUERY_FLOATS_MAX: usize = 1 << 16;
/// Widest padded index key.
const WIDTH_MAX: usize = 1 << 10;

/// Most padded heads: their dots with a block of keys lie in scratch as well.
const HEADS_MAX: usize = 1 << 11;

/// True if the kernels take queries of `heads` × `width`: up to 2,048 heads, 1,024 columns, and 65,536
/// numbers with both rounded up to multiples of 16.
pub fn query_fits(heads: usize, width: usize) -> bool {
    let (group, columns) = (heads.next_multiple_of(PAD), width.next_multiple_of(PAD));
    group <= HEADS_MAX && columns <= WIDTH_MAX && group * columns <= QUERY_FLOATS_MAX
}

/// Operands of `hal::op::IndexScore`, as views.
#[derive(Clone, Copy, Debug)]
pub struct IndexScore {
    /// `[n, w]`, w at least the most visible entries.
    pub out: RowsMut<f32>,
    /// `[n, H · c]`
    pub q: RealRows,
    /// `[n, H]`
    pub weight: RealRows,
    /// The index keys.
    pub keys: Visible,
    /// Factor of the scores.
    pub scale: f32,
}

/// Operands of `hal::op::IndexSelect`, as views.
#[derive(Clone, Copy, Debug)]
pub struct IndexSelect {
    /// `[n, k]`
    pub out: RowsMut<i32>,
    /// `[n, H · c]`
    pub q: RealRows,
    /// `[n, H]`
    pub weight: RealRows,
    /// The index keys.
    pub keys: Visible,
    /// Factor of the scores.
    pub scale: f32,
}

/// `out[i, e] = scale · Σ_h weight[i, h] · relu(q[i, h] · key_e)` for visible e; other columns are not
/// written. A key on an absent page is zeros.
///
/// # Panics
/// If an index leaves its table, or a limit of this module is passed.
pub fn index_score(isa: Isa, pool: &Pool, op: &IndexScore) {
    score_rows(isa, pool, op, 0, op.q.rows(), 0);
}

/// Cache rows of the k entries with the largest scores of each query, in ascending entry order, -1
/// behind the last: [`index_score`], `top_k` and the page table in one. A query that sees no more than k
/// entries is given all of them, unscored.
///
/// `workspace` holds [`IndexSelect::workspace_floats`] floats or more; its content does not matter.
///
/// # Panics
/// As [`index_score`], or if the workspace is too small.
pub fn index_select(isa: Isa, pool: &Pool, op: &IndexSelect, workspace: &mut [f32]) {
    let width = op.keys.capacity();
    assert!(workspace.len() >= op.workspace_floats(), "index_select: {} floats", workspace.len());
    for first in (0..op.q.rows()).step_by(TILE) {
        let rows = TILE.min(op.q.rows() - first);
        // SAFETY: inside the slice, which this call holds alone.
        let out = unsafe { RowsMut::from_raw(workspace.as_mut_ptr(), width, rows, width) };
        let score = IndexScore { out, q: op.q, weight: op.weight, keys: op.keys, scale: op.scale };
        score_rows(isa, pool, &score, first, rows, op.out.width());
        let scores = out.as_rows();
        pool.run(rows, &|row| {
            let scores = &scores.row(row)[..op.keys.count(first + row)];
            // SAFETY: a part owns its row.
            let out = unsafe { op.out.shared(first + row, 0..op.out.width()) };
            pick(scores, Order::Index, out);
            page_rows(&op.keys, first + row, out);
        });
    }
}

impl IndexSelect {
    /// Floats that [`index_select`] wants as workspace.
    pub fn workspace_floats(&self) -> usize {
        TILE.min(self.q.rows()) * self.keys.capacity()
    }
}

/// Entries to cache rows; absent pages and absent picks give -1.
fn page_rows(keys: &Visible, row: usize, picks: &mut [i32]) {
    let Ok(sequence) = usize::try_from(keys.reach.row(row)[0]) else {
        picks.fill(-1);
        return;
    };
    let (pages, per) = (keys.pages.row(sequence), keys.per as i32);
    for pick in picks {
        if *pick >= 0 {
            let page = pages[(*pick / per) as usize];
            *pick = if page < 0 { -1 } else { page * per + *pick % per };
        }
    }
}

/// Scores of queries `first..first + rows` to the first rows of `op.out`, but of those that see no more than
/// `unscored` entries.
fn score_rows(isa: Isa, pool: &Pool, op: &IndexScore, first: usize, rows: usize, unscored: usize) {
    let visible = (first..first + rows).map(|row| op.keys.count(row)).max().unwrap_or(0);
    if visible <= unscored {
        return;
    }
    let groups = rows.div_ceil(SHARE);
    let even = visible.div_ceil(pool.threads().div_ceil(groups)).next_multiple_of(BLOCK);
    let stretch = even.clamp(STRETCH_MIN, STRETCH_MAX);
    let stretches = visible.div_ceil(stretch);
    pool.run(groups * stretches, &|part| {
        let group = part / stretches * SHARE;
        let work = Work {
            first: first + group,
            rows: SHARE.min(rows - group),
            target: group,
            unscored,
            entries: part % stretches * stretch..(part % stretches + 1) * stretch,
        };
        scratch::with(|block| score_part(isa, op, &work, block));
    });
}

/// Some rows on some entries.
struct Work {
    first: usize,
    rows: usize,
    /// Row of `out` for row `first`.
    target: usize,
    /// Rows that see no more than this are left out.
    unscored: usize,
    /// Whole blocks of entries, of which a row may see fewer.
    entries: Range<usize>,
}

for_isa! {
    /// Scores of one part.
    fn score_part(op: &IndexScore, work: &Work, block: &mut [f32]) = score_body
}

/// See [`score_part`].
///
/// # Safety
/// The processor has the features of `S`.
#[inline(always)]
unsafe fn score_body<S: Simd>(isa: Isa, op: &IndexScore, work: &Work, block: &mut [f32]) {
    let width = op.keys.cache.width();
    let columns = width.next_multiple_of(PAD);
    let heads = op.weight.width();
    let group = heads.next_multiple_of(PAD);
    assert!(query_fits(heads, width));
    let (queries, block) = block.split_at_mut(SHARE * columns * group);
    let (weights, block) = block.split_at_mut(SHARE * group);
    let (keys, block) = block.split_at_mut(BLOCK * (columns + SKEW));
    let cache = &op.keys.cache;
    let by_tiles = score::by_tiles(isa, &op.q, cache, cache);
    let (words, block) = block.split_at_mut(score::word_floats(by_tiles, columns));
    let dots = &mut block[..BLOCK * group];
    let queries_of = |row| row * columns * group..(row + 1) * columns * group;
    // Entries that row `row` of the part is scored on.
    let seen = |row| match op.keys.count(work.first + row) {
        count if count > work.unscored => count,
        _ => 0,
    };
    for row in (0..work.rows).filter(|&row| seen(row) > work.entries.start) {
        let (row_of_q, queries) = (work.first + row, &mut queries[queries_of(row)]);
        let all = score::Heads { row: row_of_q, heads: 0..heads, width };
        score::load_heads(isa, by_tiles, &op.q, &all, keys, queries);
        let weights = &mut weights[row * group..][..group];
        op.weight.load(isa, row_of_q, 0, &mut weights[..heads]);
        weights[heads..].fill(0.0);
    }
    for first in work.entries.clone().step_by(BLOCK) {
        let mut held = None;
        for row in 0..work.rows {
            let seen = seen(row);
            if seen <= first {
                continue;
            }
            // 1 decode, once for the rows of a sequence
            let sequence = op.keys.reach.row(work.first + row)[0];
            if held != Some(sequence) {
                held = Some(sequence);
                load_keys(isa, op, work, row, first, keys);
            }
            // 2 dots
            let count = BLOCK.min(seen - first);
            // SAFETY: features by the caller.
            unsafe {
                let queries = &queries[queries_of(row)];
                score::scores::<S>(queries, keys, words, dots, group, group, count);
            }
            // 3 weighted relus
            let weights = &weights[row * group..][..group];
            // SAFETY: a part owns these columns of its rows.
            let out = unsafe { op.out.shared(work.target + row, first..first + count) };
            for (out, dots) in out.iter_mut().zip(dots.chunks_exact(group)) {
                // SAFETY: features by the caller; both slices are whole vectors.
                *out = op.scale * unsafe { weighted::<S>(weights, dots) };
            }
        }
    }
}

/// `Σ_h weights[h] · relu(dots[h])`
///
/// # Safety
/// The processor has the features of `S`; both have the same number of whole vectors.
#[inline(always)]
unsafe fn weighted<S: Simd>(weights: &[f32], dots: &[f32]) -> f32 {
    // SAFETY: features by the caller; every vector lies inside its slice.
    unsafe {
        let mut sum = S::splat(0.0);
        for (weights, dots) in weights.chunks_exact(S::LANES).zip(dots.chunks_exact(S::LANES)) {
            sum = S::fma(S::load(weights.as_ptr()), S::relu(S::load(dots.as_ptr())), sum);
        }
        S::sum(sum)
    }
}

/// Decodes entries `first..` of the sequence of row `row` of the part, as many as its rows can see.
#[inline(always)]
fn load_keys(isa: Isa, op: &IndexScore, work: &Work, row: usize, first: usize, keys: &mut [f32]) {
    let sequence = op.keys.reach.row(work.first + row)[0];
    let seen = (work.first + row..work.first + work.rows)
        .filter(|&other| op.keys.reach.row(other)[0] == sequence)
        .map(|other| op.keys.count(other))
        .max()
        .unwrap_or(0);
    let pages = op.keys.pages.row(usize::try_from(sequence).expect("a query that sees has pages"));
    let cache: &KeyRows = &op.keys.cache;
    let stride = keys.len() / BLOCK;
    for (entry, key) in (first..seen).zip(keys.chunks_exact_mut(stride)) {
        match usize::try_from(pages[entry / op.keys.per]) {
            Ok(page) => cache.load(isa, page * op.keys.per + entry % op.keys.per, key),
            Err(_) => key.fill(0.0),
        }
        key[cache.width()..].fill(0.0);
    }
}
