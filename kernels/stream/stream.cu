// hyper-connection sites for CUDA: hc_mix, and what is around the product in hc_pre and hc_turn. Definition:
// oracle.rs, and the lowerings. What the end of a product does, too, is in rows.cuh.
#include "../common/rows.cuh"

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

// One block a row; shared memory: one float per 128 columns, then the row.
KERNEL(hc_enter, HcEnter, 256) {
    SHARED(shared);
    enter_row(p, blockIdx.x, (float*)shared);
}
