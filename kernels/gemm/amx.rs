//! Products by AMX tiles: bf16 rows of `x` with weights whose numbers are exact in bf16 (bf16 itself, E4M3, scaled
//! E2M1). What is not of that kind goes the way of AVX-512.
//!
//! A tile of the weight is 16 rows of 32 columns, natural or as a decoder leaves them; a tile of `x` holds the
//! same columns of 16 rows, two columns to a number of four bytes, columns down. Columns are taken in steps of 64: two
//! planes of 32 in an order that belongs to the decoder. An output element is one sum that every plane is added
//! to, in order, by one instruction whose arithmetic does not depend on its other rows and columns
//! (`common::tiles`): that is law 7. One row of `x` alone is a tile one column wide.
//!
//! Up to 32 rows of `x` multiply every step as it is decoded, with all sums in registers. For more, 32 rows of the
//! weight are decoded, [`PANEL_STEPS`] steps at a time, and multiplied by two tiles of `x` at a time; sums wait in
//! memory between panels.

use super::body::{Run, Sums, unrolled};
use super::tables::{E2M1_BF16, E4M3_BF16};
use super::task::{self, Operands, Part, Place};
use super::weight::{Encoding, WeightView};
use crate::common::rows::RealRows;
use crate::common::scratch::SCRATCH_FLOATS;
use crate::common::tiles::{self, At, PLANE, TILE};
use half::bf16;
use std::arch::x86_64::*;
use std::ops::Range;

/// Columns of a step, and planes of it.
const STEP: usize = 64;
const PLANES: usize = STEP / PLANE;

/// Weight rows that are multiplied at a time: two tiles.
const BLOCK: usize = 2 * tiles::ROWS;

/// Bytes of a plane of [`BLOCK`] decoded weight rows, and of a step of them.
const PLANE_BYTES: usize = BLOCK * tiles::ROW_BYTES;
const STEP_BYTES: usize = PLANES * PLANE_BYTES;

/// The same of 16 weight rows. Two steps of them lie within 4 KiB: a load waits for an unfinished store to
/// an address that differs by that.
const STAGE_PLANE_BYTES: usize = tiles::ROWS * tiles::ROW_BYTES;
const STAGE_BYTES: usize = PLANES * STAGE_PLANE_BYTES;
const _: () = assert!(2 * STAGE_BYTES <= 4096);

/// Steps of [`BLOCK`] weight rows that are decoded at a time: 32 KiB, which stay in the first-level cache while all
/// tiles of `x` come by.
const PANEL_STEPS: usize = 8;

/// Widest row that goes this way.
const COLS_MAX: usize = 1 << 14;
/// Most rows of `x` in a task, and most weight rows.
const ROWS_MAX: usize = 192;
pub(super) const OUTPUTS_MAX: usize = 1024;
/// Fewest weight rows in a task.
pub(super) const OUTPUTS_MIN: usize = BLOCK;
/// Fewest rows of `x` in a task that has not all of its group's.
pub(super) const ROWS_MIN: usize = 2 * tiles::ROWS;
/// Rows of `x` up to which a step is multiplied as it is decoded.
const NARROW_MAX: usize = 2 * tiles::ROWS;

/// Columns of `x` turned into tiles at a time.
const CHUNK: usize = 512;
/// Words between rows of such columns: not a power of two, so that they do not share cache sets.
const CHUNK_STRIDE: usize = CHUNK + PLANE;

/// Floats of a thread's scratch.
const STAGE_FLOATS: usize = 2 * STAGE_BYTES / 4;
const WORDS_FLOATS: usize = tiles::ROWS * CHUNK_STRIDE / 2;
/// Floats between rows of sums: not a power of two either.
const OUT_STRIDE: usize = OUTPUTS_MAX + tiles::ROWS;
const OUT_FLOATS: usize = ROWS_MAX * OUT_STRIDE;
const PANEL_FLOATS: usize = PANEL_STEPS * STEP_BYTES / 4;
const SUM_FLOATS: usize = ROWS_MAX * BLOCK;
const X_FLOATS: usize =
    SCRATCH_FLOATS - (STAGE_FLOATS + WORDS_FLOATS + OUT_FLOATS + PANEL_FLOATS + SUM_FLOATS + TILE);
const _: () = assert!(X_FLOATS >= COLS_MAX * tiles::ROWS / 2);

/// Whether a product goes this way: never a question of how many rows there are.
pub(super) fn takes(x: &RealRows, weight: &WeightView<'_>) -> bool {
    let exact = |encoding| match encoding {
        Encoding::Bf16 | Encoding::Fp4 => true,
        // A step has one scale.
        Encoding::Fp8 { cols, .. } => (cols as usize).is_multiple_of(STEP),
        Encoding::F32 | Encoding::F16 | Encoding::Int8 => false,
    };
    matches!(x, RealRows::Bf16(_)) && weight.cols() <= COLS_MAX && weight.encodings().all(exact)
}

/// Rows of `x` of `cols` columns that a task may have.
pub(super) fn task_rows_max(cols: usize) -> usize {
    let rows = 2 * X_FLOATS / cols.next_multiple_of(STEP);
    (rows / tiles::ROWS * tiles::ROWS).min(ROWS_MAX)
}

/// Multiplies what `part` says, using this thread's scratch `block`.
///
/// # Safety
/// Tiles are usable, and [`takes`] said yes; nobody else uses these elements of the output.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx2,fma,f16c")]
pub(super) unsafe fn run(operands: &Operands, part: &Part<'_>, block: &mut [f32]) {
    let columns = if part.rows.count == 1 { 1 } else { tiles::ROWS };
    // SAFETY: tiles are usable by the caller; released below, and nothing between panics or asks for more.
    unsafe { tiles::configure(columns as u16) };
    for (segment, inside, column) in part.pieces() {
        let place = Place { operands, segment, rows: part.rows, column };
        // SAFETY: as the caller promises.
        unsafe {
            match segment.encoding {
                Encoding::Bf16 => run_segment::<Plain>(&place, inside, block),
                Encoding::Fp8 { .. } => run_segment::<Fp8>(&place, inside, block),
                Encoding::Fp4 => run_segment::<Fp4>(&place, inside, block),
                other => unreachable!("{other:?} weights do not go by tiles"),
            }
        }
    }
    // SAFETY: as above.
    unsafe { tiles::release() };
}

/// This thread's scratch, cut up.
struct Room<'a> {
    /// Two steps of decoded weight rows.
    stage: &'a mut [f32],
    /// [`CHUNK`] columns of 16 rows of `x`, as bf16.
    words: &'a mut [f32],
    /// Decoded weight rows, and the sums that wait for the next panel.
    panel: &'a mut [f32],
    sums: &'a mut [f32],
    /// A tile of sums.
    tile: &'a mut [f32],
    /// `[rows of x, weight rows]`
    out: &'a mut [f32],
    /// Tiles of `x`: `[tiles, planes, 16 pairs of columns, 16 rows]`, or `[planes, 16 pairs]` of a row alone.
    x: &'a mut [f32],
}

impl<'a> Room<'a> {
    fn new(block: &'a mut [f32]) -> Room<'a> {
        let (stage, block) = block.split_at_mut(STAGE_FLOATS);
        let (words, block) = block.split_at_mut(WORDS_FLOATS);
        let (panel, block) = block.split_at_mut(PANEL_FLOATS);
        let (sums, block) = block.split_at_mut(SUM_FLOATS);
        let (tile, block) = block.split_at_mut(TILE);
        let (out, x) = block.split_at_mut(OUT_FLOATS);
        Room { stage, words, panel, sums, tile, out, x }
    }
}

/// How codes become planes, and the columns of `x` meet them.
///
/// # Safety
/// All methods require AVX-512 F, BW and VBMI.
unsafe trait Source {
    /// Bytes of the codes of a step, and of the scales that a row has of its own.
    const CODE_BYTES: usize;
    const SCALE_BYTES: usize;
    /// Whether codes are what a tile holds.
    const DIRECT: bool;
    /// What stays in registers for all rows of a step.
    type Tables: Copy;

    /// `scale` is the one that all rows of the step share, if they do.
    unsafe fn tables(scale: u8) -> Self::Tables;
    /// A step of one weight row: its planes.
    unsafe fn decode(
        tables: Self::Tables,
        codes: *const u8,
        scales: *const u8,
    ) -> [__m512i; PLANES];
    /// The columns of a step in the order of the planes, from natural order.
    unsafe fn permute(first: __m512i, second: __m512i) -> [__m512i; PLANES];
}

/// bf16, natural order.
struct Plain;

// SAFETY: AVX-512 F only; touches the documented sizes.
unsafe impl Source for Plain {
    const CODE_BYTES: usize = 128;
    const SCALE_BYTES: usize = 0;
    const DIRECT: bool = true;
    type Tables = ();

    #[inline(always)]
    unsafe fn tables(_: u8) {}
    #[inline(always)]
    unsafe fn decode(_: (), codes: *const u8, _: *const u8) -> [__m512i; PLANES] {
        // SAFETY: features and pointer by the caller.
        unsafe { [_mm512_loadu_si512(codes.cast()), _mm512_loadu_si512(codes.add(64).cast())] }
    }
    #[inline(always)]
    unsafe fn permute(first: __m512i, second: __m512i) -> [__m512i; PLANES] {
        [first, second]
    }
}

/// E4M3 with a scale for all rows and columns of a step: two tables of 128 bytes. Of every 16 columns 8 are in the
/// first plane.
struct Fp8;

// SAFETY: AVX-512 F, BW and VBMI; touches the documented sizes.
unsafe impl Source for Fp8 {
    const CODE_BYTES: usize = 64;
    const SCALE_BYTES: usize = 0;
    const DIRECT: bool = false;
    /// Lower bytes, then upper ones.
    type Tables = [[__m512i; 2]; 2];

    #[inline(always)]
    unsafe fn tables(scale: u8) -> Self::Tables {
        let table = &E4M3_BF16[scale as usize].0;
        let half = |byte: usize, half: usize| {
            // SAFETY: half of a table of 128 bytes; features by the caller.
            unsafe { _mm512_load_si512((&raw const table[byte][64 * half]).cast()) }
        };
        [[half(0, 0), half(0, 1)], [half(1, 0), half(1, 1)]]
    }
    #[inline(always)]
    unsafe fn decode(tables: Self::Tables, codes: *const u8, _: *const u8) -> [__m512i; PLANES] {
        /// `a | b & c` as a table of three inputs.
        const OR_AND: i32 = 0xf8;
        let [[low0, low1], [high0, high1]] = tables;
        // SAFETY: features and pointer by the caller.
        unsafe {
            let codes = _mm512_loadu_si512(codes.cast());
            // The lookup leaves out the sign, which is the upper byte's too.
            let low = _mm512_permutex2var_epi8(low0, codes, low1);
            let high = _mm512_permutex2var_epi8(high0, codes, high1);
            let high = _mm512_ternarylogic_epi32::<OR_AND>(high, codes, _mm512_set1_epi8(-128));
            [_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high)]
        }
    }
    #[inline(always)]
    unsafe fn permute(first: __m512i, second: __m512i) -> [__m512i; PLANES] {
        // SAFETY: features by the caller.
        unsafe {
            [
                _mm512_shuffle_i32x4::<0b10_00_10_00>(first, second),
                _mm512_shuffle_i32x4::<0b11_01_11_01>(first, second),
            ]
        }
    }
}

/// E2M1 with a scale per 32 columns: one table of the values of two blocks. Even columns, then odd ones.
struct Fp4;

// SAFETY: AVX-512 F and BW; touches the documented sizes.
unsafe impl Source for Fp4 {
    const CODE_BYTES: usize = 32;
    const SCALE_BYTES: usize = 2;
    const DIRECT: bool = false;
    /// What picks a block's table: bit 4 of a word.
    type Tables = __m512i;

    #[inline(always)]
    unsafe fn tables(_: u8) -> __m512i {
        // SAFETY: features by the caller.
        unsafe { _mm512_inserti64x4::<1>(_mm512_setzero_si512(), _mm256_set1_epi16(16)) }
    }
    #[inline(always)]
    unsafe fn decode(block: __m512i, codes: *const u8, scales: *const u8) -> [__m512i; PLANES] {
        /// `a & b | c` as a table of three inputs.
        const AND_OR: i32 = 0xea;
        // SAFETY: features and pointers by the caller; a table entry is 32 bytes.
        unsafe {
            let table = |at: usize| {
                _mm256_load_si256((&raw const E2M1_BF16[*scales.add(at) as usize]).cast())
            };
            let table = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(table(0)), table(1));
            let words = _mm512_cvtepu8_epi16(_mm256_loadu_si256(codes.cast()));
            let nibble = _mm512_set1_epi16(15);
            let even = _mm512_ternarylogic_epi32::<AND_OR>(words, nibble, block);
            let odd = _mm512_or_si512(_mm512_srli_epi16::<4>(words), block);
            [_mm512_permutexvar_epi16(even, table), _mm512_permutexvar_epi16(odd, table)]
        }
    }
    #[inline(always)]
    unsafe fn permute(first: __m512i, second: __m512i) -> [__m512i; PLANES] {
        // SAFETY: features by the caller.
        unsafe {
            let odd = _mm512_loadu_si512((&raw const tiles::ODD_WORDS).cast());
            let even = _mm512_sub_epi16(odd, _mm512_set1_epi16(1));
            [
                _mm512_permutex2var_epi16(first, even, second),
                _mm512_permutex2var_epi16(first, odd, second),
            ]
        }
    }
}

/// Rows `inside` of one segment, cut where the FP8 scales change.
#[inline(always)]
unsafe fn run_segment<D: Source>(place: &Place<'_>, inside: Range<usize>, block: &mut [f32]) {
    let mut room = Room::new(block);
    assert!(inside.len() <= OUTPUTS_MAX);
    let (period, width) = match place.segment.encoding {
        Encoding::Fp8 { rows, cols } => (rows as usize, cols as usize),
        _ => (usize::MAX, usize::MAX),
    };
    // SAFETY: features and exclusive outputs by the caller.
    unsafe {
        fill_x::<D>(place, &mut room);
        let mut from = inside.start;
        while from < inside.end {
            let to = (from - from % period).saturating_add(period).min(inside.end);
            let scales = match place.segment.encoding {
                Encoding::Fp8 { .. } => {
                    &place.segment.scales[from / period * place.operands.cols.div_ceil(width)..]
                }
                _ => &[],
            };
            let run = place.run(from..to, D::SCALE_BYTES > 0);
            let weights = Weights { run, scales, width };
            multiply::<D>(&weights, place.rows.count, &mut room, from - inside.start);
            from = to;
        }
        task::finish(place, room.out, OUT_STRIDE, inside, 1.0);
    }
}

/// Some rows of a segment.
struct Weights<'a> {
    run: Run,
    /// A scale for every `width` columns of all rows; empty where there are none.
    scales: &'a [u8],
    width: usize,
}

impl Weights<'_> {
    #[inline(always)]
    fn scale(&self, step: usize) -> u8 {
        self.scales.get(step * STEP / self.width).copied().unwrap_or(0)
    }
}

/// Tiles of the task's rows of `x`.
#[inline(always)]
unsafe fn fill_x<D: Source>(place: &Place<'_>, room: &mut Room<'_>) {
    let RealRows::Bf16(x) = &place.operands.x else { unreachable!("`takes` saw bf16") };
    let (rows, padded) = (place.rows, place.operands.cols.next_multiple_of(STEP));
    let planes = padded / PLANE;
    if rows.count > 1 {
        assert!(rows.count.div_ceil(tiles::ROWS) * planes * TILE <= room.x.len());
    }
    let words: *mut u16 = room.words.as_mut_ptr().cast();
    for (tile, first) in (0..rows.count).step_by(tiles::ROWS).enumerate() {
        let filled = first..rows.count.min(first + tiles::ROWS);
        for start in (0..padded).step_by(CHUNK) {
            let end = padded.min(start + CHUNK);
            for (place_in, i) in filled.clone().enumerate() {
                // SAFETY: 16 rows of `CHUNK_STRIDE` words; features by the caller.
                unsafe {
                    let target = words.add(place_in * CHUNK_STRIDE);
                    load_words::<D>(x.row(rows.first + i * rows.step), start..end, target);
                }
            }
            // SAFETY: tiles of `x` that the assertion counted; a row alone is one plane after the other.
            unsafe {
                let target: *mut u32 = room.x.as_mut_ptr().cast();
                if rows.count == 1 {
                    let target = target.add(start / 2);
                    std::ptr::copy_nonoverlapping(words.cast(), target, (end - start) / 2);
                    continue;
                }
                for plane in 0..(end - start) / PLANE {
                    let at = (tile * planes + start / PLANE + plane) * TILE;
                    let source = words.add(plane * PLANE).cast();
                    tiles::turn(
                        source,
                        CHUNK_STRIDE / 2,
                        filled.len(),
                        target.add(at),
                        tiles::ROWS,
                    );
                }
            }
        }
    }
}

/// Columns `range` of a row, zero behind the last, in the order of the planes.
#[inline(always)]
unsafe fn load_words<D: Source>(row: &[bf16], range: Range<usize>, target: *mut u16) {
    for at in range.clone().step_by(STEP) {
        // SAFETY: a step of the row, or its padded copy; room for a step; features by the caller.
        unsafe {
            let mut padded = [bf16::ZERO; STEP];
            let mut source = row.as_ptr().add(at);
            if at + STEP > row.len() {
                padded[..row.len() - at].copy_from_slice(&row[at..]);
                source = padded.as_ptr();
            }
            let load = |at| _mm512_loadu_si512(source.add(at).cast());
            let [first, second] = D::permute(load(0), load(PLANE));
            let target = target.add(at - range.start);
            _mm512_storeu_si512(target.cast(), first);
            _mm512_storeu_si512(target.add(PLANE).cast(), second);
        }
    }
}

/// Where tiles of weight rows lie.
#[derive(Clone, Copy)]
struct Rows16 {
    base: *const u8,
    /// Bytes between rows, and between planes.
    row: usize,
    plane: usize,
}

/// Where tiles of `x` lie.
#[derive(Clone, Copy)]
struct XTiles {
    base: *const u8,
    /// Bytes between planes, tiles, and rows of a tile.
    plane: usize,
    tile: usize,
    row: usize,
}

impl XTiles {
    /// A plane of a tile.
    #[inline(always)]
    unsafe fn at(self, tile: usize, plane: usize) -> At {
        // SAFETY: the plane exists, by the caller.
        let base = unsafe { self.base.add(tile * self.tile + plane * self.plane) };
        At { base, row: self.row, next: self.tile }
    }
}

/// All sums of some rows of a segment with `count` rows of `x`, to columns `column` … of the room for sums.
#[inline(always)]
unsafe fn multiply<D: Source>(
    weights: &Weights<'_>,
    count: usize,
    room: &mut Room<'_>,
    column: usize,
) {
    let run = &weights.run;
    let planes = run.cols.div_ceil(STEP) * PLANES;
    let (plane, row) = match count {
        1 => (4 * tiles::ROWS, 4),
        _ => (4 * TILE, tiles::ROW_BYTES),
    };
    let x = XTiles { base: room.x.as_ptr().cast(), plane, tile: planes * plane, row };
    let out = Sums { base: room.out[column..].as_mut_ptr(), stride: OUT_STRIDE };
    let product = Product { weights, count, planes, x, out, tile: room.tile.as_mut_ptr() };
    // SAFETY: features by the caller; `run` lies in the segment; rooms hold what their constants say.
    unsafe {
        if count > NARROW_MAX {
            from_panels::<D>(&product, room.panel.as_mut_ptr().cast(), room.sums.as_mut_ptr());
        } else {
            by_steps::<D>(&product, room.stage.as_mut_ptr().cast());
        }
    }
}

/// What is multiplied, and where sums go.
struct Product<'a> {
    weights: &'a Weights<'a>,
    /// Rows of `x`.
    count: usize,
    planes: usize,
    x: XTiles,
    out: Sums,
    /// Room for a tile of sums.
    tile: *mut f32,
}

impl Product<'_> {
    /// First tiles of the pairs of `x`, and whether there is a second one.
    #[inline(always)]
    fn pairs(&self) -> impl Iterator<Item = (usize, bool)> {
        let tiles = self.count.div_ceil(tiles::ROWS);
        (0..tiles).step_by(2).map(move |first| (first, first + 1 < tiles))
    }
}

/// [`BLOCK`] weight rows at a time, decoded in panels.
#[inline(always)]
unsafe fn from_panels<D: Source>(product: &Product<'_>, panel: *mut u8, sums: *mut f32) {
    let run = &product.weights.run;
    let steps = product.planes / PLANES;
    for row in (0..run.rows).step_by(BLOCK) {
        let two = row + tiles::ROWS < run.rows;
        let rows = row..row + if two { BLOCK } else { tiles::ROWS };
        for start in (0..steps).step_by(PANEL_STEPS) {
            let end = steps.min(start + PANEL_STEPS);
            // SAFETY: the panel holds these steps, `sums` all sums of the rows; tiles and outputs of the caller's.
            unsafe {
                for step in start..end {
                    let target = panel.add((step - start) * STEP_BYTES);
                    decode::<D>(product.weights, rows.clone(), step, target, PLANE_BYTES);
                }
                for (first, pair) in product.pairs() {
                    let waiting = sums.add(first * tiles::ROWS * BLOCK);
                    match start {
                        0 => tiles::clear_sums(),
                        _ => load_sums(waiting),
                    }
                    for step in start..end {
                        // What is decoded next comes while this is multiplied.
                        if first == 0 {
                            prefetch_step::<D>(run, rows.clone(), step);
                        }
                        for plane in step * PLANES..(step + 1) * PLANES {
                            let base =
                                panel.add((plane - start * PLANES) * PLANE_BYTES).cast_const();
                            let (row, next) = (tiles::ROW_BYTES, STAGE_PLANE_BYTES);
                            let rows = At { base, row, next };
                            tiles::add_plane(rows, product.x.at(first, plane), two, pair);
                        }
                    }
                    match end == steps {
                        true => store_sums(product, first, row, two, pair),
                        false => keep_sums(waiting),
                    }
                }
            }
        }
    }
}

/// All four tiles of sums to memory.
#[inline(always)]
unsafe fn keep_sums(target: *mut f32) {
    // SAFETY: room for four tiles by the caller.
    unsafe {
        tiles::store::<0>(target.cast(), tiles::ROW_BYTES);
        tiles::store::<1>(target.add(TILE).cast(), tiles::ROW_BYTES);
        tiles::store::<2>(target.add(2 * TILE).cast(), tiles::ROW_BYTES);
        tiles::store::<3>(target.add(3 * TILE).cast(), tiles::ROW_BYTES);
    }
}

/// What [`keep_sums`] kept.
#[inline(always)]
unsafe fn load_sums(source: *const f32) {
    // SAFETY: four tiles by the caller.
    unsafe {
        tiles::load::<0>(source.cast(), tiles::ROW_BYTES);
        tiles::load::<1>(source.add(TILE).cast(), tiles::ROW_BYTES);
        tiles::load::<2>(source.add(2 * TILE).cast(), tiles::ROW_BYTES);
        tiles::load::<3>(source.add(3 * TILE).cast(), tiles::ROW_BYTES);
    }
}

/// 16 weight rows at a time, every step multiplied when the one behind it has been decoded: what was just
/// stored takes a while until a tile can be loaded from it.
#[inline(always)]
unsafe fn by_steps<D: Source>(product: &Product<'_>, room: *mut u8) {
    let (weights, run) = (product.weights, &product.weights.run);
    let steps = product.planes / PLANES;
    let mut stage = Stage { room, turn: 0 };
    // SAFETY: rows and steps exist; tiles and outputs of the caller's.
    unsafe {
        let mut place = stage.fill::<D>(weights, 0, 0);
        for row in (0..run.rows).step_by(tiles::ROWS) {
            for (first, pair) in product.pairs() {
                let again = first + 2 < product.count.div_ceil(tiles::ROWS);
                tiles::clear_sums();
                for step in 0..steps {
                    prefetch_step::<D>(run, row..row + tiles::ROWS, step);
                    let (row, step_behind) = match step + 1 < steps {
                        true => (row, step + 1),
                        false if again => (row, 0),
                        false => (row + tiles::ROWS, 0),
                    };
                    let behind = match row < run.rows {
                        true => stage.fill::<D>(weights, row, step_behind),
                        false => place,
                    };
                    for plane in 0..PLANES {
                        let base = place.base.add(plane * place.plane);
                        let rows = At { base, row: place.row, next: 0 };
                        let x = product.x.at(first, step * PLANES + plane);
                        tiles::add_plane(rows, x, false, pair);
                    }
                    place = behind;
                }
                store_sums(product, first, row, false, pair);
            }
        }
    }
}

/// Room for two steps of 16 weight rows, in turn.
struct Stage {
    room: *mut u8,
    turn: usize,
}

impl Stage {
    /// Where a step of weight rows from `row` on can be loaded as tiles: decoded, or where it is.
    #[inline(always)]
    unsafe fn fill<D: Source>(&mut self, weights: &Weights<'_>, row: usize, step: usize) -> Rows16 {
        let (run, rows) = (&weights.run, row..row + tiles::ROWS);
        // SAFETY: the step exists, and there is room for two.
        unsafe {
            if D::DIRECT && rows.end <= run.rows && (step + 1) * STEP <= run.cols {
                let base = run.codes.add(row * run.code_stride + step * D::CODE_BYTES);
                return Rows16 { base, row: run.code_stride, plane: tiles::ROW_BYTES };
            }
            let base = self.room.add(self.turn * STAGE_BYTES);
            self.turn ^= 1;
            decode::<D>(weights, rows, step, base, STAGE_PLANE_BYTES);
            Rows16 { base, row: tiles::ROW_BYTES, plane: STAGE_PLANE_BYTES }
        }
    }
}

/// Asks for a step's share of the weight rows behind `rows`, of which there are as many.
#[inline(always)]
unsafe fn prefetch_step<D: Source>(run: &Run, rows: Range<usize>, step: usize) {
    let next = run.codes.wrapping_add(rows.end * run.code_stride);
    let bytes = rows.len() * D::CODE_BYTES;
    for line in 0..bytes / 64 {
        let address = next.wrapping_add(step * bytes + 64 * line);
        // SAFETY: a prefetch may point anywhere; features by the caller.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) };
    }
}

/// Decodes a step of whole tiles of weight rows. Missing rows repeat the last: nobody reads their sums.
#[inline(always)]
unsafe fn decode<D: Source>(
    weights: &Weights<'_>,
    rows: Range<usize>,
    step: usize,
    target: *mut u8,
    plane_bytes: usize,
) {
    let run = &weights.run;
    // SAFETY: features by the caller; the step lies in the rows, or padded copies are read; room by the caller.
    unsafe {
        let tables = D::tables(weights.scale(step));
        for (tile, row) in rows.step_by(tiles::ROWS).enumerate() {
            let target = target.add(tile * tiles::ROWS * tiles::ROW_BYTES);
            if row + tiles::ROWS <= run.rows && (step + 1) * STEP <= run.cols {
                decode_tile::<D>(run, tables, row, step, target, plane_bytes);
                continue;
            }
            for i in 0..tiles::ROWS {
                let planes = decode_tail::<D>(run, tables, (row + i).min(run.rows - 1), step);
                store_planes(planes, target.add(i * tiles::ROW_BYTES), plane_bytes);
            }
        }
    }
}

/// A step of 16 rows that are there.
#[inline(always)]
unsafe fn decode_tile<D: Source>(
    run: &Run,
    tables: D::Tables,
    row: usize,
    step: usize,
    target: *mut u8,
    plane_bytes: usize,
) {
    // SAFETY: by the caller of `decode`.
    unsafe {
        let mut codes = run.codes.add(row * run.code_stride + step * D::CODE_BYTES);
        let mut scales = run.scales.wrapping_add(row * run.scale_stride + step * D::SCALE_BYTES);
        let mut target = target;
        for _ in 0..tiles::ROWS / 4 {
            // Written out: the compiler leaves the loop rolled, and a row is few instructions.
            unrolled!(I < 4, {
                let codes = codes.add(I * run.code_stride);
                let scales = scales.wrapping_add(I * run.scale_stride);
                let planes = D::decode(tables, codes, scales);
                store_planes(planes, target.add(I * tiles::ROW_BYTES), plane_bytes);
            });
            codes = codes.wrapping_add(4 * run.code_stride);
            scales = scales.wrapping_add(4 * run.scale_stride);
            target = target.add(4 * tiles::ROW_BYTES);
        }
    }
}

#[inline(always)]
unsafe fn store_planes(planes: [__m512i; PLANES], target: *mut u8, plane_bytes: usize) {
    for (plane, values) in planes.into_iter().enumerate() {
        // SAFETY: room by the caller of `decode`.
        unsafe { _mm512_storeu_si512(target.add(plane * plane_bytes).cast(), values) };
    }
}

/// A step that may be the row's last, partial one: padded with zero codes then.
#[inline(always)]
unsafe fn decode_tail<D: Source>(
    run: &Run,
    tables: D::Tables,
    row: usize,
    step: usize,
) -> [__m512i; PLANES] {
    let (mut padded, mut scale_bytes) = ([0u8; 128], [127u8; 2]);
    let (code_at, scale_at) = (step * D::CODE_BYTES, step * D::SCALE_BYTES);
    // SAFETY: what is left of the row and its scales, a step at most.
    unsafe {
        let codes = run.codes.add(row * run.code_stride + code_at);
        let scales = run.scales.wrapping_add(row * run.scale_stride + scale_at);
        let left = (run.code_stride - code_at).min(D::CODE_BYTES);
        std::ptr::copy_nonoverlapping(codes, padded.as_mut_ptr(), left);
        let left = (run.scale_stride - scale_at).min(D::SCALE_BYTES);
        std::ptr::copy_nonoverlapping(scales, scale_bytes.as_mut_ptr(), left);
        D::decode(tables, padded.as_ptr(), scale_bytes.as_ptr())
    }
}

/// Sums from tile registers to the output, rows of `x` from tile `first` on, weight rows from `row` on.
#[inline(always)]
unsafe fn store_sums(product: &Product<'_>, first: usize, row: usize, two: bool, pair: bool) {
    let &Product { count, out, tile, .. } = product;
    // SAFETY: `out` has room for whole tiles; features by the caller.
    unsafe {
        for (register, (w, x)) in [(0, 0), (0, 1), (1, 0), (1, 1)].into_iter().enumerate() {
            if w > usize::from(two) || x > usize::from(pair) {
                continue;
            }
            let target = (first + x) * tiles::ROWS * out.stride + row + w * tiles::ROWS;
            let target = out.base.add(target);
            let (to, stride) = match count {
                1 => (target.cast(), 4),
                _ => (tile.cast(), tiles::ROW_BYTES),
            };
            match register {
                0 => tiles::store::<0>(to, stride),
                1 => tiles::store::<1>(to, stride),
                2 => tiles::store::<2>(to, stride),
                _ => tiles::store::<3>(to, stride),
            }
            if count > 1 {
                tiles::turn(tile.cast(), tiles::ROWS, tiles::ROWS, target.cast(), out.stride);
            }
        }
    }
}
