// convert, and scatter into coded rows. README.md has formats and scales.
//
// One invocation per block of a row where blocks matter, per pair of columns where they do not. A code
// is re-derived from values that were rounded before: nothing is lost.

//# section convert_rows
@compute @workgroup_size(64)
fn convert_rows(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = thread(group, groups, lane);
    if (at >= p.threads) {
        return;
    }
    let row = at / p.pairs;
    let column = at % p.pairs * 2u;
    let next = min(column + 1u, p.out_width - 1u);
    out_pair(row, column, vec2f(x_at(row, column), x_at(row, next)));
}

//# section scales
// The scale byte of columns begin..end of a row.
fn scale_of(row: u32, begin: u32, end: u32) -> u32 {
    var amax = 0u;
    for (var column = begin; column < end; column++) {
        amax = max(amax, bitcast<u32>(x_at(row, column)) & 0x7fffffffu);
    }
//# if E2M1
    return e2m1_scale(amax);
//# else
    return e4m3_scale(amax);
//# end
}

//# section codes
fn code_of(value: f32, scale: u32) -> u32 {
//# if E2M1
    return e2m1_code(value * e8m0_inverse(scale));
//# else
    return e4m3_code(value * e8m0_inverse(scale));
//# end
}

fn value_of(code: u32, scale: u32) -> f32 {
//# if E2M1
    return e2m1_value(code) * e8m0_value(scale);
//# else
    return e4m3_value(code) * e8m0_value(scale);
//# end
}

fn trip(value: f32, scale: u32) -> f32 {
    return value_of(code_of(value, scale), scale);
}

//# section round_trip_rows
//# use scales
//# use codes
@compute @workgroup_size(64)
fn round_trip_rows(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = thread(group, groups, lane);
    if (at >= p.threads) {
        return;
    }
    let row = at / p.parts;
    let part = at % p.parts;
    // The columns behind the coded ones stay as they are, and are the last part.
    if (part == p.blocks) {
        for (var column = p.coded; column < p.out_width; column += 2u) {
            let next = min(column + 1u, p.out_width - 1u);
            out_pair(row, column, vec2f(x_at(row, column), x_at(row, next)));
        }
        return;
    }
    // 1 scale
    let begin = part * p.block;
    let end = min(begin + p.block, p.coded);
    let scale = scale_of(row, begin, end);
    // 2 round
    for (var column = begin; column < end; column += 2u) {
//# if SINGLE
        out_put(row, column, trip(x_at(row, column), scale));
        if (column + 1u < end) {
            out_put(row, column + 1u, trip(x_at(row, column + 1u), scale));
        }
//# else
        let first = trip(x_at(row, column), scale);
        out_pair(row, column, vec2f(first, trip(x_at(row, column + 1u), scale)));
//# end
    }
}

//# section encode_rows
//# use scales
//# use codes
// Writes whole words of a coded row: each block's codes by one invocation, tail and scales by another.
fn store(row: u32, word: u32, bits: u32) {
    out_set(p.out_begin + row * p.out_stride + word, bits);
}

// One byte behind the codes.
fn end_byte(row: u32, byte: u32) -> u32 {
    let tail = p.out_scales - p.codes;
    if (byte < tail) {
        let bits = bf16_bits(x_at(row, p.out_coded + (byte >> 1u)));
        return (bits >> ((byte & 1u) << 3u)) & 0xffu;
    }
    let part = byte - tail;
    if (part >= p.blocks) {
        return 0u;
    }
    let begin = part * p.out_block;
    return scale_of(row, begin, min(begin + p.out_block, p.out_coded));
}

@compute @workgroup_size(64)
fn encode_rows(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = thread(group, groups, lane);
    if (at >= p.threads) {
        return;
    }
    let row = at / p.parts;
    let part = at % p.parts;
//# if INDEX
    let index = index_int(row, 0u);
    if (index < 0) {
        return;
    }
    let to_row = u32(index);
//# else
    let to_row = row;
//# end
    // 1 tail, scales and padding, byte by byte
    if (part == p.blocks) {
        let words = (p.row_bytes - p.codes) >> 2u;
        for (var word = 0u; word < words; word++) {
            var bits = 0u;
            for (var byte = 0u; byte < 4u; byte++) {
                bits |= end_byte(row, word * 4u + byte) << (byte << 3u);
            }
            store(to_row, (p.codes >> 2u) + word, bits);
        }
        return;
    }
    // 2 codes
    let begin = part * p.out_block;
    let end = min(begin + p.out_block, p.out_coded);
    let scale = scale_of(row, begin, end);
    for (var column = begin; column < end; column += PER_WORD) {
        var bits = 0u;
        for (var i = 0u; i < PER_WORD; i++) {
            bits |= code_of(x_at(row, column + i), scale) << (i * (32u / PER_WORD));
        }
        store(to_row, column / PER_WORD, bits);
    }
}

//# section quantise_rows
//# use scales
//# use codes
@compute @workgroup_size(64)
fn quantise_rows(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = thread(group, groups, lane);
    if (at >= p.threads) {
        return;
    }
    // 1 scale
    let row = at / p.blocks;
    let part = at % p.blocks;
    let begin = part * p.block;
    let end = min(begin + p.block, p.width);
    let scale = scale_of(row, begin, end);
    scales_put_bits(row, part, scale);
    // 2 codes
//# if E2M1
    for (var column = begin; column < end; column += 2u) {
        var code = code_of(x_at(row, column), scale);
        if (column + 1u < end) {
            code |= code_of(x_at(row, column + 1u), scale) << 4u;
        }
        out_put_bits(row, column >> 1u, code);
    }
//# else
    for (var column = begin; column < end; column++) {
        out_put_bits(row, column, code_of(x_at(row, column), scale));
    }
//# end
}

//# section dequantise_rows
//# use codes
fn dequantised(row: u32, column: u32) -> f32 {
    let scale = scales_bits(row, column / p.block);
//# if E2M1
    return value_of((x_bits(row, column >> 1u) >> ((column & 1u) << 2u)) & 15u, scale);
//# else
    return value_of(x_bits(row, column), scale);
//# end
}

@compute @workgroup_size(64)
fn dequantise_rows(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = thread(group, groups, lane);
    if (at >= p.threads) {
        return;
    }
    let row = at / p.pairs;
    let column = at % p.pairs * 2u;
    let next = min(column + 1u, p.out_width - 1u);
    out_pair(row, column, vec2f(dequantised(row, column), dequantised(row, next)));
}
