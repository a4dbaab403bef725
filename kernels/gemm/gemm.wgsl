// matmul by weights in any encoding. README.md has the formula and the encodings.
//
// Weight rows lie in words, LANES rows side by side: word w of rows 32·b .. 32·b + 31 are neighbours, so
// that 16 invocations, of two outputs each, read 32 neighbouring words. An invocation makes two outputs of
// up to TILE rows of x. A sum runs over the columns in order, one fused multiply-add each; scales of blocks are
// powers of two and multiply the weight exactly, those of INT8 rows multiply the finished sum. So a result does not depend on TILE, nor on how a weight was cut.

//# section weights
// Place of the first word of a weight row.
fn codes_begin(weight_row: u32) -> u32 {
    return p.codes_begin + (weight_row / LANES) * p.words * LANES + weight_row % LANES;
}

//# if SCALED
// Place of a weight row's first scale byte. Blocks start anew with every segment.
fn scales_begin(weight_row: u32) -> u32 {
    let segment = weight_row / p.segment_rows;
    let block_row = weight_row % p.segment_rows / p.block_rows;
    return (segment * p.segment_blocks + block_row) * p.blocks;
}

fn scale_at(byte: u32) -> f32 {
    return e8m0_value((scales_words[p.scales_begin + (byte >> 2u)] >> ((byte & 3u) << 3u)) & 0xffu);
}
//# end

//# if ROW_SCALED
fn row_scale(weight_row: u32) -> f32 {
    return bitcast<f32>(scales_words[p.scales_begin + weight_row]);
}
//# end

// Number i of a word.
fn number(word: u32, i: u32) -> f32 {
//# if f32
    return bitcast<f32>(word);
//# end
//# if bf16
    return bitcast<f32>(select(word << 16u, word & 0xffff0000u, i == 1u));
//# end
//# if f16
    return f16_value((word >> (i << 4u)) & 0xffffu);
//# end
//# if fp8
    return e4m3_value((word >> (i << 3u)) & 0xffu);
//# end
//# if int8
    return f32(extractBits(bitcast<i32>(word), i << 3u, 8u));
//# end
//# if fp4
    return e2m1_value((word >> (i << 2u)) & 15u);
//# end
}

// The products of weight rows `first` and `second` with TILE rows of x.
fn products(first: u32, second: u32, rows: array<u32, TILE>) -> array<vec2f, TILE> {
    var row_of = rows;
    var sums: array<vec2f, TILE>;
    let first_codes = codes_begin(first);
    let second_codes = codes_begin(second);
//# if SCALED
    let first_scales = scales_begin(first);
    let second_scales = scales_begin(second);
//# end
    for (var part = 0u; part < p.blocks; part++) {
        // 1 scales
//# if SCALED
        let scale = vec2f(scale_at(first_scales + part), scale_at(second_scales + part));
//# end
        let end = min((part + 1u) * p.block_words, p.words);
        for (var word = part * p.block_words; word < end; word++) {
            // 2 decode
            let first_word = codes_words[first_codes + word * LANES];
            let second_word = codes_words[second_codes + word * LANES];
            for (var i = 0u; i < PER_WORD; i++) {
                let column = word * PER_WORD + i;
//# if !WHOLE
                if (column >= p.cols) {
                    break;
                }
//# end
                var weight = vec2f(number(first_word, i), number(second_word, i));
//# if SCALED
                weight *= scale;
//# end
                // 3 multiply and add
                for (var t = 0u; t < TILE; t++) {
                    sums[t] = fma(weight, vec2f(x_at(row_of[t], column)), sums[t]);
                }
            }
        }
    }
//# if ROW_SCALED
    // 4 the scale of a whole row
    let scale = vec2f(row_scale(first), row_scale(second));
    for (var t = 0u; t < TILE; t++) {
        sums[t] *= scale;
    }
//# end
    return sums;
}

// Stores the outputs whose weight rows lie in this part of the weight.
fn store(row: u32, output: u32, weight_row: u32, sums: vec2f) {
    let first = weight_row >= p.first && weight_row < p.first + p.count;
//# if SPLIT
    let next = weight_row + 1u;
    if (first) {
        out_put(row, output, sums.x);
    }
    if (next >= p.first && next < p.first + p.count && output + 1u < p.out_width) {
        out_put(row, output + 1u, sums.y);
    }
//# else
    // No part ends between the two.
    if (first) {
        out_pair(row, output, sums);
    }
//# end
}

// A weight row's place in this part, or the nearest there is: what is not stored may be anything.
fn place_of(weight_row: u32) -> u32 {
    return min(max(weight_row, p.first) - p.first, p.count - 1u);
}

//# section matmul
//# use weights
@compute @workgroup_size(64)
fn matmul(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = thread(group, groups, lane);
    if (at >= p.threads) {
        return;
    }
    // 1 outputs and rows: row i uses group i % groups
    let output = at % p.pairs * 2u;
    let matrix = p.matrix + at / p.pairs % p.matrices;
    let tile = at / p.pairs / p.matrices * TILE;
    let weight_row = matrix * p.out_width + output;
    var rows: array<u32, TILE>;
    for (var t = 0u; t < TILE; t++) {
        rows[t] = min(tile + t, p.group_rows - 1u) * p.groups + matrix;
    }
    // 2 products
    var sums = products(place_of(weight_row), place_of(weight_row + 1u), rows);
    // 3 write
    for (var t = 0u; t < TILE; t++) {
        if (tile + t < p.group_rows) {
            store(rows[t], output, weight_row, sums[t]);
        }
    }
}

//# section matmul_sorted
//# use weights
// The group that owns a sorted row: the last one that does not begin behind it.
fn group_of(row: u32) -> u32 {
    var low = 0u;
    var high = p.groups - 1u;
    while (low < high) {
        let middle = (low + high + 1u) / 2u;
        if (u32(offsets_int(middle, 0u)) <= row) {
            low = middle;
        } else {
            high = middle - 1u;
        }
    }
    return low;
}

@compute @workgroup_size(64)
fn matmul_sorted(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = thread(group, groups, lane);
    if (at >= p.threads) {
        return;
    }
    // 1 outputs and rows; rows behind the last offset are nobody's
    let output = at % p.pairs * 2u;
    var row = at / p.pairs * TILE;
    let live = min(u32(offsets_int(p.groups, 0u)), p.rows);
    let end = min(row + TILE, live);
    while (row < end) {
        let matrix = group_of(row);
        let stop = min(end, u32(offsets_int(matrix + 1u, 0u)));
        let weight_row = matrix * p.out_width + output;
        if (weight_row + 1u >= p.first && weight_row < p.first + p.count) {
            var rows: array<u32, TILE>;
            for (var t = 0u; t < TILE; t++) {
                rows[t] = min(row + t, stop - 1u);
            }
            // 2 products
            var sums = products(place_of(weight_row), place_of(weight_row + 1u), rows);
            // 3 write
            for (var t = 0u; t < TILE; t++) {
                if (row + t < stop) {
                    store(rows[t], output, weight_row, sums[t]);
                }
            }
        }
        row = max(stop, row + 1u);
    }
}
