// The indexer for CUDA: scores of all visible keys, and the largest of a row. Definition: oracle.rs.
//
// Scores are of two arithmetic classes; which one is decided by dtypes, codecs and widths, never by rows. `mma`
// (bf16 queries over keys of bf16, FP8 or FP4): a key and a head meet in one chain of m16n8k16 products for each
// 128 columns, which are added in order; of the heads a lane adds 2t, 2t + 1 of every 8 in order, then the four lanes
// of a key are joined by the tree. `simt` (everything else): f32, as it stands below.
#include "../common/mma.cuh"

struct IndexScore {
    Rows out, q, weight, keys;  // q [n, heads * c]
    Rows reach, pages;
    u32 heads, per;
    float scale;
    u32 tile;  // of `simt`: keys a block brings to shared memory; divides the number of threads
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

// Class `simt`. One block: `tile` keys of one query. Thread t has key t % tile and heads t / tile, + threads / tile, ...;
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

// ---- class `mma`

// Keys a warp has at a time, in tiles of 16. Two would read the queries half as often, from one block of threads
// where now there is room for two.
static const u32 PARTS = 1;

// This lane's quarter of a block of 128 columns of a key, by words; a key that is not there: zeros.
template <u32 E>
DEVICE void read_key(Codes<E>* codes, const u8* row, u32 bytes, u32 block) {
    const u32 first = (4 * block + lane() % 4) * 4 * Codes<E>::WORDS;
#pragma unroll
    for (u32 i = 0; i < Codes<E>::WORDS; i++) {
        const u8* const at = row + first + 4 * i;
        u32 word = 0;
        if (row && first + 4 * i + 4 <= bytes) {
            // Coded rows are aligned to 4 bytes, rows of bf16 to 2.
            word = E == W_BF16 ? *(const u16*)at | (u32)*(const u16*)(at + 2) << 16 : *(const u32*)at;
        }
        codes->words[i] = word;
    }
}

// Bytes of a key's codes; scales follow.
template <u32 E>
DEVICE u32 code_bytes(u32 width) {
    return E == W_BF16 ? 2 * width : E == W_FP8 ? width : width / 2;
}

// The scale of this lane's columns of a block: blocks of the codec are multiples of 32 columns. 127 is 1.
template <u32 E>
DEVICE u32 key_scale(const Rows& keys, const u8* row, u32 block) {
    const u32 column = block * FOLD + 32 * (lane() % 4);
    if (E == W_BF16 || !row || column >= keys.width) return 127;
    return row[code_bytes<E>(keys.width) + column / keys.block];
}

// Two rows of 16 keys as weights of the product, from rows that may not be there.
template <u32 E>
DEVICE void key_weights(const Rows& keys, const u8* low, const u8* high, u32 block, u32 weights[STEPS][4]) {
    Codes<E> a, b;
    const u32 bytes = code_bytes<E>(keys.width);
    read_key(&a, low, bytes, block);
    read_key(&b, high, bytes, block);
    const auto by_low = prepare(a, key_scale<E>(keys, low, block));
    const auto by_high = prepare(b, key_scale<E>(keys, high, block));
    decode_all(a, by_low, b, by_high, weights);
}

// Shared memory: for each block of 128 columns and each 8 heads what the lanes need of a step, then the weights of
// the heads. Heads are padded with zeros to a multiple of 8.
struct Queries {
    uint2* words;
    float* weights;
    u32 tiles, blocks;
};

DEVICE Queries bring_queries(const IndexScore& p, u32 row, u8* shared) {
    Queries q;
    q.tiles = ceil_div(p.heads, N), q.blocks = ceil_div(p.keys.width, FOLD);
    q.words = (uint2*)shared;
    q.weights = (float*)(q.words + q.blocks * q.tiles * STEPS * WARP);
    const u16* const from = (const u16*)row_of(p.q, row);
    for (u32 i = threadIdx.x; i < q.blocks * q.tiles * STEPS * WARP; i += blockDim.x) {
        const u32 j = i / WARP % STEPS, tile = i / WARP / STEPS % q.tiles;
        const u32 head = tile * N + i % WARP / 4;
        const u32 column = i / WARP / STEPS / q.tiles * FOLD + 32 * (i % 4) + 4 * j;
        const u16* const at = from + head * p.keys.width + column;
        uint2 words = {0, 0};
        if (head < p.heads && column < p.keys.width) {
            if (((u64)at & 7) == 0) {
                words = *(const uint2*)at;
            } else {
                words.x = at[0] | (u32)at[1] << 16, words.y = at[2] | (u32)at[3] << 16;
            }
        }
        q.words[i] = words;
    }
    for (u32 head = threadIdx.x; head < q.tiles * N; head += blockDim.x) {
        q.weights[head] = head < p.heads ? load(p.weight, row, head) : 0.0f;
    }
    __syncthreads();
    return q;
}

// One chain a block of columns, added in order: 16 keys, 8 heads. Widths up to 128 have one block.
DEVICE void dot(const Queries& q, u32 block, u32 tile, const u32 weights[STEPS][4], float total[4]) {
    const uint2* const words = q.words + (block * q.tiles + tile) * STEPS * WARP + lane();
    float acc[4] = {};
#pragma unroll
    for (u32 j = 0; j < STEPS; j++) {
        const uint2 v = words[j * WARP];
        const u32 x[2] = {v.x, v.y};
        mma(acc, weights[j], x);
    }
#pragma unroll
    for (u32 i = 0; i < 4; i++) total[i] = block > 0 ? total[i] + acc[i] : acc[i];
}

// Adds the part of 8 heads: of key g and of key g + 8. The comparison keeps NaN.
DEVICE void weigh(const Queries& q, u32 tile, const float total[4], float sums[2]) {
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        const float weight = q.weights[tile * N + 2 * (lane() % 4) + i % 2];
        sums[i / 2] = fmaf(weight, total[i] < 0.0f ? 0.0f : total[i], sums[i / 2]);
    }
}

// PARTS * 16 keys from `first` on, by a warp.
template <u32 E>
DEVICE void score(const IndexScore& p, const Queries& q, u32 row, u32 sequence, u32 first, u32 visible) {
    const u8* at[PARTS][2];
#pragma unroll
    for (u32 i = 0; i < 2 * PARTS; i++) {
        const u32 entry = first + 8 * i + lane() / 4;
        const int from = entry < visible ? entry_row(p.pages, sequence, entry, p.per) : -1;
        if (from >= (int)p.keys.rows) fault();
        at[i / 2][i % 2] = from < 0 ? nullptr : row_of(p.keys, (u32)from);
    }
    float sums[PARTS][2] = {};
    u32 weights[PARTS][STEPS][4];
#pragma unroll 1
    for (u32 tile = 0; tile < q.tiles; tile++) {
        float total[PARTS][4];
#pragma unroll 1
        for (u32 block = 0; block < q.blocks; block++) {
#pragma unroll
            for (u32 i = 0; i < PARTS; i++) {
                // Keys of one block stay decoded from tile to tile.
                if (tile == 0 || q.blocks > 1) key_weights<E>(p.keys, at[i][0], at[i][1], block, weights[i]);
                // Lanes without a key went another way.
                __syncwarp();
                dot(q, block, tile, weights[i], total[i]);
            }
        }
#pragma unroll
        for (u32 i = 0; i < PARTS; i++) weigh(q, tile, total[i], sums[i]);
    }
#pragma unroll
    for (u32 i = 0; i < 2 * PARTS; i++) {
        float sum = sums[i / 2][i % 2];
        sum += __shfl_xor_sync(ALL_LANES, sum, 1);
        sum += __shfl_xor_sync(ALL_LANES, sum, 2);
        const u32 entry = first + 8 * i + lane() / 4;
        if (lane() % 4 == 0 && entry < visible) store(p.out, row, entry, sum * p.scale);
    }
}

// Class `mma`. Blocks: (rows, as many as there are processors for), 256 threads; the warps of a row take turns at 16
// keys. Shared memory: Queries.
KERNEL(index_score_mma, IndexScore, 256) {
    SHARED(shared);
    const u32 row = blockIdx.x, step = PARTS * M;
    const int visible = load_int(p.reach, row, 1), sequence = load_int(p.reach, row, 0);
    if ((int)(blockIdx.y * warps() * step) >= visible) return;
    if ((u32)visible > p.out.width || sequence < 0) {
        fault();
        return;
    }
    const Queries q = bring_queries(p, row, shared);
    for (u32 i = blockIdx.y * warps() + warp(); i * step < (u32)visible; i += gridDim.y * warps()) {
        switch (p.keys.kind) {
            case BF16: score<W_BF16>(p, q, row, (u32)sequence, i * step, (u32)visible); break;
            case FP8_ROWS: score<W_FP8>(p, q, row, (u32)sequence, i * step, (u32)visible); break;
            default: score<W_FP4>(p, q, row, (u32)sequence, i * step, (u32)visible); break;
        }
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
    u32* counters;       // of the pieces of each row, 0 before and after; null: another launch picks among them
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

// The k largest of a piece of a row, which has at least k columns unless it is the last.
DEVICE void pick_piece(const TopK& p, u32 row, u32 piece) {
    const u32 k = p.out.width, first = piece * PIECE, width = live_width(p, row);
    if (first >= width) return;
    int* const out = p.candidates + ((u64)row * p.pieces + piece) * k;
    pick(least(PIECE, width - first), k, [&](u32 i) { return ordered(load(p.x, row, first + i)); },
         [&](u32 place, u32 i) { out[place] = (int)(first + i); });
}

// Of all columns or of the candidates; they come out as a set, in ascending order. By value: each pick counts those
// ahead of it. Shared memory: k ints where picks are ordered by value.
DEVICE void pick_row(const TopK& p, u32 row, u8* shared) {
    const u32 k = p.out.width;
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

// One block a row.
KERNEL(top_k, TopK, 256) {
    SHARED(shared);
    pick_row(p, blockIdx.x, shared);
}

// What is picked of all pieces is what is picked of the row: by the last of them, or by `top_k` behind this. Blocks:
// (rows, pieces).
KERNEL(top_k_pieces, TopK, 256) {
    SHARED(shared);
    pick_piece(p, blockIdx.x, blockIdx.y);
    if (p.counters && is_last(p.counters + blockIdx.x, gridDim.y)) pick_row(p, blockIdx.x, shared);
}
