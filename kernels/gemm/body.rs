//! The inner loops, generic over vector and decoder: dot products that decode in registers (few rows
//! of `x`) and register tiles over a decoded panel (many). Both follow the contract in `simd.rs`, so
//! an output element has the same bits from either.

use super::simd::{Decode, Simd, TILE_COLS, Tile};

/// Most bytes of codes in any decoder's step; size of the padded copy of a row's tail.
const STEP_BYTES_MAX: usize = 64;

/// Bytes of a cache line, and of a prefetch.
const LINE_BYTES: usize = 64;

/// Bytes of a row of codes from which on the processor's own prefetchers do better than ours: they
/// follow every row by itself where rows lie on pages of their own. Measured on Zen 3 (README.md).
const fn long_row_bytes(decodes: bool) -> usize {
    if decodes { 8192 } else { 4096 }
}

/// Weight rows that the widest dot product takes at a time.
const FIRST_ROWS: usize = 8;

/// Most scale bytes in any decoder's step.
const STEP_SCALES_MAX: usize = 2;

/// Some consecutive rows of one segment, within one row of scale blocks.
#[derive(Clone, Copy)]
pub(super) struct Run {
    /// Codes of the first row.
    pub codes: *const u8,
    /// Bytes between rows of codes.
    pub code_stride: usize,
    /// Scales of the first row (decoders that read scales), else any pointer.
    pub scales: *const u8,
    /// Bytes between rows of scales; 0 where the decoder reads none.
    pub scale_stride: usize,
    /// Rows in the run.
    pub rows: usize,
    /// Columns that exist.
    pub cols: usize,
}

/// Rows of `x`, permuted: `rows` rows of whole steps, `stride` floats apart.
#[derive(Clone, Copy)]
pub(super) struct Permuted {
    pub base: *const f32,
    pub stride: usize,
    pub rows: usize,
}

/// Where sums go: row i of `x`, weight row o at `base + i * stride + o`.
#[derive(Clone, Copy)]
pub(super) struct Sums {
    pub base: *mut f32,
    pub stride: usize,
}

/// A row's last, partial step, padded with zero codes (0.0 in every encoding).
struct Tail {
    codes: [u8; STEP_BYTES_MAX],
    scales: [u8; STEP_SCALES_MAX],
}

impl Tail {
    /// # Safety
    /// `row` is a row of `run`.
    #[inline(always)]
    unsafe fn new<S: Simd, D: Decode<S>>(run: &Run, row: usize) -> Tail {
        let step = run.cols / D::STEP;
        let mut tail = Tail { codes: [0; STEP_BYTES_MAX], scales: [127; STEP_SCALES_MAX] };
        let bytes = run.code_stride - step * D::CODE_BYTES;
        let scales = run.scale_stride - step * D::SCALE_BYTES;
        // SAFETY: both lie in the row; a partial step is shorter than the buffers.
        unsafe {
            let codes = run.codes.add(row * run.code_stride + step * D::CODE_BYTES);
            std::ptr::copy_nonoverlapping(codes, tail.codes.as_mut_ptr(), bytes);
            let from = run.scales.wrapping_add(row * run.scale_stride + step * D::SCALE_BYTES);
            std::ptr::copy_nonoverlapping(from, tail.scales.as_mut_ptr(), scales);
        }
        tail
    }
}

/// Runs `$body` with the constant `$index` = 0, 1 … below `$count`, which is at most 8: written out,
/// because the compiler leaves a loop of this size rolled and its accumulators in memory.
macro_rules! unrolled {
    ($index:ident < $count:expr, $body:block) => {
        unrolled!(@ $index $count, $body, 0 1 2 3 4 5 6 7)
    };
    (@ $index:ident $count:expr, $body:block, $($literal:literal)*) => {
        $(if $literal < $count {
            const $index: usize = $literal;
            $body
        })*
    };
}

#[cfg(target_arch = "x86_64")]
pub(super) use unrolled;

/// Asks for the first rows of a run, which no rows before them ask for.
///
/// # Safety
/// Processor features of `S`.
#[inline(always)]
pub(super) unsafe fn prefetch_first<S: Simd, D: Decode<S>>(run: &Run) {
    if run.code_stride < long_row_bytes(!D::PAIRED) {
        for at in (0..run.code_stride * run.rows.min(FIRST_ROWS)).step_by(LINE_BYTES) {
            // SAFETY: features by the caller.
            unsafe { S::prefetch(run.codes.wrapping_add(at)) };
        }
    }
}

/// Asks for the codes of steps `steps` of weight rows `rows`, as far as there are any.
///
/// # Safety
/// Processor features of `S`.
#[inline(always)]
pub(super) unsafe fn prefetch_panel<S: Simd, D: Decode<S>>(
    run: &Run,
    rows: std::ops::Range<usize>,
    steps: std::ops::Range<usize>,
) {
    let bytes = (steps.end * D::CODE_BYTES).min(run.code_stride);
    for row in rows.start..rows.end.min(run.rows) {
        for at in (steps.start * D::CODE_BYTES..bytes).step_by(LINE_BYTES) {
            // SAFETY: features by the caller.
            unsafe { S::prefetch(run.codes.wrapping_add(row * run.code_stride + at)) };
        }
    }
}

/// Sums of weight rows `row..row + W` with `X` rows of `x` from row `first` on.
///
/// # Safety
/// Processor features of `S`; `run` has the rows, `x` has `X` rows from `first` on, `out` room for them.
#[inline(always)]
pub(super) unsafe fn dot<S: Simd, D: Decode<S>, const W: usize, const X: usize>(
    run: &Run,
    row: usize,
    x: Permuted,
    first: usize,
    out: Sums,
) {
    // SAFETY: pointers stay inside rows of `run`, `x` and `out`; features by the caller. Prefetches
    // may point past the end.
    unsafe {
        let steps = run.cols / D::STEP;
        let mut sums = [[S::zero(); X]; W];
        let mut watch = D::watch();
        let mut codes = run.codes.add(row * run.code_stride);
        let mut scales = run.scales.wrapping_add(row * run.scale_stride);
        let mut x_at = x.base.add(first * x.stride);
        // The next `W` rows are fetched in the order of their addresses, a line per row and line of this
        // row: short rows side by side are too many streams for the processor to follow.
        let ahead = run.code_stride < long_row_bytes(!D::PAIRED);
        let next = codes.wrapping_add(W * run.code_stride);
        for step in 0..steps {
            let done = step * D::CODE_BYTES;
            if ahead && done.is_multiple_of(LINE_BYTES) {
                unrolled!(ROW < W, {
                    S::prefetch(next.wrapping_add(done * W + ROW * LINE_BYTES));
                });
            }
            let code_at = |row| codes.add(row * run.code_stride);
            let scale_at = |row| scales.wrapping_add(row * run.scale_stride);
            if D::PAIRED && W.is_multiple_of(2) {
                unrolled!(PAIR < W / 2, {
                    let (a, b) = (2 * PAIR, 2 * PAIR + 1);
                    let block_a = D::decode(code_at(a), scale_at(a), &mut watch);
                    let block_b = D::decode(code_at(b), scale_at(b), &mut watch);
                    let blocks = [block_a, block_b];
                    accumulate_pair::<S, D, X>(&mut sums[a..=b], blocks, x_at, x.stride);
                });
            } else {
                unrolled!(ROW < W, {
                    let block = D::decode(code_at(ROW), scale_at(ROW), &mut watch);
                    accumulate::<S, D, X>(&mut sums[ROW], block, x_at, x.stride);
                });
            }
            codes = codes.add(D::CODE_BYTES);
            scales = scales.wrapping_add(D::SCALE_BYTES);
            x_at = x_at.add(D::STEP);
        }
        if !run.cols.is_multiple_of(D::STEP) {
            for (w, sums) in sums.iter_mut().enumerate() {
                let tail = Tail::new::<S, D>(run, row + w);
                let block = D::decode(tail.codes.as_ptr(), tail.scales.as_ptr(), &mut watch);
                accumulate::<S, D, X>(sums, block, x_at, x.stride);
            }
        }
        let target = out.base.add(first * out.stride + row);
        store_dots::<S, W, X>(&sums, Sums { base: target, ..out });
        if D::saw_nan(watch) {
            spoil::<W, X>(run, row, first, out);
        }
    }
}

/// Adds up the lanes of `sums[weight row][row of x]`, four sums at a time where they lie side by side.
#[inline(always)]
unsafe fn store_dots<S: Simd, const W: usize, const X: usize>(sums: &[[S::F; X]; W], out: Sums) {
    for first in (0..W - W % TILE_COLS).step_by(TILE_COLS) {
        let row = |i: usize| std::array::from_fn(|c| sums[first + c][i]);
        // SAFETY: features and room by the caller of `dot`.
        unsafe { S::store_sums::<X>(std::array::from_fn(row), out.base.add(first), out.stride) };
    }
    for (w, sums) in sums.iter().enumerate().skip(W - W % TILE_COLS) {
        for (i, sum) in sums.iter().enumerate() {
            // SAFETY: as above.
            unsafe { *out.base.add(i * out.stride + w) = S::sum(*sum) };
        }
    }
}

/// One step of one weight row: `sums[i] = fma(x[i], w, sums[i])` over its vectors, in order.
#[inline(always)]
unsafe fn accumulate<S: Simd, D: Decode<S>, const X: usize>(
    sums: &mut [S::F; X],
    block: D::Block,
    x: *const f32,
    x_stride: usize,
) {
    let block = block.as_ref();
    unrolled!(VECTOR < block.len(), {
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: `x` has a whole step in each of its rows; features by the caller.
            *sum = unsafe { S::fma_at::<VECTOR>(*sum, x.add(i * x_stride), block[VECTOR]) };
        }
    });
}

/// The same of two weight rows, which share the loads of `x`.
#[inline(always)]
unsafe fn accumulate_pair<S: Simd, D: Decode<S>, const X: usize>(
    sums: &mut [[S::F; X]],
    [block_a, block_b]: [D::Block; 2],
    x: *const f32,
    x_stride: usize,
) {
    let (block_a, block_b) = (block_a.as_ref(), block_b.as_ref());
    unrolled!(VECTOR < block_a.len(), {
        let [sums_a, sums_b] = sums else { unreachable!("a pair") };
        for (i, (sum_a, sum_b)) in sums_a.iter_mut().zip(sums_b).enumerate() {
            // SAFETY: `x` has a whole step in each of its rows; features by the caller.
            unsafe {
                let x = S::load_at::<VECTOR>(x.add(i * x_stride));
                *sum_a = S::fma_into(*sum_a, x, block_a[VECTOR]);
                *sum_b = S::fma_into(*sum_b, x, block_b[VECTOR]);
            }
        }
    });
}

/// Makes the sums of those rows NaN that hold a NaN code. Rare, hence slow and out of line.
#[cold]
#[inline(never)]
unsafe fn spoil<const W: usize, const X: usize>(run: &Run, row: usize, first: usize, out: Sums) {
    for w in 0..W {
        // SAFETY: the row lies in the run.
        let codes = unsafe { run.codes.add((row + w) * run.code_stride) };
        // SAFETY: as above.
        let codes = unsafe { std::slice::from_raw_parts(codes, run.cols) };
        if codes.iter().any(|code| code & 0x7f == 0x7f) {
            for i in first..first + X {
                // SAFETY: `dot` wrote the same place.
                unsafe { *out.base.add(i * out.stride + row + w) = f32::NAN };
            }
        }
    }
}

/// Decodes steps `steps` of weight row `row`, times [`Decode::LIFT`], into a panel whose vectors lie
/// `TILE_COLS` vectors apart. Returns whether a NaN code went by.
///
/// # Safety
/// Processor features of `S`; the row and the steps exist (a partial step counts); room in `panel`.
#[inline(always)]
pub(super) unsafe fn unpack<S: Simd, D: Decode<S>>(
    run: &Run,
    row: usize,
    steps: std::ops::Range<usize>,
    panel: *mut f32,
) -> bool {
    // SAFETY: as the caller promises.
    unsafe {
        let whole = run.cols / D::STEP;
        let codes = run.codes.add(row * run.code_stride);
        let scales = run.scales.wrapping_add(row * run.scale_stride);
        let mut watch = D::watch();
        let mut target = panel;
        for step in steps.clone() {
            let block = if step < whole {
                let scale = scales.wrapping_add(step * D::SCALE_BYTES);
                D::decode(codes.add(step * D::CODE_BYTES), scale, &mut watch)
            } else {
                let tail = Tail::new::<S, D>(run, row);
                D::decode(tail.codes.as_ptr(), tail.scales.as_ptr(), &mut watch)
            };
            for &vector in block.as_ref() {
                S::store(target, if D::LIFT == 1.0 { vector } else { S::scale(vector, D::LIFT) });
                target = target.add(TILE_COLS * S::LANES);
            }
        }
        D::saw_nan(watch)
    }
}

/// `ROWS` × `TILE_COLS` accumulators over one chunk of columns. The panel's vectors are interleaved:
/// vector v of weight row c is the (`TILE_COLS`·v + c)th.
///
/// # Safety
/// Processor features of `S`; the tile's pointers are valid for `ROWS` rows of the documented sizes.
#[inline(always)]
pub(super) unsafe fn tile<S: Simd, const ROWS: usize>(tile: &Tile) {
    // SAFETY: as the caller promises.
    unsafe {
        let mut sums = [[S::zero(); TILE_COLS]; ROWS];
        let place = |i: usize, c: usize| tile.sums.add((i * TILE_COLS + c) * S::LANES);
        if !tile.first {
            for (i, row) in sums.iter_mut().enumerate() {
                for (c, sum) in row.iter_mut().enumerate() {
                    *sum = S::load(place(i, c));
                }
            }
        }
        let (mut x_at, mut w_at) = (tile.x, tile.panel);
        for _ in 0..tile.vectors {
            let mut x = [S::zero(); ROWS];
            for (i, x) in x.iter_mut().enumerate() {
                *x = S::load(x_at.add(i * tile.x_stride));
            }
            for c in 0..TILE_COLS {
                let w = S::load(w_at.add(c * S::LANES));
                for (row, x) in sums.iter_mut().zip(x) {
                    row[c] = S::fma(x, w, row[c]);
                }
            }
            x_at = x_at.add(S::LANES);
            w_at = w_at.add(TILE_COLS * S::LANES);
        }
        if tile.out.is_null() {
            for (i, row) in sums.iter().enumerate() {
                for (c, sum) in row.iter().enumerate() {
                    S::store(place(i, c), *sum);
                }
            }
        } else {
            S::store_sums(sums, tile.out, tile.out_stride);
        }
    }
}
