//! E4M3, E2M1 and E8M0, one number at a time: decoding by table, encoding to the nearest, ties to even.
//!
//! Sources: OCP OFP8 1.0 (E4M3: no infinities, NaN is all ones), OCP MX 1.0 (E2M1, E8M0). The model's
//! use of them: spec sections 12 and 13.

/// 2^(byte - 127) for every E8M0 byte; 255 is NaN. Entry 0 is the f32 subnormal 2^-127.
pub static E8M0: [f32; 256] = e8m0();

/// Value of every E4M3 code; 0x7f and 0xff are NaN.
pub static E4M3: [f32; 256] = e4m3();

/// Value of every E2M1 code; bit 3 is the sign.
pub const E2M1: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// Largest finite E4M3 value.
pub const E4M3_MAX: f32 = 448.0;

/// Largest E2M1 value.
pub const E2M1_MAX: f32 = 6.0;

/// The code that stands for NaN.
pub const E4M3_NAN: u8 = 0x7f;

/// The scale that stands for NaN.
pub const E8M0_NAN: u8 = 255;

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

const SIGN: u32 = 1 << 31;

/// Magnitude ≤ 448 rounded to the nearest E4M3 value, ties to even.
#[inline(always)]
pub(super) fn round_e4m3(magnitude: f32) -> f32 {
    // Adding 1.5 · 2^20 times the value's power of two leaves three mantissa bits; below 2^-6 the
    // step no longer shrinks.
    round(magnitude, 121, 20)
}

/// Magnitude ≤ 6 rounded to the nearest E2M1 value, ties to even.
#[inline(always)]
pub(super) fn round_e2m1(magnitude: f32) -> f32 {
    round(magnitude, 127, 22)
}

#[inline(always)]
fn round(magnitude: f32, exponent_min: u32, shift: u32) -> f32 {
    let exponent = (magnitude.to_bits() & 0x7f80_0000).max(exponent_min << 23);
    let magic = f32::from_bits((exponent + (shift << 23)) | 1 << 22);
    (magnitude + magic) - magic
}

/// Code of a magnitude that is an E4M3 value.
#[inline(always)]
pub(super) fn code_e4m3(rounded: f32) -> u8 {
    let normal = (rounded.to_bits() >> 20).wrapping_sub(120 << 3);
    let subnormal = ((rounded + 1.0 / 64.0).to_bits() >> 20) - (121 << 3);
    (if rounded < 1.0 / 64.0 { subnormal } else { normal }) as u8
}

/// Code of a magnitude that is an E2M1 value.
#[inline(always)]
pub(super) fn code_e2m1(rounded: f32) -> u8 {
    let normal = (rounded.to_bits() >> 22).wrapping_sub(126 << 1);
    let subnormal = ((rounded + 1.0).to_bits() >> 22) - (127 << 1);
    (if rounded < 1.0 { subnormal } else { normal }) as u8
}

/// The E4M3 code nearest to `value`, ties to even; beyond ±448 the largest code, NaN for NaN.
pub fn encode_e4m3(value: f32) -> u8 {
    if value.is_nan() {
        return E4M3_NAN;
    }
    let sign = (value.to_bits() >> 24) as u8 & 0x80;
    code_e4m3(round_e4m3(value.abs().min(E4M3_MAX))) | sign
}

/// The E2M1 code nearest to `value`, ties to even; beyond ±6 the largest code. NaN has no code: 0.
pub fn encode_e2m1(value: f32) -> u8 {
    if value.is_nan() {
        return 0;
    }
    let sign = (value.to_bits() >> 28) as u8 & 8;
    code_e2m1(round_e2m1(value.abs().min(E2M1_MAX))) | sign
}

/// f32 of an E4M3 code without the table: what a vector does. Selects, and no product of a subnormal:
/// some processors take a hundred cycles for one.
#[inline(always)]
pub(super) fn value_e4m3(code: u8) -> f32 {
    let magnitude = u32::from(code & 0x7f);
    let normal = f32::from_bits((magnitude << 20) + (120 << 23));
    let value = if magnitude < 8 { magnitude as f32 * (1.0 / 512.0) } else { normal };
    let value = if magnitude == 0x7f { f32::NAN } else { value };
    f32::from_bits(value.to_bits() | u32::from(code) << 24 & SIGN)
}

/// f32 of an E2M1 code without the table: what a vector does.
#[inline(always)]
pub(super) fn value_e2m1(code: u8) -> f32 {
    let magnitude = u32::from(code & 7);
    let normal = f32::from_bits((magnitude << 22) + (126 << 23));
    let value = if magnitude < 2 { magnitude as f32 * 0.5 } else { normal };
    f32::from_bits(value.to_bits() | u32::from(code) << 28 & SIGN)
}

/// The E8M0 byte of the smallest power of two ≥ max(amax, 1e-4) / 448, `amax` given by its bits.
///
/// NaN gives the NaN scale.
#[inline(always)]
pub fn scale_e4m3(amax_bits: u32) -> u8 {
    const FLOOR: u32 = 1e-4f32.to_bits();
    // 448 = 1.75 · 2^8: the power goes up by one where the mantissa exceeds 0.75.
    scale(amax_bits, FLOOR, 0x1f_ffff, 8)
}

/// The E8M0 byte of the smallest power of two ≥ max(amax, 6·2^-126) / 6, `amax` given by its bits.
///
/// NaN gives the NaN scale.
#[inline(always)]
pub fn scale_e2m1(amax_bits: u32) -> u8 {
    // 6 = 1.5 · 2^2, and 6 · 2^-126 has exponent byte 3.
    const FLOOR: u32 = 3 << 23 | 1 << 22;
    scale(amax_bits, FLOOR, 0x3f_ffff, 2)
}

#[inline(always)]
fn scale(amax_bits: u32, floor: u32, carry: u32, power: u32) -> u8 {
    if amax_bits > 0x7f80_0000 {
        return E8M0_NAN;
    }
    (((amax_bits.max(floor) + carry) >> 23) - power) as u8
}

/// 2^(127 - byte): what a value is multiplied with before it is rounded. For bytes below 254.
#[inline(always)]
pub(super) fn inverse_scale(byte: u8) -> f32 {
    f32::from_bits((254 - u32::from(byte)) << 23)
}
