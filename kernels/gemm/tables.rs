//! Constant tables of the small formats: E8M0 scales, E4M3 values, scaled E2M1 values.
//!
//! Built at compile time from the formats' definitions (OCP MX 1.0; spec section 12).

/// 2^(byte - 127); 255 is NaN. Entry 0 is the subnormal 2^-127.
pub(super) static E8M0: [f32; 256] = e8m0();

/// Value of every E4M3 code; 0x7f and 0xff are NaN.
pub(super) static E4M3: [f32; 256] = e4m3();

/// For every E8M0 scale the sixteen E2M1 values times the scale, as f32.
pub(super) static E2M1_SCALED: [Aligned<[f32; 16]>; 256] = e2m1_scaled();

/// For every E8M0 scale the sixteen scaled E2M1 values as bf16: their upper bytes, then their lower.
/// All of them are exact in bf16, infinite where they are infinite in f32.
pub(super) static E2M1_BYTES: [Aligned<[[u8; 16]; 2]>; 256] = e2m1_bytes();

/// Keeps an entry inside one cache line.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(super) struct Aligned<T>(pub T);

const fn e8m0() -> [f32; 256] {
    let mut table = [0.0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte as usize] = match byte {
            0 => f32::from_bits(1 << 22),
            255 => f32::NAN,
            _ => f32::from_bits(byte << 23),
        };
        byte += 1;
    }
    table
}

const fn e4m3() -> [f32; 256] {
    let mut table = [0.0; 256];
    let mut code = 0u32;
    while code < 256 {
        let exponent = (code >> 3) & 15;
        let mantissa = code & 7;
        let magnitude = if code & 0x7f == 0x7f {
            f32::NAN
        } else if exponent == 0 {
            mantissa as f32 / 512.0
        } else {
            f32::from_bits((exponent + 120) << 23 | mantissa << 20)
        };
        table[code as usize] = if code & 0x80 == 0 { magnitude } else { -magnitude };
        code += 1;
    }
    table
}

const E2M1: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

const fn e2m1_scaled() -> [Aligned<[f32; 16]>; 256] {
    let mut table = [Aligned([0.0; 16]); 256];
    let scales = e8m0();
    let mut scale = 0;
    while scale < 256 {
        let mut code = 0;
        while code < 16 {
            let magnitude = E2M1[code & 7] * scales[scale];
            table[scale].0[code] = match (scale, code & 8) {
                // Spelt out: the bits of a computed NaN are nobody's promise.
                (255, _) => f32::NAN,
                (_, 0) => magnitude,
                _ => -magnitude,
            };
            code += 1;
        }
        scale += 1;
    }
    table
}

const fn e2m1_bytes() -> [Aligned<[[u8; 16]; 2]>; 256] {
    let mut table = [Aligned([[0; 16]; 2]); 256];
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
