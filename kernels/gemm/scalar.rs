//! The portable vector (eight f32 in an array) and its decoders, columns in natural order.
//!
//! The compiler turns the loops into whatever vectors the target has. Products and sums are rounded
//! separately where the target has no fused multiply-add, so these bits differ from the AVX paths'.

use super::body;
use super::simd::{Decode, Simd, Tile};
use super::tables::E2M1_SCALED;
use super::task::Family;
use crate::quant::formats::E4M3;
use half::{bf16, f16};

/// Eight f32.
#[derive(Clone, Copy)]
pub(super) struct Scalar;

const LANES: usize = 8;

/// `a * b + c`, fused where that is one instruction of the compile target.
#[inline(always)]
fn fma(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
        a.mul_add(b, c)
    } else {
        a * b + c
    }
}

// SAFETY: needs no processor features.
unsafe impl Simd for Scalar {
    const LANES: usize = LANES;
    const WIDE: bool = false;
    const TILE_ROWS: usize = 2;
    type F = [f32; LANES];

    #[inline(always)]
    unsafe fn zero() -> Self::F {
        [0.0; LANES]
    }
    #[inline(always)]
    unsafe fn load(source: *const f32) -> Self::F {
        // SAFETY: the caller's pointer is readable for `LANES` floats.
        unsafe { source.cast::<Self::F>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(target: *mut f32, value: Self::F) {
        // SAFETY: the caller's pointer is writable for `LANES` floats.
        unsafe { target.cast::<Self::F>().write_unaligned(value) }
    }
    #[inline(always)]
    unsafe fn scale(value: Self::F, factor: f32) -> Self::F {
        value.map(|lane| lane * factor)
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        std::array::from_fn(|lane| fma(a[lane], b[lane], c[lane]))
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
    unsafe fn sum(v: Self::F) -> f32 {
        let [a, b, c, d] = [v[0] + v[4], v[1] + v[5], v[2] + v[6], v[3] + v[7]];
        (a + c) + (b + d)
    }
    #[inline(always)]
    unsafe fn sum4(values: [Self::F; 4]) -> [f32; 4] {
        // SAFETY: needs no processor features.
        values.map(|value| unsafe { Self::sum(value) })
    }
    #[inline(always)]
    unsafe fn prefetch(_address: *const u8) {}

    unsafe fn tile(rows: usize, tile: &Tile) {
        // SAFETY: the caller's tile; no features needed.
        unsafe {
            match rows {
                1 => body::tile::<Scalar, 1>(tile),
                _ => body::tile::<Scalar, 2>(tile),
            }
        }
    }
}

impl Family for Scalar {
    type F32 = PlainF32;
    type Bf16 = PlainBf16;
    type F16 = PlainF16;
    type Fp8 = Fp8;
    type Fp8Finite = Fp8;
    type Fp4 = Fp4;
    type Int8 = Int8;
}

/// Decoders whose step is eight columns of one plain or byte-wide code.
macro_rules! natural {
    ($name:ident, $doc:literal, $bytes:literal, $value:expr) => {
        #[doc = $doc]
        pub(super) struct $name;

        // SAFETY: reads `CODE_BYTES` bytes and `STEP` floats, writes `STEP` floats.
        unsafe impl Decode<Scalar> for $name {
            const STEP: usize = LANES;
            const CODE_BYTES: usize = LANES * $bytes;
            const SCALE_BYTES: usize = 0;
            const X_FACTOR: f32 = 1.0;
            const OUT_FACTOR: f32 = 1.0;
            const LIFT: f32 = 1.0;
            const PAIRED: bool = false;
            type Block = [[f32; LANES]; 1];
            type Watch = ();

            #[inline(always)]
            unsafe fn watch() {}
            #[inline(always)]
            unsafe fn saw_nan(_watch: ()) -> bool {
                false
            }
            #[inline(always)]
            unsafe fn decode(codes: *const u8, _: *const u8, _: &mut ()) -> Self::Block {
                // SAFETY: the caller's codes are readable for `CODE_BYTES` bytes.
                let codes = unsafe { codes.cast::<[[u8; $bytes]; LANES]>().read_unaligned() };
                [codes.map($value)]
            }
            #[inline(always)]
            unsafe fn permute(source: *const f32, target: *mut f32) {
                // SAFETY: both are valid for `STEP` floats.
                unsafe { std::ptr::copy_nonoverlapping(source, target, LANES) }
            }
        }
    };
}

natural!(PlainF32, "Binary32.", 4, f32::from_le_bytes);
natural!(PlainBf16, "bf16.", 2, |code| bf16::from_le_bytes(code).to_f32());
natural!(PlainF16, "Binary16.", 2, |code| f16::from_le_bytes(code).to_f32());
natural!(Fp8, "E4M3, its scales folded into `x`.", 1, |[code]: [u8; 1]| E4M3[code as usize]);
natural!(Int8, "INT8, its row's scale on the sum.", 1, |code| f32::from(i8::from_le_bytes(code)));

/// E2M1 with a scale per 32 columns.
pub(super) struct Fp4;

// SAFETY: reads `CODE_BYTES` and `SCALE_BYTES` bytes and `STEP` floats, writes `STEP` floats.
unsafe impl Decode<Scalar> for Fp4 {
    const STEP: usize = 32;
    const CODE_BYTES: usize = 16;
    const SCALE_BYTES: usize = 1;
    const X_FACTOR: f32 = 1.0;
    const OUT_FACTOR: f32 = 1.0;
    const LIFT: f32 = 1.0;
    const PAIRED: bool = false;
    type Block = [[f32; LANES]; 4];
    type Watch = ();

    #[inline(always)]
    unsafe fn watch() {}
    #[inline(always)]
    unsafe fn saw_nan(_watch: ()) -> bool {
        false
    }
    #[inline(always)]
    unsafe fn decode(codes: *const u8, scales: *const u8, _: &mut ()) -> Self::Block {
        // SAFETY: the caller's scales are readable for one byte.
        let table = &E2M1_SCALED[unsafe { *scales } as usize].0;
        // SAFETY: the caller's codes are readable for 16 bytes.
        let codes = unsafe { codes.cast::<[u8; 16]>().read_unaligned() };
        std::array::from_fn(|vector| {
            std::array::from_fn(|lane| {
                let byte = codes[vector * LANES / 2 + lane / 2];
                table[usize::from(if lane.is_multiple_of(2) { byte & 15 } else { byte >> 4 })]
            })
        })
    }
    #[inline(always)]
    unsafe fn permute(source: *const f32, target: *mut f32) {
        // SAFETY: both are valid for `STEP` floats.
        unsafe { std::ptr::copy_nonoverlapping(source, target, 32) }
    }
}
