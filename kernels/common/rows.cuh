// What is done to a row, or to some columns of one, by all threads of a block: by kernels of its own, or by the last
// block of a product (`Then` in gemm.cu), with equal bits. How many threads a block has does not show in them.
//
// Formulas: README.md of rows, moe and stream; definitions: their oracle.rs. Several rows in turn need a barrier
// between them. Not here: what one kernel alone does.
#pragma once
#include "../common/common.cuh"

// Splits a flat index over [rows, columns]; false past the end.
DEVICE bool element(u32 rows, u32 columns, u32* row, u32* column) {
    const u64 place = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (place >= (u64)rows * columns) return false;
    *row = (u32)(place / columns);
    *column = (u32)(place % columns);
    return true;
}

// Some columns of plain rows, or all of any.
DEVICE Rows columns_of(const Rows& rows, u32 first, u32 width) {
    Rows some = rows;
    some.at += first * (rows.kind == F32 ? 4 : 2);
    some.width = width;
    return some;
}

struct ScatterRows {
    Rows target, source, index;
    u32 unit_bytes, units;
};

// target[index[i]] = source[i], as bytes: the `place`-th unit of 4, 2 or 1 bytes of all. One thread's.
DEVICE void scatter_unit(const ScatterRows& p, u64 place) {
    if (place >= (u64)p.source.rows * p.units) return;
    const u32 row = (u32)(place / p.units), unit = (u32)(place % p.units);
    const int index = load_int(p.index, row, 0);
    if (index < 0) return;
    if ((u32)index >= p.target.rows) {
        fault();
        return;
    }
    u8* const out = row_of(p.target, (u32)index) + (u64)unit * p.unit_bytes;
    const u8* const in = row_of(p.source, row) + (u64)unit * p.unit_bytes;
    switch (p.unit_bytes) {
        case 4: *(u32*)out = *(const u32*)in; break;
        case 2: *(u16*)out = *(const u16*)in; break;
        default: *out = *in; break;
    }
}

// All of them, by one block.
DEVICE void scatter_all(const ScatterRows& p) {
    const u64 count = (u64)p.source.rows * p.units;
    for (u64 place = threadIdx.x; place < count; place += blockDim.x) scatter_unit(p, place);
}

struct ConvertRows {
    Rows out, x;
    Round round;
};

// Cast, and the round trip through a block format, of `width` columns from a block on; one warp a block of columns.
DEVICE void convert_row(const ConvertRows& p, u32 row, u32 first, u32 width) {
    write_rounded(columns_of(p.out, first, width), row, width, p.round,
                  [&](u32 column) { return load(p.x, row, first + column); });
}

struct Rope {
    Rows out, x, angle;
    u32 heads, inverse;
};

// Rotates the last R columns in interleaved pairs, copies the others. A coded target is encoded from the rotated
// values.
DEVICE void rope_row(const Rope& p, u32 row) {
    const u32 turned = p.angle.width, kept = p.x.width - turned;
    const float* const angle = (const float*)row_of(p.angle, row / p.heads);
    encode_row(p.out, row, [&](u32 column) {
        const float x = load(p.x, row, column);
        if (column < kept) return x;
        const u32 pair = (column - kept) / 2;
        const bool first = (column - kept) % 2 == 0;
        const float other = load(p.x, row, first ? column + 1 : column - 1);
        const float cosine = angle[pair];
        const float sine = p.inverse ? -angle[turned / 2 + pair] : angle[turned / 2 + pair];
        return first ? x * cosine - other * sine : other * sine + x * cosine;
    });
}

struct FinishRows {
    Rows out, x, angle;  // angle: no rows where nothing turns
    const float* gain;   // null: none
    float epsilon;
    u32 heads;
    u32 dtype;  // a Kind: what each part rounds to
    Round round;
    u32 pad;
};

// norm_quant and qk_finish: rms_norm, then rope of the last R columns, then a round trip, each part rounded to
// the dtype as where they are ops of their own. Shared memory: one float per 128 columns, then the row.
DEVICE void finish_row(const FinishRows& p, u32 row, float* shared) {
    const u32 width = p.x.width;
    float* const sums = shared;
    float* const values = sums + ceil_div(width, FOLD);
    // 1 norm
    const float sum = row_sum(width, sums, [&](u32 column, float sum) {
        const float x = load(p.x, row, column);
        return fmaf(x, x, sum);
    });
    const float scale = 1.0f / sqrtf(sum / (float)width + p.epsilon);
    for (u32 column = threadIdx.x; column < width; column += blockDim.x) {
        const float value = load(p.x, row, column) * scale;
        values[column] = narrow(p.gain ? value * p.gain[column] : value, p.dtype);
    }
    __syncthreads();
    // 2 rope
    if (p.angle.rows > 0) {
        turn(values, width, (const float*)row_of(p.angle, row / p.heads), p.angle.width, p.dtype);
        __syncthreads();
    }
    // 3 round and write
    write_rounded(p.out, row, width, p.round, [&](u32 column) { return values[column]; });
}

struct SwigluRows {
    Rows out, both;        // both: gate columns, then up columns
    const float* shares;   // null: no factor
    const int* order;      // place of a row's share; null: the row's own
    const int* end;        // rows from *end on are nobody's; null: all are
    float clamp;
    u32 dtype;             // a Kind: what the activation rounds to before its round trip
    Round round;
};

// out = share * silu(min(gate, clamp)) * clamp(up), rounded, then a round trip: `width` columns from a block on.
// Shared memory: as many floats.
DEVICE void swiglu_row(const SwigluRows& p, u32 row, u32 first, u32 width, float* values) {
    if (p.end && (int)row >= *p.end) return;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
        const u32 column = first + i;
        const float gate = load(p.both, row, column), up = load(p.both, row, p.out.width + column);
        // Comparisons that keep NaN.
        const float g = gate > p.clamp ? p.clamp : gate;
        const float u = up > p.clamp ? p.clamp : up < -p.clamp ? -p.clamp : up;
        const u32 place = p.order ? (u32)p.order[row] : row;
        const float value = p.shares ? p.shares[place] * silu(g) * u : silu(g) * u;
        values[i] = narrow(value, p.dtype);
    }
    __syncthreads();
    write_rounded(columns_of(p.out, first, width), row, width, p.round, [&](u32 i) { return values[i]; });
}

struct CombineRows {
    Rows out, y;
    const int* inverse;  // the row of y of each pick, -1: none
    u32 per;
    u32 in_place;        // 1: pick i is row i, `inverse` only says whether it is there
};

// out[r] = sum over the row's `per` picks, in order, of their rows of y; absent ones are zeros. One thread's.
DEVICE void combine_element(const CombineRows& p, u32 row, u32 column) {
    float sum = 0.0f;
    for (u32 i = 0; i < p.per; i++) {
        const u32 pick = row * p.per + i;
        const int from = p.inverse[pick];
        sum += from < 0 ? 0.0f : load(p.y, p.in_place ? pick : (u32)from, column);
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

// From raw router scores to experts and shares; shared memory: two floats an expert, then the picks. An expert is
// picked if fewer than k are ahead of it (larger, or equal with a lower number; NaN is
// behind everything); its place is the number of picks before it, so picks ascend.
DEVICE void route_row(const RouteRows& p, u32 row, float* shared) {
    const u32 experts = p.raw.width, k = p.ids.width;
    float* const scores = shared;
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

// ---- hyper-connection sites
//
// A mixer is one thread's: a mixer of 4 streams is 16 numbers, and 20 rounds of divisions are a chain that more
// lanes would not shorten. Sums over rows and columns run 0, 1, ...; at most 8 streams.

static const u32 STREAMS_MAX = 8;

struct HcMix {
    Rows out, u, mean_square;
    const float* base;
    const float* scale;
    u32 streams, rounds;
    float epsilon, norm_epsilon;
};

DEVICE float gate(float x) { return 1.0f / (1.0f + expf(-x)); }

// Rows (step 1, others s apart) or columns (step s, others 1 apart) divided by their sums.
template <u32 S>
DEVICE void divide(float* comb, u32 streams, u32 step, u32 apart, float epsilon) {
    const u32 s = S ? S : streams;
#pragma unroll
    for (u32 line = 0; line < s; line++) {
        float sum = 0.0f;
#pragma unroll
        for (u32 i = 0; i < s; i++) sum += comb[line * apart + i * step];
#pragma unroll
        for (u32 i = 0; i < s; i++) comb[line * apart + i * step] /= sum + epsilon;
    }
}

// One row of S streams, or where S is 0 of any number; S streams stay in registers.
template <u32 S>
DEVICE void mix(const HcMix& p, u32 row) {
    const u32 s = S ? S : p.streams;
    const float* const u = (const float*)row_of(p.u, row);
    float* const out = (float*)row_of(p.out, row);
    const float mean = *(const float*)row_of(p.mean_square, row);
    const float factor = 1.0f / sqrtf(mean + p.norm_epsilon);
    const auto value = [&](u32 i, u32 part) { return u[i] * factor * p.scale[part] + p.base[i]; };
    // 1 pre
    for (u32 i = 0; i < s; i++) out[i] = gate(value(i, 0)) + p.epsilon;
    if (p.u.width == s) return;
    // 2 comb: softmax over rows
    float comb[S ? S * S : STREAMS_MAX * STREAMS_MAX];
#pragma unroll
    for (u32 i = 0; i < s * s; i++) comb[i] = value(2 * s + i, 2);
#pragma unroll
    for (u32 line = 0; line < s; line++) {
        float* const c = comb + line * s;
        float top = c[0], sum = 0.0f;
#pragma unroll
        for (u32 i = 1; i < s; i++) top = c[i] > top ? c[i] : top;
#pragma unroll
        for (u32 i = 0; i < s; i++) {
            c[i] = expf(c[i] - top);
            sum += c[i];
        }
#pragma unroll
        for (u32 i = 0; i < s; i++) c[i] = c[i] / sum + p.epsilon;
    }
    // 3 Sinkhorn
    divide<S>(comb, s, s, 1, p.epsilon);
    for (u32 round = 1; round < p.rounds; round++) {
        divide<S>(comb, s, 1, s, p.epsilon);
        divide<S>(comb, s, s, 1, p.epsilon);
    }
#pragma unroll
    for (u32 i = 0; i < s * s; i++) out[s + i] = comb[i];
    // 4 post
    for (u32 i = s; i < 2 * s; i++) out[s * s + i] = 2.0f * gate(value(i, 1));
}

struct HcEnter {
    HcMix mix;
    Rows out, streams;
    const float* gain;
    const int* pick;  // row i is row pick[i], none where that is -1; null: row i
    Rows rounded;     // the row after a round trip; null: not wanted
    Round round;
};

// The mixer, the block's input and its norm; shared memory: one float per 128 columns, then the row.
DEVICE void enter_row(const HcEnter& p, u32 row, float* shared) {
    const u32 s = p.mix.streams, d = p.out.width;
    float* const sums = shared;
    float* const mixed = sums + ceil_div(d, FOLD);
    const int from = picked(p.pick, row, p.streams.rows);
    // 1 mixer
    if (threadIdx.x == 0) {
        if (s == 4) {
            mix<4>(p.mix, row);
        } else {
            mix<0>(p.mix, row);
        }
    }
    __syncthreads();
    // 2 input: streams by their gates, in order
    const float* const pre = (const float*)row_of(p.mix.out, row);
    for (u32 column = threadIdx.x; column < d; column += blockDim.x) {
        float sum = 0.0f;
        for (u32 j = 0; j < s; j++) {
            sum += pre[j] * (from < 0 ? 0.0f : load(p.streams, (u32)from, j * d + column));
        }
        mixed[column] = narrow(sum, p.out.kind);
    }
    __syncthreads();
    // 3 norm
    const float sum = row_sum(d, sums, [&](u32 column, float sum) {
        return fmaf(mixed[column], mixed[column], sum);
    });
    const float scale = 1.0f / sqrtf(sum / (float)d + p.mix.norm_epsilon);
    const auto value = [&](u32 column) { return mixed[column] * scale * p.gain[column]; };
    for (u32 column = threadIdx.x; column < d; column += blockDim.x) store(p.out, row, column, value(column));
    if (!p.rounded.at) return;
    write_rounded(p.rounded, row, d, p.round, [&](u32 column) { return narrow(value(column), p.out.kind); });
}
