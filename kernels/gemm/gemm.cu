// matmul for CUDA: out[i] = x[i] * W[group(i)]^T, weights as they lie in the checkpoint.
//
// Arithmetic class `simt`: columns are cut into blocks of 128. In a block lane l of a warp owns columns
// 4l..4l+3: one fma chain of codes from zero, folded into the lane's sum with the block's scale (an exact
// power of two, so it rounds once). Lanes are joined by the tree 16, 8, 4, 2, 1. So an element depends on
// its row, its weight row and the width, not on how many rows there are or which warp computes it.
//
// A warp computes FEATURES outputs of up to TILE rows at a time; weights are read once per TILE rows.
// Launch: blocks (outputs / 16, groups that may have rows, tiles), 128 threads; no shared memory. Bound by
// memory up to TILE rows, by instructions beyond.
#include "../common/common.cuh"

static const u32 FEATURES = 4;
static const u32 TILE = 8;

// Numbers as in `backends/cuda/src/weight.rs`.
enum Encoding : u32 { W_F32 = 0, W_BF16 = 1, W_F16 = 2, W_FP8 = 3, W_FP4 = 4 };

struct Matmul {
    Rows out, x;
    const u8* codes;
    const u8* scales;     // null: none
    const int* offsets;   // null: row i uses group i % groups
    u64 row_bytes;        // of codes
    u64 segment_scale_bytes;
    u32 groups, outputs, segment_rows, encoding;
    u32 block_rows, block_cols, row_scales, aligned;
};

// Four weights from column 4c on, without their scale. Past the width: zeros.
DEVICE void weights(const Matmul& p, const u8* row, u32 column, float w[4]) {
    const u32 width = p.x.width;
    if (p.aligned && column + 4 <= width) {
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

// Four activations from a column on; past the width zeros.
DEVICE void activations(const Matmul& p, u32 row, u32 column, float x[4]) {
    for (u32 i = 0; i < 4; i++) x[i] = column + i < p.x.width ? load(p.x, row, column + i) : 0.0f;
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

// One tile of rows of a group times the warp's outputs. `first` and `step`: where its rows lie.
DEVICE void tile(const Matmul& p, u32 group, u32 output, u32 outputs, u32 first, u32 step, u32 rows) {
    float sums[FEATURES][TILE] = {};
    const u8* codes[FEATURES];
    const u8* scales[FEATURES];
#pragma unroll
    for (u32 f = 0; f < FEATURES; f++) {
        // Outputs past the end repeat the last one and are not written.
        const u32 row = group * p.outputs + output + least(f, outputs - 1);
        codes[f] = p.codes + row * p.row_bytes;
        const u32 segment = row / p.segment_rows, inside = row % p.segment_rows;
        scales[f] = p.scales + segment * p.segment_scale_bytes + inside / p.block_rows * p.row_scales;
    }
    for (u32 block = 0; block * FOLD < p.x.width; block++) {
        const u32 column = block * FOLD + 4 * lane();
        float w[FEATURES][4], s[FEATURES];
#pragma unroll
        for (u32 f = 0; f < FEATURES; f++) {
            weights(p, codes[f], column, w[f]);
            const bool scaled = p.scales && column < p.x.width;
            s[f] = scaled ? from_e8m0(scales[f][column / p.block_cols]) : 1.0f;
        }
#pragma unroll
        for (u32 r = 0; r < TILE; r++) {
            if (r >= rows) break;
            float x[4];
            activations(p, first + r * step, column, x);
#pragma unroll
            for (u32 f = 0; f < FEATURES; f++) {
                float chain = w[f][0] * x[0];
                for (u32 i = 1; i < 4; i++) chain = fmaf(w[f][i], x[i], chain);
                sums[f][r] = fmaf(chain, s[f], sums[f][r]);
            }
        }
    }
#pragma unroll
    for (u32 r = 0; r < TILE; r++) {
        if (r >= rows) break;
#pragma unroll
        for (u32 f = 0; f < FEATURES; f++) {
            const float sum = warp_sum(sums[f][r]);
            if (lane() == 0 && f < outputs) store(p.out, first + r * step, output + f, sum);
        }
    }
}

KERNEL(matmul, Matmul, 128) {
    const u32 output = (blockIdx.x * warps() + warp()) * FEATURES;
    const u32 group = group_of(p, blockIdx.y);
    if (output >= p.outputs || group >= p.groups) return;
    const u32 outputs = least(FEATURES, p.outputs - output);
    // Where the group's rows lie: every groups-th, or a range.
    u32 begin = group, step = p.groups, count = p.x.rows / p.groups;
    if (p.offsets) {
        const int low = p.offsets[group], high = p.offsets[group + 1];
        if (low < 0 || high < low || (u32)high > p.x.rows) {
            fault();
            return;
        }
        begin = (u32)low, step = 1, count = (u32)(high - low);
    }
    for (u32 row = blockIdx.z * TILE; row < count; row += gridDim.z * TILE) {
        tile(p, group, output, outputs, begin + row * step, step, least(TILE, count - row));
    }
}
