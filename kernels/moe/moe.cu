// The router's end and bucket for CUDA. Definitions: the lowering of route, and oracle.rs.
#include "../common/common.cuh"

// bucket: stable counting sort of keys. One block. A thread owns every blockDim-th group and walks all keys, which the block brings to shared
// memory piece by piece: a few thousand keys cost microseconds, and the order is stable by construction.
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

struct RouteRows {
    Rows ids, shares, raw;
    Rows bias, count;   // by score
    Rows table, token;  // by a table; no rows of `table` where scores decide
    float scale;
    u32 pad;
};

// From raw router scores to experts and shares. One block a row; shared memory: two floats an expert, then
// the picks. An expert is picked if fewer than k are ahead of it (larger, or equal with a lower number; NaN is
// behind everything); its place is the number of picks before it, so picks ascend.
KERNEL(route_rows, RouteRows, 256) {
    SHARED(shared);
    const u32 row = blockIdx.x, experts = p.raw.width, k = p.ids.width;
    float* const scores = (float*)shared;
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
