//! E2M1 values times every E8M0 scale, so that decoding a block costs no multiplication.
//!
//! Built at compile time. A model uses a few dozen of the scales; only those lines reach the cache.

#[cfg(target_arch = "x86_64")]
use crate::quant::formats::E4M3;
use crate::quant::formats::{E2M1, E8M0};

/// For every E8M0 scale the sixteen E2M1 values times the scale, as f32.
pub(super) static E2M1_SCALED: [Line<[f32; 16]>; 256] = e2m1_scaled();

/// For every E8M0 scale the sixteen scaled E2M1 values as bf16: their upper bytes, then their lower.
/// All of them are exact in bf16, infinite where they are infinite in f32.
pub(super) static E2M1_BYTES: [HalfLine<[[u8; 16]; 2]>; 256] = e2m1_bytes();

/// For every E8M0 scale the sixteen scaled E2M1 values as bf16.
#[cfg(target_arch = "x86_64")]
pub(super) static E2M1_BF16: [HalfLine<[u16; 16]>; 256] = e2m1_bf16();

/// For every E8M0 scale the values of E4M3 codes 0 to 127 as bf16: their lower bytes, then their upper. Exact, but
/// infinite where they are in f32, and next to 0.
#[cfg(target_arch = "x86_64")]
pub(super) static E4M3_BF16: [Line<[[u8; 128]; 2]>; 256] = e4m3_bf16();

/// A cache line of its own. An entry across two costs a third of AVX-512's speed (measured).
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line<T>(pub T);

/// Half a cache line, never across two.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(super) struct HalfLine<T>(pub T);

const fn e2m1_scaled() -> [Line<[f32; 16]>; 256] {
    let mut table = [Line([0.0; 16]); 256];
    let mut scale = 0;
    while scale < 256 {
        let mut code = 0;
        while code < 16 {
            // Spelt out: the bits of a computed NaN are nobody's promise.
            table[scale].0[code] = if scale == 255 { f32::NAN } else { E2M1[code] * E8M0[scale] };
            code += 1;
        }
        scale += 1;
    }
    table
}

const fn e2m1_bytes() -> [HalfLine<[[u8; 16]; 2]>; 256] {
    let mut table = [HalfLine([[0; 16]; 2]); 256];
    let scaled = e2m1_scaled();
    let mut scale = 0;
    while scale < 256 {
        let mut code = 0;
        while code < 16 {
            let bits = scaled[scale].0[code].to_bits();
            table[scale].0[0][code] = (bits >> 24) as u8;
            table[scale].0[1][code] = (bits >> 16) as u8;
            code += 1;
        }
        scale += 1;
    }
    table
}

#[cfg(target_arch = "x86_64")]
const fn e2m1_bf16() -> [HalfLine<[u16; 16]>; 256] {
    let mut table = [HalfLine([0; 16]); 256];
    let scaled = e2m1_scaled();
    let mut at = 0;
    while at < 256 * 16 {
        table[at / 16].0[at % 16] = (scaled[at / 16].0[at % 16].to_bits() >> 16) as u16;
        at += 1;
    }
    table
}

#[cfg(target_arch = "x86_64")]
const fn e4m3_bf16() -> [Line<[[u8; 128]; 2]>; 256] {
    let mut table = [Line([[0; 128]; 2]); 256];
    let mut at = 0;
    while at < 256 * 128 {
        let (scale, code) = (at / 128, at % 128);
        let nan = scale == 255 || code == 127;
        let value = if nan { f32::NAN } else { E4M3[code] * E8M0[scale] };
        let bits = value.to_bits() >> 16;
        table[scale].0[0][code] = bits as u8;
        table[scale].0[1][code] = (bits >> 8) as u8;
        at += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaled_e2m1_is_exact_in_bf16() {
        for (scale, row) in E2M1_SCALED.iter().enumerate() {
            for value in row.0 {
                assert!(value.is_nan() || value.to_bits() & 0xffff == 0, "scale {scale}: {value}");
            }
        }
        assert!(E2M1_SCALED[255].0[0].is_nan());
        assert_eq!(E2M1_SCALED[0].0[1], 2f32.powi(-128));
        assert_eq!(E2M1_SCALED[254].0[15], f32::NEG_INFINITY);
    }
}
