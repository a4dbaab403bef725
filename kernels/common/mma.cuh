// What kernels with tensor-core products share: the product, decoders of 32 codes, matrices in shared memory.
//
// One product: m16n8k16 of bf16 with f32 sums, operands in the layout of PTX. Lane (g, t) = (lane / 4, lane % 4).
// A decoded code, scale included, is exact in bf16, so a product is exact. Inline PTX has a stand-in in
// `backends/cuda/shim/shim.h`, which runs on the CPU.
#pragma once
#include "../common/common.cuh"

// Numbers as in `backends/cuda/src/weight.rs`.
enum Encoding : u32 { W_F32 = 0, W_BF16 = 1, W_F16 = 2, W_FP8 = 3, W_FP4 = 4 };

// Of one product: outputs, rows of x.
static const u32 M = 16;
static const u32 N = 8;
// Products that a block of 128 columns takes.
static const u32 STEPS = 8;

#ifndef HADAL_SHIM
// d += a * b for 16 weight rows, 8 rows of x and 16 columns; operands in the layout of PTX.
DEVICE void mma(float d[4], const u32 a[4], const u32 b[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Products of two pairs of bf16, subnormal numbers included; -0 is added, which changes nothing.
DEVICE u32 times(u32 a, u32 b) {
    u32 product;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(product) : "r"(a), "r"(b), "r"(0x80008000u));
    return product;
}

DEVICE u32 shared_address(const void* at) {
    u32 address;
    asm("{ .reg .u64 wide; cvta.to.shared.u64 wide, %1; cvt.u32.u64 %0, wide; }" : "=r"(address) : "l"(at));
    return address;
}

// Four 8 x 8 matrices of 16-bit numbers from shared memory; lane l names row l % 8 of matrix l / 8, 16 bytes that
// are aligned. Lane (g, t) gets columns 2t and 2t + 1 of row g of each.
DEVICE void matrices(u32 out[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// The same of what is turned: lane (g, t) gets rows 2t and 2t + 1 of column g.
DEVICE void matrices_turned(u32 out[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// Copies 4 or 8 bytes, aligned as much, to shared memory, and does not wait for them.
template <u32 BYTES>
DEVICE void copy_ahead(void* to, const void* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;"
                 :
                 : "r"(shared_address(to)), "l"(from), "n"(BYTES)
                 : "memory");
}

// Waits for this thread's copies.
DEVICE void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }
#endif

// ---- bulk copies, which GPUs have from Hopper on: to shared memory, in the background, counted by a barrier there

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
// A barrier whose phase ends when `count` threads have arrived and all bytes they announced are there.
DEVICE void bulk_init(u64* barrier, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count) : "memory");
}

// Shows barriers to copies and to other threads: by the thread that made them, before all threads meet.
DEVICE void bulk_ready() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Arrives, and announces the bytes of the copies that this thread asks for next.
DEVICE void bulk_expect(u64* barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
}

// Addresses and bytes are multiples of 16. What is copied is read once: the first to go from the second-level cache.
DEVICE void bulk_copy(void* to, const void* from, u32 bytes, u64* barrier) {
    u64 policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;"
        ::"r"(shared_address(to)), "l"(from), "r"(bytes), "r"(shared_address(barrier)), "l"(policy)
        : "memory");
}

// Waits for the end of a phase; the first has parity 0. What was copied is seen from then on.
DEVICE void bulk_wait(u64* barrier, u32 parity) {
    u32 done;
    do {
        asm volatile(
            "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.b32 %0, 1, 0, p; }"
            : "=r"(done)
            : "r"(shared_address(barrier)), "r"(parity)
            : "memory");
    } while (!done);
}
#elif !defined(HADAL_SHIM)
// No such copies: no launch gets here, and one that does is a fault.
DEVICE void bulk_init(u64*, u32) {}
DEVICE void bulk_ready() {}
DEVICE void bulk_expect(u64*, u32) {}
DEVICE void bulk_copy(void*, const void*, u32, u64*) { fault(); }
DEVICE void bulk_wait(u64*, u32) {}
#endif

// 32 columns of a row as they are stored: what a lane needs of a block.
template <u32 E>
struct Codes {
    static const u32 WORDS = E == W_BF16 ? 16 : E == W_FP8 ? 8 : 4;
    u32 words[WORDS];
};

// Quarter lane % 4 of a block. Past the end of the row: zeros, which all encodings have as code 0.
template <u32 E>
DEVICE void read(Codes<E>* codes, const u8* row, u64 row_bytes, u32 block, bool aligned) {
    const u32 bytes = 4 * Codes<E>::WORDS;
    const u64 first = (u64)(4 * block + lane() % 4) * bytes;
    if (aligned && first + bytes <= row_bytes) {
#pragma unroll
        for (u32 i = 0; i < Codes<E>::WORDS; i += 4) {
            const uint4 v = *(const uint4*)(row + first + 4 * i);
            codes->words[i] = v.x, codes->words[i + 1] = v.y;
            codes->words[i + 2] = v.z, codes->words[i + 3] = v.w;
        }
        return;
    }
#pragma unroll
    for (u32 i = 0; i < Codes<E>::WORDS; i++) {
        u32 word = 0;
        const u32 step = E == W_BF16 ? 2 : 1;
        for (u32 b = 0; b < 4; b += step) {
            const u64 at = first + 4 * i + b;
            if (at < row_bytes) word |= (step == 2 ? *(const u16*)(row + at) : (u32)row[at]) << 8 * b;
        }
        codes->words[i] = word;
    }
}

// Two values that are exact in bf16, the first in the low half.
DEVICE u32 pair(float low, float high) {
    return float_to_bits(low) >> 16 | (float_to_bits(high) & 0xffff0000u);
}

// What decoding 32 codes needs of their scale. All decoders give the bits of value * scale in bf16.
struct Unscaled {};

// E4M3: the code's bits, moved into the places of a bf16, are its value times 2^-120, so one product of pairs of
// bf16 by scale * 2^120 is exact. Where that is no bf16 there are two products. A NaN code makes all that share
// the scale here NaN: the row's product is that anyway.
struct Fp8Scale {
    u32 factor, more;  // twice each
    bool large;
};

// The highest bit of a byte: it is a NaN code.
DEVICE u32 nan_codes(u32 word) { return (word & 0x7f7f7f7fu) + 0x01010101u; }

DEVICE Fp8Scale fp8_scale(u32 byte, u32 nan) {
    const u32 exponent = (nan & 0x80808080u) || byte == 255 ? 255 : least(byte + 120, 254);
    const u32 quiet = exponent == 255 ? 0x400040u : 0;
    return {exponent * 0x800080u | quiet, (most(byte, 134) - 7) * 0x800080u, byte > 134};
}

// Four codes as two pairs of bf16, scaled.
DEVICE void decode_fp8(u32 v, const Fp8Scale& by, u32 out[2]) {
    // The codes of a pair in the high bytes of two halves.
    const u32 low = __byte_perm(v, 0, 0x1404), high = __byte_perm(v, 0, 0x3424);
    out[0] = times((low & 0x80008000u) | (low >> 4 & 0x07f007f0u), by.factor);
    out[1] = times((high & 0x80008000u) | (high >> 4 & 0x07f007f0u), by.factor);
    if (by.large) out[0] = times(out[0], by.more), out[1] = times(out[1], by.more);
}

// E2M1: bytes of the 8 magnitudes times the scale, picked by the code's own bits.
struct Fp4Table {
    u32 low[2], high[2];
};

DEVICE Unscaled prepare(const Codes<W_BF16>&, u32) { return {}; }

DEVICE Fp8Scale prepare(const Codes<W_FP8>& codes, u32 byte) {
    u32 nan = 0;
#pragma unroll
    for (u32 i = 0; i < Codes<W_FP8>::WORDS; i++) nan |= nan_codes(codes.words[i]);
    return fp8_scale(byte, nan);
}

DEVICE Fp4Table prepare(const Codes<W_FP4>&, u32 byte) {
    const float scale = from_e8m0(byte);
    const u32 a = pair(0.0f * scale, 0.5f * scale), b = pair(scale, 1.5f * scale);
    const u32 c = pair(2.0f * scale, 3.0f * scale), d = pair(4.0f * scale, 6.0f * scale);
    return {{__byte_perm(a, b, 0x6420), __byte_perm(c, d, 0x6420)},
            {__byte_perm(a, b, 0x7531), __byte_perm(c, d, 0x7531)}};
}

// Columns 4j..4j+3 of the 32 as two pairs of bf16, scaled.
DEVICE void decode(const Codes<W_BF16>& codes, u32 j, const Unscaled&, u32 out[2]) {
    out[0] = codes.words[2 * j];
    out[1] = codes.words[2 * j + 1];
}

DEVICE void decode(const Codes<W_FP8>& codes, u32 j, const Fp8Scale& by, u32 out[2]) {
    decode_fp8(codes.words[j], by, out);
}

DEVICE void decode(const Codes<W_FP4>& codes, u32 j, const Fp4Table& table, u32 out[2]) {
    const u32 v = codes.words[j / 2] >> 16 * (j % 2), moved = v << 4;
    // A selector has 3 bits; the codes' fourth, the sign, is put on top of the high bytes.
    const u32 low = __byte_perm(table.low[0], table.low[1], v);
    const u32 high = __byte_perm(table.high[0], table.high[1], v);
    out[0] = __byte_perm(low, high, 0x5140) | (__byte_perm(moved, v, 0x4000) & 0x80008000u);
    out[1] = __byte_perm(low, high, 0x7362) | (__byte_perm(moved, v, 0x5010) & 0x80008000u);
}

// A block of columns of this lane's rows g and g + 8, as the weights of its products.
template <class C, class By>
DEVICE void decode_all(const C& a, const By& by_low, const C& b, const By& by_high, u32 weights[STEPS][4]) {
#pragma unroll
    for (u32 j = 0; j < STEPS; j++) {
        u32 upper[2], lower[2];
        decode(a, j, by_low, upper);
        decode(b, j, by_high, lower);
        weights[j][0] = upper[0], weights[j][1] = lower[0];
        weights[j][2] = upper[1], weights[j][3] = lower[1];
    }
}

// ---- products of a warp group, which Hopper alone has

// x of one product of a warp group in shared memory: columns 0 to 7 of 64 rows, 16 bytes each, then columns 8 to 15.
static const u32 WIDE_ROWS = 64;
static const u32 WIDE_HALF_BYTES = WIDE_ROWS * 16;

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
// Before the first product of a chain: registers and accumulators are as they were written.
DEVICE void wide_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// d = a * b, or d += a * b: each of four warps has 16 weight rows in the layout of `mma`, all share the 64 rows of x.
// `x`: aligned to 16 bytes. Neither may be touched before `wide_end`.
DEVICE void wide_mma(float d[8][4], const u32 a[4], const void* x, bool add) {
    // Where it is, how far apart both halves and 8 rows are, in units of 16 bytes; no swizzle.
    const u64 description = (u64)(shared_address(x) >> 4 & 0x3fff) | (u64)(WIDE_HALF_BYTES >> 4) << 16 | (u64)(128 >> 4) << 32;
    asm volatile(
        "{ .reg .pred add; setp.ne.b32 add, %37, 0; "
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
        "{%32, %33, %34, %35}, %36, add, 1, 1, 0; }"
        : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]),
                   "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]), "+f"(d[1][3]),
                   "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]),
                   "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]),
                   "+f"(d[4][0]), "+f"(d[4][1]), "+f"(d[4][2]), "+f"(d[4][3]),
                   "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]),
                   "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]),
                   "+f"(d[7][0]), "+f"(d[7][1]), "+f"(d[7][2]), "+f"(d[7][3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(description), "r"((u32)add));
}

// Waits for the products since `wide_begin`.
DEVICE void wide_end(float d[8][4]) {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    // Nothing is made of a sum before it is there.
#pragma unroll
    for (u32 i = 0; i < 32; i++) asm volatile("" : "+f"(d[i / 4][i % 4])::"memory");
}

// What this thread wrote to shared memory is seen by the products of its warp group after a barrier.
DEVICE void wide_written() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
#else
// No such product: no launch gets here, and one that does is a fault. On the CPU four warps have 16 rows each.
DEVICE void wide_begin() {}
DEVICE void wide_mma(float d[8][4], const u32 a[4], const void* x, bool add) {
#ifdef HADAL_SHIM
    for (u32 tile = 0; tile < 8; tile++) {
        const u32* const row = (const u32*)x + 4 * (8 * tile + lane() / 4) + lane() % 4;
        const u32 b[2] = {row[0], row[WIDE_HALF_BYTES / 4]};
        for (u32 i = 0; i < 4; i++) d[tile][i] = add ? d[tile][i] : 0.0f;
        mma(d[tile], a, b);
    }
#else
    fault();
#endif
}
DEVICE void wide_end(float[8][4]) {}
DEVICE void wide_written() {}
#endif
