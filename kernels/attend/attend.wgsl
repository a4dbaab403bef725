// attend: one softmax per query head over listed near rows and far rows. README.md has the formula.
//
// A workgroup per (row, head) walks the keys 64 at a time: each lane scores one key, then all lanes add the
// 64 values, each to its own columns. Sums run over lists and columns in order, so a row's bits are a
// function of its own query and keys. An absent key is not read and has weight 0. Bound by reading keys.

//# section attend
var<workgroup> keys: array<i32, 64>;
var<workgroup> scores: array<f32, 64>;
var<workgroup> entries: i32;

//# if LISTED_FAR
fn far_key(row: u32, place: u32, total: u32) -> i32 {
    if (place >= total) {
        return -1;
    }
    return far_index_int(row, place);
}
//# end

//# if VISIBLE_FAR
fn far_key(row: u32, place: u32, total: u32) -> i32 {
    if (place >= total) {
        return -1;
    }
    let page = pages_int(u32(reach_int(row, 0u)), place / p.per);
    return select(page * i32(p.per) + i32(place % p.per), -1, page < 0);
}
//# end

// Top score, denominator and sums of what was seen.
struct Running {
    top: f32,
    total: f32,
    sums: array<vec2f, PAIRS>,
}

var<private> seen: Running;

// 2 maximum · 3 denominator, over the tile's scores
fn rescale(correct: f32, top: f32) {
    seen.top = top;
    seen.total *= correct;
    for (var i = 0u; i < PAIRS; i++) {
        seen.sums[i] *= correct;
    }
}

fn tile_top() -> f32 {
    var top = seen.top;
    for (var i = 0u; i < 64u; i++) {
        let score = scores[i];
        top = select(top, score, keys[i] >= 0 && score > top);
    }
    return top;
}

// One key of a tile: its score, or its absence.
fn place_key(lane: u32, key: i32, score: f32) {
    keys[lane] = key;
    scores[lane] = score * p.scale;
    workgroupBarrier();
    let top = tile_top();
    rescale(exp_of(seen.top - top), top);
    workgroupBarrier();
    // The lane's score becomes its share.
    scores[lane] = exp_of(scores[lane] - top);
    workgroupBarrier();
}

fn near_tile(query: vec2u, place: u32, lane: u32) {
    // 1 scores
    var key = -1;
    if (place + lane < p.near_count) {
        key = near_index_int(query.x, place + lane);
    }
    var score = 0.0;
    if (key >= 0) {
        for (var column = 0u; column < p.width; column += 2u) {
            let q = q_two(query, column);
            let k = near_two(u32(key), column);
            score = fma(q.y, k.y, fma(q.x, k.x, score));
        }
    }
    place_key(lane, key, score);
    // 4 weighted sum
    let count = min(64u, p.near_count - place);
    for (var i = 0u; i < count; i++) {
        if (keys[i] >= 0) {
            seen.total += scores[i];
            for (var pair = 0u; pair < PAIRS; pair++) {
                let column = (lane + 64u * pair) * 2u;
                if (column < p.width) {
                    let value = near_two(u32(keys[i]), column);
                    seen.sums[pair] = fma(vec2f(scores[i]), value, seen.sums[pair]);
                }
            }
        }
    }
    workgroupBarrier();
}

//# if FAR
fn far_tile(query: vec2u, place: u32, lane: u32, total: u32) {
    // 1 scores
    let key = far_key(query.x, place + lane, total);
    var score = 0.0;
    if (key >= 0) {
        for (var column = 0u; column < p.width; column += 2u) {
            let q = q_two(query, column);
            let k = far_two(u32(key), column);
            score = fma(q.y, k.y, fma(q.x, k.x, score));
        }
    }
    place_key(lane, key, score);
    // 4 weighted sum
    let count = min(64u, total - place);
    for (var i = 0u; i < count; i++) {
        if (keys[i] >= 0) {
            seen.total += scores[i];
            for (var pair = 0u; pair < PAIRS; pair++) {
                let column = (lane + 64u * pair) * 2u;
                if (column < p.width) {
                    let value = far_two(u32(keys[i]), column);
                    seen.sums[pair] = fma(vec2f(scores[i]), value, seen.sums[pair]);
                }
            }
        }
    }
    workgroupBarrier();
}

fn far_two(key: u32, column: u32) -> vec2f {
    let pair = far_pair(key, column);
    return vec2f(pair.x, select(0.0, pair.y, column + 1u < p.width));
}
//# end

// Pairs of columns; behind the last column of an odd width there is a zero.
fn near_two(key: u32, column: u32) -> vec2f {
    let pair = near_pair(key, column);
    return vec2f(pair.x, select(0.0, pair.y, column + 1u < p.width));
}

fn q_two(query: vec2u, column: u32) -> vec2f {
    let pair = q_pair(query.x, query.y * p.width + column);
    return vec2f(pair.x, select(0.0, pair.y, column + 1u < p.width));
}

@compute @workgroup_size(64)
fn attend(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let number = block(group, groups);
    if (number >= p.blocks) {
        return;
    }
    let query = vec2u(number / p.heads, number % p.heads);
    // The sink is a key without a value.
    seen.top = sink_at(query.y, 0u);
    seen.total = 1.0;
    for (var i = 0u; i < PAIRS; i++) {
        seen.sums[i] = vec2f();
    }
    for (var place = 0u; place < p.near_count; place += 64u) {
        near_tile(query, place, lane);
    }
//# if LISTED_FAR
    for (var place = 0u; place < p.far_count; place += 64u) {
        far_tile(query, place, lane, p.far_count);
    }
//# end
//# if VISIBLE_FAR
    if (lane == 0u) {
        entries = max(reach_int(query.x, 1u), 0);
    }
    let total = u32(workgroupUniformLoad(&entries));
    for (var place = 0u; place < total; place += 64u) {
        far_tile(query, place, lane, total);
    }
//# end
    // 5 write
    for (var i = 0u; i < PAIRS; i++) {
        let column = (lane + 64u * i) * 2u;
        if (column < p.width) {
            store(query, column, seen.sums[i] / seen.total);
        }
    }
}

fn store(query: vec2u, column: u32, value: vec2f) {
    let first = query.y * p.width + column;
//# if SINGLE
    out_put(query.x, first, value.x);
    if (column + 1u < p.width) {
        out_put(query.x, first + 1u, value.y);
    }
//# else
    out_pair(query.x, first, value);
//# end
}
