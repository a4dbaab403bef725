// How a kernel reaches its operands: one section for the memory an operand lies in, one for how its elements are
// stored. The backend writes a copy of both for every operand, with OPERAND and BINDING replaced by its
// name and binding.
//
// Memory is words. A table or a cache wider than a binding lies in windows of 2^shift words, each a binding of
// its own: what is between `each` and `end` is repeated for them, with WINDOW replaced by 0, 1, …
//
// Rows are read by (row, column). `_at` gives a value as f32, `_pair` those of an even column and the
// next, `_bits` an element's own bits. Writes go in pairs of an even column and the next: two bf16 are
// one word, and no other invocation has a part of it. Where rows are odd and words are shared, halves
// and bytes are set by integer atomics, each by one invocation: no order shows.

//# section memory
@group(0) @binding(BINDING) var<storage, read_write> OPERAND_words: array<u32>;

fn OPERAND_word(at: u32) -> u32 {
    return OPERAND_words[at];
}

fn OPERAND_set(at: u32, bits: u32) {
    OPERAND_words[at] = bits;
}

//# section memory_shared
// Words of which other invocations write other bits.
@group(0) @binding(BINDING) var<storage, read_write> OPERAND_words: array<atomic<u32>>;

fn OPERAND_change(at: u32, mask: u32, bits: u32) {
    atomicAnd(&OPERAND_words[at], ~mask);
    atomicOr(&OPERAND_words[at], bits);
}

//# section memory_wide
//# each
@group(0) @binding(BINDING) var<storage, read_write> OPERAND_words_WINDOW: array<u32>;
//# end

fn OPERAND_word(at: u32) -> u32 {
    let place = at & ((1u << p.OPERAND_shift) - 1u);
    switch at >> p.OPERAND_shift {
//# each
        case WINDOWu: { return OPERAND_words_WINDOW[place]; }
//# end
        default: { return 0u; }
    }
}

fn OPERAND_set(at: u32, bits: u32) {
    let place = at & ((1u << p.OPERAND_shift) - 1u);
    switch at >> p.OPERAND_shift {
//# each
        case WINDOWu: { OPERAND_words_WINDOW[place] = bits; }
//# end
        default: {}
    }
}

//# section memory_wide_shared
//# each
@group(0) @binding(BINDING) var<storage, read_write> OPERAND_words_WINDOW: array<atomic<u32>>;
//# end

fn OPERAND_change(at: u32, mask: u32, bits: u32) {
    let place = at & ((1u << p.OPERAND_shift) - 1u);
    switch at >> p.OPERAND_shift {
//# each
        case WINDOWu: {
            atomicAnd(&OPERAND_words_WINDOW[place], ~mask);
            atomicOr(&OPERAND_words_WINDOW[place], bits);
        }
//# end
        default: {}
    }
}

//# section read_word
fn OPERAND_bits(row: u32, column: u32) -> u32 {
    return OPERAND_word(p.OPERAND_begin + row * p.OPERAND_stride + column);
}

fn OPERAND_at(row: u32, column: u32) -> f32 {
    return bitcast<f32>(OPERAND_bits(row, column));
}

fn OPERAND_int(row: u32, column: u32) -> i32 {
    return bitcast<i32>(OPERAND_bits(row, column));
}

fn OPERAND_pair(row: u32, column: u32) -> vec2f {
    return vec2f(OPERAND_at(row, column), OPERAND_at(row, column + 1u));
}

//# section read_half
fn OPERAND_bits(row: u32, column: u32) -> u32 {
    let at = p.OPERAND_begin + row * p.OPERAND_stride + column;
    return (OPERAND_word(at >> 1u) >> ((at & 1u) << 4u)) & 0xffffu;
}

fn OPERAND_at(row: u32, column: u32) -> f32 {
//# if OPERAND_f16
    return f16_value(OPERAND_bits(row, column));
//# else
    return bf16_value(OPERAND_bits(row, column));
//# end
}

fn OPERAND_pair(row: u32, column: u32) -> vec2f {
//# if OPERAND_even
    let word = OPERAND_word((p.OPERAND_begin + row * p.OPERAND_stride + column) >> 1u);
//# if OPERAND_f16
    return vec2f(f16_value(word & 0xffffu), f16_value(word >> 16u));
//# else
    return vec2f(bf16_value(word & 0xffffu), bitcast<f32>(word & 0xffff0000u));
//# end
//# else
    return vec2f(OPERAND_at(row, column), OPERAND_at(row, column + 1u));
//# end
}

//# section read_byte
fn OPERAND_bits(row: u32, column: u32) -> u32 {
    let at = p.OPERAND_begin + row * p.OPERAND_stride + column;
    return (OPERAND_word(at >> 2u) >> ((at & 3u) << 3u)) & 0xffu;
}

//# section read_fp8_rows
// E4M3 codes, bf16 tail, one E8M0 byte per block; begin and stride in words.
fn OPERAND_byte(row: u32, byte: u32) -> u32 {
    let word = OPERAND_word(p.OPERAND_begin + row * p.OPERAND_stride + (byte >> 2u));
    return (word >> ((byte & 3u) << 3u)) & 0xffu;
}

fn OPERAND_at(row: u32, column: u32) -> f32 {
    if (column < p.OPERAND_coded) {
        let scale = OPERAND_byte(row, p.OPERAND_scales + column / p.OPERAND_block);
        return e4m3_value(OPERAND_byte(row, column)) * e8m0_value(scale);
    }
    let byte = p.OPERAND_coded + 2u * (column - p.OPERAND_coded);
    return bf16_value(OPERAND_byte(row, byte) | (OPERAND_byte(row, byte + 1u) << 8u));
}

fn OPERAND_pair(row: u32, column: u32) -> vec2f {
//# if OPERAND_even
    if (column < p.OPERAND_coded) {
        let scale = e8m0_value(OPERAND_byte(row, p.OPERAND_scales + column / p.OPERAND_block));
        let word = OPERAND_word(p.OPERAND_begin + row * p.OPERAND_stride + (column >> 2u));
        let codes = word >> ((column & 2u) << 3u);
        return vec2f(e4m3_value(codes & 0xffu), e4m3_value((codes >> 8u) & 0xffu)) * scale;
    }
//# end
    return vec2f(OPERAND_at(row, column), OPERAND_at(row, column + 1u));
}

//# section read_fp4_rows
// E2M1 codes, even column in the low nibble, one E8M0 byte per block; begin and stride in words.
fn OPERAND_byte(row: u32, byte: u32) -> u32 {
    let word = OPERAND_word(p.OPERAND_begin + row * p.OPERAND_stride + (byte >> 2u));
    return (word >> ((byte & 3u) << 3u)) & 0xffu;
}

fn OPERAND_at(row: u32, column: u32) -> f32 {
    let scale = OPERAND_byte(row, p.OPERAND_scales + column / p.OPERAND_block);
    let code = (OPERAND_byte(row, column >> 1u) >> ((column & 1u) << 2u)) & 15u;
    return e2m1_value(code) * e8m0_value(scale);
}

fn OPERAND_pair(row: u32, column: u32) -> vec2f {
//# if OPERAND_even
    let scale = e8m0_value(OPERAND_byte(row, p.OPERAND_scales + column / p.OPERAND_block));
    let codes = OPERAND_byte(row, column >> 1u);
    return vec2f(e2m1_value(codes & 15u), e2m1_value(codes >> 4u)) * scale;
//# else
    return vec2f(OPERAND_at(row, column), OPERAND_at(row, column + 1u));
//# end
}

//# section write_word
fn OPERAND_put_bits(row: u32, column: u32, bits: u32) {
    OPERAND_set(p.OPERAND_begin + row * p.OPERAND_stride + column, bits);
}

fn OPERAND_pair_bits(row: u32, column: u32, bits: vec2u) {
    OPERAND_put_bits(row, column, bits.x);
    if (column + 1u < p.OPERAND_width) {
        OPERAND_put_bits(row, column + 1u, bits.y);
    }
}

fn OPERAND_put(row: u32, column: u32, value: f32) {
    OPERAND_put_bits(row, column, bitcast<u32>(value));
}

fn OPERAND_pair(row: u32, column: u32, value: vec2f) {
    OPERAND_pair_bits(row, column, bitcast<vec2u>(value));
}

//# section write_half
//# if OPERAND_even
// Rows begin on words and have an even width: a pair is a word of its own.
fn OPERAND_pair_bits(row: u32, column: u32, bits: vec2u) {
    let at = (p.OPERAND_begin + row * p.OPERAND_stride + column) >> 1u;
    OPERAND_set(at, bits.x | (bits.y << 16u));
}
//# else
fn OPERAND_put_bits(row: u32, column: u32, bits: u32) {
    let at = p.OPERAND_begin + row * p.OPERAND_stride + column;
    let shift = (at & 1u) << 4u;
    OPERAND_change(at >> 1u, 0xffffu << shift, bits << shift);
}

fn OPERAND_pair_bits(row: u32, column: u32, bits: vec2u) {
    OPERAND_put_bits(row, column, bits.x);
    if (column + 1u < p.OPERAND_width) {
        OPERAND_put_bits(row, column + 1u, bits.y);
    }
}

fn OPERAND_put(row: u32, column: u32, value: f32) {
//# if OPERAND_f16
    OPERAND_put_bits(row, column, f16_bits(value));
//# else
    OPERAND_put_bits(row, column, bf16_bits(value));
//# end
}
//# end

fn OPERAND_pair(row: u32, column: u32, value: vec2f) {
//# if OPERAND_f16
    OPERAND_pair_bits(row, column, vec2u(f16_bits(value.x), f16_bits(value.y)));
//# else
    OPERAND_pair_bits(row, column, vec2u(bf16_bits(value.x), bf16_bits(value.y)));
//# end
}

//# section write_byte
fn OPERAND_put_bits(row: u32, column: u32, bits: u32) {
    let at = p.OPERAND_begin + row * p.OPERAND_stride + column;
    let shift = (at & 3u) << 3u;
    OPERAND_change(at >> 2u, 0xffu << shift, bits << shift);
}

fn OPERAND_pair_bits(row: u32, column: u32, bits: vec2u) {
    OPERAND_put_bits(row, column, bits.x);
    if (column + 1u < p.OPERAND_width) {
        OPERAND_put_bits(row, column + 1u, bits.y);
    }
}
