//! The vector of f32 that the attention and indexer bodies are written over.
//!
//! A body is generic over [`Simd`], `inline(always)`, and compiled once per instruction set by
//! [`for_isa!`]. Bodies keep every output element in one lane of one accumulator and add to it in the
//! order of a loop that depends on the element alone; tile shapes then never change a bit.

/// Eight or sixteen f32.
///
/// # Safety
/// All methods require the processor features of the implementing type.
pub(crate) unsafe trait Simd: Copy {
    /// f32 lanes of the vector.
    const LANES: usize;
    /// Whether there are 32 vector registers rather than 16.
    const WIDE: bool;
    /// The vector.
    type F: Copy;

    /// All lanes `value`.
    unsafe fn splat(value: f32) -> Self::F;
    /// Unaligned load of `LANES` floats.
    unsafe fn load(source: *const f32) -> Self::F;
    /// Unaligned store of `LANES` floats.
    unsafe fn store(target: *mut f32, value: Self::F);
    /// `a * b + c`, rounded once where the processor can.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a * b`
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    /// `a > 0 ? a : 0`, so 0 for NaN.
    unsafe fn relu(a: Self::F) -> Self::F;
    /// Sum over the lanes: halves are added until one lane is left.
    unsafe fn sum(a: Self::F) -> f32;
}

/// Eight f32 in an array; the compiler makes of it what the target has.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

// SAFETY: needs no processor features.
unsafe impl Simd for Scalar {
    const LANES: usize = 8;
    const WIDE: bool = false;
    type F = [f32; 8];

    #[inline(always)]
    unsafe fn splat(value: f32) -> [f32; 8] {
        [value; 8]
    }
    #[inline(always)]
    unsafe fn load(source: *const f32) -> [f32; 8] {
        // SAFETY: the caller's pointer is readable for `LANES` floats.
        unsafe { source.cast::<[f32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(target: *mut f32, value: [f32; 8]) {
        // SAFETY: the caller's pointer is writable for `LANES` floats.
        unsafe { target.cast::<[f32; 8]>().write_unaligned(value) }
    }
    #[inline(always)]
    unsafe fn fma(a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        let fused = cfg!(any(target_arch = "aarch64", target_feature = "fma"));
        std::array::from_fn(|i| if fused { a[i].mul_add(b[i], c[i]) } else { a[i] * b[i] + c[i] })
    }
    #[inline(always)]
    unsafe fn mul(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn relu(a: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| if a[i] > 0.0 { a[i] } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn sum(a: [f32; 8]) -> f32 {
        let [a, b, c, d] = [a[0] + a[4], a[1] + a[5], a[2] + a[6], a[3] + a[7]];
        (a + c) + (b + d)
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Simd;
    use std::arch::x86_64::*;

    /// Eight f32 in a ymm register.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2;

    // SAFETY: the methods use AVX2 and FMA.
    unsafe impl Simd for Avx2 {
        const LANES: usize = 8;
        const WIDE: bool = false;
        type F = __m256;

        #[inline(always)]
        unsafe fn splat(value: f32) -> __m256 {
            // SAFETY: features by the caller, here and in all methods below.
            unsafe { _mm256_set1_ps(value) }
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
        unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m256, b: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn relu(a: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_max_ps(a, _mm256_setzero_ps()) }
        }
        #[inline(always)]
        unsafe fn sum(a: __m256) -> f32 {
            // SAFETY: as above.
            unsafe {
                let a = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
                let a = _mm_add_ps(a, _mm_movehl_ps(a, a));
                _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)))
            }
        }
    }

    /// Sixteen f32 in a zmm register.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx512;

    // SAFETY: the methods use AVX-512 F and DQ, and AVX2.
    unsafe impl Simd for Avx512 {
        const LANES: usize = 16;
        const WIDE: bool = true;
        type F = __m512;

        #[inline(always)]
        unsafe fn splat(value: f32) -> __m512 {
            // SAFETY: features by the caller, here and in all methods below.
            unsafe { _mm512_set1_ps(value) }
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
        unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
            // SAFETY: as above.
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m512, b: __m512) -> __m512 {
            // SAFETY: as above.
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn relu(a: __m512) -> __m512 {
            // SAFETY: as above.
            unsafe { _mm512_max_ps(a, _mm512_setzero_ps()) }
        }
        #[inline(always)]
        unsafe fn sum(a: __m512) -> f32 {
            // SAFETY: as above, and AVX-512 DQ.
            unsafe {
                let a = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
                Avx2::sum(a)
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

/// Defines `fn name(isa, args…)` that calls the generic `unsafe fn body::<S>(isa, args…)` compiled for
/// `isa`. Everything hot below `body` must be `inline(always)`.
macro_rules! for_isa {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) = $body:path) => {
        $(#[$meta])*
        $vis fn $name(isa: $crate::common::isa::Isa, $($arg: $type),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn avx2(isa: $crate::common::isa::Isa, $($arg: $type),*) {
                use $body as body;
                // SAFETY: the features are enabled here.
                unsafe { body::<$crate::attend::simd::Avx2>(isa, $($arg),*) }
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
            unsafe fn avx512(isa: $crate::common::isa::Isa, $($arg: $type),*) {
                use $body as body;
                // SAFETY: the features are enabled here.
                unsafe { body::<$crate::attend::simd::Avx512>(isa, $($arg),*) }
            }

            use $body as body;
            match isa.level() {
                // SAFETY: an `Isa` proves that the processor has the features.
                #[cfg(target_arch = "x86_64")]
                $crate::common::isa::Level::Avx512 => unsafe { avx512(isa, $($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::common::isa::Level::Avx2 => unsafe { avx2(isa, $($arg),*) },
                // SAFETY: the portable body needs no features.
                _ => unsafe { body::<$crate::attend::simd::Scalar>(isa, $($arg),*) },
            }
        }
    };
}

pub(crate) use for_isa;
