// hc_mix, hc_pre: gates and mixer of a hyper-connection site, and the site's start. README.md has the formulas.

//# section mixer
// One invocation per row; the s × s matrix stays in its registers. Sums run 0, 1, …; bound by divisions.
var<private> comb: array<f32, 64>;

fn mixed(row: u32, column: u32, factor: f32, part: u32) -> f32 {
    return fma(projected(row, column) * factor, scale_at(part, 0u), base_at(column, 0u));
}

fn divide_rows() {
    for (var i = 0u; i < STREAMS; i++) {
        var sum = 0.0;
        for (var j = 0u; j < STREAMS; j++) {
            sum += comb[i * STREAMS + j];
        }
        for (var j = 0u; j < STREAMS; j++) {
            comb[i * STREAMS + j] /= sum + p.epsilon;
        }
    }
}

fn divide_columns() {
    for (var j = 0u; j < STREAMS; j++) {
        var sum = 0.0;
        for (var i = 0u; i < STREAMS; i++) {
            sum += comb[i * STREAMS + j];
        }
        for (var i = 0u; i < STREAMS; i++) {
            comb[i * STREAMS + j] /= sum + p.epsilon;
        }
    }
}

// c = exp(c - max) / Σ + epsilon, per row
fn softmax_rows() {
    for (var i = 0u; i < STREAMS; i++) {
        var top = comb[i * STREAMS];
        for (var j = 1u; j < STREAMS; j++) {
            top = max(top, comb[i * STREAMS + j]);
        }
        var sum = 0.0;
        for (var j = 0u; j < STREAMS; j++) {
            let share = exp_of(comb[i * STREAMS + j] - top);
            comb[i * STREAMS + j] = share;
            sum += share;
        }
        for (var j = 0u; j < STREAMS; j++) {
            comb[i * STREAMS + j] = comb[i * STREAMS + j] / sum + p.epsilon;
        }
    }
}

fn mix_row(row: u32, mean_square: f32) {
    let factor = 1.0 / sqrt(mean_square + p.norm_epsilon);
    // 1 pre
    for (var i = 0u; i < STREAMS; i++) {
        put(row, i, sigmoid(mixed(row, i, factor, 0u)) + p.epsilon);
    }
//# if FULL
    // 2 comb: Sinkhorn
    for (var i = 0u; i < STREAMS * STREAMS; i++) {
        comb[i] = mixed(row, 2u * STREAMS + i, factor, 2u);
    }
    softmax_rows();
    divide_columns();
    for (var turn = 1u; turn < p.rounds; turn++) {
        divide_rows();
        divide_columns();
    }
    for (var i = 0u; i < STREAMS * STREAMS; i++) {
        put(row, STREAMS + i, comb[i]);
    }
    // 3 post
    for (var i = STREAMS; i < 2u * STREAMS; i++) {
        let value = 2.0 * sigmoid(mixed(row, i, factor, 1u));
        put(row, STREAMS * STREAMS + i, value);
    }
//# end
}

//# section hc_mix
//# use mixer
fn projected(row: u32, column: u32) -> f32 {
    return u_at(row, column);
}

fn put(row: u32, column: u32, value: f32) {
    out_put(row, column, value);
}

@compute @workgroup_size(64)
fn hc_mix(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = thread(group, groups, lane);
    if (row >= p.threads) {
        return;
    }
    mix_row(row, mean_square_at(row, 0u));
}

//# section hc_pre
//# use mixer
// One workgroup per row. A lane takes columns 2 · lane, 2 · lane + 1, … + 128 of the streams, their squares and
// their products with all rows of the function; then the lanes are added 0, 1, …, each sum by a lane of its own.
// The order depends on the widths alone. Bound by reading the function.
var<workgroup> lanes: array<f32, 64u * SUMS>;
var<workgroup> totals: array<f32, SUMS>;
var<workgroup> gates: array<f32, STREAMS>;

fn projected(row: u32, column: u32) -> f32 {
    return totals[column];
}

fn put(row: u32, column: u32, value: f32) {
    if (column < STREAMS) {
        gates[column] = value;
    }
    mix_put(row, column, value);
}

// Number of a row of the function; rows lie ABREAST side by side, word by word.
fn function_at(function_row: u32, column: u32) -> f32 {
    let word = codes_words[(column / PER_WORD) * ABREAST + function_row];
//# if f32
    return bitcast<f32>(word);
//# end
//# if bf16
    return bitcast<f32>(select(word << 16u, word & 0xffff0000u, column % 2u == 1u));
//# end
//# if f16
    return f16_value((word >> ((column % 2u) << 4u)) & 0xffffu);
//# end
}

// A value as it is stored between the ops that this one is.
fn narrowed(value: f32) -> f32 {
//# if OUT_BF16
    return bf16_value(bf16_bits(value));
//# end
//# if OUT_F16
    return f16_value(f16_bits(value));
//# end
//# if OUT_F32
    return value;
//# end
}

// The block's input: the streams by their gates, in order.
fn input(row: u32, column: u32) -> f32 {
    var total = 0.0;
    for (var j = 0u; j < STREAMS; j++) {
        total = fma(gates[j], streams_at(row, j * p.width + column), total);
    }
    return narrowed(total);
}

fn project(row: u32, lane: u32) {
    var sums: array<f32, SUMS>;
    for (var first = lane * 2u; first < p.wide; first += 128u) {
        for (var column = first; column < min(first + 2u, p.wide); column++) {
            let x = streams_at(row, column);
            sums[MIX] = fma(x, x, sums[MIX]);
            for (var i = 0u; i < MIX; i++) {
                sums[i] = fma(x, function_at(i, column), sums[i]);
            }
        }
    }
    for (var i = 0u; i < SUMS; i++) {
        lanes[i * 64u + lane] = sums[i];
    }
    workgroupBarrier();
    if (lane < SUMS) {
        totals[lane] = added(lane);
    }
    workgroupBarrier();
}

// Lanes 0, 1, … of a sum.
fn added(sum: u32) -> f32 {
    var total = 0.0;
    for (var i = 0u; i < 64u; i++) {
        total += lanes[sum * 64u + i];
    }
    return total;
}

@compute @workgroup_size(64)
fn hc_pre(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = block(group, groups);
    if (row >= p.blocks) {
        return;
    }
    // 1 products and squares of the streams
    project(row, lane);
    // 2 mixer
    if (lane == 0u) {
        mix_row(row, totals[MIX] / f32(p.wide));
    }
    workgroupBarrier();
    // 3 the norm of the input
    var total = 0.0;
    for (var first = lane * 2u; first < p.width; first += 128u) {
        for (var column = first; column < min(first + 2u, p.width); column++) {
            let x = input(row, column);
            total = fma(x, x, total);
        }
    }
    lanes[lane] = total;
    workgroupBarrier();
    let scale = 1.0 / sqrt(added(0u) / f32(p.width) + p.norm_epsilon);
    // 4 write
    for (var column = lane * 2u; column < p.width; column += 128u) {
        let next = min(column + 1u, p.width - 1u);
        let first = input(row, column) * scale * gain_at(column, 0u);
        out_pair(row, column, vec2f(first, input(row, next) * scale * gain_at(next, 0u)));
    }
}
