// What all CUDA kernels share: views of rows, number formats, warp and row sums.
//
// No header of the toolkit is included: NVRTC alone compiles this, and so does a C++ compiler behind
// `backends/cuda/shim/shim.h`, which executes it on the CPU. Products and sums are fused only where
// `fmaf` is written. Every kernel takes one struct by value; blocks are one-dimensional.
//
// A row's bits are a function of its own inputs: sums run in an order that the width alone decides, there
// are no float atomics, and no argument varies from step to step (lengths and places are read from memory).
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#ifndef HADAL_SHIM
#define DEVICE static __device__ __forceinline__
// A call of its own, which takes no registers from the loops before it.
#define DEVICE_APART static __device__ __noinline__
// What every kernel begins with. Where a driver lets launches overlap (from Hopper on, and only if asked to), the next
// kernel may get ready from here on, and this one waits until all before it are done and their writes are seen.
// Everywhere else it does nothing.
DEVICE void begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
#define KERNEL(name, Args, threads)                                                              \
    DEVICE void name##_body(const Args& p);                                                      \
    extern "C" __global__ void __launch_bounds__(threads) name(const __grid_constant__ Args p) { \
        begin();                                                                                 \
        name##_body(p);                                                                          \
    }                                                                                            \
    DEVICE void name##_body(const Args& p)
// Dynamic shared memory, as bytes aligned to 16.
#define SHARED(name)                                             \
    extern __shared__ __align__(16) unsigned char hadal_shared[]; \
    unsigned char* const name = hadal_shared
// A fault of the step block (an index outside its table): the device is lost, with the plan's label.
DEVICE void fault() { __trap(); }
DEVICE float bits_to_float(u32 bits) { return __uint_as_float(bits); }
DEVICE u32 float_to_bits(float value) { return __float_as_uint(value); }
#endif

static const u32 WARP = 32;
static const u32 ALL_LANES = 0xffffffffu;
// Columns of a block of the fold, and of a row sum.
static const u32 FOLD = 128;

DEVICE u32 lane() { return threadIdx.x % WARP; }
DEVICE u32 warp() { return threadIdx.x / WARP; }
DEVICE u32 warps() { return blockDim.x / WARP; }
DEVICE u32 ceil_div(u32 a, u32 b) { return (a + b - 1) / b; }
DEVICE u32 least(u32 a, u32 b) { return a < b ? a : b; }
DEVICE u32 most(u32 a, u32 b) { return a > b ? a : b; }

// How the values of a row are stored. Numbers as in `backends/cuda/src/record/mod.rs`.
enum Kind : u32 {
    F32 = 0,
    BF16 = 1,
    F16 = 2,
    BYTES = 3,
    INTS = 4,
    FP8_ROWS = 5,  // (width - tail) E4M3 codes, tail bf16, one E8M0 a block, zeros to a multiple of 4
    FP4_ROWS = 6,  // width / 2 pairs of E2M1 codes, one E8M0 a block, zeros to a multiple of 4
};

// Rows with one stride.
struct Rows {
    u8* at;
    u64 stride;
    u32 rows;
    u32 width;
    u32 kind;
    u16 block;
    u16 tail;
};

DEVICE u8* row_of(const Rows& rows, u32 row) { return rows.at + row * rows.stride; }

// ---- numbers

DEVICE bool is_nan_bits(u32 bits) { return (bits & 0x7fffffffu) > 0x7f800000u; }
DEVICE float quiet_nan() { return bits_to_float(0x7fc00000u); }

DEVICE float from_bf16(u16 bits) { return bits_to_float((u32)bits << 16); }

// Nearest, ties to even.
DEVICE u16 to_bf16(float value) {
    const u32 bits = float_to_bits(value);
    if (is_nan_bits(bits)) return (u16)(bits >> 16 | 0x40);
    return (u16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

DEVICE float from_f16(u16 bits) {
    const u32 sign = (u32)(bits & 0x8000) << 16, magnitude = bits & 0x7fff;
    if (magnitude >= 0x7c00) return bits_to_float(sign | 0x7f800000u | (magnitude & 0x3ff) << 13);
    // 2^-24 steps below the smallest normal number, exact in f32.
    const float small = (float)magnitude * (1.0f / 16777216.0f);
    const float value = magnitude < 0x400 ? small : bits_to_float((magnitude << 13) + (112u << 23));
    return bits_to_float(float_to_bits(value) | sign);
}

// Nearest, ties to even.
DEVICE u16 to_f16(float value) {
    const u32 bits = float_to_bits(value), sign = bits >> 16 & 0x8000;
    u32 magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return (u16)(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
    if (magnitude >= 0x477ff000u) return (u16)(sign | 0x7c00);
    if (magnitude < 0x38800000u) {
        // Adding 0.5 leaves steps of 2^-24 in the low bits, rounded by the adder.
        const float rounded = bits_to_float(magnitude) + 0.5f;
        return (u16)(sign | (float_to_bits(rounded) - 0x3f000000u));
    }
    magnitude += 0xfff + (magnitude >> 13 & 1);
    return (u16)(sign | ((magnitude - (112u << 23)) >> 13));
}

DEVICE float from_e4m3(u32 code) {
    const u32 magnitude = code & 0x7f;
    const float small = (float)magnitude * (1.0f / 512.0f);
    const float normal = bits_to_float((magnitude << 20) + (120u << 23));
    float value = magnitude < 8 ? small : normal;
    value = magnitude == 0x7f ? quiet_nan() : value;
    return bits_to_float(float_to_bits(value) | (code & 0x80) << 24);
}

DEVICE float from_e2m1(u32 code) {
    const u32 magnitude = code & 7;
    const float normal = bits_to_float((magnitude << 22) + (126u << 23));
    const float value = magnitude < 2 ? (float)magnitude * 0.5f : normal;
    return bits_to_float(float_to_bits(value) | (code & 8) << 28);
}

// 2^(byte - 127).
DEVICE float from_e8m0(u32 byte) {
    if (byte == 0) return bits_to_float(1u << 22);
    return byte == 255 ? quiet_nan() : bits_to_float(byte << 23);
}

// The two code formats: what a magnitude is rounded to, and its scale.
struct E4m3 {
    static const u32 SCALE_NAN = 255;
    DEVICE float limit() { return 448.0f; }
    // Smallest power of two at least max(amax, 1e-4) / 448, as its E8M0 byte.
    DEVICE u32 scale(u32 amax_bits) {
        if (amax_bits > 0x7f800000u) return SCALE_NAN;
        return ((most(amax_bits, 0x38d1b717u) + 0x1fffffu) >> 23) - 8;
    }
    // Magnitude at most 448 to the nearest value, ties to even: adding 1.5 * 2^20 times its power of two
    // leaves three mantissa bits.
    DEVICE float round(float magnitude) {
        const u32 exponent = most(float_to_bits(magnitude) & 0x7f800000u, 121u << 23);
        const float magic = bits_to_float((exponent + (20u << 23)) | 1u << 22);
        return (magnitude + magic) - magic;
    }
    DEVICE u32 code(float rounded) {
        const u32 normal = (float_to_bits(rounded) >> 20) - (120u << 3);
        const u32 small = (float_to_bits(rounded + 1.0f / 64.0f) >> 20) - (121u << 3);
        return rounded < 1.0f / 64.0f ? small : normal;
    }
};

struct E2m1 {
    static const u32 SCALE_NAN = 255;
    DEVICE float limit() { return 6.0f; }
    DEVICE u32 scale(u32 amax_bits) {
        if (amax_bits > 0x7f800000u) return SCALE_NAN;
        return ((most(amax_bits, 3u << 23 | 1u << 22) + 0x3fffffu) >> 23) - 2;
    }
    DEVICE float round(float magnitude) {
        const u32 exponent = most(float_to_bits(magnitude) & 0x7f800000u, 127u << 23);
        const float magic = bits_to_float((exponent + (22u << 23)) | 1u << 22);
        return (magnitude + magic) - magic;
    }
    DEVICE u32 code(float rounded) {
        const u32 normal = (float_to_bits(rounded) >> 22) - (126u << 1);
        const u32 small = (float_to_bits(rounded + 1.0f) >> 22) - (127u << 1);
        return rounded < 1.0f ? small : normal;
    }
};

// |value| / scale, clamped and rounded to a value of the format.
template <class Format>
DEVICE float rounded_magnitude(float value, u32 scale) {
    const float inverse = bits_to_float((254 - scale) << 23);
    const float scaled = bits_to_float(float_to_bits(value) & 0x7fffffffu) * inverse;
    return Format::round(scaled < Format::limit() ? scaled : Format::limit());
}

// The code of a value, its sign in the format's top bit.
template <class Format>
DEVICE u32 code_of(float value, u32 scale, u32 sign_bit) {
    if (scale == Format::SCALE_NAN) return 0;
    const u32 sign = float_to_bits(value) >> 31 ? sign_bit : 0;
    return Format::code(rounded_magnitude<Format>(value, scale)) | sign;
}

// Quantised and dequantised again.
template <class Format>
DEVICE float round_trip(float value, u32 scale) {
    if (scale == Format::SCALE_NAN) return quiet_nan();
    const float magnitude = rounded_magnitude<Format>(value, scale) * from_e8m0(scale);
    return bits_to_float(float_to_bits(magnitude) | (float_to_bits(value) & 0x80000000u));
}

// ---- elements of rows

// Value of a column, however the row is stored.
DEVICE float load(const Rows& rows, u32 row, u32 column) {
    const u8* const at = row_of(rows, row);
    switch (rows.kind) {
        case F32: return ((const float*)at)[column];
        case BF16: return from_bf16(((const u16*)at)[column]);
        case F16: return from_f16(((const u16*)at)[column]);
        case FP8_ROWS: {
            const u32 coded = rows.width - rows.tail;
            if (column >= coded) {
                const u8* const pair = at + coded + 2 * (column - coded);
                return from_bf16((u16)(pair[0] | pair[1] << 8));
            }
            const u32 scale = at[coded + 2 * rows.tail + column / rows.block];
            return from_e4m3(at[column]) * from_e8m0(scale);
        }
        case FP4_ROWS: {
            const u32 pair = at[column / 2];
            const u32 scale = at[(rows.width + 1) / 2 + column / rows.block];
            return from_e2m1(column % 2 ? pair >> 4 : pair & 15) * from_e8m0(scale);
        }
        default: return 0.0f;
    }
}

// Stores a value in a plain row, rounded once.
DEVICE void store(const Rows& rows, u32 row, u32 column, float value) {
    u8* const at = row_of(rows, row);
    switch (rows.kind) {
        case F32: ((float*)at)[column] = value; break;
        case BF16: ((u16*)at)[column] = to_bf16(value); break;
        case F16: ((u16*)at)[column] = to_f16(value); break;
        default: break;
    }
}

DEVICE int load_int(const Rows& rows, u32 row, u32 column) {
    return ((const int*)row_of(rows, row))[column];
}

DEVICE void store_int(const Rows& rows, u32 row, u32 column, int value) {
    ((int*)row_of(rows, row))[column] = value;
}

// The row that a list names in place of `row`; -1: none. No list: the row itself.
DEVICE int picked(const int* list, u32 row, u32 rows) {
    if (!list) return (int)row;
    if (list[row] >= (int)rows) fault();
    return list[row];
}

// ---- sums

// Sum over the lanes of a warp, by the tree 16, 8, 4, 2, 1; every lane gets it.
DEVICE float warp_sum(float value) {
    for (u32 step = 16; step > 0; step /= 2) value += __shfl_xor_sync(ALL_LANES, value, step);
    return value;
}

DEVICE u32 warp_most(u32 value) {
    for (u32 step = 16; step > 0; step /= 2) {
        value = most(value, __shfl_xor_sync(ALL_LANES, value, step));
    }
    return value;
}

// Sum over a row of `width` columns. In a block of 128 columns lane l owns columns 4l..4l+3, in order;
// the lanes are joined by the tree; blocks are added in order. Which warp sums a block is free, so the
// bits do not depend on the number of threads. `part(column, sum)` adds a column to a sum. `sums` is
// shared memory of one float a block. Every thread gets the total.
template <class Part>
DEVICE float row_sum(u32 width, float* sums, Part part) {
    const u32 blocks = ceil_div(width, FOLD);
    for (u32 block = warp(); block < blocks; block += warps()) {
        float sum = 0.0f;
        for (u32 i = 0; i < 4; i++) {
            const u32 column = block * FOLD + 4 * lane() + i;
            if (column < width) sum = part(column, sum);
        }
        sum = warp_sum(sum);
        if (lane() == 0) sums[block] = sum;
    }
    __syncthreads();
    float total = 0.0f;
    for (u32 block = 0; block < blocks; block++) total += sums[block];
    return total;
}

// Sum over all threads of those before this one, and of all; `room` is shared, one place a warp. Called by all
// threads of a block.
DEVICE u32 places_before(u32 mine, u32* room, u32* all) {
    u32 sum = mine;
    for (u32 step = 1; step < WARP; step *= 2) {
        const u32 other = __shfl_up_sync(ALL_LANES, sum, step);
        if (lane() >= step) sum += other;
    }
    if (lane() == WARP - 1) room[warp()] = sum;
    __syncthreads();
    u32 before = sum - mine, total = 0;
    for (u32 i = 0; i < warps(); i++) {
        if (i < warp()) before += room[i];
        total += room[i];
    }
    __syncthreads();
    *all = total;
    return before;
}

// ---- the last block

// True in all threads of the last of `blocks` blocks that come here with this counter; it sees what the others wrote
// to memory before. The counter is 0 before and after. Who is last shows in no bits: it does what any would.
DEVICE bool is_last(u32* counter, u32 blocks) {
    __shared__ u32 before;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        before = atomicAdd(counter, 1u);
        if (before + 1 == blocks) *counter = 0;
    }
    __syncthreads();
    if (before + 1 != blocks) return false;
    __threadfence();
    return true;
}

// ---- functions that several ops have

DEVICE float silu(float x) { return x / (1.0f + expf(-x)); }

DEVICE float sqrt_softplus(float x) {
    return sqrtf((x > 0.0f ? x : 0.0f) + log1pf(expf(-fabsf(x))));
}

// Rounded to a dtype.
DEVICE float narrow(float value, u32 kind) {
    switch (kind) {
        case BF16: return from_bf16(to_bf16(value));
        case F16: return from_f16(to_f16(value));
        default: return value;
    }
}

// Rotates the last `turned` values of a row in shared memory, in interleaved pairs, by a row of cosines and
// then sines; rounds them.
DEVICE void turn(float* values, u32 width, const float* angle, u32 turned, u32 kind) {
    for (u32 pair = threadIdx.x; pair < turned / 2; pair += blockDim.x) {
        float* const at = values + width - turned + 2 * pair;
        const float x = at[0], y = at[1];
        const float cosine = angle[pair], sine = angle[turned / 2 + pair];
        at[0] = narrow(x * cosine - y * sine, kind);
        at[1] = narrow(y * cosine + x * sine, kind);
    }
}

// ---- coded rows

// One block of columns of a coded row, by a warp: its scale, then its codes. `value(column)` is asked
// twice. `first` is a multiple of the block.
template <class Format, class Value>
DEVICE u32 block_scale(u32 first, u32 end, Value value) {
    u32 amax = 0;
    for (u32 column = first + lane(); column < end; column += WARP) {
        amax = most(amax, float_to_bits(value(column)) & 0x7fffffffu);
    }
    return Format::scale(warp_most(amax));
}

template <class Value>
DEVICE void encode_e4m3(u8* codes, u8* scale, u32 first, u32 end, Value value) {
    const u32 byte = block_scale<E4m3>(first, end, value);
    if (lane() == 0) *scale = (u8)byte;
    for (u32 column = first + lane(); column < end; column += WARP) {
        codes[column] = (u8)code_of<E4m3>(value(column), byte, 0x80);
    }
}

template <class Value>
DEVICE void encode_e2m1(u8* codes, u8* scale, u32 first, u32 end, Value value) {
    const u32 byte = block_scale<E2m1>(first, end, value);
    if (lane() == 0) *scale = (u8)byte;
    for (u32 column = first + 2 * lane(); column < end; column += 2 * WARP) {
        const u32 even = code_of<E2m1>(value(column), byte, 8);
        const u32 odd = column + 1 < end ? code_of<E2m1>(value(column + 1), byte, 8) : 0;
        codes[column / 2] = (u8)(even | odd << 4);
    }
}

// Writes a whole row in its codec, or rounded to its dtype; the warps of the block share its blocks.
template <class Value>
DEVICE void encode_row(const Rows& out, u32 row, Value value) {
    u8* const at = row_of(out, row);
    const u32 width = out.width;
    if (out.kind == FP8_ROWS) {
        const u32 coded = width - out.tail, blocks = ceil_div(coded, out.block);
        u8* const scales = at + coded + 2 * out.tail;
        for (u32 block = warp(); block < blocks; block += warps()) {
            const u32 first = block * out.block, end = least(first + out.block, coded);
            encode_e4m3(at, scales + block, first, end, value);
        }
        for (u32 i = threadIdx.x; i < out.tail; i += blockDim.x) {
            const u16 bits = to_bf16(value(coded + i));
            at[coded + 2 * i] = (u8)bits;
            at[coded + 2 * i + 1] = (u8)(bits >> 8);
        }
        const u32 bytes = coded + 2 * out.tail + blocks;
        if (threadIdx.x < (4 - bytes % 4) % 4) at[bytes + threadIdx.x] = 0;
    } else if (out.kind == FP4_ROWS) {
        const u32 blocks = ceil_div(width, out.block), codes = (width + 1) / 2;
        for (u32 block = warp(); block < blocks; block += warps()) {
            const u32 first = block * out.block, end = least(first + out.block, width);
            encode_e2m1(at, at + codes + block, first, end, value);
        }
        const u32 bytes = codes + blocks;
        if (threadIdx.x < (4 - bytes % 4) % 4) at[bytes + threadIdx.x] = 0;
    } else {
        for (u32 i = threadIdx.x; i < width; i += blockDim.x) store(out, row, i, value(i));
    }
}


// A round trip through a block format: FP8_ROWS or FP4_ROWS, or F32 for none.
struct Round {
    u32 form;
    u16 block, tail;
};

// Writes a row after a round trip. Into rows of the same codec that is their encoding: codes are re-derived,
// not rounded twice. The warps of the block share the blocks of columns; `value` is asked more than once.
template <class Value>
DEVICE void write_rounded(const Rows& out, u32 row, u32 width, Round round, Value value) {
    if (round.form == F32 || out.kind == round.form) {
        encode_row(out, row, value);
        return;
    }
    const bool fp8 = round.form == FP8_ROWS;
    const u32 coded = width - round.tail, blocks = ceil_div(coded, round.block);
    for (u32 block = warp(); block < blocks; block += warps()) {
        const u32 first = block * round.block, end = least(first + round.block, coded);
        const u32 scale =
            fp8 ? block_scale<E4m3>(first, end, value) : block_scale<E2m1>(first, end, value);
        for (u32 column = first + lane(); column < end; column += WARP) {
            const float x = value(column);
            store(out, row, column, fp8 ? round_trip<E4m3>(x, scale) : round_trip<E2m1>(x, scale));
        }
    }
    for (u32 column = coded + threadIdx.x; column < width; column += blockDim.x) {
        store(out, row, column, value(column));
    }
}
