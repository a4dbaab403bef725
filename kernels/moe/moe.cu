// bucket, the router's end and what is around the products of experts, for CUDA. Definitions: oracle.rs and the
// lowerings.
#include "../common/common.cuh"

struct Bucket {
    int* offsets;
    int* order;
    int* inverse;
    const int* keys;
    int* source;  // order / per; null: not wanted
    int* items;   // (group, first place inside it) of every `tile` places, -1 behind the last; null: not wanted
    u32 groups, count, per, tile, items_count, pad;
};

// Calls `each(number of the key, key, lanes that have it)` for 32 of the warp's keys at a time.
template <class Each>
DEVICE void keys_of_warp(const Bucket& p, Each each) {
    const u32 run = ceil_div(ceil_div(p.count, warps()), WARP) * WARP;
    const u32 begin = warp() * run, end = least(begin + run, p.count);
    for (u32 base = begin; base < end; base += WARP) {
        const u32 i = base + lane();
        const int key = i < end ? p.keys[i] : -1;
        each(i, key, __match_any_sync(ALL_LANES, key));
        __syncwarp();
    }
}

// bucket: stable counting sort of keys. One block. A warp has a run of the keys and takes 32 at a time; lanes
// with one key meet. Shared memory: a counter a group and warp, at first of keys, then of places.
KERNEL(bucket, Bucket, 256) {
    SHARED(shared);
    __shared__ u32 room[8];
    u32* const counts = (u32*)shared;
    u32* const mine = counts + warp() * p.groups;
    // 1 nothing is anywhere yet; a key that is no group is a fault
    for (u32 i = threadIdx.x; i < p.groups * warps(); i += blockDim.x) counts[i] = 0;
    for (u32 i = threadIdx.x; i < p.count; i += blockDim.x) {
        p.order[i] = -1;
        if (p.keys[i] < 0) p.inverse[i] = -1;
        if (p.keys[i] >= (int)p.groups) fault();
    }
    __syncthreads();
    // 2 how many keys of each group each warp has
    keys_of_warp(p, [&](u32, int key, u32 peers) {
        const bool first = (peers & ((1u << lane()) - 1)) == 0;
        if (key >= 0 && first) mine[key] += __popc(peers);
    });
    __syncthreads();
    // 3 where they go, and the tiles of each group
    u32 taken = 0, listed = 0;
    for (u32 base = 0; base < p.groups; base += blockDim.x) {
        const u32 group = base + threadIdx.x;
        u32 size = 0, all, all_tiles;
        for (u32 w = 0; group < p.groups && w < warps(); w++) size += counts[w * p.groups + group];
        u32 place = taken + places_before(size, room, &all);
        const u32 tiles = p.items ? ceil_div(size, p.tile) : 0;
        const u32 item = listed + places_before(tiles, room, &all_tiles);
        for (u32 w = 0; group < p.groups && w < warps(); w++) {
            const u32 here = counts[w * p.groups + group];
            counts[w * p.groups + group] = place;
            place += here;
        }
        if (group < p.groups) p.offsets[group + 1] = (int)place;
        for (u32 i = 0; i < tiles; i++) {
            p.items[2 * (item + i)] = (int)group;
            p.items[2 * (item + i) + 1] = (int)(i * p.tile);
        }
        taken += all;
        listed += all_tiles;
    }
    if (threadIdx.x == 0) p.offsets[0] = 0;
    for (u32 i = listed + threadIdx.x; i < p.items_count; i += blockDim.x) p.items[2 * i] = -1;
    __syncthreads();
    // 4 places, in the order of keys
    keys_of_warp(p, [&](u32 i, int key, u32 peers) {
        const u32 before = __popc(peers & ((1u << lane()) - 1));
        const u32 place = key >= 0 ? mine[key] + before : 0;
        __syncwarp();
        if (key < 0) return;
        if (before == 0) mine[key] += __popc(peers);
        p.order[place] = (int)i;
        p.inverse[i] = (int)place;
        if (p.source) p.source[place] = (int)(i / p.per);
    });
}

struct SwigluRows {
    Rows out, both;        // both: gate columns, then up columns
    const float* shares;   // null: no factor
    const int* order;      // place of a row's share
    const int* end;        // rows from *end on are nobody's; null: all are
    float clamp;
    u32 dtype;             // a Kind: what the activation rounds to before its round trip
    Round round;
};

// out = share * silu(min(gate, clamp)) * clamp(up), rounded, then a round trip. One block a row; shared memory:
// the row.
KERNEL(swiglu_rows, SwigluRows, 256) {
    SHARED(shared);
    float* const values = (float*)shared;
    const u32 row = blockIdx.x, width = p.out.width;
    if (p.end && (int)row >= *p.end) return;
    for (u32 column = threadIdx.x; column < width; column += blockDim.x) {
        const float gate = load(p.both, row, column), up = load(p.both, row, width + column);
        // Comparisons that keep NaN.
        const float g = gate > p.clamp ? p.clamp : gate;
        const float u = up > p.clamp ? p.clamp : up < -p.clamp ? -p.clamp : up;
        const float value = p.shares ? p.shares[p.order[row]] * silu(g) * u : silu(g) * u;
        values[column] = narrow(value, p.dtype);
    }
    __syncthreads();
    write_rounded(p.out, row, width, p.round, [&](u32 column) { return values[column]; });
}

struct CombineRows {
    Rows out, y;
    const int* inverse;
    u32 per, pad;
};

// out[r] = sum over the row's `per` picks, in order, of their rows of y; absent ones are zeros. Blocks: (rows, 256
// columns).
KERNEL(combine_rows, CombineRows, 256) {
    const u32 row = blockIdx.x, column = blockIdx.y * blockDim.x + threadIdx.x;
    if (column >= p.out.width) return;
    float sum = 0.0f;
    for (u32 i = 0; i < p.per; i++) {
        const int from = p.inverse[row * p.per + i];
        sum += from < 0 ? 0.0f : load(p.y, (u32)from, column);
    }
    store(p.out, row, column, sum);
}

struct RouteRows {
    Rows ids, shares, raw;
    Rows bias, count;   // by score
    Rows table, token;  // by a table; no rows of `table` where scores decide
    float scale;
    u32 pad;
};

// From raw router scores to experts and shares. One block a row; shared memory: two floats an expert, then
// the picks. An expert is picked if fewer than k are ahead of it (larger, or equal with a lower number; NaN is
// behind everything); its place is the number of picks before it, so picks ascend.
KERNEL(route_rows, RouteRows, 256) {
    SHARED(shared);
    const u32 row = blockIdx.x, experts = p.raw.width, k = p.ids.width;
    float* const scores = (float*)shared;
    float* const keys = scores + experts;
    int* const picks = (int*)(keys + experts);
    // 1 scores
    for (u32 e = threadIdx.x; e < experts; e += blockDim.x) {
        scores[e] = sqrt_softplus(load(p.raw, row, e));
        if (p.table.rows == 0) keys[e] = scores[e] + ((const float*)p.bias.at)[e];
    }
    for (u32 i = threadIdx.x; i < k; i += blockDim.x) picks[i] = -1;
    __syncthreads();
    // 2 picks
    if (p.table.rows > 0) {
        const int token = load_int(p.token, row, 0);
        if (token >= (int)p.table.rows) fault();
        for (u32 i = threadIdx.x; i < k; i += blockDim.x) {
            picks[i] = token < 0 ? -1 : load_int(p.table, (u32)token, i);
        }
    } else {
        const int count = load_int(p.count, row, 0);
        if (count > (int)experts) fault();
        const u32 live = count < 0 ? 0 : (u32)count;
        const auto ahead = [&](u32 a, u32 b) {
            const float x = keys[a], y = keys[b];
            if (y != y) return x == x || a < b;
            return x > y || (x == y && a < b);
        };
        for (u32 e = threadIdx.x; e < live; e += blockDim.x) {
            u32 better = 0;
            for (u32 other = 0; other < live; other++) better += other != e && ahead(other, e);
            // From here on the key only says whether the expert is picked; others still compare keys.
            scores[e] = better < k ? scores[e] : -1.0f;
        }
        __syncthreads();
        for (u32 e = threadIdx.x; e < live; e += blockDim.x) {
            if (!(scores[e] != scores[e] || scores[e] >= 0.0f)) continue;
            u32 place = 0;
            for (u32 other = 0; other < e; other++) place += !(scores[other] < 0.0f);
            picks[place] = (int)e;
        }
    }
    __syncthreads();
    // 3 shares
    float total = 0.0f;
    for (u32 i = 0; i < k; i++) {
        if (picks[i] >= (int)experts) fault();
        total += picks[i] < 0 ? 0.0f : scores[picks[i]];
    }
    for (u32 i = threadIdx.x; i < k; i += blockDim.x) {
        const float score = picks[i] < 0 ? 0.0f : scores[picks[i]];
        store_int(p.ids, row, i, picks[i]);
        store(p.shares, row, i, score / (total + 1e-20f) * p.scale);
    }
}
