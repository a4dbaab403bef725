//! AVX-512 F, BW, DQ, VL: the vector and the decoders. README.md counts the instructions.

use super::body;
use super::simd::{Decode, Simd, Tile};
use super::tables::E2M1_SCALED;
use super::task::Family;
use std::arch::x86_64::*;

/// Sixteen f32 in a zmm register.
#[derive(Clone, Copy)]
pub(super) struct Avx512;

// SAFETY: the methods use AVX-512 F, BW, DQ, VL and what AVX2 has.
unsafe impl Simd for Avx512 {
    const LANES: usize = 16;
    const WIDE: bool = true;
    const TILE_ROWS: usize = 6;
    type F = __m512;

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        // SAFETY: features by the caller, here and in all methods below.
        unsafe { _mm512_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn load(source: *const f32) -> __m512 {
        // SAFETY: as above; readable by the caller.
        unsafe { _mm512_loadu_ps(source) }
    }
    #[inline(always)]
    unsafe fn store(target: *mut f32, value: __m512) {
        // SAFETY: as above; writable by the caller.
        unsafe { _mm512_storeu_ps(target, value) }
    }
    #[inline(always)]
    unsafe fn scale(value: __m512, factor: f32) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_mul_ps(value, _mm512_set1_ps(factor)) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn fma_at<const VECTOR: usize>(sum: Self::F, x: *const f32, w: Self::F) -> Self::F {
        // SAFETY: the row is readable by the caller; features by the caller.
        unsafe { Self::fma(Self::load(x.add(VECTOR * Self::LANES)), w, sum) }
    }
    #[inline(always)]
    unsafe fn load_at<const VECTOR: usize>(x: *const f32) -> Self::F {
        // SAFETY: the row is readable by the caller.
        unsafe { Self::load(x.add(VECTOR * Self::LANES)) }
    }
    #[inline(always)]
    unsafe fn fma_into(sum: Self::F, x: Self::F, w: Self::F) -> Self::F {
        // SAFETY: features by the caller.
        unsafe { Self::fma(x, w, sum) }
    }
    #[inline(always)]
    unsafe fn sum(v: __m512) -> f32 {
        // SAFETY: as above.
        unsafe {
            let v = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
        }
    }
    #[inline(always)]
    unsafe fn sum4(values: [__m512; 4]) -> [f32; 4] {
        // SAFETY: as above. Each line adds the same pairs of lanes as `sum`.
        unsafe {
            let quarters = add_quarters(values);
            let pairs = _mm512_add_ps(quarters, _mm512_permute_ps(quarters, 0b01_00_11_10));
            let sums = _mm512_add_ps(pairs, _mm512_movehdup_ps(pairs));
            let mut out = [0.0; 16];
            _mm512_storeu_ps(out.as_mut_ptr(), sums);
            [out[0], out[4], out[8], out[12]]
        }
    }
    #[inline(always)]
    unsafe fn store_sums<const ROWS: usize>(
        rows: [[__m512; 4]; ROWS],
        target: *mut f32,
        stride: usize,
    ) {
        // SAFETY: as above; room by the caller.
        unsafe {
            if ROWS >= 4 {
                let fours = [rows[0], rows[1], rows[2], rows[3]];
                store_four_sums(fours, target, stride);
            }
            #[allow(clippy::needless_range_loop, reason = "an iterator would put sums into memory")]
            for i in ROWS / 4 * 4..ROWS {
                let target = target.add(i * stride).cast::<[f32; 4]>();
                target.write_unaligned(Self::sum4(rows[i]));
            }
        }
    }
    #[inline(always)]
    unsafe fn prefetch(address: *const u8) {
        // SAFETY: as above; a prefetch may point anywhere.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
    }

    unsafe fn tile(rows: usize, tile: &Tile) {
        // SAFETY: features and tile by the caller.
        unsafe {
            match rows {
                1 => tile_rows::<1>(tile),
                2 => tile_rows::<2>(tile),
                3 => tile_rows::<3>(tile),
                4 => tile_rows::<4>(tile),
                5 => tile_rows::<5>(tile),
                _ => tile_rows::<6>(tile),
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn tile_rows<const ROWS: usize>(tile: &Tile) {
    // SAFETY: the caller's tile; the features are enabled here.
    unsafe { body::tile::<Avx512, ROWS>(tile) }
}

/// Lane l of the lower half + lane l of the upper: both vectors' halves, one after the other.
#[inline(always)]
unsafe fn add_halves(p: __m512, q: __m512) -> __m512 {
    // SAFETY: features by the caller.
    unsafe {
        _mm512_add_ps(
            _mm512_shuffle_f32x4(p, q, 0b01_00_01_00),
            _mm512_shuffle_f32x4(p, q, 0b11_10_11_10),
        )
    }
}

/// The first two levels of [`Simd::sum`]: the four lanes that are left of each vector, in its quarter.
#[inline(always)]
unsafe fn add_quarters([a, b, c, d]: [__m512; 4]) -> __m512 {
    // SAFETY: features by the caller.
    unsafe {
        let (ab, cd) = (add_halves(a, b), add_halves(c, d));
        _mm512_add_ps(
            _mm512_shuffle_f32x4(ab, cd, 0b10_00_10_00),
            _mm512_shuffle_f32x4(ab, cd, 0b11_01_11_01),
        )
    }
}

/// The third level, per quarter: two lanes of `p`, then two of `q`.
#[inline(always)]
unsafe fn add_pairs(p: __m512, q: __m512) -> __m512 {
    // SAFETY: features by the caller.
    unsafe {
        _mm512_add_ps(
            _mm512_shuffle_ps(p, q, 0b01_00_01_00),
            _mm512_shuffle_ps(p, q, 0b11_10_11_10),
        )
    }
}

/// Four rows of [`Simd::store_sums`].
#[inline(always)]
unsafe fn store_four_sums(rows: [[__m512; 4]; 4], target: *mut f32, stride: usize) {
    let [[a0, a1, a2, a3], [b0, b1, b2, b3], [c0, c1, c2, c3], [d0, d1, d2, d3]] = rows;
    // SAFETY: features and room by the caller.
    unsafe {
        let p = add_pairs(add_quarters([a0, b0, c0, d0]), add_quarters([a1, b1, c1, d1]));
        let q = add_pairs(add_quarters([a2, b2, c2, d2]), add_quarters([a3, b3, c3, d3]));
        let sums = _mm512_add_ps(
            _mm512_shuffle_ps(p, q, 0b10_00_10_00),
            _mm512_shuffle_ps(p, q, 0b11_01_11_01),
        );
        _mm_storeu_ps(target, _mm512_castps512_ps128(sums));
        _mm_storeu_ps(target.add(stride), _mm512_extractf32x4_ps(sums, 1));
        _mm_storeu_ps(target.add(2 * stride), _mm512_extractf32x4_ps(sums, 2));
        _mm_storeu_ps(target.add(3 * stride), _mm512_extractf32x4_ps(sums, 3));
    }
}

impl Family for Avx512 {
    type F32 = PlainF32;
    type Bf16 = PlainBf16;
    type F16 = PlainF16;
    type Fp8 = Fp8<true>;
    type Fp8Finite = Fp8<false>;
    type Fp4 = Fp4;
    type Int8 = Int8;
}

/// Upper halves of 32-bit lanes.
#[inline(always)]
unsafe fn upper_halves(v: __m512i) -> __m512 {
    // SAFETY: features by the caller.
    unsafe { _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32(0xffff_0000u32 as i32))) }
}

/// Lower halves of 32-bit lanes, moved up.
#[inline(always)]
unsafe fn lower_halves(v: __m512i) -> __m512 {
    // SAFETY: features by the caller.
    unsafe { _mm512_castsi512_ps(_mm512_slli_epi32(v, 16)) }
}

/// Even, then odd floats of 32.
#[inline(always)]
unsafe fn permute_by_two(source: *const f32, target: *mut f32) {
    // SAFETY: features and pointers by the caller.
    unsafe {
        let (a, b) = (_mm512_loadu_ps(source), _mm512_loadu_ps(source.add(16)));
        let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        let odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
        _mm512_storeu_ps(target, _mm512_permutex2var_ps(a, even, b));
        _mm512_storeu_ps(target.add(16), _mm512_permutex2var_ps(a, odd, b));
    }
}

/// The parts of `Decode` that most decoders share.
macro_rules! unwatched {
    () => {
        const X_FACTOR: f32 = 1.0;
        const OUT_FACTOR: f32 = 1.0;
        const LIFT: f32 = 1.0;
        type Watch = ();

        #[inline(always)]
        unsafe fn watch() {}
        #[inline(always)]
        unsafe fn saw_nan(_watch: ()) -> bool {
            false
        }
    };
}

/// Binary32, natural order.
pub(super) struct PlainF32;

// SAFETY: AVX-512 F only; touches the documented sizes.
unsafe impl Decode<Avx512> for PlainF32 {
    const STEP: usize = 16;
    const CODE_BYTES: usize = 64;
    const SCALE_BYTES: usize = 0;
    const PAIRED: bool = true;
    type Block = [__m512; 1];
    unwatched!();

    #[inline(always)]
    unsafe fn decode(codes: *const u8, _: *const u8, _: &mut ()) -> Self::Block {
        // SAFETY: features and pointer by the caller.
        unsafe { [_mm512_loadu_ps(codes.cast())] }
    }
    #[inline(always)]
    unsafe fn permute(source: *const f32, target: *mut f32) {
        // SAFETY: features and pointers by the caller.
        unsafe { _mm512_storeu_ps(target, _mm512_loadu_ps(source)) }
    }
}

/// Binary16, natural order.
pub(super) struct PlainF16;

// SAFETY: AVX-512 F only; touches the documented sizes.
unsafe impl Decode<Avx512> for PlainF16 {
    const STEP: usize = 16;
    const CODE_BYTES: usize = 32;
    const SCALE_BYTES: usize = 0;
    const PAIRED: bool = true;
    type Block = [__m512; 1];
    unwatched!();

    #[inline(always)]
    unsafe fn decode(codes: *const u8, _: *const u8, _: &mut ()) -> Self::Block {
        // SAFETY: features and pointer by the caller.
        unsafe { [_mm512_cvtph_ps(_mm256_loadu_si256(codes.cast()))] }
    }
    #[inline(always)]
    unsafe fn permute(source: *const f32, target: *mut f32) {
        // SAFETY: features and pointers by the caller.
        unsafe { _mm512_storeu_ps(target, _mm512_loadu_ps(source)) }
    }
}

/// INT8, natural order, its row's scale on the sum.
pub(super) struct Int8;

// SAFETY: AVX-512 F only; touches the documented sizes.
unsafe impl Decode<Avx512> for Int8 {
    const STEP: usize = 16;
    const CODE_BYTES: usize = 16;
    const SCALE_BYTES: usize = 0;
    const PAIRED: bool = false;
    type Block = [__m512; 1];
    unwatched!();

    #[inline(always)]
    unsafe fn decode(codes: *const u8, _: *const u8, _: &mut ()) -> Self::Block {
        // SAFETY: features and pointer by the caller.
        unsafe { [_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(codes.cast())))] }
    }
    #[inline(always)]
    unsafe fn permute(source: *const f32, target: *mut f32) {
        // SAFETY: features and pointers by the caller.
        unsafe { _mm512_storeu_ps(target, _mm512_loadu_ps(source)) }
    }
}

/// bf16: even columns, then odd ones.
pub(super) struct PlainBf16;

// SAFETY: AVX-512 F only; touches the documented sizes.
unsafe impl Decode<Avx512> for PlainBf16 {
    const STEP: usize = 32;
    const CODE_BYTES: usize = 64;
    const SCALE_BYTES: usize = 0;
    const PAIRED: bool = true;
    type Block = [__m512; 2];
    unwatched!();

    #[inline(always)]
    unsafe fn decode(codes: *const u8, _: *const u8, _: &mut ()) -> Self::Block {
        // SAFETY: features and pointer by the caller.
        unsafe {
            let v = _mm512_loadu_si512(codes.cast());
            [lower_halves(v), upper_halves(v)]
        }
    }
    #[inline(always)]
    unsafe fn permute(source: *const f32, target: *mut f32) {
        // SAFETY: features and pointers by the caller.
        unsafe { permute_by_two(source, target) }
    }
}

/// E4M3, its scales folded into `x`; see the AVX2 decoder. Vector j holds columns 4i+j.
pub(super) struct Fp8<const WATCHED: bool>;

// SAFETY: AVX-512 F and BW only; touches the documented sizes.
unsafe impl<const WATCHED: bool> Decode<Avx512> for Fp8<WATCHED> {
    const STEP: usize = 64;
    const CODE_BYTES: usize = 64;
    const SCALE_BYTES: usize = 0;
    const X_FACTOR: f32 = (1u64 << 60) as f32;
    const OUT_FACTOR: f32 = (1u64 << 60) as f32;
    const LIFT: f32 = 16.0;
    const PAIRED: bool = false;
    type Block = [__m512; 4];
    /// Largest code as unsigned (0xff is a NaN) and as signed (0x7f is the other).
    type Watch = [__m512i; 2];

    #[inline(always)]
    unsafe fn watch() -> Self::Watch {
        // SAFETY: features by the caller.
        unsafe { [_mm512_setzero_si512(); 2] }
    }
    #[inline(always)]
    unsafe fn saw_nan([unsigned, signed]: Self::Watch) -> bool {
        if !WATCHED {
            return false;
        }
        // SAFETY: features by the caller.
        unsafe {
            let negative = _mm512_cmpeq_epi8_mask(unsigned, _mm512_set1_epi8(-1));
            let positive = _mm512_cmpeq_epi8_mask(signed, _mm512_set1_epi8(0x7f));
            negative | positive != 0
        }
    }
    #[inline(always)]
    unsafe fn decode(codes: *const u8, _: *const u8, watch: &mut Self::Watch) -> Self::Block {
        // SAFETY: features and pointer by the caller.
        unsafe {
            let v = _mm512_loadu_si512(codes.cast());
            if WATCHED {
                watch[0] = _mm512_max_epu8(watch[0], v);
                watch[1] = _mm512_max_epi8(watch[1], v);
            }
            let mask = _mm512_set1_epi16(0x87f0u16 as i16);
            let odd = _mm512_and_si512(_mm512_srai_epi16(v, 4), mask);
            let even = _mm512_and_si512(_mm512_srai_epi16(_mm512_slli_epi16(v, 8), 4), mask);
            [lower_halves(even), lower_halves(odd), upper_halves(even), upper_halves(odd)]
        }
    }
    #[inline(always)]
    unsafe fn permute(source: *const f32, target: *mut f32) {
        // SAFETY: features and pointers by the caller: 64 floats each.
        unsafe {
            let every = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 0, 0, 0, 0, 0, 0, 0);
            let load = |i: usize| _mm512_loadu_ps(source.add(16 * i));
            let (a, b, c, d) = (load(0), load(1), load(2), load(3));
            for j in 0..4 {
                let pick = _mm512_add_epi32(every, _mm512_set1_epi32(j as i32));
                let low = _mm512_castps512_ps256(_mm512_permutex2var_ps(a, pick, b));
                let high = _mm512_castps512_ps256(_mm512_permutex2var_ps(c, pick, d));
                _mm256_storeu_ps(target.add(16 * j), low);
                _mm256_storeu_ps(target.add(16 * j + 8), high);
            }
        }
    }
}

/// E2M1 with a scale per 32 columns: one table of sixteen scaled values in a register per block.
/// Even columns, then odd ones.
pub(super) struct Fp4;

// SAFETY: AVX-512 F only; touches the documented sizes.
unsafe impl Decode<Avx512> for Fp4 {
    const STEP: usize = 32;
    const CODE_BYTES: usize = 16;
    const SCALE_BYTES: usize = 1;
    const PAIRED: bool = false;
    type Block = [__m512; 2];
    unwatched!();

    #[inline(always)]
    unsafe fn decode(codes: *const u8, scales: *const u8, _: &mut ()) -> Self::Block {
        // SAFETY: features and pointers by the caller; a table entry is 64 bytes. The permute looks
        // at the lowest four bits of a lane only.
        unsafe {
            let table = _mm512_loadu_ps((&raw const E2M1_SCALED[*scales as usize]).cast());
            let v = _mm512_cvtepu8_epi32(_mm_loadu_si128(codes.cast()));
            [_mm512_permutexvar_ps(v, table), _mm512_permutexvar_ps(_mm512_srli_epi32(v, 4), table)]
        }
    }
    #[inline(always)]
    unsafe fn permute(source: *const f32, target: *mut f32) {
        // SAFETY: features and pointers by the caller.
        unsafe { permute_by_two(source, target) }
    }
}
