//! bf16 and f16 to f32 and back.
//!
//! Widening is exact, narrowing rounds to nearest, ties to even; a NaN stays a NaN and keeps its sign.
//! The results have the same bits for every instruction set.

use crate::common::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::common::isa::Level;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// The bf16 nearest to `value`, ties to even; NaN gives a quiet NaN.
#[inline]
pub fn bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let quiet = (bits >> 16) | 0x40;
    (if bits & 0x7fff_ffff > 0x7f80_0000 { quiet } else { rounded }) as u16
}

/// `value` rounded to bf16 and widened again.
#[inline]
pub fn round_bf16(value: f32) -> f32 {
    f32::from_bits(u32::from(bf16_bits(value)) << 16)
}

/// `target[i] = source[i]`.
///
/// # Panics
/// If the lengths differ.
pub fn widen_bf16(isa: Isa, source: &[bf16], target: &mut [f32]) {
    assert_eq!(source.len(), target.len());
    match isa.level() {
        // SAFETY: an `Isa` proves that the processor has the features.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { x86::widen_avx512(source, target) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { x86::widen_avx2(source, target) },
        _ => widen(source, target),
    }
}

/// `target[i] = source[i]`, rounded to nearest, ties to even.
///
/// # Panics
/// If the lengths differ.
pub fn narrow_bf16(isa: Isa, source: &[f32], target: &mut [bf16]) {
    assert_eq!(source.len(), target.len());
    match isa.level() {
        // SAFETY: an `Isa` proves that the processor has the features.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { x86::narrow_avx512(source, target) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { x86::narrow_avx2(source, target) },
        _ => narrow(source, target),
    }
}

/// Rounds every value to bf16 and widens it again.
pub fn round_bf16_slice(isa: Isa, values: &mut [f32]) {
    match isa.level() {
        // SAFETY: an `Isa` proves that the processor has the features.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { x86::round_avx512(values) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { x86::round_avx2(values) },
        _ => round(values),
    }
}

/// `target[i] = source[i]`. The `half` crate picks F16C where it exists.
///
/// # Panics
/// If the lengths differ.
pub fn widen_f16(source: &[f16], target: &mut [f32]) {
    source.convert_to_f32_slice(target);
}

/// `target[i] = source[i]`, rounded to nearest, ties to even.
///
/// # Panics
/// If the lengths differ.
pub fn narrow_f16(source: &[f32], target: &mut [f16]) {
    target.convert_from_f32_slice(source);
}

// The loops below are integer arithmetic, which the compiler vectorises by itself; the copies under
// `target_feature` only give it wider vectors.

#[inline(always)]
fn widen(source: &[bf16], target: &mut [f32]) {
    for (target, source) in target.iter_mut().zip(source) {
        *target = f32::from_bits(u32::from(source.to_bits()) << 16);
    }
}

#[inline(always)]
fn narrow(source: &[f32], target: &mut [bf16]) {
    for (target, &source) in target.iter_mut().zip(source) {
        *target = bf16::from_bits(bf16_bits(source));
    }
}

#[inline(always)]
fn round(values: &mut [f32]) {
    for value in values {
        *value = round_bf16(*value);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use half::bf16;

    #[target_feature(enable = "avx2")]
    pub fn widen_avx2(source: &[bf16], target: &mut [f32]) {
        super::widen(source, target);
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub fn widen_avx512(source: &[bf16], target: &mut [f32]) {
        super::widen(source, target);
    }

    #[target_feature(enable = "avx2")]
    pub fn narrow_avx2(source: &[f32], target: &mut [bf16]) {
        super::narrow(source, target);
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub fn narrow_avx512(source: &[f32], target: &mut [bf16]) {
        super::narrow(source, target);
    }

    #[target_feature(enable = "avx2")]
    pub fn round_avx2(values: &mut [f32]) {
        super::round(values);
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub fn round_avx512(values: &mut [f32]) {
        super::round(values);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values around every boundary: exponents, ties, subnormals, infinities, NaNs of both signs.
    fn patterns() -> Vec<f32> {
        let low = [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff];
        (0..=0xffffu32)
            .step_by(7)
            .chain([0x7f7f, 0x7f80, 0x7fff, 0xff80, 0xffff, 0x8000])
            .flat_map(|high| low.map(|low| f32::from_bits(high << 16 | low)))
            .collect()
    }

    #[test]
    fn narrowing_agrees_with_half_on_every_isa() {
        let source = patterns();
        let want: Vec<bf16> = source.iter().map(|&value| bf16::from_f32(value)).collect();
        for isa in Isa::all() {
            let mut target = vec![bf16::ZERO; source.len()];
            narrow_bf16(isa, &source, &mut target);
            for ((got, want), source) in target.iter().zip(&want).zip(&source) {
                assert_eq!(got.to_bits(), want.to_bits(), "{isa} {source}");
            }
            let mut rounded = source.clone();
            round_bf16_slice(isa, &mut rounded);
            let mut back = vec![0.0; source.len()];
            widen_bf16(isa, &target, &mut back);
            for (rounded, back) in rounded.iter().zip(&back) {
                assert_eq!(rounded.to_bits(), back.to_bits(), "{isa}");
            }
        }
    }

    #[test]
    fn f16_round_trips() {
        let source: Vec<f16> = (0..=0xffff).map(f16::from_bits).filter(|f| !f.is_nan()).collect();
        let mut wide = vec![0.0; source.len()];
        widen_f16(&source, &mut wide);
        let mut back = vec![f16::ZERO; source.len()];
        narrow_f16(&wide, &mut back);
        assert_eq!(source, back);
    }
}
