// bucket: stable counting sort of a few thousand keys. README.md has the lists.
//
// One workgroup; a lane owns groups lane, lane + 64, … and walks all keys for each. Integers, and every
// place is written by one lane: the result has one value. Bound by reading the keys, a few kilobytes.

//# section bucket
@compute @workgroup_size(64)
fn bucket(@builtin(local_invocation_index) lane: u32) {
    // 1 count
    for (var group = lane; group < p.groups; group += 64u) {
        var count = 0u;
        for (var key = 0u; key < p.keys; key++) {
            count += select(0u, 1u, keys_int(key, 0u) == i32(group));
        }
        out_put_bits(group + 1u, 0u, count);
    }
    for (var key = lane; key < p.keys; key += 64u) {
        inverse_put_bits(key, 0u, 0xffffffffu);
        order_put_bits(key, 0u, 0xffffffffu);
    }
    storageBarrier();
    // 2 add up
    if (lane == 0u) {
        var total = 0u;
        out_put_bits(0u, 0u, 0u);
        for (var group = 1u; group <= p.groups; group++) {
            total += out_words[p.out_begin + group * p.out_stride];
            out_put_bits(group, 0u, total);
        }
    }
    storageBarrier();
    // 3 place
    for (var group = lane; group < p.groups; group += 64u) {
        var place = out_words[p.out_begin + group * p.out_stride];
        for (var key = 0u; key < p.keys; key++) {
            if (keys_int(key, 0u) == i32(group)) {
                order_put_bits(place, 0u, key);
                inverse_put_bits(key, 0u, place);
                place += 1u;
            }
        }
    }
}
