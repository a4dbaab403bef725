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

// Columns of a piece: rows wider than two of them are picked from piece by piece first. As in
// `backends/cuda/src/record/index.rs`.
static const u32 PIECE = 8192;

struct TopK {
    Rows out, x, count;
    Rows reach, pages;   // pages: picks become rows of a paged cache; no rows: they stay columns
    int* candidates;     // [rows, pieces * k]; null: there are no pieces
    u32 counted, by_value, per, pieces;
};

// A number whose unsigned order is that of the values: -0 is 0, NaN is below everything.
DEVICE u32 ordered(float value) {
    if (value != value) return 0;
    const u32 bits = float_to_bits(value == 0.0f ? 0.0f : value);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

// The `k` largest of `width` keys, ties to the lower number: `take(place, number)` in ascending order of numbers.
// The k-th largest is found by its bits, 8 at a time, with a histogram each. 256 threads, all of them. Returns
// how many there are.
template <class Key, class Take>
DEVICE u32 pick(u32 width, u32 k, Key key, Take take) {
    __shared__ u32 histogram[256];
    __shared__ u32 room[8];
    __shared__ u32 chosen[2];
    u32 prefix = 0, wanted = least(k, width);
    if (wanted == 0) return 0;
    // 1 the smallest key taken, and how many of its equals
    for (int shift = 24; shift >= 0; shift -= 8) {
        histogram[threadIdx.x] = 0;
        __syncthreads();
        for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
            const u32 bits = key(i);
            if (shift == 24 || bits >> (shift + 8) == prefix) atomicAdd(&histogram[bits >> shift & 255], 1u);
        }
        __syncthreads();
        // Digits from the largest down, one a thread; the wanted one has the k-th.
        const u32 digit = 255 - threadIdx.x, here = histogram[digit];
        u32 all;
        const u32 before = places_before(here, room, &all);
        if (before < wanted && wanted <= before + here) chosen[0] = digit, chosen[1] = wanted - before;
        __syncthreads();
        prefix = prefix << 8 | chosen[0];
        wanted = chosen[1];
        __syncthreads();
    }
    // 2 numbers in ascending order
    u32 taken = 0, equals = 0;
    for (u32 base = 0; base < width; base += blockDim.x) {
        const u32 number = base + threadIdx.x;
        const u32 bits = number < width ? key(number) : 0;
        const u32 equal = number < width && bits == prefix;
        u32 all_equal, all;
        const u32 rank = equals + places_before(equal, room, &all_equal);
        const u32 wins = number < width && (bits > prefix || (equal && rank < wanted));
        const u32 place = taken + places_before(wins, room, &all);
        if (wins) take(place, number);
        taken += all;
        equals += all_equal;
    }
    return taken;
}

// Columns of a row that count.
DEVICE u32 live_width(const TopK& p, u32 row) {
    if (!p.counted) return p.x.width;
    const int count = load_int(p.count, row, 0);
    if (count > (int)p.x.width) fault();
    return count < 0 ? 0 : least((u32)count, p.x.width);
}

// The k largest of each piece of a row, which has at least k columns unless it is the last: what is picked of
// them all is what is picked of the row. Blocks: (rows, pieces).
KERNEL(top_k_pieces, TopK, 256) {
    const u32 row = blockIdx.x, k = p.out.width, first = blockIdx.y * PIECE;
    const u32 width = live_width(p, row);
    if (first >= width) return;
    int* const out = p.candidates + ((u64)row * p.pieces + blockIdx.y) * k;
    pick(least(PIECE, width - first), k, [&](u32 i) { return ordered(load(p.x, row, first + i)); },
         [&](u32 place, u32 i) { out[place] = (int)(first + i); });
}

// One block a row, which picks among all columns or among the candidates; they come out as a set, in ascending
// order. By value: each pick counts those ahead of it. Shared memory: k ints where picks are ordered by value.
KERNEL(top_k, TopK, 256) {
    SHARED(shared);
    const u32 row = blockIdx.x, k = p.out.width;
    u32 width = live_width(p, row);
    const int* const from = p.candidates ? p.candidates + (u64)row * p.pieces * k : nullptr;
    // Candidates lie without gaps: only the last piece may have fewer than k.
    if (from) width = width / PIECE * k + least(k, width % PIECE);
    const auto column = [&](u32 i) { return from ? (u32)from[i] : i; };
    const auto emit = [&](u32 place, u32 picked) {
        int value = (int)picked;
        if (p.pages.rows > 0) {
            const int sequence = load_int(p.reach, row, 0);
            value = sequence < 0 ? -1 : entry_row(p.pages, (u32)sequence, picked, p.per);
        }
        store_int(p.out, row, place, value);
    };
    // 1 picks
    const u32 taken = pick(width, k, [&](u32 i) { return ordered(load(p.x, row, column(i))); },
                           [&](u32 place, u32 i) { emit(place, column(i)); });
    for (u32 i = taken + threadIdx.x; i < k; i += blockDim.x) store_int(p.out, row, i, -1);
    if (!p.by_value) return;
    // 2 largest first, ties to the lower column
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
