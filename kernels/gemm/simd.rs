//! The two abstractions the matmul bodies are written over: a vector of f32 and a decoder of codes.
//!
//! A body is generic over both and is compiled once per instruction set inside a `target_feature`
//! function; everything here is `inline(always)`, so that it takes on the features of its caller.
//!
//! **The contract that makes rows exact.** The columns of a weight row are cut into steps of
//! [`Decode::STEP`]; a step decodes into a few vectors ([`Decode::Block`]), in an order of columns that is
//! the decoder's own; `x` is permuted into the same order once. An output element has one vector
//! accumulator, and for every step and every vector of it, in order, `acc = fma(x, w, acc)`. At the
//! end come one fixed tree over the lanes and one factor. No body may add in another way.

/// A vector of f32 and what the bodies do with it.
///
/// # Safety
/// All methods require the processor features of the implementing type.
pub(super) unsafe trait Simd: Copy {
    /// f32 lanes in [`Simd::F`].
    const LANES: usize;
    /// Whether there are 32 vector registers rather than 16.
    const WIDE: bool;
    /// Rows of `x` in a register tile of the panel kernel; its weight rows are [`TILE_COLS`].
    const TILE_ROWS: usize;
    /// The vector.
    type F: Copy;

    /// All lanes 0.
    unsafe fn zero() -> Self::F;
    /// Unaligned load of `LANES` floats.
    unsafe fn load(source: *const f32) -> Self::F;
    /// Unaligned store of `LANES` floats.
    unsafe fn store(target: *mut f32, value: Self::F);
    /// `value * factor` in every lane.
    unsafe fn scale(value: Self::F, factor: f32) -> Self::F;
    /// `a * b + c`.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `sum + x[VECTOR] * w`, `x` being a row of vectors; the sum in place and in program order.
    unsafe fn fma_at<const VECTOR: usize>(sum: Self::F, x: *const f32, w: Self::F) -> Self::F;
    /// Vector `VECTOR` of a row of `x`; the compiler may not share this load with another.
    unsafe fn load_at<const VECTOR: usize>(x: *const f32) -> Self::F;
    /// [`Simd::fma`] with the sum in place and in program order.
    unsafe fn fma_into(sum: Self::F, x: Self::F, w: Self::F) -> Self::F;
    /// Sum over the lanes: halves are added until one lane is left.
    unsafe fn sum(value: Self::F) -> f32;
    /// [`Simd::sum`] of four vectors, bit for bit.
    unsafe fn sum4(values: [Self::F; 4]) -> [f32; 4];
    /// [`Simd::sum`] of rows of four vectors, bit for bit: row i goes to `target + i * stride`.
    #[inline(always)]
    unsafe fn store_sums<const ROWS: usize>(
        rows: [[Self::F; TILE_COLS]; ROWS],
        target: *mut f32,
        stride: usize,
    ) {
        for (i, row) in rows.into_iter().enumerate() {
            // SAFETY: features and room by the caller.
            unsafe {
                let target = target.add(i * stride).cast::<[f32; TILE_COLS]>();
                target.write_unaligned(Self::sum4(row));
            }
        }
    }
    /// Asks for a cache line that will be read soon, into the second-level cache.
    unsafe fn prefetch(address: *const u8);
    /// [`super::body::tile`] compiled with the features of this set.
    unsafe fn tile(rows: usize, tile: &Tile);
}

/// Weight rows in a register tile.
pub(super) const TILE_COLS: usize = 4;

/// What one register tile of the panel kernel works on. See [`super::body::tile`].
pub(super) struct Tile {
    /// First of the tile's rows of permuted `x`, at the first column of the chunk.
    pub x: *const f32,
    /// Floats between rows of `x`.
    pub x_stride: usize,
    /// First of the [`TILE_COLS`] decoded weight rows of the chunk.
    pub panel: *const f32,
    /// Vectors in the chunk.
    pub vectors: usize,
    /// Accumulators, `TILE_COLS` vectors per row of the tile.
    pub sums: *mut f32,
    /// Whether the accumulators start at 0 (first chunk) or at what `sums` holds.
    pub first: bool,
    /// Where the finished sums go, or null while chunks are left: `TILE_COLS` floats per row.
    pub out: *mut f32,
    /// Floats between rows of `out`.
    pub out_stride: usize,
}

/// Turns the codes of one encoding into vectors.
///
/// # Safety
/// As for [`Simd`]; pointers must be readable for the documented sizes.
pub(super) unsafe trait Decode<S: Simd> {
    /// Columns decoded at a time.
    const STEP: usize;
    /// Bytes of codes in a step.
    const CODE_BYTES: usize;
    /// Scale bytes in a step; 0 where scales are folded into `x` or there are none.
    const SCALE_BYTES: usize;
    /// Factor on `x` before the scales; [`Decode::OUT_FACTOR`] on the sums makes up for it.
    const X_FACTOR: f32;
    /// Factor on the finished sums: a power of two.
    const OUT_FACTOR: f32;
    /// Factor that makes every decoded code a normal number, a power of two: panels hold codes times it
    /// and meet rows of `x` divided by it. Some processors take a hundred cycles for each product with
    /// a subnormal.
    const LIFT: f32;
    /// Whether two weight rows share the loads of `x` in a dot product: where decoding takes so little
    /// that loads are the bound.
    const PAIRED: bool;
    /// Vectors in a step, as an array.
    type Block: Copy + AsRef<[S::F]>;
    /// What a decoder notes while it runs over codes that it cannot represent (NaN codes).
    type Watch: Copy;

    /// A watch that has seen nothing.
    unsafe fn watch() -> Self::Watch;
    /// Whether a NaN code went by.
    unsafe fn saw_nan(watch: Self::Watch) -> bool;
    /// Decodes `CODE_BYTES` bytes with `SCALE_BYTES` scales.
    unsafe fn decode(codes: *const u8, scales: *const u8, watch: &mut Self::Watch) -> Self::Block;
    /// Puts `STEP` floats into the decoder's order.
    unsafe fn permute(source: *const f32, target: *mut f32);
}
