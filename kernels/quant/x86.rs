//! Values of blocks of codes, for who decodes cached rows all day.
//!
//! **E4M3** by the processor's conversion of binary16: a code's bits, moved to the top of one, are its value times
//! 2^-8, subnormals included; the block's scale brings the factor back. **E2M1** by a table of values in a
//! register, where the eight or sixteen nibbles of a vector have been spread over its lanes.
//!
//! Refuses blocks with a NaN among codes or scale, and those whose scale is so large that a factor would
//! overflow: the portable loop knows them.

use super::formats::{E2M1, E8M0, E8M0_NAN};
use std::arch::x86_64::*;

/// Scales of E4M3 from here on are refused: 2^8 times the scale is no f32.
const SCALE_MAX: u8 = 247;

/// 2^8 times an E8M0 scale.
#[inline(always)]
fn factor(scale: u8) -> f32 {
    E8M0[scale as usize] * 256.0
}

/// Values of a block of E4M3; false, and nothing to rely on in `values`, if it is refused.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn e4m3_avx2(codes: &[u8], scale: u8, values: &mut [f32]) -> bool {
    let (codes, values) = (codes.as_chunks::<16>(), values.as_chunks_mut::<16>());
    if scale >= SCALE_MAX || !codes.1.is_empty() || !values.1.is_empty() {
        return false;
    }
    let factor = _mm256_set1_ps(factor(scale));
    let mask = _mm256_set1_epi16(0xbf80u16 as i16);
    let (all, mut nan) = (_mm_set1_epi8(0x7f), _mm_setzero_si128());
    for (codes, values) in codes.0.iter().zip(values.0) {
        // SAFETY: 16 bytes.
        let bytes = unsafe { _mm_loadu_si128(codes.as_ptr().cast()) };
        nan = _mm_or_si128(nan, _mm_cmpeq_epi8(_mm_and_si128(bytes, all), all));
        let words = _mm256_slli_epi16(_mm256_cvtepu8_epi16(bytes), 8);
        let halves = _mm256_and_si256(_mm256_srai_epi16(words, 1), mask);
        let low = _mm256_cvtph_ps(_mm256_castsi256_si128(halves));
        let high = _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1));
        let target = values.as_mut_ptr();
        // SAFETY: the first 8 of 16 values.
        unsafe { _mm256_storeu_ps(target, _mm256_mul_ps(low, factor)) };
        // SAFETY: the others.
        unsafe { _mm256_storeu_ps(target.add(8), _mm256_mul_ps(high, factor)) };
    }
    _mm_movemask_epi8(nan) == 0
}

/// As [`e4m3_avx2`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) fn e4m3_avx512(codes: &[u8], scale: u8, values: &mut [f32]) -> bool {
    let (codes, values) = (codes.as_chunks::<32>(), values.as_chunks_mut::<32>());
    if scale >= SCALE_MAX || !codes.1.is_empty() || !values.1.is_empty() {
        return false;
    }
    let factor = _mm512_set1_ps(factor(scale));
    let mask = _mm512_set1_epi16(0xbf80u16 as i16);
    let (all, mut nan) = (_mm256_set1_epi8(0x7f), 0);
    for (codes, values) in codes.0.iter().zip(values.0) {
        // SAFETY: 32 bytes.
        let bytes = unsafe { _mm256_loadu_si256(codes.as_ptr().cast()) };
        nan |= _mm256_cmpeq_epi8_mask(_mm256_and_si256(bytes, all), all);
        let words = _mm512_slli_epi16(_mm512_cvtepu8_epi16(bytes), 8);
        let halves = _mm512_and_si512(_mm512_srai_epi16(words, 1), mask);
        let low = _mm512_cvtph_ps(_mm512_castsi512_si256(halves));
        let high = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1));
        let target = values.as_mut_ptr();
        // SAFETY: the first 16 of 32 values.
        unsafe { _mm512_storeu_ps(target, _mm512_mul_ps(low, factor)) };
        // SAFETY: the others.
        unsafe { _mm512_storeu_ps(target.add(16), _mm512_mul_ps(high, factor)) };
    }
    nan == 0
}

/// Values of a block of E2M1, as [`e4m3_avx2`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn e2m1_avx2(codes: &[u8], scale: u8, values: &mut [f32]) -> bool {
    let (codes, values) = (codes.as_chunks::<4>(), values.as_chunks_mut::<8>());
    if scale == E8M0_NAN || !codes.1.is_empty() || !values.1.is_empty() {
        return false;
    }
    // SAFETY: the first eight of sixteen floats: those without a sign.
    let magnitudes = unsafe { _mm256_loadu_ps(E2M1.as_ptr()) };
    let table = _mm256_mul_ps(magnitudes, _mm256_set1_ps(E8M0[scale as usize]));
    let sign = _mm256_set1_ps(-0.0);
    for (codes, values) in codes.0.iter().zip(values.0) {
        let bytes = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(i32::from_le_bytes(*codes)));
        // The low nibble of a byte stays in the lower half of its lane, the high one comes to the upper.
        let nibbles = _mm256_or_si256(bytes, _mm256_slli_epi64(bytes, 28));
        let signs = _mm256_and_ps(_mm256_castsi256_ps(_mm256_slli_epi32(nibbles, 28)), sign);
        let value = _mm256_or_ps(_mm256_permutevar8x32_ps(table, nibbles), signs);
        // SAFETY: eight values.
        unsafe { _mm256_storeu_ps(values.as_mut_ptr(), value) };
    }
    true
}

/// As [`e2m1_avx2`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) fn e2m1_avx512(codes: &[u8], scale: u8, values: &mut [f32]) -> bool {
    let (codes, values) = (codes.as_chunks::<8>(), values.as_chunks_mut::<16>());
    if scale == E8M0_NAN || !codes.1.is_empty() || !values.1.is_empty() {
        return false;
    }
    // SAFETY: sixteen floats.
    let all = unsafe { _mm512_loadu_ps(E2M1.as_ptr()) };
    let table = _mm512_mul_ps(all, _mm512_set1_ps(E8M0[scale as usize]));
    for (codes, values) in codes.0.iter().zip(values.0) {
        let bytes = _mm512_cvtepu8_epi64(_mm_cvtsi64_si128(i64::from_le_bytes(*codes)));
        let nibbles = _mm512_or_si512(bytes, _mm512_slli_epi64(bytes, 28));
        // The permutation looks at the lowest four bits of a lane only.
        let value = _mm512_permutexvar_ps(nibbles, table);
        // SAFETY: sixteen values.
        unsafe { _mm512_storeu_ps(values.as_mut_ptr(), value) };
    }
    true
}
