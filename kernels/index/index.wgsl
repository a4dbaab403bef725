// index_score and top_k. README.md has the definitions.

//# section index_score
// One invocation per score: a key is decoded once for HEADS heads at a time. A head's dot runs over the
// columns in order, the weighted sum over the heads in order. Bound by multiply-adds.
@compute @workgroup_size(64)
fn index_score(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = thread(group, groups, lane);
    if (at >= p.threads) {
        return;
    }
    // 1 key: on a negative page it is zeros
    let row = at / p.out_width;
    let entry = at % p.out_width;
    let sequence = reach_int(row, 0u);
    if (i32(entry) >= reach_int(row, 1u)) {
        return;
    }
    let page = pages_int(u32(sequence), entry / p.per);
    if (page < 0) {
        out_put(row, entry, 0.0);
        return;
    }
    let key = u32(page) * p.per + entry % p.per;
    var score = 0.0;
    for (var first = 0u; first < p.heads; first += HEADS) {
        // 2 dots
        var dots: array<f32, HEADS>;
        for (var column = 0u; column < p.width; column++) {
            let value = keys_at(key, column);
            for (var i = 0u; i < HEADS; i++) {
                let head = min(first + i, p.heads - 1u);
                dots[i] = fma(q_at(row, head * p.width + column), value, dots[i]);
            }
        }
        // 3 weighted relus
        for (var i = 0u; i < HEADS; i++) {
            if (first + i < p.heads) {
                score = fma(weight_at(row, first + i), max(dots[i], 0.0), score);
            }
        }
    }
    out_put(row, entry, p.scale * score);
}

//# section rank
// NaN is below everything, -0 equals 0.
fn rank(row: u32, column: u32) -> u32 {
    let bits = bitcast<u32>(x_at(row, column));
    let magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        return 0u;
    }
    if (magnitude == 0u) {
        return 0x80000000u;
    }
    return select(bits | 0x80000000u, ~bits, bits >= 0x80000000u);
}

//# section narrow_top_k
//# use rank
// One invocation per narrow row: the largest of what is left, again and again.
@compute @workgroup_size(64)
fn narrow_top_k(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = thread(group, groups, lane);
    if (row >= p.threads) {
        return;
    }
//# if COUNT
    let count = min(u32(max(count_int(row, 0u), 0)), p.width);
//# else
    let count = p.width;
//# end
    let taken = min(p.out_width, count);
    var picks: array<u32, PICKS>;
    var last = vec2u(0xffffffffu, 0u);
    for (var pick = 0u; pick < taken; pick++) {
        // 1 the best behind the last pick; of equals the lower column first
        var best = vec2u(0u, count);
        for (var column = 0u; column < count; column++) {
            let value = rank(row, column);
            let behind = value < last.x || (value == last.x && column > last.y);
            if ((pick == 0u || behind) && (best.y == count || value > best.x)) {
                best = vec2u(value, column);
            }
        }
        last = best;
        picks[pick] = best.y;
    }
    // 2 list: by index a pick's place is the number of lower ones
    for (var pick = 0u; pick < taken; pick++) {
        var place = pick;
//# if !BY_VALUE
        place = 0u;
        for (var i = 0u; i < taken; i++) {
            place += select(0u, 1u, picks[i] < picks[pick]);
        }
//# end
        out_put_bits(row, place, picks[pick]);
    }
    for (var place = taken; place < p.out_width; place++) {
        out_put_bits(row, place, 0xffffffffu);
    }
}

//# section top_k
//# use rank
// One workgroup per row. Values become integers of the same order; the k-th largest is found byte by
// byte with a histogram; a last pass lists everything above it and the first of its equals, in the order
// of columns. Bound by reading the row six times.
var<workgroup> counts: array<atomic<u32>, 256>;
var<workgroup> above: array<u32, 64>;
var<workgroup> equal: array<u32, 64>;
// What is left of k, and the prefix of the k-th largest.
var<workgroup> wanted: u32;
var<workgroup> prefix: u32;
//# if BY_VALUE
var<workgroup> picks: array<u32, PICKS>;
//# end

// 1 the k-th largest, from its highest byte down
fn find(row: u32, count: u32, lane: u32) {
    for (var place = 0u; place < 4u; place++) {
        let shift = 24u - 8u * place;
        for (var i = lane; i < 256u; i += 64u) {
            atomicStore(&counts[i], 0u);
        }
        workgroupBarrier();
        let known = prefix;
        let mask = select(0xffffffffu << (shift + 8u), 0u, shift == 24u);
        for (var column = lane; column < count; column += 64u) {
            let value = rank(row, column);
            if ((value & mask) == (known & mask)) {
                atomicAdd(&counts[(value >> shift) & 0xffu], 1u);
            }
        }
        workgroupBarrier();
        if (lane == 0u) {
            var left = wanted;
            var byte = 255u;
            while (byte > 0u && atomicLoad(&counts[byte]) < left) {
                left -= atomicLoad(&counts[byte]);
                byte -= 1u;
            }
            wanted = left;
            prefix = known | (byte << shift);
        }
        workgroupBarrier();
    }
}

@compute @workgroup_size(64)
fn top_k(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = block(group, groups);
    if (row >= p.blocks) {
        return;
    }
//# if COUNT
    let count = min(u32(max(count_int(row, 0u), 0)), p.width);
//# else
    let count = p.width;
//# end
    if (lane == 0u) {
        wanted = min(p.out_width, count);
        prefix = 0u;
    }
    workgroupBarrier();
    find(row, count, lane);
    // 2 how many picks lie before each lane's columns
    let limit = prefix;
    let ties = wanted;
    let share = (count + 63u) / 64u;
    let begin = min(lane * share, count);
    let end = min(begin + share, count);
    var more = 0u;
    var same = 0u;
    for (var column = begin; column < end; column++) {
        let value = rank(row, column);
        more += select(0u, 1u, value > limit);
        same += select(0u, 1u, value == limit);
    }
    above[lane] = more;
    equal[lane] = same;
    workgroupBarrier();
    more = 0u;
    same = 0u;
    for (var i = 0u; i < lane; i++) {
        more += above[i];
        same += equal[i];
    }
    // 3 list
    for (var column = begin; column < end; column++) {
        let value = rank(row, column);
        let larger = value > limit;
        let tie = value == limit;
        if (larger || (tie && same < ties)) {
            let place = more + min(same, ties);
//# if BY_VALUE
            picks[place] = column;
//# else
            out_put_bits(row, place, column);
//# end
        }
        more += select(0u, 1u, larger);
        same += select(0u, 1u, tie);
    }
    let taken = min(p.out_width, count);
    for (var place = taken + lane; place < p.out_width; place += 64u) {
        out_put_bits(row, place, 0xffffffffu);
    }
//# if BY_VALUE
    // 4 order by value: a pick's place is the number of those before it
    workgroupBarrier();
    for (var pick = lane; pick < taken; pick += 64u) {
        let column = picks[pick];
        let value = rank(row, column);
        var place = 0u;
        for (var i = 0u; i < taken; i++) {
            let other = rank(row, picks[i]);
            place += select(0u, 1u, other > value || (other == value && i < pick));
        }
        out_put_bits(row, place, column);
    }
//# end
}
