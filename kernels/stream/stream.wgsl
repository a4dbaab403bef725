// hc_mix: gates and mixer of a hyper-connection site. README.md has the formulas.
//
// One invocation per row; the s × s matrix stays in its registers. Sums run 0, 1, …; bound by divisions.

//# section hc_mix
var<private> comb: array<f32, 64>;

fn mixed(row: u32, column: u32, factor: f32, part: u32) -> f32 {
    return fma(u_at(row, column) * factor, scale_at(part, 0u), base_at(column, 0u));
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
    let factor = 1.0 / sqrt(mean_square_at(row, 0u) + p.norm_epsilon);
    // 1 pre
    for (var i = 0u; i < STREAMS; i++) {
        out_put(row, i, sigmoid(mixed(row, i, factor, 0u)) + p.epsilon);
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
        out_put(row, STREAMS + i, comb[i]);
    }
    // 3 post
    for (var i = STREAMS; i < 2u * STREAMS; i++) {
        let value = 2.0 * sigmoid(mixed(row, i, factor, 1u));
        out_put(row, STREAMS * STREAMS + i, value);
    }
//# end
}
