// bucket, the router's end and what is around the products of experts, for CUDA. Definitions: oracle.rs and the
// lowerings.
#include "../common/rows.cuh"

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

// One block a row; shared memory: the row.
KERNEL(swiglu_rows, SwigluRows, 256) {
    SHARED(shared);
    swiglu_row(p, blockIdx.x, 0, p.out.width, (float*)shared);
}

// Blocks: (rows, 256 columns).
KERNEL(combine_rows, CombineRows, 256) {
    const u32 column = blockIdx.y * blockDim.x + threadIdx.x;
    if (column < p.out.width) combine_element(p, blockIdx.x, column);
}

// One block a row; shared memory: two floats an expert, then the picks.
KERNEL(route_rows, RouteRows, 256) {
    SHARED(shared);
    route_row(p, blockIdx.x, (float*)shared);
}
