// The indexer for CUDA: scores of all visible keys, and the largest of a row. Definition: oracle.rs.
#include "../common/common.cuh"

struct IndexScore {
    Rows out, q, weight, keys;  // q [n, heads * c]
    Rows reach, pages;
    u32 heads, per;
    float scale;
    u32 tile;  // keys a block brings to shared memory; divides the number of threads
};

// Cache row of an entry; -1 on an absent page.
DEVICE int entry_row(const Rows& pages, u32 sequence, u32 entry, u32 per) {
    if (sequence >= pages.rows || entry / per >= pages.width) {
        fault();
        return -1;
    }
    const int page = load_int(pages, sequence, entry / per);
    return page < 0 ? -1 : page * (int)per + (int)(entry % per);
}

// One block: `tile` keys of one query. Thread t has key t % tile and heads t / tile, + threads / tile, ...;
// a head's dot runs over columns in order, heads in order, then the parts in order. Shared memory: the keys
// as f32, column by column, and one float a thread. Blocks past the visible keys end at once.
KERNEL(index_score, IndexScore, 256) {
    SHARED(shared);
    float* const keys = (float*)shared;
    float* const parts = keys + p.tile * p.keys.width;
    const u32 row = blockIdx.x, first = blockIdx.y * p.tile, width = p.keys.width;
    const int visible = load_int(p.reach, row, 1), sequence = load_int(p.reach, row, 0);
    if ((int)first >= visible) return;
    if ((u32)visible > p.out.width || sequence < 0) {
        fault();
        return;
    }
    const u32 here = least(p.tile, (u32)visible - first);
    for (u32 i = threadIdx.x; i < here * width; i += blockDim.x) {
        const u32 key = i / width, column = i % width;
        const int from = entry_row(p.pages, (u32)sequence, first + key, p.per);
        if (from >= (int)p.keys.rows) fault();
        keys[column * p.tile + key] = from < 0 ? 0.0f : load(p.keys, (u32)from, column);
    }
    __syncthreads();
    const u32 key = threadIdx.x % p.tile, part = threadIdx.x / p.tile;
    const u32 split = blockDim.x / p.tile;
    float sum = 0.0f;
    if (key < here) {
        for (u32 head = part; head < p.heads; head += split) {
            float dot = 0.0f;
            for (u32 column = 0; column < width; column++) {
                dot = fmaf(load(p.q, row, head * width + column), keys[column * p.tile + key], dot);
            }
            // A comparison that keeps NaN.
            sum = fmaf(load(p.weight, row, head), dot < 0.0f ? 0.0f : dot, sum);
        }
    }
    parts[threadIdx.x] = sum;
    __syncthreads();
    if (part == 0 && key < here) {
        for (u32 other = 1; other < split; other++) sum += parts[other * p.tile + key];
        store(p.out, row, first + key, sum * p.scale);
    }
}

struct TopK {
    Rows out, x, count;
    u32 counted, by_value;
};

// A number whose unsigned order is that of the values: -0 is 0, NaN is below everything.
DEVICE u32 ordered(float value) {
    if (value != value) return 0;
    const u32 bits = float_to_bits(value == 0.0f ? 0.0f : value);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

// Sum over all threads of those before this one, and of all; `room` has one place a warp.
DEVICE u32 places_before(u32 mine, u32* room, u32* all) {
    u32 sum = mine;
    for (u32 step = 1; step < WARP; step *= 2) {
        const u32 other = __shfl_up_sync(ALL_LANES, sum, step);
        if (lane() >= step) sum += other;
    }
    if (lane() == WARP - 1) room[warp()] = sum;
    __syncthreads();
    u32 before = sum - mine, total = 0;
    for (u32 i = 0; i < warps(); i++) {
        if (i < warp()) before += room[i];
        total += room[i];
    }
    __syncthreads();
    *all = total;
    return before;
}

// One block a row. The k-th largest is found by its bits, 8 at a time, with a histogram each; then columns
// are taken in ascending order, so picks come out as a set. By value: each pick counts those ahead of it.
// Shared memory: k ints where picks are ordered by value.
KERNEL(top_k, TopK, 256) {
    SHARED(shared);
    __shared__ u32 histogram[256];
    __shared__ u32 room[8];
    __shared__ u32 chosen[2];
    const u32 row = blockIdx.x, k = p.out.width;
    u32 width = p.x.width;
    if (p.counted) {
        const int count = load_int(p.count, row, 0);
        if (count > (int)width) fault();
        width = count < 0 ? 0 : least((u32)count, width);
    }
    // 1 the smallest value taken, and how many of its equals
    u32 prefix = 0, wanted = least(k, width);
    for (int shift = 24; shift >= 0; shift -= 8) {
        histogram[threadIdx.x] = 0;
        __syncthreads();
        for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
            const u32 key = ordered(load(p.x, row, i));
            if (shift == 24 || key >> (shift + 8) == prefix) atomicAdd(&histogram[key >> shift & 255], 1u);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            u32 left = wanted, digit = 255;
            while (digit > 0 && histogram[digit] < left) left -= histogram[digit--];
            chosen[0] = digit, chosen[1] = left;
        }
        __syncthreads();
        prefix = prefix << 8 | chosen[0];
        wanted = chosen[1];
    }
    // 2 columns in ascending order
    u32 taken = 0, equals = 0;
    for (u32 base = 0; base < width; base += blockDim.x) {
        const u32 column = base + threadIdx.x;
        const u32 key = column < width ? ordered(load(p.x, row, column)) : 0;
        const u32 equal = column < width && key == prefix;
        u32 all_equal, all;
        const u32 rank = equals + places_before(equal, room, &all_equal);
        const u32 take = column < width && (key > prefix || (equal && rank < wanted));
        const u32 place = taken + places_before(take, room, &all);
        if (take) store_int(p.out, row, place, (int)column);
        taken += all;
        equals += all_equal;
    }
    for (u32 i = taken + threadIdx.x; i < k; i += blockDim.x) store_int(p.out, row, i, -1);
    if (!p.by_value) return;
    // 3 largest first, ties to the lower column
    int* const picks = (int*)shared;
    __syncthreads();
    for (u32 i = threadIdx.x; i < taken; i += blockDim.x) picks[i] = load_int(p.out, row, i);
    __syncthreads();
    for (u32 i = threadIdx.x; i < taken; i += blockDim.x) {
        const u32 key = ordered(load(p.x, row, (u32)picks[i]));
        u32 ahead = 0;
        for (u32 j = 0; j < taken; j++) {
            const u32 other = ordered(load(p.x, row, (u32)picks[j]));
            ahead += other > key || (other == key && j < i);
        }
        store_int(p.out, row, ahead, picks[i]);
    }
}
