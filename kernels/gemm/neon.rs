//! NEON: two vectors of four f32 as one of eight, and the decoders. README.md counts the instructions.
//!
//! Columns stay in their natural order and lanes are those of the portable vector, so on aarch64 the
//! two give the same bits (a test holds them to it).

use super::body;
use super::simd::{Decode, Simd, Tile};
use super::tables::E2M1_BYTES;
use super::task::Family;
use std::arch::aarch64::*;
use std::arch::asm;

/// Eight f32 in two q registers.
#[derive(Clone, Copy)]
pub(super) struct Neon;

type Pair = [float32x4_t; 2];

// SAFETY: the methods use NEON only.
unsafe impl Simd for Neon {
    const LANES: usize = 8;
    // The 32 registers hold 16 pairs.
    const WIDE: bool = false;
    const TILE_ROWS: usize = 3;
    type F = Pair;

    #[inline(always)]
    unsafe fn zero() -> Pair {
        // SAFETY: NEON by the caller, here and in all methods below.
        unsafe { [vdupq_n_f32(0.0); 2] }
    }
    #[inline(always)]
    unsafe fn load(source: *const f32) -> Pair {
        // SAFETY: readable by the caller.
        unsafe { [vld1q_f32(source), vld1q_f32(source.add(4))] }
    }
    #[inline(always)]
    unsafe fn store(target: *mut f32, [low, high]: Pair) {
        // SAFETY: writable by the caller.
        unsafe {
            vst1q_f32(target, low);
            vst1q_f32(target.add(4), high);
        }
    }
    #[inline(always)]
    unsafe fn scale([low, high]: Pair, factor: f32) -> Pair {
        // SAFETY: as above.
        unsafe { [vmulq_n_f32(low, factor), vmulq_n_f32(high, factor)] }
    }
    #[inline(always)]
    unsafe fn fma(a: Pair, b: Pair, c: Pair) -> Pair {
        // SAFETY: as above.
        unsafe { [vfmaq_f32(c[0], a[0], b[0]), vfmaq_f32(c[1], a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn fma_at<const VECTOR: usize>(sum: Pair, x: *const f32, w: Pair) -> Pair {
        // SAFETY: the row is readable by the caller.
        unsafe { Self::fma(Self::load(x.add(VECTOR * Self::LANES)), w, sum) }
    }
    #[inline(always)]
    unsafe fn load_at<const VECTOR: usize>(x: *const f32) -> Pair {
        // SAFETY: the row is readable by the caller.
        unsafe { Self::load(x.add(VECTOR * Self::LANES)) }
    }
    #[inline(always)]
    unsafe fn fma_into(sum: Pair, x: Pair, w: Pair) -> Pair {
        // SAFETY: as above.
        unsafe { Self::fma(x, w, sum) }
    }
    #[inline(always)]
    unsafe fn sum([low, high]: Pair) -> f32 {
        // SAFETY: as above.
        unsafe {
            let v = vaddq_f32(low, high);
            let v = vadd_f32(vget_low_f32(v), vget_high_f32(v));
            vget_lane_f32::<0>(v) + vget_lane_f32::<1>(v)
        }
    }
    #[inline(always)]
    unsafe fn sum4(values: [Pair; 4]) -> [f32; 4] {
        // SAFETY: as above. Each line adds the same pairs of lanes as `sum`.
        unsafe {
            let [a, b, c, d] = values.map(|[low, high]| vaddq_f32(low, high));
            let fold = |p, q| {
                let (p, q) = (vreinterpretq_f64_f32(p), vreinterpretq_f64_f32(q));
                let (lows, highs) = (vtrn1q_f64(p, q), vtrn2q_f64(p, q));
                vaddq_f32(vreinterpretq_f32_f64(lows), vreinterpretq_f32_f64(highs))
            };
            let mut out = [0.0; 4];
            vst1q_f32(out.as_mut_ptr(), vpaddq_f32(fold(a, b), fold(c, d)));
            out
        }
    }
    #[inline(always)]
    unsafe fn prefetch(address: *const u8) {
        // SAFETY: a prefetch may point anywhere.
        unsafe {
            asm!(
                "prfm pldl2keep, [{address}]",
                address = in(reg) address,
                options(nostack, preserves_flags, readonly),
            );
        }
    }

    unsafe fn tile(rows: usize, tile: &Tile) {
        // SAFETY: NEON and tile by the caller.
        unsafe {
            match rows {
                1 => tile_rows::<1>(tile),
                2 => tile_rows::<2>(tile),
                _ => tile_rows::<3>(tile),
            }
        }
    }
}

#[target_feature(enable = "neon")]
unsafe fn tile_rows<const ROWS: usize>(tile: &Tile) {
    // SAFETY: the caller's tile; the feature is enabled here.
    unsafe { body::tile::<Neon, ROWS>(tile) }
}

impl Family for Neon {
    type F32 = PlainF32;
    type Bf16 = PlainBf16;
    type F16 = PlainF16;
    type Fp8 = Fp8<true>;
    type Fp8Finite = Fp8<false>;
    type Fp4 = Fp4;
    type Int8 = Int8;
}

/// What the decoders share: natural order.
macro_rules! natural {
    ($step:literal) => {
        const STEP: usize = $step;

        #[inline(always)]
        unsafe fn permute(source: *const f32, target: *mut f32) {
            // SAFETY: both are valid for `STEP` floats.
            unsafe { std::ptr::copy_nonoverlapping(source, target, $step) }
        }
    };
    ($step:literal unwatched) => {
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

        natural!($step);
    };
}

/// Binary32.
pub(super) struct PlainF32;

// SAFETY: NEON only; touches the documented sizes.
unsafe impl Decode<Neon> for PlainF32 {
    const CODE_BYTES: usize = 32;
    const SCALE_BYTES: usize = 0;
    const PAIRED: bool = true;
    type Block = [Pair; 1];
    natural!(8 unwatched);

    #[inline(always)]
    unsafe fn decode(codes: *const u8, _: *const u8, _: &mut ()) -> Self::Block {
        // SAFETY: NEON and pointer by the caller.
        unsafe {
            let (low, high) = (vld1q_u8(codes), vld1q_u8(codes.add(16)));
            [[vreinterpretq_f32_u8(low), vreinterpretq_f32_u8(high)]]
        }
    }
}

/// bf16.
pub(super) struct PlainBf16;

// SAFETY: NEON only; touches the documented sizes.
unsafe impl Decode<Neon> for PlainBf16 {
    const CODE_BYTES: usize = 16;
    const SCALE_BYTES: usize = 0;
    const PAIRED: bool = true;
    type Block = [Pair; 1];
    natural!(8 unwatched);

    #[inline(always)]
    unsafe fn decode(codes: *const u8, _: *const u8, _: &mut ()) -> Self::Block {
        // SAFETY: NEON and pointer by the caller.
        unsafe {
            let v = vreinterpretq_u16_u8(vld1q_u8(codes));
            let (low, high) = (vshll_n_u16::<16>(vget_low_u16(v)), vshll_high_n_u16::<16>(v));
            [[vreinterpretq_f32_u32(low), vreinterpretq_f32_u32(high)]]
        }
    }
}

/// Binary16.
pub(super) struct PlainF16;

// SAFETY: NEON only; touches the documented sizes.
unsafe impl Decode<Neon> for PlainF16 {
    const CODE_BYTES: usize = 16;
    const SCALE_BYTES: usize = 0;
    const PAIRED: bool = true;
    type Block = [Pair; 1];
    natural!(8 unwatched);

    #[inline(always)]
    unsafe fn decode(codes: *const u8, _: *const u8, _: &mut ()) -> Self::Block {
        let (low, high): (float32x4_t, float32x4_t);
        // SAFETY: NEON and pointer by the caller.
        let v = unsafe { vld1q_u8(codes) };
        // In assembly because the type of four f16 is younger than our oldest compiler.
        // SAFETY: the two instructions touch their operands only.
        unsafe {
            asm!(
                "fcvtl {low:v}.4s, {v:v}.4h",
                "fcvtl2 {high:v}.4s, {v:v}.8h",
                low = out(vreg) low,
                high = lateout(vreg) high,
                v = in(vreg) v,
                options(pure, nomem, nostack),
            );
        }
        [[low, high]]
    }
}

/// INT8, its row's scale on the sum.
pub(super) struct Int8;

// SAFETY: NEON only; touches the documented sizes.
unsafe impl Decode<Neon> for Int8 {
    const CODE_BYTES: usize = 8;
    const SCALE_BYTES: usize = 0;
    const PAIRED: bool = false;
    type Block = [Pair; 1];
    natural!(8 unwatched);

    #[inline(always)]
    unsafe fn decode(codes: *const u8, _: *const u8, _: &mut ()) -> Self::Block {
        // SAFETY: NEON and pointer by the caller.
        unsafe {
            let v = vmovl_s8(vld1_s8(codes.cast()));
            let (low, high) = (vmovl_s16(vget_low_s16(v)), vmovl_high_s16(v));
            [[vcvtq_f32_s32(low), vcvtq_f32_s32(high)]]
        }
    }
}

/// For [`join`]: where the bytes of four lanes of f32 lie in a pair of registers. An index out of range
/// gives a zero.
static PLACES: [[u8; 16]; 4] = places();

const fn places() -> [[u8; 16]; 4] {
    let mut places = [[255; 16]; 4];
    let mut code = 0;
    while code < 16 {
        let (quarter, lane) = (code / 4, code % 4);
        places[quarter][4 * lane + 2] = code as u8;
        places[quarter][4 * lane + 3] = 16 + code as u8;
        code += 1;
    }
    places
}

/// The f32 of sixteen bf16 whose lower and upper bytes are given.
///
/// # Safety
/// Needs NEON.
#[inline(always)]
unsafe fn join(lower: uint8x16_t, upper: uint8x16_t) -> [Pair; 2] {
    let both = uint8x16x2_t(lower, upper);
    // SAFETY: NEON by the caller; the places are sixteen bytes.
    let quarter = |quarter: usize| unsafe {
        vreinterpretq_f32_u8(vqtbl2q_u8(both, vld1q_u8(PLACES[quarter].as_ptr())))
    };
    [[quarter(0), quarter(1)], [quarter(2), quarter(3)]]
}

/// E4M3, its scales folded into `x`. Magnitude bits and factors as on AVX2.
pub(super) struct Fp8<const WATCHED: bool>;

// SAFETY: NEON only; touches the documented sizes.
unsafe impl<const WATCHED: bool> Decode<Neon> for Fp8<WATCHED> {
    const CODE_BYTES: usize = 16;
    const SCALE_BYTES: usize = 0;
    const X_FACTOR: f32 = (1u64 << 60) as f32;
    const OUT_FACTOR: f32 = (1u64 << 60) as f32;
    const LIFT: f32 = 16.0;
    const PAIRED: bool = false;
    type Block = [Pair; 2];
    /// Largest code as unsigned (0xff is a NaN) and as signed (0x7f is the other).
    type Watch = (uint8x16_t, int8x16_t);
    natural!(16);

    #[inline(always)]
    unsafe fn watch() -> Self::Watch {
        // SAFETY: NEON by the caller, here and below.
        unsafe { (vdupq_n_u8(0), vdupq_n_s8(0)) }
    }
    #[inline(always)]
    unsafe fn saw_nan((unsigned, signed): Self::Watch) -> bool {
        // SAFETY: as above.
        WATCHED && unsafe { vmaxvq_u8(unsigned) == 0xff || vmaxvq_s8(signed) == 0x7f }
    }
    #[inline(always)]
    unsafe fn decode(codes: *const u8, _: *const u8, watch: &mut Self::Watch) -> Self::Block {
        // SAFETY: NEON and pointer by the caller.
        unsafe {
            let v = vld1q_u8(codes);
            let signed = vreinterpretq_s8_u8(v);
            if WATCHED {
                *watch = (vmaxq_u8(watch.0, v), vmaxq_s8(watch.1, signed));
            }
            let upper = vandq_u8(vreinterpretq_u8_s8(vshrq_n_s8::<4>(signed)), vdupq_n_u8(0x87));
            join(vshlq_n_u8::<4>(v), upper)
        }
    }
}

/// E2M1 with a scale per 32 columns: two byte tables, already scaled, give the halves of a bf16.
pub(super) struct Fp4;

// SAFETY: NEON only; touches the documented sizes.
unsafe impl Decode<Neon> for Fp4 {
    const CODE_BYTES: usize = 16;
    const SCALE_BYTES: usize = 1;
    const PAIRED: bool = false;
    type Block = [Pair; 4];
    natural!(32 unwatched);

    #[inline(always)]
    unsafe fn decode(codes: *const u8, scales: *const u8, _: &mut ()) -> Self::Block {
        // SAFETY: NEON and pointers by the caller; a table entry is two times 16 bytes.
        unsafe {
            let [uppers, lowers] = &E2M1_BYTES[*scales as usize].0;
            let (uppers, lowers) = (vld1q_u8(uppers.as_ptr()), vld1q_u8(lowers.as_ptr()));
            let v = vld1q_u8(codes);
            let (even, odd) = (vandq_u8(v, vdupq_n_u8(15)), vshrq_n_u8::<4>(v));
            let half = |codes| join(vqtbl1q_u8(lowers, codes), vqtbl1q_u8(uppers, codes));
            let ([a, b], [c, d]) = (half(vzip1q_u8(even, odd)), half(vzip2q_u8(even, odd)));
            [a, b, c, d]
        }
    }
}
