// What every kernel starts from: its place in the grid, number formats, elementary functions.
//
// All formats are taken apart as integers: a shader compiler may contract, reorder or flush what it
// knows to be floats, and nothing here may depend on that. A sum of products is written with `fma`, so
// that no compiler chooses for itself where to round.

// Number of this invocation in a grid that was folded to two dimensions.
fn thread(group: vec3u, groups: vec3u, lane: u32) -> u32 {
    return (group.y * groups.x + group.x) * 64u + lane;
}

// Number of this workgroup in such a grid.
fn block(group: vec3u, groups: vec3u) -> u32 {
    return group.y * groups.x + group.x;
}

fn bf16_value(bits: u32) -> f32 {
    return bitcast<f32>(bits << 16u);
}

fn bf16_bits(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    let nan = (bits & 0x7fffffffu) > 0x7f800000u;
    let rounded = (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
    return select(rounded, (bits >> 16u) | 0x40u, nan);
}

fn f16_value(bits: u32) -> f32 {
    let magnitude = bits & 0x7fffu;
    let subnormal = bitcast<u32>(f32(magnitude) * 5.9604644775390625e-8);
    let normal = (magnitude << 13u) + select(0x38000000u, 0x70000000u, magnitude >= 0x7c00u);
    let value = select(normal, subnormal, magnitude < 0x400u);
    return bitcast<f32>(value | ((bits & 0x8000u) << 16u));
}

// The integer nearest to mantissa · 2^-shift, ties to even; shift is 1..=24.
fn shifted(mantissa: u32, shift: u32) -> u32 {
    let whole = mantissa >> shift;
    let rest = mantissa & ((1u << shift) - 1u);
    let tie = 1u << (shift - 1u);
    return whole + select(0u, 1u, rest > tie || (rest == tie && (whole & 1u) == 1u));
}

fn f16_bits(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    let sign = (bits >> 16u) & 0x8000u;
    let magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        return sign | 0x7e00u;
    }
    // 65520 and above round to infinity.
    if (magnitude >= 0x477ff000u) {
        return sign | 0x7c00u;
    }
    if (magnitude >= 0x38800000u) {
        return sign | ((magnitude + 0xfffu + ((magnitude >> 13u) & 1u) - 0x38000000u) >> 13u);
    }
    let exponent = magnitude >> 23u;
    if (exponent < 102u) {
        return sign;
    }
    return sign | shifted((magnitude & 0x7fffffu) | 0x800000u, 126u - exponent);
}

fn e4m3_value(code: u32) -> f32 {
    let magnitude = code & 0x7fu;
    let subnormal = bitcast<u32>(f32(magnitude) * 0.001953125);
    var value = select((magnitude << 20u) + 0x3c000000u, subnormal, magnitude < 8u);
    value = select(value, 0x7fc00000u, magnitude == 0x7fu);
    return bitcast<f32>(value | ((code & 0x80u) << 24u));
}

fn e2m1_value(code: u32) -> f32 {
    let magnitude = code & 7u;
    let subnormal = bitcast<u32>(f32(magnitude) * 0.5);
    let value = select((magnitude << 22u) + 0x3f000000u, subnormal, magnitude < 2u);
    return bitcast<f32>(value | ((code & 8u) << 28u));
}

fn e8m0_value(byte: u32) -> f32 {
    let value = select(byte << 23u, 0x00400000u, byte == 0u);
    return bitcast<f32>(select(value, 0x7fc00000u, byte == 255u));
}

// 2^(127 - byte), for bytes below 254.
fn e8m0_inverse(byte: u32) -> f32 {
    return bitcast<f32>((254u - byte) << 23u);
}

// The byte of the smallest power of two that brings amax (given by its bits) into the format.
fn e4m3_scale(amax: u32) -> u32 {
    let byte = ((max(amax, 0x38d1b717u) + 0x1fffffu) >> 23u) - 8u;
    return select(byte, 255u, amax > 0x7f800000u);
}

fn e2m1_scale(amax: u32) -> u32 {
    let byte = ((max(amax, 0x01c00000u) + 0x3fffffu) >> 23u) - 2u;
    return select(byte, 255u, amax > 0x7f800000u);
}

// The code nearest to a value, ties to even, clamped; the sign is kept, of zeros too.
fn e4m3_code(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    let sign = (bits >> 24u) & 0x80u;
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return 0x7fu;
    }
    let magnitude = min(bits & 0x7fffffffu, 0x43e00000u);
    if (magnitude >= 0x3c800000u) {
        return sign | (((magnitude + 0x7ffffu + ((magnitude >> 20u) & 1u)) >> 20u) - 960u);
    }
    let exponent = magnitude >> 23u;
    if (exponent < 117u) {
        return sign;
    }
    return sign | shifted((magnitude & 0x7fffffu) | 0x800000u, 141u - exponent);
}

fn e2m1_code(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    let sign = (bits >> 28u) & 8u;
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return 0u;
    }
    let magnitude = min(bits & 0x7fffffffu, 0x40c00000u);
    if (magnitude >= 0x3f800000u) {
        return sign | (((magnitude + 0x1fffffu + ((magnitude >> 22u) & 1u)) >> 22u) - 252u);
    }
    let exponent = magnitude >> 23u;
    if (exponent < 125u) {
        return sign;
    }
    return sign | shifted((magnitude & 0x7fffffu) | 0x800000u, 149u - exponent);
}

// e^x within 2 units in the last place; infinity above 88.73, zero below -104.
fn exp_of(value: f32) -> f32 {
    var x = select(value, -104.0, value < -104.0);
    x = select(x, 89.0, x > 89.0);
    // 1 x = n · ln 2 + r with |r| ≤ ln 2 / 2
    let n = round(x * 1.44269504);
    let r = fma(n, 2.1219444e-4, fma(n, -0.693359375, x));
    // 2 e^r
    var e = 1.9875691e-4;
    e = fma(e, r, 1.3981999e-3);
    e = fma(e, r, 8.333452e-3);
    e = fma(e, r, 4.1665796e-2);
    e = fma(e, r, 1.6666666e-1);
    e = fma(e, r, 0.5);
    e = fma(e, r * r, r) + 1.0;
    // 3 times 2^n, in two factors: n may be below the smallest exponent
    let whole = i32(n);
    let low = whole >> 1u;
    let first = bitcast<f32>(u32(low + 127) << 23u);
    let second = bitcast<f32>(u32(whole - low + 127) << 23u);
    return e * first * second;
}

fn sigmoid(x: f32) -> f32 {
    return 1.0 / (1.0 + exp_of(-x));
}

// ln(1 + e^x)
fn softplus(x: f32) -> f32 {
    // 1 ln(1 + e^x) = max(x, 0) + ln(1 + y) with y = e^-|x| in 0..=1
    let y = exp_of(-abs(x));
    // 2 ln(1 + y) = 2 artanh(t) with t = y / (2 + y) at most 1/3
    let t = y / (2.0 + y);
    let u = t * t;
    var s = 0.06666667;
    s = fma(s, u, 0.07692308);
    s = fma(s, u, 0.09090909);
    s = fma(s, u, 0.11111111);
    s = fma(s, u, 0.14285715);
    s = fma(s, u, 0.2);
    s = fma(s, u, 0.33333334);
    let log = 2.0 * fma(t, u * s, t);
    return select(log, x + log, x > 0.0);
}

// √ln(1 + e^x). Below -40 that is e^(x/2) to the last place, and e^x may be flushed to zero on the way.
fn sqrt_softplus(x: f32) -> f32 {
    return select(sqrt(softplus(x)), exp_of(0.5 * x), x < -40.0);
}
