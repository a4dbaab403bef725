// Ops on rows: gather, scatter, map, reduce, rms_norm, rope. README.md has the formulas.
//
// One invocation per pair of columns of an output row, 64 to a workgroup; sums along a whole row take a
// workgroup each, narrow rows an invocation. Bound by memory. Absent indices are read here and nowhere else.

//# section gather_rows
@compute @workgroup_size(64)
fn gather_rows(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = thread(group, groups, lane);
    if (at >= p.threads) {
        return;
    }
    // 1 row
    let row = at / p.pairs;
    let column = at % p.pairs * 2u;
    let next = min(column + 1u, p.out_width - 1u);
    let index = index_int(row, 0u);
    if (index < 0) {
        out_pair_bits(row, column, vec2u(p.absent));
        return;
    }
    // 2 copy
    let from_row = u32(index) / p.per;
//# if MORE
    if (from_row >= p.source_rows) {
        let more_row = from_row - p.source_rows;
//# if CODED
        out_pair(row, column, vec2f(more_at(more_row, column), more_at(more_row, next)));
//# else
        out_pair_bits(row, column, vec2u(more_bits(more_row, column), more_bits(more_row, next)));
//# end
        return;
    }
//# end
//# if CODED
    out_pair(row, column, vec2f(source_at(from_row, column), source_at(from_row, next)));
//# else
    out_pair_bits(row, column, vec2u(source_bits(from_row, column), source_bits(from_row, next)));
//# end
}

//# section gather_elements
fn element(row: u32, column: u32) -> u32 {
    let index = index_int(row, column);
//# if ROWS
    let from_row = rows_int(row, 0u);
//# else
    let from_row = i32(row);
//# end
    if (index < 0 || from_row < 0) {
        return p.absent;
    }
    return source_bits(u32(from_row), u32(index) / p.per);
}

@compute @workgroup_size(64)
fn gather_elements(
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
    out_pair_bits(row, column, vec2u(element(row, column), element(row, next)));
}

//# section scatter_rows
@compute @workgroup_size(64)
fn scatter_rows(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = thread(group, groups, lane);
    if (at >= p.threads) {
        return;
    }
    // 1 row
    let row = at / p.pairs;
    let column = at % p.pairs * 2u;
    let next = min(column + 1u, p.out_width - 1u);
    let index = index_int(row, 0u);
    if (index < 0) {
        return;
    }
    // 2 copy
    out_pair_bits(u32(index), column, vec2u(source_bits(row, column), source_bits(row, next)));
}

//# section map
// Place of an element: the output's coordinates, and where each input has it.
fn x_element(place: vec3u) -> f32 {
    return x_at(0u, place.x * p.x_s0 + place.y * p.x_s1 + place.z * p.x_s2);
}

//# if Y
fn y_element(place: vec3u) -> f32 {
    return y_at(0u, place.x * p.y_s0 + place.y * p.y_s1 + place.z * p.y_s2);
}
//# end

//# if Z
fn z_element(place: vec3u) -> f32 {
    return z_at(0u, place.x * p.z_s0 + place.y * p.z_s1 + place.z * p.z_s2);
}
//# end

//# if INDEX
fn index_element(place: vec3u) -> i32 {
    return index_int(0u, place.x * p.index_s0 + place.y * p.index_s1 + place.z * p.index_s2);
}
//# end

fn expression(place: vec3u) -> f32 {
//# if copy
    return x_element(place);
//# end
//# if add
    return x_element(place) + y_element(place);
//# end
//# if divide
    return x_element(place) / y_element(place);
//# end
//# if exp_minus
    return exp_of(x_element(place) - y_element(place));
//# end
//# if masked_add
    if (index_element(place) < 0) {
        return -1e30;
    }
    return x_element(place) + y_element(place);
//# end
//# if sqrt_softplus
    return sqrt_softplus(x_element(place));
//# end
//# if share
    return x_element(place) / (y_element(place) + 1e-20) * p.scale;
//# end
//# if swiglu
    let gate = min(x_element(place), p.clamp);
    let up = clamp(y_element(place), -p.clamp, p.clamp);
    let value = gate / (1.0 + exp_of(-gate)) * up;
//# if Z
    return z_element(place) * value;
//# else
    return value;
//# end
//# end
}

@compute @workgroup_size(64)
fn map(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = thread(group, groups, lane);
    if (at >= p.threads) {
        return;
    }
    let column = at % p.pairs * 2u;
    let line = at / p.pairs;
    let place = vec3u(line / p.lines, line % p.lines, column);
    let begin = place.x * p.out_s0 + place.y * p.out_s1;
    let next = vec3u(place.xy, min(column + 1u, p.out_width - 1u));
    out_pair(begin, column, vec2f(expression(place), expression(next)));
}

//# section map_int
fn x_element(place: vec3u) -> i32 {
    return x_int(0u, place.x * p.x_s0 + place.y * p.x_s1 + place.z * p.x_s2);
}

//# if page_row
fn y_element(place: vec3u) -> i32 {
    return y_int(0u, place.x * p.y_s0 + place.y * p.y_s1 + place.z * p.y_s2);
}
//# end

fn expression(place: vec3u) -> u32 {
    let x = x_element(place);
//# if page_row
    let y = y_element(place);
    let row = y * i32(p.per) + i32(u32(x) % p.per);
    return bitcast<u32>(select(row, -1, x < 0 || y < 0));
//# else
    return bitcast<u32>(x);
//# end
}

@compute @workgroup_size(64)
fn map_int(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = thread(group, groups, lane);
    if (at >= p.threads) {
        return;
    }
    let column = at % p.pairs * 2u;
    let line = at / p.pairs;
    let place = vec3u(line / p.lines, line % p.lines, column);
    let begin = place.x * p.out_s0 + place.y * p.out_s1;
    let next = vec3u(place.xy, min(column + 1u, p.out_width - 1u));
    out_pair_bits(begin, column, vec2u(expression(place), expression(next)));
}

//# section reduce
// j = 0, 1, …; a product is fused with its sum.
fn reduced(row: u32, column: u32) -> f32 {
//# if sum
    var total = 0.0;
    for (var j = 0u; j < p.axis; j++) {
        total += x_at(row, j * p.inner + column);
    }
    return total;
//# end
//# if max
    var top = x_at(row, column);
    for (var j = 1u; j < p.axis; j++) {
        let x = x_at(row, j * p.inner + column);
        top = select(top, x, x > top);
    }
    return top;
//# end
//# if dot
    var total = 0.0;
    for (var j = 0u; j < p.axis; j++) {
        let at = j * p.inner + column;
        total = fma(x_at(row, at), y_at(row, at), total);
    }
    return total;
//# end
//# if mix
    let k = column / p.inner;
    let d = column % p.inner;
    var total = 0.0;
    for (var j = 0u; j < p.axis; j++) {
        total = fma(y_at(row, j * p.outputs + k), x_at(row, j * p.inner + d), total);
    }
    return total;
//# end
}

@compute @workgroup_size(64)
fn reduce(
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
    out_pair(row, column, vec2f(reduced(row, column), reduced(row, next)));
}

//# section squares
// Σ x² of a row, by a workgroup: element pairs go to lane pair % 64, the lanes are added as a tree.
// The order depends on the width alone.
var<workgroup> lanes: array<f32, 64>;

fn squares(row: u32, lane: u32) -> f32 {
    var total = 0.0;
    for (var column = lane * 2u; column < p.width; column += 128u) {
        let x = x_at(row, column);
        total = fma(x, x, total);
        if (column + 1u < p.width) {
            let y = x_at(row, column + 1u);
            total = fma(y, y, total);
        }
    }
    lanes[lane] = total;
    workgroupBarrier();
    for (var half = 32u; half > 0u; half >>= 1u) {
        if (lane < half) {
            lanes[lane] += lanes[lane + half];
        }
        workgroupBarrier();
    }
    return lanes[0];
}

//# section narrow_squares
// Σ x² of a narrow row, by one invocation, in the order of columns.
fn narrow_squares(row: u32) -> f32 {
    var total = 0.0;
    for (var column = 0u; column < p.width; column++) {
        let x = x_at(row, column);
        total = fma(x, x, total);
    }
    return total;
}

//# section narrow_mean_square
//# use narrow_squares
@compute @workgroup_size(64)
fn narrow_mean_square(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = thread(group, groups, lane);
    if (row >= p.threads) {
        return;
    }
    out_pair(row, 0u, vec2f(narrow_squares(row) / f32(p.width), 0.0));
}

//# section mean_square
//# use squares
@compute @workgroup_size(64)
fn mean_square(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = block(group, groups);
    if (row >= p.blocks) {
        return;
    }
    let total = squares(row, lane);
    if (lane == 0u) {
        out_pair(row, 0u, vec2f(total / f32(p.width), 0.0));
    }
}

//# section normed
fn normed(row: u32, column: u32, scale: f32) -> f32 {
//# if GAIN
    return x_at(row, column) * scale * gain_at(column, 0u);
//# else
    return x_at(row, column) * scale;
//# end
}

//# section narrow_rms_norm_rows
//# use narrow_squares
//# use normed
@compute @workgroup_size(64)
fn narrow_rms_norm_rows(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = thread(group, groups, lane);
    if (row >= p.threads) {
        return;
    }
    // 1 sum of squares
    let total = narrow_squares(row);
    // 2 scale
    let scale = 1.0 / sqrt(total / f32(p.width) + p.epsilon);
    // 3 write
    for (var column = 0u; column < p.width; column += 2u) {
        let next = min(column + 1u, p.width - 1u);
        out_pair(row, column, vec2f(normed(row, column, scale), normed(row, next, scale)));
    }
}

//# section rms_norm_rows
//# use squares
//# use normed
@compute @workgroup_size(64)
fn rms_norm_rows(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = block(group, groups);
    if (row >= p.blocks) {
        return;
    }
    // 1 sum of squares
    let total = squares(row, lane);
    // 2 scale
    let scale = 1.0 / sqrt(total / f32(p.width) + p.epsilon);
    // 3 write
    for (var column = lane * 2u; column < p.width; column += 128u) {
        let next = min(column + 1u, p.width - 1u);
        out_pair(row, column, vec2f(normed(row, column, scale), normed(row, next, scale)));
    }
}

//# section rope_rows
fn turned(row: u32, column: u32) -> f32 {
    if (column < p.still) {
        return x_at(row, column);
    }
    let pair = (column - p.still) >> 1u;
    let first = p.still + pair * 2u;
    let a = x_at(row, first);
    let b = x_at(row, first + 1u);
    let cosine = angle_at(row / p.heads, pair);
    let sine = angle_at(row / p.heads, p.turns + pair) * p.direction;
    if (column == first) {
        return fma(a, cosine, -(b * sine));
    }
    return fma(a, sine, b * cosine);
}

@compute @workgroup_size(64)
fn rope_rows(
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
    out_pair(row, column, vec2f(turned(row, column), turned(row, next)));
}

//# section patch_words
// Bytes skip..end of the words of `source` replace those of `out`: uploads that begin or end in a word.
@compute @workgroup_size(64)
fn patch_words(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let word = thread(group, groups, lane);
    if (word >= p.threads) {
        return;
    }
    var mask = 0u;
    for (var byte = 0u; byte < 4u; byte++) {
        let at = word * 4u + byte;
        mask |= select(0u, 0xffu << (byte << 3u), at >= p.skip && at < p.end);
    }
    let kept = out_words[p.out_begin + word] & ~mask;
    out_words[p.out_begin + word] = kept | (source_words[word] & mask);
}
