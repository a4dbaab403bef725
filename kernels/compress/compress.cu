// compress for CUDA: windows that this step completes become cache entries. Definition: oracle.rs.
//
// One block a window: a thread pools every blockDim-th channel over the slots, then the block norms, turns,
// rotates and rounds the entry, each part rounded to the activations' dtype as where they are ops of their
// own. Channels are independent while pooling, so the bits do not depend on the number of threads. The
// landing rows are kept in the tail behind that, as it still reads the old tail: by the last block if they are few, or
// by a launch of its own.
#include "../common/rows.cuh"

struct Compress {
    Rows entries, tail, landing, bias, pool, angle, entry_row;
    const float* gain;
    const u8* rotation;  // [w, w], null: none
    float epsilon;
    u32 dtype;          // a Kind: what each part rounds to
    u32 rotation_kind;  // F32 or BF16
    Round round;
    u32 pad;
    u32* counter;      // of blocks, 0 before and after; null: the tail is not kept here
    ScatterRows keep;
};

// A half row of the tail, or of the landing rows past its end: `width` numbers.
DEVICE const float* half_row(const Compress& p, u32 index) {
    const u32 width = p.entries.width, halves = p.landing.width / width;
    const u32 row = index / halves, half = index % halves;
    if (row >= p.tail.rows + p.landing.rows) fault();
    const bool old = row < p.tail.rows;
    const u8* const at = old ? row_of(p.tail, row) : row_of(p.landing, row - p.tail.rows);
    return (const float*)at + half * width;
}

// One window. Shared memory: one float per 128 channels, then two rows.
DEVICE void compress_entry(const Compress& p, u32 window, float* shared) {
    const u32 windows = p.entry_row.rows;
    const u32 width = p.entries.width, slots = p.pool.width;
    const int target = load_int(p.entry_row, window, 0);
    if (target < 0) return;
    if ((u32)target >= p.entries.rows) {
        fault();
        return;
    }
    float* const sums = shared;
    float* const entry = sums + ceil_div(width, FOLD);
    float* const turned = entry + width;
    // 1 pool: softmax over the slots; a masked gate is -1e30, so that a window of them pools to 0
    const auto score = [&](u32 slot, u32 channel) {
        const int gate = load_int(p.pool, windows + window, slot);
        return gate < 0 ? -1e30f
                        : half_row(p, (u32)gate)[channel] + load(p.bias, slot, channel);
    };
    for (u32 channel = threadIdx.x; channel < width; channel += blockDim.x) {
        float top = bits_to_float(0xff800000u), sum = 0.0f, total = 0.0f;
        for (u32 slot = 0; slot < slots; slot++) {
            const float s = score(slot, channel);
            top = s > top ? s : top;
        }
        for (u32 slot = 0; slot < slots; slot++) {
            const float share = expf(score(slot, channel) - top);
            const int from = load_int(p.pool, window, slot);
            sum += share * (from < 0 ? 0.0f : half_row(p, (u32)from)[channel]);
            total += share;
        }
        entry[channel] = narrow(sum / total, p.dtype);
    }
    __syncthreads();
    // 2 norm
    const float sum = row_sum(width, sums, [&](u32 channel, float sum) {
        return fmaf(entry[channel], entry[channel], sum);
    });
    const float scale = 1.0f / sqrtf(sum / (float)width + p.epsilon);
    for (u32 channel = threadIdx.x; channel < width; channel += blockDim.x) {
        entry[channel] = narrow(entry[channel] * scale * p.gain[channel], p.dtype);
    }
    __syncthreads();
    // 3 rope
    turn(entry, width, (const float*)row_of(p.angle, window), p.angle.width, p.dtype);
    __syncthreads();
    // 4 rotation: the chains of products of class `simt` need no warp here, a channel is a thread's
    const float* done = entry;
    if (p.rotation) {
        for (u32 channel = threadIdx.x; channel < width; channel += blockDim.x) {
            float dot = 0.0f;
            for (u32 k = 0; k < width; k++) {
                const u64 at = (u64)channel * width + k;
                const float weight = p.rotation_kind == F32 ? ((const float*)p.rotation)[at]
                                                            : from_bf16(((const u16*)p.rotation)[at]);
                dot = fmaf(weight, entry[k], dot);
            }
            turned[channel] = narrow(dot, p.dtype);
        }
        __syncthreads();
        done = turned;
    }
    // 5 round and write
    write_rounded(p.entries, (u32)target, width, p.round, [&](u32 channel) { return done[channel]; });
}

// A block's window, and what the last of them does.
DEVICE void compress_block(const Compress& p, u32 window, u8* shared) {
    compress_entry(p, window, (float*)shared);
    if (p.counter && is_last(p.counter, p.entry_row.rows)) scatter_all(p.keep);
}

// Blocks: windows. 256 threads.
KERNEL(compress_entries, Compress, 256) {
    SHARED(shared);
    compress_block(p, blockIdx.x, shared);
}

// Two that do not need each other. As in `backends/cuda/src/record/compress.rs`.
struct Two {
    Compress parts[2];
};

// Blocks: windows of the first, then of the second. 256 threads.
KERNEL(compress_two, Two, 256) {
    SHARED(shared);
    const u32 first = p.parts[0].entry_row.rows, block = blockIdx.x;
    if (block < first) {
        compress_block(p.parts[0], block, shared);
    } else {
        compress_block(p.parts[1], block - first, shared);
    }
}
