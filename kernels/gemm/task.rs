//! One task of a matmul: some rows of `x` (all of one group) times some rows of the weight.
//!
//! A task permutes its rows of `x` into this thread's scratch (folding in the scales of FP8 blocks,
//! which is exact), runs the dot or the panel kernel, and writes its part of the output. What a task
//! covers never changes bits; `plan.rs` chooses it for speed.

use super::body::{self, Permuted, Run, Sums};
use super::simd::{Decode, Simd, TILE_COLS, Tile};
use super::weight::{COLS_MAX, Encoding, FP4_COLS, Segment};
use crate::common::isa::Isa;
use crate::common::rows::{RealRows, RealRowsMut};
use crate::common::scratch::SCRATCH_FLOATS;
use crate::quant::formats::E8M0;
use std::ops::Range;

/// Up to this many rows of `x` are multiplied by dot products; more are worth a decoded panel.
pub(super) const DOT_ROWS_MAX: usize = 8;

/// Most rows of `x` in a task.
pub(super) const TASK_ROWS_MAX: usize = 96;

/// Most weight rows that many rows of `x` are multiplied by at a time.
pub(super) const PANEL_COLS_MAX: usize = 128;

/// Most weight rows in a task of few rows of `x`, which are permuted once for all of them.
pub(super) const DOT_COLS_MAX: usize = 1024;

/// Most weight rows whose sums fit for `rows` rows of `x`.
pub(super) const fn cols_max(rows: usize) -> usize {
    if rows <= DOT_ROWS_MAX { DOT_COLS_MAX } else { PANEL_COLS_MAX }
}

/// Weight rows decoded at a time: with [`CHUNK`] columns 16 KiB, half of a first-level cache.
const PANEL_ROWS: usize = 8;

/// Columns decoded at a time. A multiple of every decoder's step.
const CHUNK: usize = 512;

/// Floats between rows of permuted `x` beyond the row: keeps rows from sharing cache sets.
const ROW_PAD: usize = 16;

/// Widest decoder step, to which rows of `x` are padded.
const STEP_MAX: usize = 64;

const LANES_MAX: usize = 16;
const PANEL_FLOATS: usize = PANEL_ROWS * CHUNK;
const OUT_FLOATS: usize = TASK_ROWS_MAX * PANEL_COLS_MAX;
const _: () = assert!(DOT_ROWS_MAX * DOT_COLS_MAX <= OUT_FLOATS);
const SUM_FLOATS: usize = TASK_ROWS_MAX * PANEL_ROWS * LANES_MAX;
const ROW_FLOATS: usize = COLS_MAX + STEP_MAX;
const X_FLOATS: usize = SCRATCH_FLOATS - PANEL_FLOATS - OUT_FLOATS - SUM_FLOATS - ROW_FLOATS;
const _: () = assert!(X_FLOATS / (ROW_FLOATS + ROW_PAD) >= 4);
const _: () = assert!(CHUNK.is_multiple_of(STEP_MAX));

/// Rows of `x` of `cols` columns that a task may have.
pub(super) fn task_rows_max(cols: usize) -> usize {
    // A quarter of a megabyte of permuted rows stays in the second-level cache; but decoding a panel
    // should be shared by two dozen rows even if it does not.
    let row = cols.next_multiple_of(STEP_MAX) + ROW_PAD;
    let cached = (1 << 16) / row;
    cached.clamp(24, TASK_ROWS_MAX).min(X_FLOATS / row)
}

/// The decoders of an instruction set.
pub(super) trait Family: Simd {
    /// Binary32.
    type F32: Decode<Self>;
    /// bf16.
    type Bf16: Decode<Self>;
    /// Binary16.
    type F16: Decode<Self>;
    /// E4M3 with block scales.
    type Fp8: Decode<Self>;
    /// The same, known to have no NaN codes.
    type Fp8Finite: Decode<Self>;
    /// E2M1 with row scales.
    type Fp4: Decode<Self>;
    /// INT8, without its row's scale.
    type Int8: Decode<Self>;
}

/// What all tasks of a matmul share.
pub(super) struct Operands {
    pub isa: Isa,
    pub x: RealRows,
    pub out: RealRowsMut,
    pub cols: usize,
}

/// What one task multiplies: `rows` with weight rows `outputs` of a group made of `segments`.
pub(super) struct Part<'a> {
    pub segments: &'a [Segment<'a>],
    pub rows: RowSet,
    pub outputs: Range<usize>,
    /// No FP8 code of these weight rows is NaN.
    pub finite: bool,
}

impl<'a> Part<'a> {
    /// What there is of each segment: the segment, rows of it, output column of its first row.
    pub fn pieces(&self) -> impl Iterator<Item = (&'a Segment<'a>, Range<usize>, usize)> {
        let (outputs, mut end) = (self.outputs.clone(), 0);
        self.segments.iter().filter_map(move |segment| {
            let start = end;
            end += segment.rows;
            let (from, to) = (outputs.start.max(start), outputs.end.min(end));
            (from < to).then(|| (segment, from - start..to - start, start))
        })
    }
}

/// Rows `first`, `first + step`, …, `count` of them: one group's share of `x` and `out`.
#[derive(Clone, Copy)]
pub(super) struct RowSet {
    pub first: usize,
    pub step: usize,
    pub count: usize,
}

/// Multiplies what `part` says, using this thread's scratch `block`.
///
/// # Safety
/// Processor features of `S`; nobody else uses these elements of the output.
#[inline(always)]
pub(super) unsafe fn run<S: Family>(operands: &Operands, part: Part<'_>, block: &mut [f32]) {
    for (segment, inside, column) in part.pieces() {
        let place = Place { operands, segment, rows: part.rows, column };
        // SAFETY: as the caller promises.
        unsafe {
            match segment.encoding {
                Encoding::F32 => run_segment::<S, S::F32>(&place, inside, block),
                Encoding::Bf16 => run_segment::<S, S::Bf16>(&place, inside, block),
                Encoding::F16 => run_segment::<S, S::F16>(&place, inside, block),
                Encoding::Fp8 { .. } if part.finite => {
                    run_segment::<S, S::Fp8Finite>(&place, inside, block);
                }
                Encoding::Fp8 { .. } => run_segment::<S, S::Fp8>(&place, inside, block),
                Encoding::Fp4 => run_segment::<S, S::Fp4>(&place, inside, block),
                Encoding::Int8 => run_segment::<S, S::Int8>(&place, inside, block),
            }
        }
    }
}

/// A segment and where its outputs go.
pub(super) struct Place<'a> {
    pub operands: &'a Operands,
    pub segment: &'a Segment<'a>,
    pub rows: RowSet,
    /// Output column of the segment's first row.
    pub column: usize,
}

impl<'a> Place<'a> {
    /// Rows `inside` of the segment, and their scales where `scaled` says that the decoder reads them.
    pub fn run(&self, inside: Range<usize>, scaled: bool) -> Run {
        let (segment, cols) = (self.segment, self.operands.cols);
        let code_stride = segment.encoding.row_bytes(cols);
        let scale_stride = if scaled { cols.div_ceil(FP4_COLS) } else { 0 };
        Run {
            codes: segment.codes[inside.start * code_stride..].as_ptr(),
            code_stride,
            scales: segment.scales[inside.start * scale_stride..].as_ptr(),
            scale_stride,
            rows: inside.len(),
            cols,
        }
    }
}

/// This thread's scratch, cut up.
struct Room<'a> {
    row: &'a mut [f32],
    panel: &'a mut [f32],
    sums: &'a mut [f32],
    out: &'a mut [f32],
    x: &'a mut [f32],
}

impl<'a> Room<'a> {
    fn new(block: &'a mut [f32]) -> Room<'a> {
        let (panel, block) = block.split_at_mut(PANEL_FLOATS);
        let (sums, block) = block.split_at_mut(SUM_FLOATS);
        let (out, block) = block.split_at_mut(OUT_FLOATS);
        let (row, x) = block.split_at_mut(ROW_FLOATS);
        Room { row, panel, sums, out, x }
    }
}

/// Rows `inside` of one segment: cut where the FP8 scales change and by the room for sums, then multiply.
#[inline(always)]
unsafe fn run_segment<S: Family, D: Decode<S>>(
    place: &Place<'_>,
    inside: Range<usize>,
    block: &mut [f32],
) {
    let mut room = Room::new(block);
    let period = match place.segment.encoding {
        Encoding::Fp8 { rows, .. } => rows as usize,
        _ => usize::MAX,
    };
    let mut from = inside.start;
    while from < inside.end {
        let next = (from - from % period).saturating_add(period);
        let to = next.min(from + cols_max(place.rows.count)).min(inside.end);
        // SAFETY: features and exclusive outputs by the caller.
        unsafe { run_rows::<S, D>(place, &mut room, from..to) };
        from = to;
    }
}

/// Rows `inside` of one segment that share their row of FP8 scales.
#[inline(always)]
unsafe fn run_rows<S: Family, D: Decode<S>>(
    place: &Place<'_>,
    room: &mut Room<'_>,
    inside: Range<usize>,
) {
    let run = place.run(inside.clone(), D::SCALE_BYTES > 0);
    // SAFETY: features by the caller; `run` lies in the segment, whose sizes the view checked; the
    // rooms have the sizes asserted at compile time; outputs are exclusive by the caller.
    unsafe {
        let out = Sums { base: room.out.as_mut_ptr(), stride: cols_max(place.rows.count) };
        body::prefetch_first::<S, D>(&run);
        if place.rows.count <= DOT_ROWS_MAX {
            let x = permute::<S, D>(place, room, inside.start, D::LIFT);
            dots::<S, D>(&run, x, out);
        } else {
            let x = permute::<S, D>(place, room, inside.start, 1.0);
            panels::<S, D>(&run, x, out, room);
        }
        finish(place, room.out, out.stride, inside, D::OUT_FACTOR);
    }
}

/// Converts, scales, pads and permutes the task's rows of `x`: divided by [`Decode::LIFT`], which may
/// lose bits next to 0 and does so for every row, then times `lift`.
#[inline(always)]
unsafe fn permute<S: Family, D: Decode<S>>(
    place: &Place<'_>,
    room: &mut Room<'_>,
    row: usize,
    lift: f32,
) -> Permuted {
    let Operands { isa, x, cols, .. } = *place.operands;
    let padded = cols.next_multiple_of(D::STEP);
    let stride = padded + ROW_PAD;
    assert!(place.rows.count * stride <= room.x.len());
    let natural = &mut room.row[..padded];
    natural[cols..].fill(0.0);
    for i in 0..place.rows.count {
        x.load(isa, place.rows.first + i * place.rows.step, 0, &mut natural[..cols]);
        if let Encoding::Fp8 { rows, cols: width } = place.segment.encoding {
            let per_row = cols.div_ceil(width as usize);
            let block_row = row / rows as usize * per_row;
            let scales = &place.segment.scales[block_row..block_row + per_row];
            for (values, &scale) in natural[..cols].chunks_mut(width as usize).zip(scales) {
                // Powers of two, one after the other: together they might not fit an f32.
                for value in values {
                    *value = *value * D::X_FACTOR * E8M0[scale as usize] * D::LIFT.recip() * lift;
                }
            }
        }
        let target = room.x[i * stride..][..padded].as_mut_ptr();
        for step in (0..padded).step_by(D::STEP) {
            // SAFETY: a step inside both rows; features by the caller.
            unsafe { D::permute(natural.as_ptr().add(step), target.add(step)) };
        }
    }
    Permuted { base: room.x.as_ptr(), stride, rows: place.rows.count }
}

/// Dot products, decoding in registers: rows of `x` share a decoded step, as many as there are registers for.
#[inline(always)]
unsafe fn dots<S: Simd, D: Decode<S>>(run: &Run, x: Permuted, out: Sums) {
    let mut first = 0;
    while first < x.rows {
        // SAFETY: as the caller of `run_rows` promises.
        first += unsafe {
            match (x.rows - first, S::WIDE) {
                (8.., true) => dot_rows::<S, D, 2, 8>(run, x, first, out),
                (7, true) => dot_rows::<S, D, 2, 7>(run, x, first, out),
                (6, true) => dot_rows::<S, D, 2, 6>(run, x, first, out),
                (5, true) => dot_rows::<S, D, 2, 5>(run, x, first, out),
                (4, true) => dot_rows::<S, D, 4, 4>(run, x, first, out),
                (3, true) => dot_rows::<S, D, 4, 3>(run, x, first, out),
                (2, true) => dot_rows::<S, D, 8, 2>(run, x, first, out),
                (4.., false) => dot_rows::<S, D, 2, 4>(run, x, first, out),
                (3, false) => dot_rows::<S, D, 2, 3>(run, x, first, out),
                (2, false) => dot_rows::<S, D, 4, 2>(run, x, first, out),
                _ => dot_rows::<S, D, 8, 1>(run, x, first, out),
            }
        };
    }
}

/// All rows of `run` with `X` rows of `x`, `W` at a time. Returns `X`.
#[inline(always)]
unsafe fn dot_rows<S: Simd, D: Decode<S>, const W: usize, const X: usize>(
    run: &Run,
    x: Permuted,
    first: usize,
    out: Sums,
) -> usize {
    let whole = run.rows - run.rows % W;
    // SAFETY: as the caller of `run_rows` promises.
    unsafe {
        for row in (0..whole).step_by(W) {
            body::dot::<S, D, W, X>(run, row, x, first, out);
        }
        for row in whole..run.rows {
            body::dot::<S, D, 1, X>(run, row, x, first, out);
        }
    }
    X
}

/// Register tiles over decoded panels of [`PANEL_ROWS`] weight rows and [`CHUNK`] columns.
#[inline(always)]
unsafe fn panels<S: Simd, D: Decode<S>>(run: &Run, x: Permuted, out: Sums, room: &mut Room<'_>) {
    let padded = run.cols.next_multiple_of(D::STEP);
    for row in (0..run.rows).step_by(PANEL_ROWS) {
        let rows = (run.rows - row).min(PANEL_ROWS);
        // Bit c: weight row c of the panel holds a NaN code.
        let mut nan = 0u32;
        for start in (0..padded).step_by(CHUNK) {
            let end = padded.min(start + CHUNK);
            for c in 0..rows.next_multiple_of(TILE_COLS) {
                let tile = c / TILE_COLS * TILE_COLS * CHUNK;
                let panel = room.panel[tile + c % TILE_COLS * S::LANES..].as_mut_ptr();
                // Missing rows repeat the last: their sums go to columns nobody reads.
                let source = row + c.min(rows - 1);
                let steps = start / D::STEP..end / D::STEP;
                // SAFETY: as the caller of `run_rows` promises; the panel has a place per vector.
                let saw = unsafe { body::unpack::<S, D>(run, source, steps, panel) };
                nan |= u32::from(saw) << c;
            }
            let chunk = Chunk { start, end, last: end == padded, row, rows };
            // What is decoded next comes while this is multiplied.
            let (row, start) = if chunk.last { (row + PANEL_ROWS, 0) } else { (row, end) };
            let steps = start / D::STEP..padded.min(start + CHUNK) / D::STEP;
            // SAFETY: as above.
            unsafe {
                body::prefetch_panel::<S, D>(run, row..row + PANEL_ROWS, steps);
                tiles::<S>(&chunk, x, out, room);
            }
        }
        for c in (0..rows).filter(|c| nan >> c & 1 == 1) {
            for i in 0..x.rows {
                room.out[i * out.stride + row + c] = f32::NAN;
            }
        }
    }
}

/// A decoded panel: columns `start..end` of weight rows `row..row + rows`.
struct Chunk {
    start: usize,
    end: usize,
    last: bool,
    row: usize,
    rows: usize,
}

/// All rows of `x` with one decoded panel.
#[inline(always)]
unsafe fn tiles<S: Simd>(chunk: &Chunk, x: Permuted, out: Sums, room: &mut Room<'_>) {
    for i in (0..x.rows).step_by(S::TILE_ROWS) {
        let rows = (x.rows - i).min(S::TILE_ROWS);
        for c in (0..chunk.rows).step_by(TILE_COLS) {
            let sums = &mut room.sums[(i * PANEL_ROWS + c * S::TILE_ROWS) * S::LANES..];
            let panel = &room.panel[c * CHUNK..];
            // SAFETY: as the caller of `run_rows` promises; `out` has room for whole tiles because
            // tasks of panels have at most `PANEL_COLS_MAX` weight rows, a multiple of `TILE_COLS`.
            unsafe {
                let to = out.base.add(i * out.stride + chunk.row + c);
                let tile = Tile {
                    x: x.base.add(i * x.stride + chunk.start),
                    x_stride: x.stride,
                    panel: panel.as_ptr(),
                    vectors: (chunk.end - chunk.start) / S::LANES,
                    sums: sums.as_mut_ptr(),
                    first: chunk.start == 0,
                    out: if chunk.last { to } else { std::ptr::null_mut() },
                    out_stride: out.stride,
                };
                S::tile(rows, &tile);
            }
        }
    }
}

/// Applies the last factor to rows of sums, `stride` apart, makes every NaN the same NaN, rounds and writes.
///
/// # Safety
/// Nobody else uses these elements of the output.
#[inline(always)]
pub(super) unsafe fn finish(
    place: &Place<'_>,
    sums: &mut [f32],
    stride: usize,
    inside: Range<usize>,
    factor: f32,
) {
    for (i, sums) in sums.chunks_mut(stride).enumerate().take(place.rows.count) {
        let values = &mut sums[..inside.len()];
        if place.segment.encoding == Encoding::Int8 {
            let scales = place.segment.scales[4 * inside.start..].as_chunks().0;
            for (value, scale) in values.iter_mut().zip(scales) {
                *value *= f32::from_le_bytes(*scale);
            }
        }
        for value in values.iter_mut() {
            let sum = *value * factor;
            *value = if sum.is_nan() { f32::NAN } else { sum };
        }
        let index = place.rows.first + i * place.rows.step;
        let column = place.column + inside.start;
        let Operands { isa, out, .. } = place.operands;
        // SAFETY: these elements belong to this task alone.
        unsafe { out.store_shared(*isa, index, column, values) };
    }
}
