// hyper-connection sites for CUDA: hc_mix, and what is around the product in hc_pre and hc_turn. Definition:
// oracle.rs, and the lowerings.
//
// A mixer is one thread's: a mixer of 4 streams is 16 numbers, and 20 rounds of divisions are a chain that more
// lanes would not shorten. Sums over rows and columns run 0, 1, ...; at most 8 streams.
#include "../common/common.cuh"

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

KERNEL(hc_mix, HcMix, 32) {
    const u32 row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= p.u.rows) return;
    if (p.streams == 4) {
        mix<4>(p, row);
    } else {
        mix<0>(p, row);
    }
}

struct HcStreams {
    Rows streams, old, mean_square;  // old [n, (s + 1) * D], or the streams themselves where no site ends
    Rows mix;                        // of the ending site; no rows: none ends
    const int* pick;                 // row i is row pick[i], none where that is -1; null: row i
    u32 streams_count, pad;
};

// The end of a site and the mean square of what it leaves. One block a row; shared memory: one float per 128
// columns. streams[k] = sum_j comb[j, k] * old[j] + post[k] * y, j in order, product and sum rounded apart.
KERNEL(hc_streams, HcStreams, 256) {
    SHARED(shared);
    const u32 row = blockIdx.x, s = p.streams_count, width = p.streams.width, d = width / s;
    const int from = picked(p.pick, row, p.streams.rows);
    // 1 new streams
    if (p.mix.rows > 0) {
        const float* const mix = (const float*)row_of(p.mix, row) + s;
        for (u32 column = threadIdx.x; column < width; column += blockDim.x) {
            const u32 k = column / d;
            float sum = 0.0f;
            for (u32 j = 0; j <= s; j++) sum += mix[j * s + k] * load(p.old, row, j * d + column % d);
            store(p.streams, row, column, sum);
        }
        __syncthreads();
    }
    // 2 their mean square
    const float sum = row_sum(width, (float*)shared, [&](u32 column, float sum) {
        const float x = from < 0 ? 0.0f : load(p.streams, (u32)from, column);
        return fmaf(x, x, sum);
    });
    if (threadIdx.x == 0) store(p.mean_square, row, 0, sum / (float)width);
}

struct HcEnter {
    HcMix mix;
    Rows out, streams;
    const float* gain;
    const int* pick;  // as above
};

// The mixer, the block's input and its norm. One block a row; shared memory: one float per 128 columns, then
// the row.
KERNEL(hc_enter, HcEnter, 256) {
    SHARED(shared);
    const u32 row = blockIdx.x, s = p.mix.streams, d = p.out.width;
    float* const sums = (float*)shared;
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
    for (u32 column = threadIdx.x; column < d; column += blockDim.x) {
        store(p.out, row, column, mixed[column] * scale * p.gain[column]);
    }
}
