// attend for CUDA: one softmax per head over listed and visible cached rows. Definition: oracle.rs.
//
// Present keys are numbered in list order, near before far; some of them in a row make a span. A span gives a head
// its largest score, the sum of exponentials and the weighted sum of rows; spans are merged in order. So a row's
// bits are a function of its query and its present keys, not of other rows, absent entries, or how spans are
// spread over blocks: one block does all spans of (row, heads), or, where rows are few, each span is a block's
// and attend_merge joins them from a workspace, with the same operations in the same order.
//
// Two arithmetic classes; which one an attention is of is decided by dtypes, codecs and widths, never by rows.
//
// `mma` (bf16 queries over rows of bf16 or FP8): spans of 64 keys, decoded to bf16, which is exact. A score is one
// chain of m16n8k16 products over the columns; exponentials are rounded to bf16 for the second product, as the
// model's own code does, and summed unrounded.
//
// `simt` (everything else): f32. Spans of 128 keys, 16 at a time; within a span a head, which is one warp's, runs a
// chain over them. Scores: lane l sums columns 4l..4l+3 of every 128 in order, lanes are joined by the tree.
#include "../common/mma.cuh"

// Of `simt`: keys at a time, of a span; heads of a block, one a warp.
static const u32 TILE = 16;
static const u32 SPAN = 128;
static const u32 HEADS = 8;

// Numbers as in `backends/cuda/src/record/attend.rs`.
enum Far : u32 { NONE = 0, LISTED = 1, VISIBLE = 2 };

struct Attend {
    Rows out, q;  // [n, heads * c]
    Rows near, near_index;
    Rows far, far_index;  // far_index: the list, or reach
    Rows pages;
    Rows angle;  // turns back what comes out; no rows: nothing turns
    const float* sink;
    float* partial;  // null: one block does all spans
    u32 heads, width, far_kind, per;
    float scale;
    u32 spans;  // at most, of a row
    u32 span;   // keys of one
};

// The keys of a row: those of the near list, then the far ones.
struct Keys {
    u32 near, listed, all;  // how many present: near, near and far list, all
    int sequence;
};

// Compacts the present entries of both lists into `list` (near, then far) in order. All threads get counts.
DEVICE u32 compact(const Rows& index, u32 row, u32 rows, int* list, u32* room) {
    u32 taken = 0;
    for (u32 base = 0; base < index.width; base += blockDim.x) {
        const u32 at = base + threadIdx.x;
        const int key = at < index.width ? load_int(index, row, at) : -1;
        const bool present = key >= 0;
        if (present && (u32)key >= rows) fault();
        const u32 votes = __ballot_sync(ALL_LANES, present);
        if (lane() == 0) room[warp()] = __popc(votes);
        __syncthreads();
        u32 before = taken + __popc(votes & ((1u << lane()) - 1)), all = 0;
        for (u32 i = 0; i < warps(); i++) {
            if (i < warp()) before += room[i];
            all += room[i];
        }
        if (present) list[before] = key;
        taken += all;
        __syncthreads();
    }
    return taken;
}

DEVICE Keys keys_of(const Attend& p, u32 row, int* list, u32* room) {
    Keys keys = {};
    keys.near = compact(p.near_index, row, p.near.rows, list, room);
    keys.listed = keys.near;
    if (p.far_kind == LISTED) {
        keys.listed += compact(p.far_index, row, p.far.rows, list + keys.near, room);
    }
    keys.all = keys.listed;
    if (p.far_kind == VISIBLE) {
        const int visible = load_int(p.far_index, row, 1);
        keys.sequence = load_int(p.far_index, row, 0);
        if (visible > 0) {
            if (keys.sequence < 0 || (u32)keys.sequence >= p.pages.rows) fault();
            if ((u32)visible > p.pages.width * p.per) fault();
            keys.all += (u32)visible;
        }
    }
    return keys;
}

// A cached row.
struct Entry {
    u32 row;
    bool near;  // of p.near, or of p.far
};

// Where the n-th key of a row is.
DEVICE Entry entry_of(const Attend& p, const Keys& keys, const int* list, u32 number) {
    if (number < keys.listed) return {(u32)list[number], number < keys.near};
    const u32 entry = number - keys.listed;
    const int page = load_int(p.pages, (u32)keys.sequence, entry / p.per);
    const u32 row = (u32)page * p.per + entry % p.per;
    if (page < 0 || row >= p.far.rows) fault();
    return {row, false};
}

// Brings the keys from number `first` on to shared memory.
DEVICE void bring(const Attend& p, const Keys& keys, const int* list, u32 first, u32 count, float* tile) {
    for (u32 i = threadIdx.x; i < count * p.width; i += blockDim.x) {
        const Entry entry = entry_of(p, keys, list, first + i / p.width);
        tile[i] = load(entry.near ? p.near : p.far, entry.row, i % p.width);
    }
}

// What a head knows of some keys: the largest score, the sum of e^(score - largest), the weighted sum of
// rows (in shared memory or the workspace).
struct Softmax {
    float top, sum;
};

DEVICE float minus_infinity() { return bits_to_float(0xff800000u); }

// e^(a - b); 1 where both are -infinity.
DEVICE float ratio(float a, float b) { return a == b ? 1.0f : expf(a - b); }

// One head over one span of keys.
DEVICE Softmax span(const Attend& p, const Keys& keys, const int* list, u32 first, u32 end, bool live,
                    const float* q, float* tile, float* scores, float* rows) {
    Softmax state = {minus_infinity(), 0.0f};
    for (u32 column = lane(); column < p.width; column += WARP) rows[column] = 0.0f;
    for (u32 at = first; at < end; at += TILE) {
        const u32 count = least(TILE, end - at);
        __syncthreads();
        bring(p, keys, list, at, count, tile);
        __syncthreads();
        if (!live) continue;
        // 1 scores
        float top = state.top;
        for (u32 key = 0; key < count; key++) {
            float score = 0.0f;
            for (u32 column = 4 * lane(); column < p.width; column += FOLD) {
                for (u32 i = column; i < least(column + 4, p.width); i++) {
                    score = fmaf(q[i], tile[key * p.width + i], score);
                }
            }
            score = warp_sum(score) * p.scale;
            if (lane() == 0) scores[key] = score;
            top = score > top ? score : top;
        }
        // 2 exponentials
        const float before = ratio(state.top, top);
        state.sum *= before;
        __syncwarp();
        if (lane() < count) scores[lane()] = ratio(scores[lane()], top);
        __syncwarp();
        for (u32 key = 0; key < count; key++) state.sum += scores[key];
        // 3 weighted rows
        for (u32 column = lane(); column < p.width; column += WARP) {
            float sum = rows[column] * before;
            for (u32 key = 0; key < count; key++) {
                sum = fmaf(scores[key], tile[key * p.width + column], sum);
            }
            rows[column] = sum;
        }
        state.top = top;
        __syncwarp();
    }
    return state;
}

// Adds a span to what is known; `rows` and `more` are the weighted sums of rows.
DEVICE void merge(Softmax* state, float* rows, Softmax other, const float* more, u32 width) {
    const float top = other.top > state->top ? other.top : state->top;
    const float a = ratio(state->top, top), b = ratio(other.top, top);
    state->sum = fmaf(state->sum, a, other.sum * b);
    for (u32 column = lane(); column < width; column += WARP) {
        rows[column] = fmaf(rows[column], a, more[column] * b);
    }
    state->top = top;
}

// Divides by everything, the sink included, and turns the last columns back: rounded before and after that, as
// where it is an op of its own. All lanes of a warp.
DEVICE void finish(const Attend& p, u32 row, u32 head, Softmax state, float* rows, bool any) {
    const float sink = p.sink[head];
    const float top = sink > state.top ? sink : state.top;
    const float factor = ratio(state.top, top);
    // Without a key: nothing, whatever the sink.
    const float share = any ? factor / fmaf(state.sum, factor, ratio(sink, top)) : 0.0f;
    const u32 turned = p.angle.rows > 0 ? p.angle.width : 0, kept = p.width - turned;
    for (u32 column = lane(); column < p.width; column += WARP) {
        const float value = rows[column] * share;
        if (column < kept) store(p.out, row, head * p.width + column, value);
        rows[column] = narrow(value, p.out.kind);
    }
    if (turned == 0) return;
    __syncwarp();
    const float* const angle = (const float*)row_of(p.angle, row);
    for (u32 pair = lane(); pair < turned / 2; pair += WARP) {
        const u32 column = kept + 2 * pair;
        const float x = rows[column], y = rows[column + 1];
        const float cosine = angle[pair], sine = -angle[turned / 2 + pair];
        store(p.out, row, head * p.width + column, x * cosine - y * sine);
        store(p.out, row, head * p.width + column + 1, x * sine + y * cosine);
    }
}

// Floats of the workspace that one span of one head takes.
DEVICE u64 partial_floats(const Attend& p) { return p.width + 2; }

// Blocks: (rows, heads / 8, 1), or (rows, heads / 8, spans) with a workspace. 256 threads. Shared memory:
// a tile of keys, then for each of 8 heads its query, its scores and twice its sum of rows, then the lists.
KERNEL(attend, Attend, 256) {
    SHARED(shared);
    __shared__ u32 room[HEADS];
    const u32 row = blockIdx.x, head = blockIdx.y * HEADS + warp();
    const bool live = head < p.heads;
    float* const tile = (float*)shared;
    float* const q = tile + TILE * p.width + warp() * (3 * p.width + TILE);
    float* const rows = q + p.width;
    float* const part = rows + p.width;
    float* const scores = part + p.width;
    int* const list = (int*)(tile + TILE * p.width + HEADS * (3 * p.width + TILE));
    if (live) {
        for (u32 column = lane(); column < p.width; column += WARP) {
            q[column] = load(p.q, row, head * p.width + column);
            rows[column] = 0.0f;
        }
    }
    const Keys keys = keys_of(p, row, list, room);
    if (p.partial) {
        const u32 first = blockIdx.z * SPAN, end = least(first + SPAN, keys.all);
        // A span that is not there leaves nothing: attend_merge knows how many there are.
        if (first >= keys.all) {
            if (blockIdx.z > 0 || !live) return;
            finish(p, row, head, Softmax{minus_infinity(), 0.0f}, rows, false);
            return;
        }
        const Softmax state = span(p, keys, list, first, end, live, q, tile, scores, part);
        if (!live) return;
        const u64 place = ((u64)row * p.heads + head) * p.spans + blockIdx.z;
        float* const out = p.partial + place * partial_floats(p);
        for (u32 column = lane(); column < p.width; column += WARP) out[2 + column] = part[column];
        if (lane() == 0) out[0] = state.top, out[1] = state.sum;
        return;
    }
    Softmax state = {minus_infinity(), 0.0f};
    for (u32 first = 0; first < keys.all; first += SPAN) {
        const u32 end = least(first + SPAN, keys.all);
        const Softmax other = span(p, keys, list, first, end, live, q, tile, scores, part);
        if (live) merge(&state, rows, other, part, p.width);
    }
    if (live) finish(p, row, head, state, rows, keys.all > 0);
}

// How many keys of a list are present.
DEVICE u32 present(const Rows& index, u32 row) {
    u32 count = 0;
    for (u32 base = 0; base < index.width; base += WARP) {
        const u32 at = base + lane();
        const bool here = at < index.width && load_int(index, row, at) >= 0;
        count += __popc(__ballot_sync(ALL_LANES, here));
    }
    return count;
}

// Threads of attend_merge, and spans it looks at together.
static const u32 JOINED = 128;

// Largest scores of spans, then what is merged of the earlier spans and of this one, as in `merge`.
struct Factors {
    float tops[JOINED], sums[JOINED], earlier[JOINED], own[JOINED];
};

// The factors of `count` spans behind those that had `top` as their largest score; all threads get the new one.
DEVICE float factors_of(Factors* f, const Attend& p, const float* partial, u32 count, float top) {
    const u32 i = threadIdx.x;
    if (i < count) {
        f->tops[i] = partial[i * partial_floats(p)];
        f->sums[i] = partial[i * partial_floats(p) + 1];
    }
    __syncthreads();
    // The largest score so far does not depend on an order.
    float before = top;
    for (u32 j = 0; j < least(i, count); j++) before = f->tops[j] > before ? f->tops[j] : before;
    if (i < count) {
        const float after = f->tops[i] > before ? f->tops[i] : before;
        f->earlier[i] = ratio(before, after), f->own[i] = ratio(f->tops[i], after);
    }
    for (u32 j = 0; j < count; j++) top = f->tops[j] > top ? f->tops[j] : top;
    __syncthreads();
    return top;
}

// Joins the spans of a head. Blocks (rows, heads), 128 threads; shared memory: one row.
KERNEL(attend_merge, Attend, 128) {
    SHARED(shared);
    __shared__ Factors f;
    float* const rows = (float*)shared;
    const u32 row = blockIdx.x, head = blockIdx.y;
    u32 all = present(p.near_index, row);
    if (p.far_kind == LISTED) all += present(p.far_index, row);
    if (p.far_kind == VISIBLE) {
        const int visible = load_int(p.far_index, row, 1);
        all += visible > 0 ? (u32)visible : 0;
    }
    if (all == 0) return;
    const u32 spans = ceil_div(all, p.span);
    const u64 floats = partial_floats(p);
    Softmax state = {minus_infinity(), 0.0f};
    const float* partial = p.partial + ((u64)row * p.heads + head) * p.spans * floats;
    for (u32 first = 0; first < spans; first += JOINED, partial += JOINED * floats) {
        const u32 count = least(JOINED, spans - first);
        state.top = factors_of(&f, p, partial, count, state.top);
        for (u32 i = 0; i < count; i++) state.sum = fmaf(state.sum, f.earlier[i], f.sums[i] * f.own[i]);
        for (u32 column = threadIdx.x; column < p.width; column += blockDim.x) {
            float sum = first > 0 ? rows[column] : 0.0f;
#pragma unroll 8
            for (u32 i = 0; i < count; i++) {
                sum = fmaf(sum, f.earlier[i], partial[i * floats + 2 + column] * f.own[i]);
            }
            rows[column] = sum;
        }
        __syncthreads();
    }
    if (warp() == 0) finish(p, row, head, state, rows, true);
}

// ---- class `mma`

// Keys of a span.
static const u32 KEYS = 64;
// Columns of which a warp has the weighted sums, 16 at a time: 8 warps have 512.
static const u32 PAIRS = 4;

// Bytes of a row of bf16 in shared memory: 16 times an odd number, so that matrices meet no bank twice.
DEVICE u32 row_bytes(u32 width) { return 2 * width + 16; }

// Bytes of a cached row that mean something.
DEVICE u32 coded_bytes(const Rows& cache) {
    if (cache.kind == BF16) return 2 * cache.width;
    const u32 coded = cache.width - cache.tail;
    return (coded + 2 * cache.tail + ceil_div(coded, cache.block) + 3) / 4 * 4;
}

// A block's shared memory, for `heads` heads: `tiles_shared_bytes` in record/attend.rs.
struct Tiles {
    u32 stride;      // of q and keys
    u8* q;           // [heads, width] bf16
    u8* keys;        // [KEYS, width] bf16
    float* scores;   // [heads, KEYS], rows of KEYS + 4
    u8* shares;      // [heads, KEYS] bf16, exponentials
    float* factors;  // [heads, 2]: of what is merged
    float* states;   // [heads, 2]: a Softmax each
    u8* ahead;       // [KEYS] cached rows as they are, on their way
    int* list;
};

DEVICE u32 ahead_bytes(const Attend& p) { return (ceil_div(coded_bytes(p.near), 16) | 1) * 16; }

template <u32 MT, bool AHEAD>
DEVICE Tiles tiles_of(const Attend& p, u8* shared) {
    const u32 heads = M * MT;
    Tiles at;
    at.stride = row_bytes(p.width);
    at.q = shared;
    at.keys = at.q + heads * at.stride;
    at.scores = (float*)(at.keys + KEYS * at.stride);
    at.shares = (u8*)(at.scores + heads * (KEYS + 4));
    at.factors = (float*)(at.shares + heads * row_bytes(KEYS));
    at.states = at.factors + 2 * heads;
    at.ahead = (u8*)(at.states + 2 * heads);
    at.list = (int*)(at.ahead + (AHEAD ? KEYS * ahead_bytes(p) : 0));
    return at;
}

// Words of a row, by the widest loads that its address allows.
template <u32 WORDS>
DEVICE void words_at(const u8* at, u32 out[WORDS]) {
    if (((u64)at & 7) == 0) {
#pragma unroll
        for (u32 i = 0; i < WORDS; i += 2) {
            const uint2 v = *(const uint2*)(at + 4 * i);
            out[i] = v.x, out[i + 1] = v.y;
        }
        return;
    }
#pragma unroll
    for (u32 i = 0; i < WORDS; i++) {
        const u8* const word = at + 4 * i;
        out[i] = (u32)word[0] | (u32)word[1] << 8 | (u32)word[2] << 16 | (u32)word[3] << 24;
    }
}

// Columns 8u .. 8u + 7 of a cached row as bf16; blocks and tail are multiples of 8 columns.
DEVICE uint4 eight(const Rows& cache, const u8* row, u32 u) {
    u32 out[4];
    const u32 coded = cache.kind == BF16 ? 0 : cache.width - cache.tail;
    if (8 * u >= coded) {
        words_at<4>(row + coded + 2 * (8 * u - coded), out);
    } else {
        u32 codes[2];
        words_at<2>(row + 8 * u, codes);
        const u32 byte = row[coded + 2 * cache.tail + 8 * u / cache.block];
        const Fp8Scale by = fp8_scale(byte, nan_codes(codes[0]) | nan_codes(codes[1]));
        decode_fp8(codes[0], by, out);
        decode_fp8(codes[1], by, out + 2);
    }
    return {out[0], out[1], out[2], out[3]};
}

// Decodes this thread's part of a span's keys: of key threadIdx / 4 every fourth eight columns. `row`: the cached
// row, or null for zeros.
DEVICE void unpack(const Rows& cache, const u8* row, const Tiles& at) {
    u8* const to = at.keys + threadIdx.x / 4 * at.stride;
    for (u32 u = threadIdx.x % 4; u < cache.width / 8; u += 4) {
        *(uint4*)(to + 16 * u) = row ? eight(cache, row, u) : uint4{0, 0, 0, 0};
    }
}

// This thread's key of the span that begins at key `first`; null past the last.
DEVICE const u8* key_at(const Attend& p, const Keys& keys, const int* list, u32 first) {
    const u32 number = first + threadIdx.x / 4;
    if (number >= keys.all) return nullptr;
    const Entry entry = entry_of(p, keys, list, number);
    return row_of(entry.near ? p.near : p.far, entry.row);
}

// Sends a span's keys on their way as they are; `unpack` takes them from there once they are waited for.
DEVICE void send(const Attend& p, const Keys& keys, const Tiles& at, u32 first) {
    const u8* const from = key_at(p, keys, at.list, first);
    if (!from) return;
    u8* const to = at.ahead + threadIdx.x / 4 * ahead_bytes(p);
    const u32 bytes = coded_bytes(p.near);
    for (u32 i = threadIdx.x % 4 * 8; i < bytes; i += 32) {
        if (((u64)from & 7) == 0 && i + 8 <= bytes) {
            copy_ahead<8>(to + i, from + i);
        } else if (((u64)from & 3) == 0) {
            for (u32 j = i; j < least(i + 8, bytes); j += 4) copy_ahead<4>(to + j, from + j);
        } else {
            for (u32 j = i; j < least(i + 8, bytes); j++) to[j] = from[j];
        }
    }
}

// The queries of a block's heads to shared memory; zeros where there is no head.
DEVICE void bring_queries(const Attend& p, u32 row, u32 first, u32 heads, const Tiles& at) {
    const u32 eights = p.width / 8;
    for (u32 i = threadIdx.x; i < heads * eights; i += blockDim.x) {
        const u32 head = i / eights, u = i % eights;
        u32 out[4] = {};
        if (first + head < p.heads) {
            words_at<4>(row_of(p.q, row) + 2 * ((u64)(first + head) * p.width + 8 * u), out);
        }
        *(uint4*)(at.q + head * at.stride + 16 * u) = {out[0], out[1], out[2], out[3]};
    }
}

// Scores of a span: a warp has MW tiles of 16 heads and 16 keys.
template <u32 MT>
DEVICE void score(const Attend& p, const Tiles& at, u32 count) {
    const u32 MW = MT == 4 ? 2 : 1, g = lane() / 4, t = lane() % 4;
    const u32 head = warp() % 2 * MW * M, key = warp() / 2 * 2 * N;
    if (head >= MT * M || key >= count) return;
    const u8* const q = at.q + (head + lane() % 16) * at.stride + lane() / 16 * 16;
    const u8* const keys = at.keys + (key + lane() / 16 * 8 + lane() % 8) * at.stride + lane() / 8 % 2 * 16;
    float acc[MW][2][4] = {};
    for (u32 k = 0; k < p.width; k += 16) {
        u32 b[4];
        matrices(b, keys + 2 * k);
#pragma unroll
        for (u32 m = 0; m < MW; m++) {
            u32 a[4];
            matrices(a, q + m * M * at.stride + 2 * k);
            mma(acc[m][0], a, b);
            mma(acc[m][1], a, b + 2);
        }
    }
#pragma unroll
    for (u32 m = 0; m < MW; m++) {
#pragma unroll
        for (u32 i = 0; i < 8; i++) {
            const u32 row = head + m * M + g + i % 4 / 2 * 8, column = key + i / 4 * N + 2 * t + i % 2;
            at.scores[row * (KEYS + 4) + column] = acc[m][i / 4][i % 4] * p.scale;
        }
    }
}

// Exponentials of a span's scores, and what they make of the heads' states. A head is one warp's.
DEVICE void soften(const Tiles& at, u32 heads, u32 count) {
    for (u32 head = warp(); head < heads; head += warps()) {
        float scores[2], top = minus_infinity(), sum = 0.0f;
        u16* const shares = (u16*)(at.shares + head * row_bytes(KEYS));
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
            const u32 key = lane() + i * WARP;
            scores[i] = key < count ? at.scores[head * (KEYS + 4) + key] : minus_infinity();
            top = scores[i] > top ? scores[i] : top;
        }
        for (u32 step = 16; step > 0; step /= 2) {
            const float other = __shfl_xor_sync(ALL_LANES, top, step);
            top = other > top ? other : top;
        }
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
            const u32 key = lane() + i * WARP;
            const float share = key < count ? ratio(scores[i], top) : 0.0f;
            sum += share;
            shares[key] = to_bf16(share);
        }
        sum = warp_sum(sum);
        if (lane() > 0) continue;
        float* const state = at.states + 2 * head;
        const float after = top > state[0] ? top : state[0];
        const float earlier = ratio(state[0], after), own = ratio(top, after);
        at.factors[2 * head] = earlier, at.factors[2 * head + 1] = own;
        state[0] = after, state[1] = fmaf(state[1], earlier, sum * own);
    }
}

// Sums of rows that a warp has: of all heads columns 16 (warp + 8 i) + 8 n + 2 t and the next, in the layout of mma.
template <u32 MT>
struct Sums {
    float of[PAIRS][MT][2][4];
};

// Adds a span's weighted rows.
template <u32 MT>
DEVICE void weigh(const Attend& p, const Tiles& at, u32 count, Sums<MT>* sums) {
    const u32 g = lane() / 4;
    const u8* const shares = at.shares + lane() % 16 * row_bytes(KEYS) + lane() / 16 * 16;
    const u8* const keys = at.keys + lane() % 16 * at.stride + lane() / 16 * 16;
#pragma unroll
    for (u32 i = 0; i < PAIRS; i++) {
        const u32 column = 16 * (warp() + 8 * i);
        if (column >= p.width) break;
        float acc[MT][2][4] = {};
        for (u32 key = 0; key < count; key += 16) {
            u32 b[4];
            matrices_turned(b, keys + key * at.stride + 2 * column);
#pragma unroll
            for (u32 m = 0; m < MT; m++) {
                u32 a[4];
                matrices(a, shares + m * M * row_bytes(KEYS) + 2 * key);
                mma(acc[m][0], a, b);
                mma(acc[m][1], a, b + 2);
            }
        }
#pragma unroll
        for (u32 m = 0; m < MT; m++) {
#pragma unroll
            for (u32 j = 0; j < 8; j++) {
                const float* const factors = at.factors + 2 * (m * M + g + j % 4 / 2 * 8);
                float* const sum = &sums->of[i][m][j / 4][j % 4];
                *sum = fmaf(*sum, factors[0], acc[m][j / 4][j % 4] * factors[1]);
            }
        }
    }
}

// Calls `take(head, column, x, y)` for all pairs of columns of this thread.
template <u32 MT, class Take>
DEVICE void pairs_of(const Attend& p, u32 first, const Sums<MT>& sums, Take take) {
    const u32 g = lane() / 4, t = lane() % 4;
#pragma unroll
    for (u32 i = 0; i < PAIRS; i++) {
#pragma unroll
        for (u32 m = 0; m < MT; m++) {
#pragma unroll
            for (u32 j = 0; j < 4; j++) {
                const u32 column = 16 * (warp() + 8 * i) + j / 2 * N + 2 * t;
                const u32 head = m * M + g + j % 2 * 8;
                const float* const at = sums.of[i][m][j / 2] + j % 2 * 2;
                if (column < p.width && first + head < p.heads) take(head, column, at[0], at[1]);
            }
        }
    }
}

// As `finish`, from registers: `shares` has a head's part of everything.
template <u32 MT>
DEVICE void finish_tiles(const Attend& p, u32 row, u32 first, const Tiles& at, const Sums<MT>& sums, bool any) {
    __syncthreads();
    for (u32 head = threadIdx.x; head < MT * M && first + head < p.heads; head += blockDim.x) {
        const float* const state = at.states + 2 * head;
        const float sink = p.sink[first + head], top = sink > state[0] ? sink : state[0];
        const float factor = ratio(state[0], top);
        at.factors[2 * head] = any ? factor / fmaf(state[1], factor, ratio(sink, top)) : 0.0f;
    }
    __syncthreads();
    const u32 turned = p.angle.rows > 0 ? p.angle.width : 0, kept = p.width - turned;
    const float* const angle = turned > 0 ? (const float*)row_of(p.angle, row) : nullptr;
    pairs_of(p, first, sums, [&](u32 head, u32 column, float x, float y) {
        const float share = at.factors[2 * head];
        x *= share, y *= share;
        if (column >= kept) {
            const u32 pair = (column - kept) / 2;
            const float cosine = angle[pair], sine = -angle[turned / 2 + pair];
            const float a = narrow(x, p.out.kind), b = narrow(y, p.out.kind);
            x = a * cosine - b * sine, y = a * sine + b * cosine;
        }
        const u32 place = (first + head) * p.width + column;
        store(p.out, row, place, x);
        store(p.out, row, place + 1, y);
    });
}

// MT * 16 heads of a row, all spans or one. AHEAD: the next span's keys come while this one is computed.
template <u32 MT, bool AHEAD>
DEVICE void attend_tiles(const Attend& p, u8* shared, u32* room) {
    const u32 row = blockIdx.x, heads = MT * M, first_head = blockIdx.y * heads;
    const Tiles at = tiles_of<MT, AHEAD>(p, shared);
    bring_queries(p, row, first_head, heads, at);
    for (u32 head = threadIdx.x; head < heads; head += blockDim.x) {
        at.states[2 * head] = minus_infinity(), at.states[2 * head + 1] = 0.0f;
    }
    const Keys keys = keys_of(p, row, at.list, room);
    const u32 begin = p.partial ? blockIdx.z * KEYS : 0;
    const u32 end = p.partial ? least(begin + KEYS, keys.all) : keys.all;
    Sums<MT> sums = {};
    __syncthreads();
    if (AHEAD && begin < end) send(p, keys, at, begin);
    for (u32 first = begin; first < end; first += KEYS) {
        const u32 count = least(KEYS, end - first);
        const u8* key = threadIdx.x / 4 < count ? at.ahead + threadIdx.x / 4 * ahead_bytes(p) : nullptr;
        if (AHEAD) {
            wait_for_copies();
        } else {
            key = key_at(p, keys, at.list, first);
        }
        __syncthreads();
        unpack(p.near, key, at);
        __syncthreads();
        if (AHEAD && first + KEYS < end) send(p, keys, at, first + KEYS);
        score<MT>(p, at, count);
        __syncthreads();
        soften(at, heads, count);
        __syncthreads();
        weigh(p, at, count, &sums);
    }
    if (!p.partial || (keys.all == 0 && blockIdx.z == 0)) {
        finish_tiles(p, row, first_head, at, sums, keys.all > 0);
        return;
    }
    // A span that is not there leaves nothing: attend_merge knows how many there are.
    if (begin >= end) return;
    const auto place = [&](u32 head) {
        return p.partial + (((u64)row * p.heads + first_head + head) * p.spans + blockIdx.z) * partial_floats(p);
    };
    pairs_of(p, first_head, sums, [&](u32 head, u32 column, float x, float y) {
        float* const out = place(head) + 2 + column;
        out[0] = x, out[1] = y;
    });
    for (u32 i = threadIdx.x; i < 2 * heads && first_head + i / 2 < p.heads; i += blockDim.x) {
        place(i / 2)[i % 2] = at.states[i];
    }
}

// Blocks: (rows, heads / 16, 1), or (rows, heads / 16, spans) with a workspace. 256 threads. Shared memory: Tiles,
// then the lists. The other two, for many rows, decode a key once for more heads.
KERNEL(attend_16, Attend, 256) {
    SHARED(shared);
    __shared__ u32 room[8];
    attend_tiles<1, false>(p, shared, room);
}

KERNEL(attend_32, Attend, 256) {
    SHARED(shared);
    __shared__ u32 room[8];
    attend_tiles<2, true>(p, shared, room);
}

KERNEL(attend_64, Attend, 256) {
    SHARED(shared);
    __shared__ u32 room[8];
    attend_tiles<4, true>(p, shared, room);
}
