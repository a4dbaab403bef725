// bucket for CUDA: stable counting sort of keys. Integers; definition: oracle.rs.
//
// One block. A thread owns every blockDim-th group and walks all keys, which the block brings to shared
// memory piece by piece: a few thousand keys cost microseconds, and the order is stable by construction.
#include "../common/common.cuh"

static const u32 PIECE = 1024;

struct Bucket {
    int* offsets;
    int* order;
    int* inverse;
    const int* keys;
    u32 groups, count;
};

// Brings the keys from `first` on to shared memory; the same number for all threads.
DEVICE u32 bring(const Bucket& p, u32 first, int* piece) {
    const u32 here = least(PIECE, p.count - first);
    __syncthreads();
    for (u32 i = threadIdx.x; i < here; i += blockDim.x) piece[i] = p.keys[first + i];
    __syncthreads();
    return here;
}

KERNEL(bucket, Bucket, 256) {
    __shared__ int piece[PIECE];
    // 1 nothing is anywhere yet; a key that is no group is a fault
    for (u32 i = threadIdx.x; i < p.count; i += blockDim.x) {
        p.order[i] = -1;
        if (p.keys[i] < 0) p.inverse[i] = -1;
        if (p.keys[i] >= (int)p.groups) fault();
    }
    // 2 sizes, one place ahead
    for (u32 base = 0; base < p.groups; base += blockDim.x) {
        const u32 group = base + threadIdx.x;
        int size = 0;
        for (u32 first = 0; first < p.count; first += PIECE) {
            const u32 here = bring(p, first, piece);
            for (u32 i = 0; i < here; i++) size += piece[i] == (int)group;
        }
        if (group < p.groups) p.offsets[group + 1] = size;
    }
    __syncthreads();
    // 3 sums of sizes
    if (threadIdx.x == 0) {
        int sum = 0;
        p.offsets[0] = 0;
        for (u32 group = 0; group < p.groups; group++) {
            sum += p.offsets[group + 1];
            p.offsets[group + 1] = sum;
        }
    }
    __syncthreads();
    // 4 places, in the order of keys
    for (u32 base = 0; base < p.groups; base += blockDim.x) {
        const u32 group = base + threadIdx.x;
        int place = group < p.groups ? p.offsets[group] : 0;
        for (u32 first = 0; first < p.count; first += PIECE) {
            const u32 here = bring(p, first, piece);
            for (u32 i = 0; i < here; i++) {
                if (piece[i] != (int)group || group >= p.groups) continue;
                p.order[place] = (int)(first + i);
                p.inverse[first + i] = place++;
            }
        }
    }
}
