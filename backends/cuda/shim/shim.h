// Runs the CUDA kernels on the CPU, so that they can be tested where there is no GPU.
//
// Included before a `.cu` file that is compiled as C++. A thread of a block is a fiber; barriers and warp
// operations are the places where fibers are switched; blocks run one after the other. Where all threads
// of a warp or block meet is counted: a barrier that some thread never reaches is reported, not waited for.
//
// Of what is inline PTX on a GPU there is here: one tensor-core product, loads of matrices, copies that happen only
// when they are waited for, bulk copies that are counted. Not here: more than one block at a time, memory errors (an
// address outside its allocation is one here, too; a sanitizer finds it).
#pragma once
#define HADAL_SHIM 1

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#define DEVICE static inline __attribute__((always_inline))
#define DEVICE_APART static __attribute__((noinline))
#define __syncthreads shim_syncthreads
#define __shared__ static
#define EXPORT extern "C" __attribute__((visibility("default")))

struct uint2 { unsigned x, y; };
struct uint4 { unsigned x, y, z, w; };
struct float4 { float x, y, z, w; };
struct shim_dim { unsigned x, y, z; };

namespace shim {

const unsigned THREADS_MAX = 1024, STACK_BYTES = 64 << 10;
const unsigned SHARED_BYTES_MAX = 227 << 10;

enum Status : int { DONE = 0, FAULT = 1, DIVERGED = 2, MISCOPIED = 3 };

struct Fiber {
    void* stack_top;
    void* saved;  // where it stands
    unsigned next, before;  // in the ring of those that have not ended
    bool ended;
#if !defined(__x86_64__)
    ucontext_t context;
#endif
};

// A place where `count` threads meet.
struct Gate { unsigned arrived; unsigned long long turn; };

static Fiber fibers[THREADS_MAX];
static unsigned current, live;
static unsigned threads;
static Status status;
static Gate block_gate, warp_gates[THREADS_MAX / 32];
static unsigned long long slots[2][THREADS_MAX];
static unsigned char parity[THREADS_MAX];
static unsigned long long switches_since_progress;
alignas(16) static unsigned char shared[SHARED_BYTES_MAX];
static unsigned shared_bytes;
static shim_dim grid, block_index;
// Threads and blocks begin with the last one: what a missing barrier spoils depends on who runs first, and another
// block is the last to be done.
static bool backwards;
static void (*body)(const void*);
static const void* arguments;

#if defined(__x86_64__)
static void* main_saved;
extern "C" void shim_switch(void** save, void* load);
__asm__(
    ".text\n.hidden shim_switch\n.globl shim_switch\n.type shim_switch,@function\nshim_switch:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp,(%rdi)\nmovq %rsi,%rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n");
static void switch_to(unsigned to) {
    unsigned from = current;
    current = to;
    if (from != to) shim_switch(&fibers[from].saved, fibers[to].saved);
}
[[noreturn]] static void leave() {
    void* nowhere;
    shim_switch(&nowhere, main_saved);
    abort();
}
#else
static ucontext_t main_context;
static void switch_to(unsigned to) {
    unsigned from = current;
    current = to;
    if (from != to) swapcontext(&fibers[from].context, &fibers[to].context);
}
[[noreturn]] static void leave() {
    setcontext(&main_context);
    abort();
}
#endif

static void yield() {
    // All have been asked once and nobody moved: some thread is missing at a barrier.
    if (++switches_since_progress > 4ull * threads + 64) {
        status = DIVERGED;
        leave();
    }
    switch_to(fibers[current].next);
}

// For its warp alone: a warp runs as far as it can before another does, so that what is missing between two warps shows.
static void yield_in_warp() {
    const unsigned base = current / 32 * 32, to = base + (current + (backwards ? 31 : 1)) % 32;
    // Some of it have ended, or wait for other warps.
    if (fibers[to].ended || switches_since_progress > 64) return yield();
    switches_since_progress++;
    switch_to(to);
}

static void meet(Gate& gate, unsigned count, void (*give_way)()) {
    unsigned long long turn = gate.turn;
    if (++gate.arrived == count) {
        gate.arrived = 0;
        gate.turn++;
        switches_since_progress = 0;
        return;
    }
    while (gate.turn == turn) give_way();
    switches_since_progress = 0;
}

// A barrier that counts bulk copies, and those that nobody has waited for.
struct Copy { void* to; const void* from; unsigned bytes; };
struct Counter {
    const void* at;
    unsigned count, pending, phase, copies;
    unsigned long long expected;
    Copy made[64];
};
static Counter counters[8];
static unsigned counters_used;

[[noreturn]] static void miscopied() {
    status = MISCOPIED;
    leave();
}

// No copy is under way when a block ends.
static bool all_waited_for() {
    bool all = true;
    for (unsigned i = 0; i < counters_used; i++) all &= counters[i].copies == 0 && counters[i].expected == 0;
    return all;
}

[[noreturn]] static void entry() {
    body(arguments);
    // Ended: taken out of the ring.
    switches_since_progress = 0;
    if (--live == 0) leave();
    Fiber& ended = fibers[current];
    ended.ended = true;
    fibers[ended.before].next = ended.next;
    fibers[ended.next].before = ended.before;
    switch_to(ended.next);
    abort();
}

static void prepare() {
    for (unsigned i = 0; i < threads; i++) {
        Fiber& fiber = fibers[i];
        if (!fiber.stack_top) {
            void* stack = mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (stack == MAP_FAILED) abort();
            fiber.stack_top = (char*)stack + STACK_BYTES;
        }
        const unsigned above = i + 1 == threads ? 0 : i + 1, below = i == 0 ? threads - 1 : i - 1;
        fiber.next = backwards ? below : above;
        fiber.before = backwards ? above : below;
        fiber.ended = false;
        parity[i] = 0;
#if defined(__x86_64__)
        // What shim_switch pops: six registers, then where to go. Aligned as at a call.
        void** top = (void**)fiber.stack_top - 2;
        *top = (void*)entry;
        fiber.saved = top - 6;
#else
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = (char*)fiber.stack_top - STACK_BYTES;
        fiber.context.uc_stack.ss_size = STACK_BYTES;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, (void (*)())entry, 0);
#endif
    }
}

// One launch; a Status.
static int launch(const unsigned* dims, unsigned count, void (*kernel)(const void*), const void* args) {
    if (count == 0 || count > THREADS_MAX || count % 32) return DIVERGED;
    grid = {dims[0], dims[1], dims[2]};
    threads = count, body = kernel, arguments = args, status = DONE;
    const unsigned long long blocks = (unsigned long long)grid.x * grid.y * grid.z;
    for (unsigned long long i = 0; i < blocks; i++) {
        const unsigned long long block = backwards ? blocks - 1 - i : i;
        const unsigned long long above = block / grid.x;
        block_index = {(unsigned)(block % grid.x), (unsigned)(above % grid.y), (unsigned)(above / grid.y)};
        block_gate = {};
        memset(warp_gates, 0, sizeof warp_gates);
        switches_since_progress = 0, live = threads, current = backwards ? threads - 1 : 0;
        counters_used = 0;
        prepare();
#if defined(__x86_64__)
        shim_switch(&main_saved, fibers[current].saved);
#else
        swapcontext(&main_context, &fibers[current].context);
#endif
        if (status == DONE && !all_waited_for()) status = MISCOPIED;
        if (status != DONE) return status;
    }
    return status;
}

static unsigned char* dynamic_shared() { return shared; }

static void block_sync() { meet(block_gate, threads, yield); }
static void warp_sync() { meet(warp_gates[current / 32], 32, yield_in_warp); }

// What lane `from` of the warp brings. Two slots in turn: nobody writes one before all have read it.
template <class T> static T exchange(T value, unsigned from) {
    const unsigned mine = current, half = parity[mine] ^= 1;
    memcpy(&slots[half][mine], &value, sizeof value);
    warp_sync();
    T got;
    memcpy(&got, &slots[half][mine / 32 * 32 + from % 32], sizeof got);
    return got;
}

}  // namespace shim

#define threadIdx (shim_dim{shim::current, 0, 0})
#define blockIdx (shim::block_index)
#define blockDim (shim_dim{shim::threads, 1, 1})
#define gridDim (shim::grid)

static inline void shim_syncthreads() { shim::block_sync(); }
static inline void __syncwarp() { shim::warp_sync(); }
template <class T> static inline T __shfl_xor_sync(unsigned, T value, unsigned mask) {
    return shim::exchange(value, shim::current % 32 ^ mask);
}
template <class T> static inline T __shfl_up_sync(unsigned, T value, unsigned by) {
    const unsigned lane = shim::current % 32;
    return shim::exchange(value, lane < by ? lane : lane - by);
}
template <class T> static inline T __shfl_sync(unsigned, T value, unsigned from) {
    return shim::exchange(value, from);
}
static inline unsigned __ballot_sync(unsigned, bool vote) {
    const unsigned mine = shim::current, half = shim::parity[mine] ^= 1;
    shim::slots[half][mine] = vote;
    shim::warp_sync();
    unsigned votes = 0;
    for (unsigned i = 0; i < 32; i++) votes |= (unsigned)shim::slots[half][mine / 32 * 32 + i] << i;
    return votes;
}
// m16n8k16 of bf16, operands in the layout of PTX: what lane (g, t) brings and gets. Sums in order of columns.
static inline void mma(float d[4], const unsigned a[4], const unsigned b[2]) {
    static unsigned brought[2][shim::THREADS_MAX][6];
    const unsigned mine = shim::current, base = mine / 32 * 32, half = shim::parity[mine] ^= 1;
    memcpy(brought[half][mine], a, 16);
    memcpy(brought[half][mine] + 4, b, 8);
    shim::warp_sync();
    const auto value = [&](unsigned lane, unsigned word, unsigned place) {
        const unsigned bits = brought[half][base + lane][word];
        const unsigned wide = place ? bits & 0xffff0000u : bits << 16;
        float value;
        memcpy(&value, &wide, 4);
        return value;
    };
    const unsigned g = mine % 32 / 4, t = mine % 4;
    for (unsigned i = 0; i < 4; i++) {
        const unsigned below = i / 2, column = 2 * t + i % 2;
        for (unsigned k = 0; k < 16; k++) {
            const unsigned far = k / 8, from = k % 8 / 2;
            const float weight = value(4 * g + from, 2 * far + below, k % 2);
            d[i] = fmaf(weight, value(4 * column + from, 4 + far, k % 2), d[i]);
        }
    }
}
// Four 8 x 8 matrices of 16-bit numbers, whose rows the lanes name: what lane (g, t) gets of each.
static inline void matrices(unsigned out[4], const void* row) {
    const unsigned g = shim::current % 32 / 4, t = shim::current % 4;
    for (unsigned i = 0; i < 4; i++) memcpy(out + i, (const char*)shim::exchange(row, 8 * i + g) + 4 * t, 4);
}
static inline void matrices_turned(unsigned out[4], const void* row) {
    const unsigned g = shim::current % 32 / 4, t = shim::current % 4;
    for (unsigned i = 0; i < 4; i++) {
        for (unsigned half = 0; half < 2; half++) {
            const void* const from = shim::exchange(row, 8 * i + 2 * t + half);
            memcpy((char*)(out + i) + 2 * half, (const char*)from + 2 * g, 2);
        }
    }
}
// Copies that need not be waited for, except that they are not there before that.
namespace shim {
static Copy copies[THREADS_MAX][256];
static unsigned copied[THREADS_MAX];
}  // namespace shim
template <unsigned BYTES> static inline void copy_ahead(void* to, const void* from) {
    static_assert(BYTES == 4 || BYTES == 8, "as much as a copy takes here");
    if ((uintptr_t)to % BYTES || (uintptr_t)from % BYTES || shim::copied[shim::current] == 256) abort();
    shim::copies[shim::current][shim::copied[shim::current]++] = {to, from, BYTES};
}
static inline void wait_for_copies() {
    unsigned& count = shim::copied[shim::current];
    for (unsigned i = 0; i < count; i++) {
        const shim::Copy& copy = shim::copies[shim::current][i];
        memcpy(copy.to, copy.from, copy.bytes);
    }
    count = 0;
}
// Bulk copies: from when one is asked for until its barrier is waited for, its target holds nothing. Reported are wrong
// alignment, targets outside the block's memory, bytes announced and not copied or copied and not announced, arrivals
// too many, and copies that nobody waits for.
namespace shim {
static Counter& counter_of(const void* at) {
    for (unsigned i = 0; i < counters_used; i++) {
        if (counters[i].at == at) return counters[i];
    }
    miscopied();
}
static void end_phase(Counter& counter) {
    unsigned long long bytes = 0;
    for (unsigned i = 0; i < counter.copies; i++) bytes += counter.made[i].bytes;
    if (bytes != counter.expected) miscopied();
    for (unsigned i = 0; i < counter.copies; i++) {
        memcpy(counter.made[i].to, counter.made[i].from, counter.made[i].bytes);
    }
    counter.pending = counter.count, counter.expected = 0, counter.copies = 0, counter.phase++;
    switches_since_progress = 0;
}
}  // namespace shim
static inline void bulk_init(unsigned long long* barrier, unsigned count) {
    if (shim::counters_used == 8) abort();
    shim::Counter& counter = shim::counters[shim::counters_used++];
    counter.at = barrier, counter.count = counter.pending = count;
    counter.phase = counter.copies = 0, counter.expected = 0;
}
static inline void bulk_ready() {}
static inline void bulk_expect(unsigned long long* barrier, unsigned bytes) {
    shim::Counter& counter = shim::counter_of(barrier);
    if (counter.pending == 0) shim::miscopied();
    counter.pending--, counter.expected += bytes;
}
static inline void bulk_copy(void* to, const void* from, unsigned bytes, unsigned long long* barrier) {
    shim::Counter& counter = shim::counter_of(barrier);
    const unsigned char* const end = shim::shared + shim::shared_bytes;
    if (((uintptr_t)to | (uintptr_t)from | bytes) % 16 || bytes == 0 || counter.copies == 64) shim::miscopied();
    if ((unsigned char*)to < shim::shared || (unsigned char*)to + bytes > end) shim::miscopied();
    memset(to, 0xff, bytes);
    counter.made[counter.copies++] = {to, from, bytes};
}
static inline void bulk_wait(unsigned long long* barrier, unsigned parity) {
    shim::Counter& counter = shim::counter_of(barrier);
    while (counter.phase % 2 == parity) {
        if (counter.pending == 0) {
            shim::end_phase(counter);
        } else {
            shim::yield();
        }
    }
}
// The lanes of the warp that bring the same number.
static inline unsigned __match_any_sync(unsigned, int value) {
    const unsigned mine = shim::current, half = shim::parity[mine] ^= 1;
    shim::slots[half][mine] = (unsigned)value;
    shim::warp_sync();
    unsigned same = 0;
    for (unsigned i = 0; i < 32; i++) {
        same |= (unsigned)(shim::slots[half][mine / 32 * 32 + i] == (unsigned)value) << i;
    }
    return same;
}
// Four of the eight bytes of (a, b), picked by the low three bits of the selector's nibbles.
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
    const unsigned long long bytes = (unsigned long long)b << 32 | a;
    unsigned picked = 0;
    for (unsigned i = 0; i < 4; i++) {
        picked |= (unsigned)(bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
    }
    return picked;
}
// Products of two pairs of bf16, to nearest, ties to even.
static inline unsigned times(unsigned a, unsigned b) {
    unsigned product = 0;
    for (unsigned shift = 0; shift < 32; shift += 16) {
        const unsigned x = a >> shift << 16, y = b >> shift << 16;
        float left, right;
        memcpy(&left, &x, 4);
        memcpy(&right, &y, 4);
        const float value = left * right;
        unsigned bits;
        memcpy(&bits, &value, 4);
        product |= (bits + 0x7fff + (bits >> 16 & 1)) >> 16 << shift;
    }
    return product;
}
static inline unsigned __popc(unsigned bits) { return (unsigned)__builtin_popcount(bits); }
static inline unsigned atomicAdd(unsigned* at, unsigned value) {
    const unsigned before = *at;
    *at += value;
    return before;
}
// Blocks run one after the other: what one wrote the next one sees.
static inline void __threadfence() {}
static inline void fault() {
    shim::status = shim::FAULT;
    shim::leave();
}
static inline float bits_to_float(unsigned bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
static inline unsigned float_to_bits(float value) {
    unsigned bits;
    memcpy(&bits, &value, 4);
    return bits;
}

EXPORT void shim_backwards(int yes) { shim::backwards = yes; }

// A kernel becomes a function of its launch, and one that says how large its argument is.
#define KERNEL(name, Args, threads_max)                                                            \
    static void name##_body(const Args& p);                                                        \
    EXPORT unsigned long long name##_bytes() { return sizeof(Args); }                              \
    EXPORT unsigned name##_threads() { return threads_max; }                                       \
    EXPORT int name##_launch(const unsigned* grid, unsigned threads, unsigned shared_bytes,        \
                             const void* args) {                                                   \
        if (threads > threads_max || shared_bytes > shim::SHARED_BYTES_MAX) return shim::DIVERGED; \
        memset(shim::shared, 0xff, shared_bytes);                                                  \
        shim::shared_bytes = shared_bytes;                                                         \
        return shim::launch(                                                                       \
            grid, threads, [](const void* args) { name##_body(*(const Args*)args); }, args);       \
    }                                                                                              \
    static void name##_body(const Args& p)
#define SHARED(name) unsigned char* const name = shim::dynamic_shared()
