// matmul for CUDA: out[i] = x[i] * W[group(i)]^T, weights as they lie in the checkpoint.
//
// Two arithmetic classes. Which one a product is of is decided by the dtype of x and the encoding of W, never
// by the number of rows, so an element depends on its row, its weight row and the width alone. In both the
// columns are cut into blocks of 128.
//
// `mma` (x bf16; W bf16, FP8 or FP4): a decoded weight, scale included, is exact in bf16, so a product is
// exact. A block is one chain of 8 m16n8k16 products from zero: step j takes columns 32t + 4j .. 32t + 4j + 3
// of each quarter t, so that what a lane needs of a row is contiguous. Blocks are added in order, in f32.
// Who computes a block is free: matmul_few deals blocks to warps, matmul_many does not, with equal bits. So is how weights
// come: matmul_bulk has them copied to shared memory.
//
// `simt` (everything else): in a block lane l of a warp owns columns 4l..4l+3, one fma chain of codes from zero
// times the block's scale (an exact power of two); lanes are joined by the tree 16, 8, 4, 2, 1; blocks are
// added in order. Here, too, who computes a block is free.
//
// The last block of some outputs may go on with what is done to them next, in place of a kernel behind this one: the
// same functions on the same values, so the bits are the same. What lies between is written all the same.
#include "../common/mma.cuh"
#include "../common/rows.cuh"

// Of `simt`: outputs of a warp, rows it takes at a time.
static const u32 FEATURES = 4;
static const u32 TILE = 8;

// What is done next. Numbers as in `backends/cuda/src/record/then.rs`.
enum Next : u32 {
    NOTHING = 0,
    FINISH = 1,
    ROPE = 2,
    CONVERT = 3,
    SWIGLU = 4,
    COMBINE = 5,
    ROUTE = 6,
    SCATTER = 7,
    ENTER = 8,
};

// Outputs are cut into parts of `unit`; after `span` outputs the parts begin again (gates, then ups: a part has both).
// A part is done once in each tile of rows of each line of the grid, or with `whole` once for all `rows`.
struct Then {
    u32* counters;  // 0 before and after, one a part
    u32 next, span, unit, whole, rows, pad;
    union {
        FinishRows finish;
        Rope rope;
        ConvertRows convert;
        SwigluRows swiglu;
        CombineRows combine;
        RouteRows route;
        ScatterRows scatter;
        HcEnter enter;
    };
};

struct Matmul {
    Rows out, x;
    Rows add;             // f32, added to the product once that is rounded to the dtype of x; null: nothing is
    const u8* codes;
    const u8* scales;     // null: none
    const int* offsets;   // null: row i uses group i % groups
    const int* source;    // row i reads row source[i] of x, zeros where that is -1; null: row i
    const int* items;     // (group, first row inside it) of every tile, -1 behind the last; null: searched for
    const int* picks;     // row i is of group picks[i], none where that is -1, and reads row i / per of x; null: not so
    u64 row_bytes;        // of codes
    u64 segment_scale_bytes;
    u32 groups, outputs, segment_rows, encoding;
    u32 block_rows, block_cols, row_scales;
    u32 aligned;  // 1: 16 bytes of weights load at once, 2: of x, 4: four weights
    u32 rows, per;
    Then then;
};

// The row of x that a row of the product reads; -1: none.
DEVICE int source_of(const Matmul& p, u32 row) {
    return p.picks ? (int)(row / p.per) : picked(p.source, row, p.x.rows);
}

// Four weights from column 4c on, without their scale. Past the width: zeros.
DEVICE void weights(const Matmul& p, const u8* row, u32 column, float w[4]) {
    const u32 width = p.x.width;
    if (p.aligned & 4 && column + 4 <= width) {
        switch (p.encoding) {
            case W_F32: {
                const float4 v = *(const float4*)(row + 4 * (u64)column);
                w[0] = v.x, w[1] = v.y, w[2] = v.z, w[3] = v.w;
                return;
            }
            case W_BF16: {
                const uint2 v = *(const uint2*)(row + 2 * (u64)column);
                w[0] = bits_to_float(v.x << 16), w[1] = bits_to_float(v.x & 0xffff0000u);
                w[2] = bits_to_float(v.y << 16), w[3] = bits_to_float(v.y & 0xffff0000u);
                return;
            }
            case W_FP8: {
                const u32 v = *(const u32*)(row + column);
                for (u32 i = 0; i < 4; i++) w[i] = from_e4m3(v >> 8 * i & 0xff);
                return;
            }
            case W_FP4: {
                const u32 v = *(const u16*)(row + column / 2);
                for (u32 i = 0; i < 4; i++) w[i] = from_e2m1(v >> 4 * i & 15);
                return;
            }
        }
    }
    for (u32 i = 0; i < 4; i++) {
        const u64 at = column + i;
        w[i] = 0.0f;
        if (at >= width) continue;
        switch (p.encoding) {
            case W_F32: {
                u32 bits = 0;
                for (u32 b = 0; b < 4; b++) bits |= (u32)row[4 * at + b] << 8 * b;
                w[i] = bits_to_float(bits);
                break;
            }
            case W_BF16: w[i] = from_bf16((u16)(row[2 * at] | row[2 * at + 1] << 8)); break;
            case W_F16: w[i] = from_f16((u16)(row[2 * at] | row[2 * at + 1] << 8)); break;
            case W_FP8: w[i] = from_e4m3(row[at]); break;
            case W_FP4: w[i] = from_e2m1(at % 2 ? row[at / 2] >> 4 : row[at / 2] & 15); break;
        }
    }
}

// Four activations of a row of the product from a column on; past the width zeros.
DEVICE void activations(const Matmul& p, u32 row, u32 column, float x[4]) {
    const int from = source_of(p, row);
    for (u32 i = 0; i < 4; i++) {
        x[i] = from >= 0 && column + i < p.x.width ? load(p.x, (u32)from, column + i) : 0.0f;
    }
}

// Writes an element of a product of bf16, or of another dtype.
DEVICE void put(const Matmul& p, u32 row, u32 column, float value, u32 kind = BF16) {
    if (p.add.at) value = narrow(value, kind) + ((const float*)row_of(p.add, row))[column];
    store(p.out, row, column, value);
}

// The group of the n-th slot of the grid: slot n itself, or where there are fewer slots than groups the
// n-th group that has rows. `groups` if there is none.
DEVICE u32 group_of(const Matmul& p, u32 slot) {
    if (!p.offsets || gridDim.y >= p.groups) return slot;
    for (u32 group = 0; group < p.groups; group++) {
        if (p.offsets[group + 1] > p.offsets[group] && slot-- == 0) return group;
    }
    return p.groups;
}

// A weight row.
struct WeightRow {
    const u8* codes;
    const u8* scales;
};

// Row `feature` of those that begin at `output`; past the last output the last one, not written.
DEVICE WeightRow weight_row(const Matmul& p, u32 group, u32 output, u32 feature) {
    const u32 row = group * p.outputs + least(output + feature, p.outputs - 1);
    const u32 segment = row / p.segment_rows, inside = row % p.segment_rows;
    return {p.codes + row * p.row_bytes,
            p.scales + segment * p.segment_scale_bytes + inside / p.block_rows * p.row_scales};
}

// Half of the sums go to the lane `STEP` away, the other half of its sums come here; then the same for half.
template <u32 STEP>
DEVICE void halve(float sums[WARP]) {
    const bool upper = lane() & STEP;
#pragma unroll
    for (u32 i = 0; i < STEP; i++) {
        const float sent = upper ? sums[i] : sums[i + STEP];
        const float kept = upper ? sums[i + STEP] : sums[i];
        sums[i] = kept + __shfl_xor_sync(ALL_LANES, sent, STEP);
    }
    if constexpr (STEP > 1) halve<STEP / 2>(sums);
}

// Adds up 32 sums over the lanes of a warp: lane l gets the l-th. The same pairs meet as in `warp_sum`, and a
// sum of two numbers does not depend on their order, so the bits are its, with 31 exchanges for all.
DEVICE float warp_sums(float sums[WARP]) {
    halve<WARP / 2>(sums);
    return sums[0];
}

// A block of columns of FEATURES outputs for up to TILE rows: sum l of the warp is output l / 8, row l % 8.
DEVICE float simt_block(const Matmul& p, const u8* const codes[], const u8* const scales[], u32 block,
                        u32 first, u32 step, u32 rows) {
    const u32 column = block * FOLD + 4 * lane();
    float sums[WARP] = {};
    float w[FEATURES][4];
#pragma unroll
    for (u32 f = 0; f < FEATURES; f++) {
        weights(p, codes[f], column, w[f]);
        const bool scaled = p.scales && column < p.x.width;
        const float scale = scaled ? from_e8m0(scales[f][column / p.block_cols]) : 1.0f;
#pragma unroll
        for (u32 i = 0; i < 4; i++) w[f][i] *= scale;
    }
#pragma unroll
    for (u32 r = 0; r < TILE; r++) {
        // All rows are gone through, so that the sums have fixed places: in registers.
        float x[4] = {};
        if (r < rows) activations(p, first + r * step, column, x);
#pragma unroll
        for (u32 f = 0; f < FEATURES; f++) {
            float chain = w[f][0] * x[0];
#pragma unroll
            for (u32 i = 1; i < 4; i++) chain = fmaf(w[f][i], x[i], chain);
            sums[f * TILE + r] = chain;
        }
    }
    return warp_sums(sums);
}

// Where the rows of a group lie: `count` of them, `step` apart.
struct Range {
    u32 begin, step, count;
};

// Every groups-th row, or a range; false after a fault.
DEVICE bool range_of(const Matmul& p, u32 group, Range* range) {
    *range = {group, p.groups, p.rows / p.groups};
    if (!p.offsets) return true;
    const int low = p.offsets[group], high = p.offsets[group + 1];
    if (low < 0 || high < low || (u32)high > p.rows) {
        fault();
        return false;
    }
    *range = {(u32)low, 1, (u32)(high - low)};
    return true;
}

// What a block does: tiles of `tile` rows of one group, `step` rows apart, the first at row `first` of them.
struct Work {
    u32 group, first, step;
    Range range;
};

// False if there is nothing for this block.
DEVICE bool work_of(const Matmul& p, u32 tile, Work* work) {
    if (p.picks) {
        const int group = p.picks[blockIdx.y];
        if (group >= (int)p.groups) fault();
        *work = {(u32)group, 0, 1, {blockIdx.y, 1, 1}};
        return group >= 0;
    }
    if (p.items) {
        const int group = p.items[2 * blockIdx.y];
        if (group < 0) return false;
        work->group = (u32)group, work->first = (u32)p.items[2 * blockIdx.y + 1];
        if (!range_of(p, work->group, &work->range)) return false;
        work->step = most(work->range.count, 1);  // one tile
        return true;
    }
    work->group = group_of(p, blockIdx.y);
    work->first = blockIdx.z * tile, work->step = gridDim.z * tile;
    return work->group < p.groups && range_of(p, work->group, &work->range);
}

// One row of what is done next: `width` outputs of a part.
template <bool SITES>
DEVICE_APART void next_row(const Then& t, u32 row, u32 part, u32 width, float* shared) {
    const u32 first = part * t.unit;
    switch (t.next) {
        // Each part is a row of its own there: a head.
        case FINISH: finish_row(t.finish, row * ceil_div(t.span, t.unit) + part, shared); break;
        case ROPE: rope_row(t.rope, row * ceil_div(t.span, t.unit) + part); break;
        case CONVERT: convert_row(t.convert, row, first, width); break;
        case SWIGLU: swiglu_row(t.swiglu, row, first, width, shared); break;
        case COMBINE:
            for (u32 i = threadIdx.x; i < width; i += blockDim.x) combine_element(t.combine, row, first + i);
            break;
        case ROUTE: route_row(t.route, row, shared); break;
        default:
            // Sites have f32 weights: `simt`.
            if constexpr (SITES) enter_row(t.enter, row, shared);
            break;
    }
}

// Goes on if this block is the last of its part. `x` counts blocks of `outputs` outputs, `tile` rows at most are this
// block's, none where it had no `work`. All threads of every block come here.
template <bool SITES>
DEVICE void go_on(const Matmul& p, u32 x, u32 outputs, u32 tile, const Work* work, u8* shared) {
    const Then& t = p.then;
    if (t.next == NOTHING) return;
    const u32 part = x * outputs % t.span / t.unit, width = least(t.unit, t.span - part * t.unit);
    const u32 line = t.whole ? 0 : blockIdx.z * gridDim.y + blockIdx.y;
    const u32 lines = t.whole ? gridDim.y * gridDim.z : 1;
    const u32 blocks = ceil_div(width, outputs) * (p.outputs / t.span) * lines;
    if (!is_last(t.counters + line * ceil_div(t.span, t.unit) + part, blocks)) return;
    if (t.next == SCATTER) {
        scatter_all(t.scatter);
        return;
    }
    const u32 tiled = work ? least(tile, work->range.count - least(work->first, work->range.count)) : 0;
    const u32 rows = t.whole ? t.rows : tiled;
    for (u32 i = 0; i < rows; i++) {
        const u32 row = t.whole ? i : work->range.begin + (work->first + i) * work->range.step;
        next_row<SITES>(t, row, part, width, (float*)shared);
        __syncthreads();
    }
}

// Class `simt`. Blocks: (outputs / 4, groups that may have rows, tiles of 8 rows), 128 threads. The warps take
// turns at blocks of columns; what they have is added in order. Bound by memory up to 8 rows, by instructions
// beyond. So few outputs a block because the widest weight of this class has 24 of them.
DEVICE void simt(const Matmul& p, const Work& work) {
    __shared__ float parts[2 * 4 * WARP];
    const u32 output = blockIdx.x * FEATURES;
    const Range range = work.range;
    const u8* codes[FEATURES];
    const u8* scales[FEATURES];
#pragma unroll
    for (u32 f = 0; f < FEATURES; f++) {
        const WeightRow row = weight_row(p, work.group, output, f);
        codes[f] = row.codes, scales[f] = row.scales;
    }
    const u32 blocks = ceil_div(p.x.width, FOLD);
    for (u32 row = work.first; row < range.count; row += work.step) {
        const u32 first = range.begin + row * range.step, rows = least(TILE, range.count - row);
        float total = 0.0f;
        for (u32 base = 0; base < blocks; base += warps()) {
            float* const round = parts + base / warps() % 2 * warps() * WARP;
            const u32 block = base + warp();
            if (block < blocks) {
                const float sum = simt_block(p, codes, scales, block, first, range.step, rows);
                round[warp() * WARP + lane()] = sum;
            }
            __syncthreads();
            if (warp() > 0) continue;
            for (u32 i = 0; i < least(warps(), blocks - base); i++) total += round[i * WARP + lane()];
        }
        const u32 f = threadIdx.x / TILE, r = threadIdx.x % TILE;
        if (warp() == 0 && output + f < p.outputs && r < rows) {
            put(p, first + r * range.step, output + f, total, p.x.kind);
        }
        __syncthreads();
    }
}

KERNEL(matmul, Matmul, 128) {
    SHARED(shared);
    Work work = {};
    const bool any = work_of(p, TILE, &work);
    if (any) simt(p, work);
    go_on<true>(p, blockIdx.x, FEATURES, TILE, any ? &work : nullptr, shared);
}

// ---- class `mma`

// Of this lane's columns of a block; scale blocks are multiples of 32 columns. 127 is 1.
DEVICE u32 scale_byte(const Matmul& p, const WeightRow& row, u32 block) {
    const u32 column = block * FOLD + 32 * (lane() % 4);
    return p.scales && column < p.x.width ? row.scales[column / p.block_cols] : 127;
}

// Where a row of the product is read from: null where it is zeros.
DEVICE const u8* x_row(const Matmul& p, Range range, u32 row) {
    if (row >= range.count) return nullptr;
    const int from = picked(p.source, range.begin + row * range.step, p.x.rows);
    return from < 0 ? nullptr : row_of(p.x, (u32)from);
}

// The same where rows may be picks.
DEVICE const u8* few_row(const Matmul& p, Range range, u32 row) {
    if (!p.picks) return x_row(p, range, row);
    return row < range.count ? row_of(p.x, (range.begin + row) / p.per) : nullptr;
}

// This lane's part of a row of x.
DEVICE void read_x(const Matmul& p, Codes<W_BF16>* x, const u8* at, u32 block) {
    if (at) {
        read(x, at, 2 * (u64)p.x.width, block, p.aligned & 2);
        return;
    }
#pragma unroll
    for (u32 i = 0; i < 16; i++) x->words[i] = 0;
}

// Bytes of a weight row that are copied at once, and how many such pieces of 16 rows a block has room for; as in
// `backends/cuda/src/record/gemm.rs`.
static const u32 PIECE = 1024;
static const u32 STAGES = 3;

// From a row of a piece to the next: the eight lanes that load 16 bytes at a time meet different banks (bf16: two meet).
template <u32 E>
static const u32 PITCH = PIECE + (E == W_FP4 ? 64 : 16);

// Pieces in shared memory, filled in turn by bulk copies.
struct Ring {
    u8* at;
    u64* full;  // a barrier a stage: the warps arrive, each with the bytes of its copies
    u32 turns;  // pieces before those of this product
};

// A ring on which nothing is yet. All threads come here.
DEVICE Ring ring_at(u8* at, u64* full) {
    if (threadIdx.x == 0) {
        for (u32 i = 0; i < STAGES; i++) bulk_init(full + i, warps());
        bulk_ready();
    }
    __syncthreads();
    return {at, full, 0};
}

// Asks for a piece of 16 rows, each warp for its share; none past the end of the rows. All have read what was there.
template <u32 E>
DEVICE void ask(const Matmul& p, u32 group, u32 output, const Ring& ring, u32 piece) {
    const u64 first = (u64)piece * PIECE;
    if (lane() > 0 || first >= p.row_bytes) return;
    const u32 bytes = p.row_bytes - first < PIECE ? (u32)(p.row_bytes - first) : PIECE;
    const u32 stage = (ring.turns + piece) % STAGES, rows = M / warps();
    bulk_expect(ring.full + stage, rows * bytes);
    for (u32 row = warp() * rows; row < (warp() + 1) * rows; row++) {
        const u8* const from = weight_row(p, group, output, row).codes + first;
        bulk_copy(ring.at + (stage * M + row) * PITCH<E>, from, bytes, ring.full + stage);
    }
}

// Waits for a piece.
DEVICE void await(const Ring& ring, u32 piece) {
    const u32 turn = ring.turns + piece;
    bulk_wait(ring.full + turn % STAGES, turn / STAGES % 2);
}

// As `read`, from row `row` of the piece that has the block. A weight row is a multiple of 16 bytes.
template <u32 E>
DEVICE void take(Codes<E>* codes, const Ring& ring, u32 row, u64 row_bytes, u32 block) {
    const u64 first = (u64)(4 * block + lane() % 4) * 4 * Codes<E>::WORDS;
    const u32 stage = (ring.turns + (u32)(first / PIECE)) % STAGES;
    const u8* const at = ring.at + (stage * M + row) * PITCH<E> + first % PIECE;
#pragma unroll
    for (u32 i = 0; i < Codes<E>::WORDS; i += 4) {
        uint4 v = {0, 0, 0, 0};
        if (first + 4 * i < row_bytes) v = *(const uint4*)(at + 4 * i);
        codes->words[i] = v.x, codes->words[i + 1] = v.y;
        codes->words[i + 2] = v.z, codes->words[i + 3] = v.w;
    }
}

// 16 outputs of up to 8 rows from `first` on; the warps take turns at blocks of columns, the threads add what
// they give in order. `parts`: shared, two rounds of warps() * 128 floats. `ring`: null if weights come by loads, a
// block of columns ahead of their use.
template <u32 E, bool BULK>
DEVICE void few(const Matmul& p, u32 group, u32 output, Range range, u32 first, float* parts, Ring* ring) {
    const u32 g = lane() / 4, t = lane() % 4;
    const WeightRow low = weight_row(p, group, output, g);
    const WeightRow high = weight_row(p, group, output, g + 8);
    const u32 blocks = ceil_div(p.x.width, FOLD);
    // Blocks of columns of a piece: a multiple of warps().
    const u32 per_piece = 64 / Codes<E>::WORDS;
    const u8* const x_at = few_row(p, range, first + g);
    Codes<E> a, b;
    Codes<W_BF16> x;
    const auto bring = [&](u32 block) {
        if (block >= blocks) return;
        if constexpr (!BULK) {
            read(&a, low.codes, p.row_bytes, block, p.aligned & 1);
            read(&b, high.codes, p.row_bytes, block, p.aligned & 1);
        }
        read_x(p, &x, x_at, block);
    };
    float total = 0.0f;
    if constexpr (BULK) {
        for (u32 piece = 0; piece < STAGES; piece++) ask<E>(p, group, output, *ring, piece);
    }
    bring(warp());
    for (u32 base = 0; base < blocks; base += warps()) {
        const u32 block = base + warp();
        // 1 a block of columns
        float acc[4] = {};
        if constexpr (BULK) {
            if (base % per_piece == 0) await(*ring, base / per_piece);
        }
        if (block < blocks) {
            if constexpr (BULK) {
                take(&a, *ring, g, p.row_bytes, block);
                take(&b, *ring, g + 8, p.row_bytes, block);
            }
            const auto by_low = prepare(a, scale_byte(p, low, block));
            const auto by_high = prepare(b, scale_byte(p, high, block));
#pragma unroll
            for (u32 j = 0; j < STEPS; j++) {
                u32 upper[2], lower[2];
                decode(a, j, by_low, upper);
                decode(b, j, by_high, lower);
                const u32 weights[4] = {upper[0], lower[0], upper[1], lower[1]};
                mma(acc, weights, x.words + 2 * j);
            }
        }
        bring(block + warps());
        // 2 what all warps have, in order of blocks
        float* const round = parts + base / warps() % 2 * warps() * M * N;
        float* const mine = round + warp() * M * N;
        mine[g * N + 2 * t] = acc[0], mine[g * N + 2 * t + 1] = acc[1];
        mine[(g + 8) * N + 2 * t] = acc[2], mine[(g + 8) * N + 2 * t + 1] = acc[3];
        __syncthreads();
        if constexpr (BULK) {
            // All have taken what they need of this piece if it was its last round.
            const u32 next = base + warps();
            if (next % per_piece == 0) ask<E>(p, group, output, *ring, next / per_piece - 1 + STAGES);
        }
        for (u32 i = 0; i < least(warps(), blocks - base); i++) total += round[i * M * N + threadIdx.x];
    }
    if constexpr (BULK) ring->turns += ceil_div(blocks, per_piece);
    // 3 write
    const u32 feature = threadIdx.x / N, row = first + threadIdx.x % N;
    if (output + feature < p.outputs && row < range.count) {
        put(p, range.begin + row * range.step, output + feature, total);
    }
    __syncthreads();
}

// The x-th block of outputs.
template <bool BULK>
DEVICE void few_outputs(const Matmul& p, u32 x, u8* shared) {
    __shared__ float parts[2 * 4 * M * N];
    const u32 output = x * M;
    Ring ring = {};
    if constexpr (BULK) {
        __shared__ u64 full[STAGES];
        ring = ring_at(shared, full);
    }
    Work work = {};
    const bool any = work_of(p, N, &work);
    for (u32 first = work.first; any && first < work.range.count; first += work.step) {
        switch (p.encoding) {
            case W_BF16: few<W_BF16, BULK>(p, work.group, output, work.range, first, parts, &ring); break;
            case W_FP8: few<W_FP8, BULK>(p, work.group, output, work.range, first, parts, &ring); break;
            default: few<W_FP4, BULK>(p, work.group, output, work.range, first, parts, &ring); break;
        }
    }
    go_on<false>(p, x, M, N, any ? &work : nullptr, shared);
}

// Few rows of a group. Blocks: (outputs / 16, groups that may have rows, tiles of 8 rows), 128 threads. Reads
// each weight byte once per 8 rows: bound by memory.
KERNEL(matmul_few, Matmul, 128) {
    SHARED(shared);
    few_outputs<false>(p, blockIdx.x, shared);
}

// The same with weights through shared memory: from Hopper on, where weight rows are multiples of 16 bytes. Shared
// memory: the ring, and what goes on in its place when it is empty.
KERNEL(matmul_bulk, Matmul, 128) {
    SHARED(shared);
    few_outputs<true>(p, blockIdx.x, shared);
}

// Products that do not depend on each other: product i has the blocks up to ends[i]. As in
// `backends/cuda/src/record/gemm.rs`.
struct Several {
    u32 ends[8];
    Matmul parts[5];
};

template <bool BULK>
DEVICE void few_of_several(const Several& p, u8* shared) {
    u32 part = 0;
    while (blockIdx.x >= p.ends[part]) part++;
    few_outputs<BULK>(p.parts[part], blockIdx.x - (part ? p.ends[part - 1] : 0), shared);
}

KERNEL(matmul_several, Several, 128) {
    SHARED(shared);
    few_of_several<false>(p, shared);
}

KERNEL(matmul_several_bulk, Several, 128) {
    SHARED(shared);
    few_of_several<true>(p, shared);
}

// Rows that matmul_many takes at a time, in tiles of N.
static const u32 TILES = 8;

// 16 outputs of up to 64 rows from `first` on, by one warp.
template <u32 E>
DEVICE void many(const Matmul& p, u32 group, u32 output, Range range, u32 first) {
    const u32 g = lane() / 4, t = lane() % 4;
    const WeightRow low = weight_row(p, group, output, g);
    const WeightRow high = weight_row(p, group, output, g + 8);
    const u32 tiles = ceil_div(least(TILES * N, range.count - first), N);
    float total[TILES][4] = {};
    for (u32 block = 0; block * FOLD < p.x.width; block++) {
        // 1 the weights of a block of columns, decoded once
        Codes<E> a, b;
        read(&a, low.codes, p.row_bytes, block, p.aligned & 1);
        read(&b, high.codes, p.row_bytes, block, p.aligned & 1);
        const auto by_low = prepare(a, scale_byte(p, low, block));
        const auto by_high = prepare(b, scale_byte(p, high, block));
        u32 weights[STEPS][4];
        decode_all(a, by_low, b, by_high, weights);
        // 2 a chain a tile of rows, added in order of blocks
#pragma unroll
        for (u32 n = 0; n < TILES; n++) {
            if (n >= tiles) break;
            Codes<W_BF16> x;
            read_x(p, &x, x_row(p, range, first + n * N + g), block);
            float acc[4] = {};
#pragma unroll
            for (u32 j = 0; j < STEPS; j++) mma(acc, weights[j], x.words + 2 * j);
#pragma unroll
            for (u32 i = 0; i < 4; i++) total[n][i] += acc[i];
        }
    }
    // 3 write
#pragma unroll
    for (u32 n = 0; n < TILES; n++) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const u32 feature = output + g + i / 2 * 8, row = first + n * N + 2 * t + i % 2;
            if (feature < p.outputs && row < range.count) {
                put(p, range.begin + row * range.step, feature, total[n][i]);
            }
        }
    }
}

// Many rows of a group. Blocks: (outputs / 64, groups that may have rows, tiles of 64 rows), 128 threads; a warp
// has 16 outputs. Bound by reading x through L1 and by decoding, at about half of the matrix rate.
KERNEL(matmul_many, Matmul, 128) {
    const u32 output = (blockIdx.x * warps() + warp()) * M;
    Work work = {};
    if (output >= p.outputs || !work_of(p, TILES * N, &work)) return;
    for (u32 first = work.first; first < work.range.count; first += work.step) {
        switch (p.encoding) {
            case W_BF16: many<W_BF16>(p, work.group, output, work.range, first); break;
            case W_FP8: many<W_FP8>(p, work.group, output, work.range, first); break;
            default: many<W_FP4>(p, work.group, output, work.range, first); break;
        }
    }
}

// Bytes between the steps of a tile of x: a step's places and the next one's meet no bank twice.
static const u32 STEP_BYTES = 2 * WIDE_HALF_BYTES + 16;

// A block of columns of 64 rows of x to shared memory, in the order in which `mma` takes columns; zeros past the end.
DEVICE void bring_x(const Matmul& p, Range range, u32 first, u32 block, u8* tile) {
    for (u32 i = threadIdx.x; i < WIDE_ROWS * WARP; i += blockDim.x) {
        const u32 row = i / WARP, column = block * FOLD + 4 * (i % WARP);
        const u8* const from = x_row(p, range, first + row);
        uint2 words = {0, 0};
        if (from && p.aligned & 2 && column + 4 <= p.x.width) {
            words = *(const uint2*)(from + 2 * column);
        } else if (from) {
            const u16* const at = (const u16*)from + column;
            const u32 left = column < p.x.width ? p.x.width - column : 0;
            words.x = (left > 0 ? at[0] : 0u) | (left > 1 ? at[1] : 0u) << 16;
            words.y = (left > 2 ? at[2] : 0u) | (left > 3 ? at[3] : 0u) << 16;
        }
        u32* const to = (u32*)(tile + i % 8 * STEP_BYTES + row * 16 + i % WARP / 8 * 4);
        to[0] = words.x, to[WIDE_HALF_BYTES / 4] = words.y;
    }
}

// 64 outputs of up to 64 rows from `first` on, by four warps together.
template <u32 E>
DEVICE void wide(const Matmul& p, u32 group, u32 output, Range range, u32 first, u8* tile) {
    const u32 g = lane() / 4, t = lane() % 4, feature = warp() * M + g;
    const WeightRow low = weight_row(p, group, output, feature);
    const WeightRow high = weight_row(p, group, output, feature + 8);
    float total[TILES][4] = {};
    for (u32 block = 0; block * FOLD < p.x.width; block++) {
        // 1 the weights of a block of columns, decoded once; x for all four warps
        Codes<E> a, b;
        read(&a, low.codes, p.row_bytes, block, p.aligned & 1);
        read(&b, high.codes, p.row_bytes, block, p.aligned & 1);
        __syncthreads();
        bring_x(p, range, first, block, tile);
        wide_written();
        const auto by_low = prepare(a, scale_byte(p, low, block));
        const auto by_high = prepare(b, scale_byte(p, high, block));
        u32 weights[STEPS][4];
        decode_all(a, by_low, b, by_high, weights);
        __syncthreads();
        // 2 one chain, added in order of blocks
        float acc[TILES][4];
        wide_begin();
#pragma unroll
        for (u32 j = 0; j < STEPS; j++) wide_mma(acc, weights[j], tile + j * STEP_BYTES, j > 0);
        wide_end(acc);
#pragma unroll
        for (u32 i = 0; i < 4 * TILES; i++) total[i / 4][i % 4] += acc[i / 4][i % 4];
    }
    // 3 write
#pragma unroll
    for (u32 n = 0; n < TILES; n++) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const u32 at = output + feature + i / 2 * 8, row = first + n * N + 2 * t + i % 2;
            if (at < p.outputs && row < range.count) put(p, range.begin + row * range.step, at, total[n][i]);
        }
    }
}

// As matmul_many, with the products of a warp group: Hopper only, and only where a probe found that they give the
// bits of `mma`. Blocks: (outputs / 64, groups that may have rows, tiles of 64 rows), 128 threads. Shared memory: a
// tile of x.
KERNEL(matmul_wide, Matmul, 128) {
    SHARED(tile);
    const u32 output = blockIdx.x * 4 * M;
    Work work = {};
    if (!work_of(p, WIDE_ROWS, &work)) return;
    for (u32 first = work.first; first < work.range.count; first += work.step) {
        switch (p.encoding) {
            case W_BF16: wide<W_BF16>(p, work.group, output, work.range, first, tile); break;
            case W_FP8: wide<W_FP8>(p, work.group, output, work.range, first, tile); break;
            default: wide<W_FP4>(p, work.group, output, work.range, first, tile); break;
        }
    }
}
