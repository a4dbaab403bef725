//! Attention on the CPU.
//!
//! **Order of sums**, a function of the query row alone. The present keys of a row are numbered:
//! near list first, then far, both in list order, absent ones left out. Keys are cut into splits of
//! [`SPLIT`] and a split into blocks of [`BLOCK`]. In a block: scores (dot over columns in order),
//! maximum, exponentials, their sum and the weighted sum of the keys, in key order, behind a rescale
//! of what the split has so far. Splits are merged in order. So neither the tile shapes, nor which
//! heads ran together, nor whether the splits of a row ran on one thread, can change a bit.
//!
//! Vectors hold heads while scores are made and columns while keys are summed: no sum over lanes.
//! What bounds it: arithmetic, once a group has 16 heads or more; below that, decoding the keys.
//!
//! Not here: rope, the output projection, checks of shapes (`hal` makes them once per program).

use super::keys::{KeyRows, Listed, Visible};
use super::score::{BLOCK, PAD, SKEW, load_heads, scores};
use super::simd::{Simd, for_isa};
use crate::common::isa::Isa;
use crate::common::math::exp;
use crate::common::per_isa::per_isa;
use crate::common::pool::Pool;
use crate::common::rows::{RealRows, RealRowsMut, RowsMut};
use crate::common::scratch;

/// Keys whose sums are made without a look at any other key.
const SPLIT: usize = 512;
/// Heads to a part where rows alone keep all threads busy: keys are decoded once for them.
const GROUP_WIDE: usize = 64;
/// Heads to a part otherwise: one AVX-512 vector.
const GROUP: usize = 16;

/// Most heads of a query.
pub const HEADS_MAX: usize = 1 << 12;
/// Widest key: what fits a thread's scratch beside the sums of [`GROUP`] heads.
pub const WIDTH_MAX: usize = 4096;

/// The far cache of an attention.
#[derive(Clone, Copy, Debug)]
pub enum Far {
    /// Chosen rows.
    Listed(Listed),
    /// All visible entries.
    Visible(Visible),
}

/// Operands of `hal::op::Attend`, as views.
#[derive(Clone, Copy, Debug)]
pub struct Attend<'a> {
    /// `[n, H · c]`
    pub out: RealRowsMut,
    /// `[n, H · c]`
    pub q: RealRows,
    /// `[H]`
    pub sink: &'a [f32],
    /// The window.
    pub near: Listed,
    /// Compressed entries.
    pub far: Option<Far>,
    /// Factor of the scores.
    pub scale: f32,
}

/// `out[i, h] = Σ_j p_j key_j`, `p = softmax(scale · q[i, h] · key_j, and sink[h] without a value)`.
///
/// `workspace` holds [`Attend::workspace_floats`] floats or more; its content does not matter. All
/// cache rows named by lists and pages must exist.
///
/// # Panics
/// If the workspace is too small, an index leaves its cache, or a limit of this module is passed.
pub fn attend(isa: Isa, pool: &Pool, op: &Attend<'_>, workspace: &mut [f32]) {
    assert!(op.sink.len() <= HEADS_MAX);
    assert!(op.width() <= WIDTH_MAX);
    let shape = op.shape(pool.threads());
    let groups = op.sink.len().div_ceil(shape.group);
    let parts = op.q.rows() * groups;
    if !shape.by_split {
        pool.run(parts, &|part| {
            whole_part(isa, op, shape.group, part / groups, part % groups);
        });
        return;
    }
    let pieces = piece_rows(op, parts, workspace);
    let splits = op.splits();
    pool.run(parts * splits, &|part| {
        let (part, split) = (part / splits, part % splits);
        split_part(isa, op, &pieces, split, part / groups, part % groups);
    });
    pool.run(parts, &|part| merge_part(isa, op, &pieces, part / groups, part % groups));
}

/// How a call is cut into parts. Never part of the arithmetic.
#[derive(Clone, Copy)]
struct Cut {
    /// Heads in a part.
    group: usize,
    /// Whether the splits of a row are parts of their own.
    by_split: bool,
}

impl Attend<'_> {
    /// Floats that [`attend`] wants as workspace on a pool of `threads`.
    pub fn workspace_floats(&self, threads: usize) -> usize {
        if !self.shape(threads).by_split {
            return 0;
        }
        let parts = self.q.rows() * self.sink.len().div_ceil(GROUP);
        parts * self.splits() * piece_floats(GROUP, self.width())
    }

    fn width(&self) -> usize {
        self.near.cache.width()
    }

    /// Most keys of a row, in splits.
    fn splits(&self) -> usize {
        let far = match &self.far {
            None => 0,
            Some(Far::Listed(listed)) => listed.index.width(),
            Some(Far::Visible(visible)) => visible.capacity(),
        };
        (self.near.index.width() + far).div_ceil(SPLIT).max(1)
    }

    fn shape(&self, threads: usize) -> Cut {
        let (rows, heads) = (self.q.rows(), self.sink.len());
        // Four parts to a thread even out what the scheduler does to them.
        let enough = if threads == 1 { 1 } else { 4 * threads };
        let most = if self.width() <= 1024 { GROUP_WIDE } else { GROUP };
        let wide = most.min(heads.next_multiple_of(PAD));
        if rows * heads.div_ceil(wide) >= enough {
            return Cut { group: wide, by_split: false };
        }
        let by_split = rows * heads.div_ceil(GROUP) < enough && self.splits() > 1;
        Cut { group: GROUP, by_split }
    }

    /// Keys `first..first + SPLIT` of query `row`, and whether there are more behind.
    fn keys(&self, row: usize, first: usize) -> Keys {
        let mut keys = Keys { rows: [0; SPLIT], near: 0, len: 0, skip: first };
        keys.list(self.near.index.row(row));
        keys.near = keys.len;
        match &self.far {
            None => {}
            Some(Far::Listed(listed)) => keys.list(listed.index.row(row)),
            Some(Far::Visible(visible)) => {
                visible.each_page(row, |first, entries| {
                    if let Some(first) = first {
                        keys.stretch(first, entries);
                    }
                });
            }
        }
        keys
    }
}

/// Cache rows of one split, those of the near cache in front.
struct Keys {
    rows: [u32; SPLIT],
    near: usize,
    len: usize,
    /// Present keys still to pass over.
    skip: usize,
}

impl Keys {
    #[inline(always)]
    fn list(&mut self, index: &[i32]) {
        for &row in index {
            if row >= 0 {
                self.stretch(row as usize, 1);
            }
        }
    }

    #[inline(always)]
    fn stretch(&mut self, first: usize, count: usize) {
        let passed = self.skip.min(count);
        self.skip -= passed;
        let taken = (count - passed).min(SPLIT - self.len);
        for (place, row) in self.rows[self.len..self.len + taken].iter_mut().zip(first + passed..) {
            *place = row as u32;
        }
        self.len += taken;
    }

    /// Decodes keys `first..first + count` to rows of `stride` floats, zero behind the width.
    #[inline(always)]
    fn load(&self, isa: Isa, op: &Attend<'_>, first: usize, out: &mut [f32], stride: usize) {
        let far = match &op.far {
            Some(Far::Listed(listed)) => &listed.cache,
            Some(Far::Visible(visible)) => &visible.cache,
            None => &op.near.cache,
        };
        let width = op.width();
        for (place, out) in (first..self.len).zip(out.chunks_exact_mut(stride)) {
            let cache: &KeyRows = if place < self.near { &op.near.cache } else { far };
            cache.load(isa, self.rows[place] as usize, out);
            out[width..].fill(0.0);
        }
    }
}

/// Sums of some heads over some keys.
struct Piece<'a> {
    /// `[heads, columns]`: Σ e^(score - top) · key.
    sums: &'a mut [f32],
    /// Largest score of each head, -∞ without a key.
    top: &'a mut [f32],
    /// Σ e^(score - top)
    total: &'a mut [f32],
}

fn piece_floats(group: usize, width: usize) -> usize {
    group * (width.next_multiple_of(PAD) + 2)
}

impl<'a> Piece<'a> {
    fn new(floats: &'a mut [f32], group: usize) -> Piece<'a> {
        let (sums, rest) = floats.split_at_mut(floats.len() - 2 * group);
        let (top, total) = rest.split_at_mut(group);
        Piece { sums, top, total }
    }

    /// Takes in the keys of `other`, which come behind those of `self`.
    fn merge(&mut self, isa: Isa, other: &Piece<'_>, heads: usize) {
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
    fn finish(&mut self, isa: Isa, op: &Attend<'_>, row: usize, first: usize, heads: usize) {
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
struct Room<'a> {
    /// `[columns, heads]`: queries, so that a vector holds heads.
    queries: &'a mut [f32],
    /// `[BLOCK, stride]`: decoded keys.
    keys: &'a mut [f32],
    /// `[BLOCK, heads]`: scores, then exponentials.
    scores: &'a mut [f32],
    /// `[heads]`: what the sums so far are multiplied by.
    rescale: &'a mut [f32],
}

/// Cuts a room and `pieces` pieces out of a scratch block.
fn rooms(block: &mut [f32], group: usize, width: usize) -> (Room<'_>, &mut [f32]) {
    let columns = width.next_multiple_of(PAD);
    let (queries, block) = block.split_at_mut(columns * group);
    let (keys, block) = block.split_at_mut(BLOCK * (columns + SKEW));
    let (scores, block) = block.split_at_mut(BLOCK * group);
    let (rescale, rest) = block.split_at_mut(group);
    (Room { queries, keys, scores, rescale }, rest)
}

/// All keys of some heads of one row.
fn whole_part(isa: Isa, op: &Attend<'_>, group: usize, row: usize, part: usize) {
    let (first, width) = (part * group, op.width());
    let heads = group.min(op.sink.len() - first);
    scratch::with(|block| {
        let (mut room, rest) = rooms(block, group, width);
        let (sums, rest) = rest.split_at_mut(piece_floats(group, width));
        let more = &mut rest[..piece_floats(group, width)];
        let (mut sums, mut more) = (Piece::new(sums, group), Piece::new(more, group));
        let mut keys = op.keys(row, 0);
        if keys.len == 0 {
            write_zeros(isa, op, row, first, heads, &mut sums.sums[..width]);
            return;
        }
        load_heads(isa, &op.q, row, first..first + heads, width, sums.sums, room.queries);
        fold(isa, op, &keys, heads, &mut room, &mut sums);
        for split in 1..op.splits() {
            if keys.len < SPLIT {
                break;
            }
            keys = op.keys(row, split * SPLIT);
            if keys.len > 0 {
                fold(isa, op, &keys, heads, &mut room, &mut more);
                sums.merge(isa, &more, heads);
            }
        }
        sums.finish(isa, op, row, first, heads);
    });
}

/// The workspace as one row per (part, split).
fn piece_rows(op: &Attend<'_>, parts: usize, workspace: &mut [f32]) -> RowsMut<f32> {
    let (floats, count) = (piece_floats(GROUP, op.width()), parts * op.splits());
    assert!(workspace.len() >= count * floats, "attend: workspace of {} floats", workspace.len());
    // SAFETY: inside the slice, which this call holds alone.
    unsafe { RowsMut::from_raw(workspace.as_mut_ptr(), floats, count, floats) }
}

/// One split of some heads of one row, left in the workspace.
fn split_part(
    isa: Isa,
    op: &Attend<'_>,
    pieces: &RowsMut<f32>,
    split: usize,
    row: usize,
    part: usize,
) {
    let (first, width) = (part * GROUP, op.width());
    let heads = GROUP.min(op.sink.len() - first);
    let keys = op.keys(row, split * SPLIT);
    if keys.len == 0 {
        return;
    }
    let groups = op.sink.len().div_ceil(GROUP);
    let place = (row * groups + part) * op.splits() + split;
    // SAFETY: this row of the workspace belongs to this part.
    let piece = unsafe { pieces.shared(place, 0..pieces.width()) };
    let mut piece = Piece::new(piece, GROUP);
    scratch::with(|block| {
        let (mut room, _) = rooms(block, GROUP, width);
        load_heads(isa, &op.q, row, first..first + heads, width, piece.sums, room.queries);
        fold(isa, op, &keys, heads, &mut room, &mut piece);
    });
}

/// Merges the splits of some heads of one row and writes them.
fn merge_part(isa: Isa, op: &Attend<'_>, pieces: &RowsMut<f32>, row: usize, part: usize) {
    let (first, splits) = (part * GROUP, op.splits());
    let heads = GROUP.min(op.sink.len() - first);
    let place = (row * op.sink.len().div_ceil(GROUP) + part) * splits;
    // SAFETY: the rows of the workspace of this row and these heads belong to this part, and differ.
    let piece = |split| unsafe { pieces.shared(place + split, 0..pieces.width()) };
    let mut sums = Piece::new(piece(0), GROUP);
    if op.keys(row, 0).len == 0 {
        let width = op.width();
        write_zeros(isa, op, row, first, heads, &mut sums.sums[..width]);
        return;
    }
    for split in 1..splits {
        if op.keys(row, split * SPLIT).len == 0 {
            break;
        }
        sums.merge(isa, &Piece::new(piece(split), GROUP), heads);
    }
    sums.finish(isa, op, row, first, heads);
}

fn write_zeros(
    isa: Isa,
    op: &Attend<'_>,
    row: usize,
    first: usize,
    heads: usize,
    room: &mut [f32],
) {
    room.fill(0.0);
    for head in first..first + heads {
        // SAFETY: a part owns its heads of its row.
        unsafe { op.out.store_shared(isa, row, head * room.len(), room) };
    }
}

for_isa! {
    /// Sums of a split: `piece` is overwritten.
    fn fold(
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
        unsafe { scores::<S>(room.queries, room.keys, room.scores, group, padded, count) };
        // 3 maximum, exponentials, their sum
        softmax(room, piece, group, padded, count, op.scale);
        // 4 weighted sum of the keys
        // SAFETY: as above.
        unsafe { values::<S>(room, piece, heads, count, first == 0) };
    }
}

/// Scores to exponentials; moves the maximum, rescales the total, adds to it.
#[inline(always)]
fn softmax(
    room: &mut Room<'_>,
    piece: &mut Piece<'_>,
    group: usize,
    padded: usize,
    count: usize,
    scale: f32,
) {
    let rescale = &mut room.rescale[..padded];
    let (top, total) = (&mut piece.top[..padded], &mut piece.total[..padded]);
    rescale.copy_from_slice(top);
    for scores in room.scores.chunks_exact_mut(group).take(count) {
        for (score, top) in scores.iter_mut().zip(&mut *top) {
            *score *= scale;
            *top = larger(*top, *score);
        }
    }
    for ((rescale, total), top) in rescale.iter_mut().zip(&mut *total).zip(&*top) {
        *rescale = exp(*rescale - *top);
        *total *= *rescale;
    }
    for scores in room.scores.chunks_exact_mut(group).take(count) {
        for ((score, total), top) in scores.iter_mut().zip(&mut *total).zip(&*top) {
            *score = exp(*score - *top);
            *total += *score;
        }
    }
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
    let mut column = 0;
    while column < width {
        let vectors = (width - column) / S::LANES;
        let mut done = 0;
        for head in (0..heads).step_by(TILE_HEADS) {
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
            done = unsafe { value_tile::<S>(TILE_HEADS.min(heads - head), vectors, &tile) };
        }
        column += done * S::LANES;
    }
}

/// Heads in a register tile of the weighted sum.
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
