//! Attention on the CPU.
//!
//! **Order of sums**, a function of the query row alone. The present keys of a row are numbered:
//! near list first, then far, both in list order, absent ones left out. Keys are cut into splits of
//! [`SPLIT`] and a split into blocks of 64 (`score.rs`). In a block: scores (dot over columns in order, or as
//! `tiles.rs` says), maximum, exponentials, their sum and the weighted sum of the keys, in key order, behind a
//! rescale of what the split has so far. Splits are merged in order. So neither the tile shapes, nor which
//! heads ran together, nor whether the splits of a row ran on one thread, can change a bit.
//!
//! This file cuts the work and finds the keys; `fold.rs` has the arithmetic.
//!
//! Not here: rope, the output projection, checks of shapes (`hal` makes them once per program).

use super::fold::{Piece, fold, piece_floats, rooms};
use super::keys::{KeyRows, Listed, Visible};
use super::score::{self, Heads, PAD, load_heads};
use crate::common::isa::Isa;
use crate::common::pool::Pool;
use crate::common::rows::{RealRows, RealRowsMut, RowsMut};
use crate::common::scratch;

/// Keys whose sums are made without a look at any other key.
const SPLIT: usize = 512;
/// Heads to a part where rows alone keep all threads busy: keys are decoded once for them.
const GROUP_WIDE: usize = 64;
/// Heads to a part otherwise: one AVX-512 vector.
const GROUP: usize = 16;
/// Heads to a part where threads would have nothing to do: keys are decoded anew for each.
const GROUP_MIN: usize = 8;

/// Most heads of a query.
pub const HEADS_MAX: usize = 1 << 12;
/// Widest key: what fits a thread's scratch beside the sums of 16 heads.
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
    let cut = op.cut(pool.threads());
    let parts = op.parts(cut);
    if !cut.by_split {
        pool.run(parts, &|part| whole_part(isa, op, &op.part(cut, part)));
        return;
    }
    let pieces = piece_rows(op, cut, workspace);
    let splits = op.splits();
    pool.run(parts * splits, &|place| {
        split_part(isa, op, &pieces, place, &op.part(cut, place / splits));
    });
    pool.run(parts, &|part| merge_part(isa, op, &pieces, part * splits, &op.part(cut, part)));
}

/// How a call is cut into parts. Never part of the arithmetic.
#[derive(Clone, Copy)]
struct Cut {
    /// Heads in a part.
    group: usize,
    /// Whether the splits of a row are parts of their own.
    by_split: bool,
}

impl Cut {
    /// Heads that a part has room for: whole vectors.
    fn room(self) -> usize {
        self.group.next_multiple_of(PAD)
    }
}

/// Some heads of one row.
struct Part {
    row: usize,
    first: usize,
    heads: usize,
    /// Heads that it has room for.
    room: usize,
}

impl Attend<'_> {
    /// Floats that [`attend`] wants as workspace on a pool of `threads`.
    pub fn workspace_floats(&self, threads: usize) -> usize {
        let cut = self.cut(threads);
        let pieces = if cut.by_split { self.parts(cut) * self.splits() } else { 0 };
        pieces * piece_floats(cut.room(), self.width())
    }

    fn parts(&self, cut: Cut) -> usize {
        self.q.rows() * self.sink.len().div_ceil(cut.group)
    }

    fn part(&self, cut: Cut, index: usize) -> Part {
        let groups = self.sink.len().div_ceil(cut.group);
        let first = index % groups * cut.group;
        let heads = cut.group.min(self.sink.len() - first);
        Part { row: index / groups, first, heads, room: cut.room() }
    }

    pub(super) fn width(&self) -> usize {
        self.near.cache.width()
    }

    /// The cache of the far keys; the near one if there are none.
    fn far_cache(&self) -> &KeyRows {
        match &self.far {
            Some(Far::Listed(listed)) => &listed.cache,
            Some(Far::Visible(visible)) => &visible.cache,
            None => &self.near.cache,
        }
    }

    /// Whether scores are made by tiles.
    fn by_tiles(&self, isa: Isa) -> bool {
        score::by_tiles(isa, &self.q, &self.near.cache, self.far_cache())
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

    fn cut(&self, threads: usize) -> Cut {
        let (rows, heads) = (self.q.rows(), self.sink.len());
        // Four parts to a thread even out what the scheduler does to them.
        let enough = if threads == 1 { 1 } else { 4 * threads };
        let most = if self.width() <= 1024 { GROUP_WIDE } else { GROUP };
        let wide = most.min(heads.next_multiple_of(PAD));
        if rows * heads.div_ceil(wide) >= enough {
            return Cut { group: wide, by_split: false };
        }
        let parts = rows * heads.div_ceil(GROUP);
        let by_split = parts < enough && self.splits() > 1;
        Cut { group: if parts < threads { GROUP_MIN } else { GROUP }, by_split }
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
pub(super) struct Keys {
    rows: [u32; SPLIT],
    near: usize,
    pub(super) len: usize,
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

    /// Decodes keys from `first` on to rows of `stride` floats, zero behind the width up to whole vectors.
    #[inline(always)]
    pub(super) fn load(
        &self,
        isa: Isa,
        op: &Attend<'_>,
        first: usize,
        out: &mut [f32],
        stride: usize,
    ) {
        let end = self.len.min(first + out.len() / stride);
        let near = self.near.clamp(first, end);
        let (near_out, far_out) = out.split_at_mut((near - first) * stride);
        op.near.cache.load_rows(isa, &self.rows[first..near], near_out, stride);
        op.far_cache().load_rows(isa, &self.rows[near..end], far_out, stride);
        let (width, columns) = (op.width(), op.width().next_multiple_of(PAD));
        if width < columns {
            for out in out.chunks_exact_mut(stride).take(end - first) {
                out[width..columns].fill(0.0);
            }
        }
    }
}

/// All keys of a part.
fn whole_part(isa: Isa, op: &Attend<'_>, part: &Part) {
    let (&Part { row, first, heads, room: group }, width) = (part, op.width());
    scratch::with(|block| {
        let by_tiles = op.by_tiles(isa);
        let (mut room, rest) = rooms(block, group, width, by_tiles);
        let (sums, rest) = rest.split_at_mut(piece_floats(group, width));
        let more = &mut rest[..piece_floats(group, width)];
        let (mut sums, mut more) = (Piece::new(sums, group), Piece::new(more, group));
        let mut keys = op.keys(row, 0);
        if keys.len == 0 {
            write_zeros(isa, op, row, first, heads, &mut sums.sums[..width]);
            return;
        }
        let heads_of = Heads { row, heads: first..first + heads, width };
        load_heads(isa, by_tiles, &op.q, &heads_of, sums.sums, room.queries);
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
fn piece_rows(op: &Attend<'_>, cut: Cut, workspace: &mut [f32]) -> RowsMut<f32> {
    let floats = piece_floats(cut.room(), op.width());
    let count = op.parts(cut) * op.splits();
    assert!(workspace.len() >= count * floats, "attend: workspace of {} floats", workspace.len());
    // SAFETY: inside the slice, which this call holds alone.
    unsafe { RowsMut::from_raw(workspace.as_mut_ptr(), floats, count, floats) }
}

/// One split of a part, left in row `place` of the workspace: of (part, split).
fn split_part(isa: Isa, op: &Attend<'_>, pieces: &RowsMut<f32>, place: usize, part: &Part) {
    let (&Part { row, first, heads, room }, width) = (part, op.width());
    let keys = op.keys(row, place % op.splits() * SPLIT);
    if keys.len == 0 {
        return;
    }
    // SAFETY: this row of the workspace belongs to this part.
    let piece = unsafe { pieces.shared(place, 0..pieces.width()) };
    let mut piece = Piece::new(piece, room);
    scratch::with(|block| {
        let by_tiles = op.by_tiles(isa);
        let (mut room, _) = rooms(block, room, width, by_tiles);
        let heads_of = Heads { row, heads: first..first + heads, width };
        load_heads(isa, by_tiles, &op.q, &heads_of, piece.sums, room.queries);
        fold(isa, op, &keys, heads, &mut room, &mut piece);
    });
}

/// Merges the splits of a part, from row `place` of the workspace on, and writes its heads.
fn merge_part(isa: Isa, op: &Attend<'_>, pieces: &RowsMut<f32>, place: usize, part: &Part) {
    let &Part { row, first, heads, room } = part;
    // SAFETY: the rows of the workspace of this row and these heads belong to this part, and differ.
    let piece = |split| unsafe { pieces.shared(place + split, 0..pieces.width()) };
    let mut sums = Piece::new(piece(0), room);
    if op.keys(row, 0).len == 0 {
        let width = op.width();
        write_zeros(isa, op, row, first, heads, &mut sums.sums[..width]);
        return;
    }
    for split in 1..op.splits() {
        if op.keys(row, split * SPLIT).len == 0 {
            break;
        }
        sums.merge(isa, &Piece::new(piece(split), room), heads);
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
