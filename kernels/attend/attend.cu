// attend for CUDA: one softmax per head over listed and visible cached rows. Definition: oracle.rs.
//
// Present keys are numbered in list order, near before far; TILE of them are decoded to shared memory at a
// time, SPAN of them make a span. Within a span a head runs one chain of tiles (running maximum, sum of
// exponentials, weighted sum of rows); spans are merged in order. A head is one warp's. Scores: lane l sums
// columns 4l..4l+3 of every 128 in order, lanes are joined by the tree. So a row's bits are a function of
// its query and its present keys, not of other rows, absent entries, or how spans are spread over blocks.
//
// Two forms with the same operations in the same order: one block does all spans of (row, heads), or, where
// rows are few, each span is a block's and attend_merge joins them from a workspace.
#include "../common/common.cuh"

static const u32 TILE = 16;
static const u32 SPAN = 128;
static const u32 HEADS = 8;  // of a block, one a warp

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

// Brings the keys from number `first` on to shared memory.
DEVICE void bring(const Attend& p, const Keys& keys, const int* list, u32 first, u32 count, float* tile) {
    for (u32 i = threadIdx.x; i < count * p.width; i += blockDim.x) {
        const u32 number = first + i / p.width, column = i % p.width;
        float value;
        if (number < keys.near) {
            value = load(p.near, (u32)list[number], column);
        } else if (number < keys.listed) {
            value = load(p.far, (u32)list[number], column);
        } else {
            const u32 entry = number - keys.listed;
            const int page = load_int(p.pages, (u32)keys.sequence, entry / p.per);
            const u32 from = (u32)page * p.per + entry % p.per;
            if (page < 0 || from >= p.far.rows) fault();
            value = load(p.far, from, column);
        }
        tile[i] = value;
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

// Joins the spans of a head. Blocks (rows, heads), one warp; shared memory: one row.
KERNEL(attend_merge, Attend, 32) {
    SHARED(shared);
    float* const rows = (float*)shared;
    const u32 row = blockIdx.x, head = blockIdx.y;
    u32 all = present(p.near_index, row);
    if (p.far_kind == LISTED) all += present(p.far_index, row);
    if (p.far_kind == VISIBLE) {
        const int visible = load_int(p.far_index, row, 1);
        all += visible > 0 ? (u32)visible : 0;
    }
    if (all == 0) return;
    for (u32 column = lane(); column < p.width; column += WARP) rows[column] = 0.0f;
    Softmax state = {minus_infinity(), 0.0f};
    const float* partial = p.partial + ((u64)row * p.heads + head) * p.spans * partial_floats(p);
    for (u32 first = 0; first < all; first += SPAN) {
        merge(&state, rows, Softmax{partial[0], partial[1]}, partial + 2, p.width);
        partial += partial_floats(p);
    }
    finish(p, row, head, state, rows, true);
}
