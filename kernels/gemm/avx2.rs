//! AVX2 + FMA + F16C: the vector and the decoders. README.md counts the instructions.

use super::body;
use super::simd::{Decode, Simd, Tile};
use super::tables::E2M1_BYTES;
use super::task::Family;
use std::arch::x86_64::*;

/// Eight f32 in a ymm register.
#[derive(Clone, Copy)]
pub(super) struct Avx2;

// SAFETY: the methods use AVX2, FMA and F16C only.
unsafe impl Simd for Avx2 {
    const LANES: usize = 8;
    const WIDE: bool = false;
    const TILE_ROWS: usize = 3;
    type F = __m256;

    #[inline(always)]
    unsafe fn zero() -> __m256 {
        // SAFETY: features by the caller, here and in all methods below.
        unsafe { _mm256_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn load(source: *const f32) -> __m256 {
        // SAFETY: as above; readable by the caller.
        unsafe { _mm256_loadu_ps(source) }
    }
    #[inline(always)]
    unsafe fn store(target: *mut f32, value: __m256) {
        // SAFETY: as above; writable by the caller.
        unsafe { _mm256_storeu_ps(target, value) }
    }
    #[inline(always)]
    unsafe fn scale(value: __m256, factor: f32) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_mul_ps(value, _mm256_set1_ps(factor)) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    // In assembly: left to itself, the compiler loads each vector of `x` once for all weight rows of
    // a step, and spills what sixteen registers then do not hold (measured on FP8: 40 stores a step,
    // and on bf16 an accumulator that travels through memory). In this order everything fits.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn fma_at<const VECTOR: usize>(sum: __m256, x: *const f32, w: __m256) -> __m256 {
        let mut sum = sum;
        // SAFETY: the row is readable by the caller.
        unsafe {
            std::arch::asm!(
                "vfmadd231ps {sum}, {w}, ymmword ptr [{x} + {at}]",
                sum = inout(ymm_reg) sum,
                w = in(ymm_reg) w,
                x = in(reg) x,
                at = const VECTOR * 32,
                options(readonly, nostack, preserves_flags),
            );
        }
        sum
    }
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn load_at<const VECTOR: usize>(x: *const f32) -> __m256 {
        let value;
        // SAFETY: the row is readable by the caller.
        unsafe {
            std::arch::asm!(
                "vmovups {value}, ymmword ptr [{x} + {at}]",
                value = out(ymm_reg) value,
                x = in(reg) x,
                at = const VECTOR * 32,
                options(readonly, nostack, preserves_flags),
            );
        }
        value
    }
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn fma_into(sum: __m256, x: __m256, w: __m256) -> __m256 {
        let mut sum = sum;
        // SAFETY: features by the caller.
        unsafe {
            std::arch::asm!(
                "vfmadd231ps {sum}, {w}, {x}",
                sum = inout(ymm_reg) sum,
                w = in(ymm_reg) w,
                x = in(ymm_reg) x,
                options(nomem, nostack, preserves_flags),
            );
        }
        sum
    }
    #[inline(always)]
    unsafe fn sum(v: __m256) -> f32 {
        // SAFETY: as above.
        unsafe {
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
        }
    }
    #[inline(always)]
    unsafe fn sum4([a, b, c, d]: [__m256; 4]) -> [f32; 4] {
        // SAFETY: as above. Each line adds the same pairs of lanes as `sum`.
        unsafe {
            let ab = _mm256_add_ps(
                _mm256_permute2f128_ps(a, b, 0x20),
                _mm256_permute2f128_ps(a, b, 0x31),
            );
            let cd = _mm256_add_ps(
                _mm256_permute2f128_ps(c, d, 0x20),
                _mm256_permute2f128_ps(c, d, 0x31),
            );
            // Per 128-bit half: a0+a2 a1+a3 | c0+c2 c1+c3, with b and d in the other half.
            let pairs = _mm256_add_ps(
                _mm256_shuffle_ps(ab, cd, 0b01_00_01_00),
                _mm256_shuffle_ps(ab, cd, 0b11_10_11_10),
            );
            let sums = _mm256_add_ps(pairs, _mm256_movehdup_ps(pairs));
            let mut out = [0.0; 8];
            _mm256_storeu_ps(out.as_mut_ptr(), sums);
            [out[0], out[4], out[2], out[6]]
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
                _ => tile_rows::<3>(tile),
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile_rows<const ROWS: usize>(tile: &Tile) {
    // SAFETY: the caller's tile; the features are enabled here.
    unsafe { body::tile::<Avx2, ROWS>(tile) }
}

impl Family for Avx2 {
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
unsafe fn upper_halves(v: __m256i) -> __m256 {
    // SAFETY: features by the caller.
    unsafe { _mm256_castsi256_ps(_mm256_and_si256(v, _mm256_set1_epi32(0xffff_0000u32 as i32))) }
}

/// Lower halves of 32-bit lanes, moved up.
#[inline(always)]
unsafe fn lower_halves(v: __m256i) -> __m256 {
    // SAFETY: features by the caller.
    unsafe { _mm256_castsi256_ps(_mm256_slli_epi32(v, 16)) }
}

/// Transposes 4×4 floats in each 128-bit half: out[j] half h lane l = in[l] half h lane j.
#[inline(always)]
unsafe fn transpose_halves([a, b, c, d]: [__m256; 4]) -> [__m256; 4] {
    // SAFETY: features by the caller.
    unsafe {
        let (ab_low, ab_high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        let (cd_low, cd_high) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
        [
            _mm256_shuffle_ps(ab_low, cd_low, 0b01_00_01_00),
            _mm256_shuffle_ps(ab_low, cd_low, 0b11_10_11_10),
            _mm256_shuffle_ps(ab_high, cd_high, 0b01_00_01_00),
            _mm256_shuffle_ps(ab_high, cd_high, 0b11_10_11_10),
        ]
    }
}

/// Vector j, half h, lane l of the target is `source[far * h + 4 * l + j]`.
#[inline(always)]
unsafe fn permute_by_four(source: *const f32, far: usize, target: *mut f32) {
    // SAFETY: features and pointers by the caller: 16 floats at `source` and at `source + far`.
    unsafe {
        let row = |l: usize| {
            let near = _mm256_castps128_ps256(_mm_loadu_ps(source.add(4 * l)));
            _mm256_insertf128_ps(near, _mm_loadu_ps(source.add(far + 4 * l)), 1)
        };
        let columns = transpose_halves([row(0), row(1), row(2), row(3)]);
        for (j, column) in columns.into_iter().enumerate() {
            _mm256_storeu_ps(target.add(8 * j), column);
        }
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

// SAFETY: AVX2 only; touches the documented sizes.
unsafe impl Decode<Avx2> for PlainF32 {
    const STEP: usize = 8;
    const CODE_BYTES: usize = 32;
    const SCALE_BYTES: usize = 0;
    const PAIRED: bool = true;
    type Block = [__m256; 1];
    unwatched!();

    #[inline(always)]
    unsafe fn decode(codes: *const u8, _: *const u8, _: &mut ()) -> Self::Block {
        // SAFETY: features and pointer by the caller.
        unsafe { [_mm256_loadu_ps(codes.cast())] }
    }
    #[inline(always)]
    unsafe fn permute(source: *const f32, target: *mut f32) {
        // SAFETY: features and pointers by the caller.
        unsafe { _mm256_storeu_ps(target, _mm256_loadu_ps(source)) }
    }
}

/// Binary16, natural order.
pub(super) struct PlainF16;

// SAFETY: AVX2 and F16C only; touches the documented sizes.
unsafe impl Decode<Avx2> for PlainF16 {
    const STEP: usize = 8;
    const CODE_BYTES: usize = 16;
    const SCALE_BYTES: usize = 0;
    const PAIRED: bool = true;
    type Block = [__m256; 1];
    unwatched!();

    #[inline(always)]
    unsafe fn decode(codes: *const u8, _: *const u8, _: &mut ()) -> Self::Block {
        // SAFETY: features and pointer by the caller.
        unsafe { [_mm256_cvtph_ps(_mm_loadu_si128(codes.cast()))] }
    }
    #[inline(always)]
    unsafe fn permute(source: *const f32, target: *mut f32) {
        // SAFETY: features and pointers by the caller.
        unsafe { _mm256_storeu_ps(target, _mm256_loadu_ps(source)) }
    }
}

/// INT8, natural order, its row's scale on the sum.
pub(super) struct Int8;

// SAFETY: AVX2 only; touches the documented sizes.
unsafe impl Decode<Avx2> for Int8 {
    const STEP: usize = 8;
    const CODE_BYTES: usize = 8;
    const SCALE_BYTES: usize = 0;
    const PAIRED: bool = false;
    type Block = [__m256; 1];
    unwatched!();

    #[inline(always)]
    unsafe fn decode(codes: *const u8, _: *const u8, _: &mut ()) -> Self::Block {
        // SAFETY: features and pointer by the caller.
        unsafe { [_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(codes.cast())))] }
    }
    #[inline(always)]
    unsafe fn permute(source: *const f32, target: *mut f32) {
        // SAFETY: features and pointers by the caller.
        unsafe { _mm256_storeu_ps(target, _mm256_loadu_ps(source)) }
    }
}

/// bf16: even columns, then odd ones.
pub(super) struct PlainBf16;

// SAFETY: AVX2 only; touches the documented sizes.
unsafe impl Decode<Avx2> for PlainBf16 {
    const STEP: usize = 16;
    const CODE_BYTES: usize = 32;
    const SCALE_BYTES: usize = 0;
    const PAIRED: bool = true;
    type Block = [__m256; 2];
    unwatched!();

    #[inline(always)]
    unsafe fn decode(codes: *const u8, _: *const u8, _: &mut ()) -> Self::Block {
        // SAFETY: features and pointer by the caller.
        unsafe {
            let v = _mm256_loadu_si256(codes.cast());
            [lower_halves(v), upper_halves(v)]
        }
    }
    #[inline(always)]
    unsafe fn permute(source: *const f32, target: *mut f32) {
        // SAFETY: features and pointers by the caller.
        unsafe {
            let (a, b) = (_mm256_loadu_ps(source), _mm256_loadu_ps(source.add(8)));
            let sort =
                |v| _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(v), 0b11_01_10_00));
            _mm256_storeu_ps(target, sort(_mm256_shuffle_ps(a, b, 0b10_00_10_00)));
            _mm256_storeu_ps(target.add(8), sort(_mm256_shuffle_ps(a, b, 0b11_01_11_01)));
        }
    }
}

/// E4M3, its scales folded into `x`.
///
/// A code's seven magnitude bits, moved into the exponent and mantissa of an f32, are its value
/// times 2^-120, subnormal codes included. Half of the missing factor goes on `x` and half on the
/// sum, so that neither leaves f32's range for any |x·scale| in 2^±60. Vector j holds columns 4i+j.
pub(super) struct Fp8<const WATCHED: bool>;

// SAFETY: AVX2 only; touches the documented sizes.
unsafe impl<const WATCHED: bool> Decode<Avx2> for Fp8<WATCHED> {
    const STEP: usize = 32;
    const CODE_BYTES: usize = 32;
    const SCALE_BYTES: usize = 0;
    const X_FACTOR: f32 = (1u64 << 60) as f32;
    const OUT_FACTOR: f32 = (1u64 << 60) as f32;
    const LIFT: f32 = 16.0;
    const PAIRED: bool = false;
    type Block = [__m256; 4];
    /// Largest code as unsigned (0xff is a NaN) and as signed (0x7f is the other).
    type Watch = [__m256i; 2];

    #[inline(always)]
    unsafe fn watch() -> Self::Watch {
        // SAFETY: features by the caller.
        unsafe { [_mm256_setzero_si256(); 2] }
    }
    #[inline(always)]
    unsafe fn saw_nan([unsigned, signed]: Self::Watch) -> bool {
        if !WATCHED {
            return false;
        }
        // SAFETY: features by the caller.
        unsafe {
            let negative = _mm256_cmpeq_epi8(unsigned, _mm256_set1_epi8(-1));
            let positive = _mm256_cmpeq_epi8(signed, _mm256_set1_epi8(0x7f));
            _mm256_movemask_epi8(_mm256_or_si256(negative, positive)) != 0
        }
    }
    #[inline(always)]
    unsafe fn decode(codes: *const u8, _: *const u8, watch: &mut Self::Watch) -> Self::Block {
        // SAFETY: features and pointer by the caller.
        unsafe {
            let v = _mm256_loadu_si256(codes.cast());
            if WATCHED {
                watch[0] = _mm256_max_epu8(watch[0], v);
                watch[1] = _mm256_max_epi8(watch[1], v);
            }
            let mask = _mm256_set1_epi16(0x87f0u16 as i16);
            let odd = _mm256_and_si256(_mm256_srai_epi16(v, 4), mask);
            let even = _mm256_and_si256(_mm256_srai_epi16(_mm256_slli_epi16(v, 8), 4), mask);
            [lower_halves(even), lower_halves(odd), upper_halves(even), upper_halves(odd)]
        }
    }
    #[inline(always)]
    unsafe fn permute(source: *const f32, target: *mut f32) {
        // SAFETY: features and pointers by the caller.
        unsafe { permute_by_four(source, 16, target) }
    }
}

/// E2M1 with a scale per 32 columns: two byte tables, already scaled, give the halves of a bf16.
///
/// The lower 128 bits look up the low nibbles (even columns), the upper the high ones: lane l of
/// vector v holds column 16·(v / 2) + 4·(l mod 4) + 2·(v mod 2), one more in the upper half.
pub(super) struct Fp4;

// SAFETY: AVX2 only; touches the documented sizes.
unsafe impl Decode<Avx2> for Fp4 {
    const STEP: usize = 32;
    const CODE_BYTES: usize = 16;
    const SCALE_BYTES: usize = 1;
    const PAIRED: bool = false;
    type Block = [__m256; 4];
    unwatched!();

    #[inline(always)]
    unsafe fn decode(codes: *const u8, scales: *const u8, _: &mut ()) -> Self::Block {
        // SAFETY: features and pointers by the caller; a table entry is two times 16 bytes.
        unsafe {
            let table = (&raw const E2M1_BYTES[*scales as usize]).cast::<__m128i>();
            let upper_table = _mm256_broadcastsi128_si256(_mm_load_si128(table));
            let lower_table = _mm256_broadcastsi128_si256(_mm_load_si128(table.add(1)));
            let both = _mm256_broadcastsi128_si256(_mm_loadu_si128(codes.cast()));
            let apart = _mm256_srlv_epi32(both, _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4));
            let nibbles = _mm256_and_si256(apart, _mm256_set1_epi8(15));
            let upper = _mm256_shuffle_epi8(upper_table, nibbles);
            let lower = _mm256_shuffle_epi8(lower_table, nibbles);
            let near = _mm256_unpacklo_epi8(lower, upper);
            let far = _mm256_unpackhi_epi8(lower, upper);
            [lower_halves(near), upper_halves(near), lower_halves(far), upper_halves(far)]
        }
    }
    #[inline(always)]
    unsafe fn permute(source: *const f32, target: *mut f32) {
        // SAFETY: features and pointers by the caller: 16 floats per half.
        unsafe {
            for half in 0..2 {
                let load = |i: usize| _mm256_loadu_ps(source.add(16 * half + 8 * i));
                let (a, b) = (load(0), load(1));
                // Lanes of a: 0 1 2 3 | 4 5 6 7; of b: 8 … 11 | 12 … 15. Wanted in the lower
                // halves 0 4 8 12 and 2 6 10 14, in the upper ones 1 5 9 13 and 3 7 11 15.
                let even = _mm256_shuffle_ps(a, b, 0b10_00_10_00);
                let odd = _mm256_shuffle_ps(a, b, 0b11_01_11_01);
                // even: 0 2 8 10 | 4 6 12 14; odd: the same plus 1.
                let low = _mm256_permute2f128_ps(even, odd, 0x20);
                let high = _mm256_permute2f128_ps(even, odd, 0x31);
                // low: 0 2 8 10 | 1 3 9 11; high: 4 6 12 14 | 5 7 13 15.
                let sort = |v| _mm256_permute_ps(v, 0b11_01_10_00);
                let first = sort(_mm256_shuffle_ps(low, high, 0b10_00_10_00));
                let second = sort(_mm256_shuffle_ps(low, high, 0b11_01_11_01));
                _mm256_storeu_ps(target.add(16 * half), first);
                _mm256_storeu_ps(target.add(16 * half + 8), second);
            }
        }
    }
}
