// Row ops for CUDA. Contract and formulas: README.md beside this file; definition: oracle.rs.
//
// Memory-bound kernels, one thread an element or one warp a block of columns. Rows that an index of -1
// names are zeros (-1 in integers) when read and dropped when written. An index outside its table faults.
#include "../common/rows.cuh"

// The row of `source`, or of `more` past its end.
DEVICE const u8* chosen(const Rows& source, const Rows& more, u32 row) {
    if (row < source.rows) return row_of(source, row);
    if (row - source.rows >= more.rows) {
        fault();
        return source.at;
    }
    return row_of(more, row - source.rows);
}

struct GatherRows {
    Rows out, source, more;
    const int* index;
    u32 per, unit_bytes, units, absent;
};

// out[i] = source[index[i] / per], as bytes. One thread a unit of 16, 4, 2 or 1 bytes.
KERNEL(gather_rows, GatherRows, 256) {
    u32 row, unit;
    if (!element(p.out.rows, p.units, &row, &unit)) return;
    const int index = p.index[row];
    u8* const out = row_of(p.out, row) + (u64)unit * p.unit_bytes;
    if (index < 0) {
        for (u32 i = 0; i < p.unit_bytes; i++) out[i] = (u8)p.absent;
        return;
    }
    const u8* const in = chosen(p.source, p.more, (u32)index / p.per) + (u64)unit * p.unit_bytes;
    switch (p.unit_bytes) {
        case 16: {
            const u64 low = ((const u64*)in)[0], high = ((const u64*)in)[1];
            ((u64*)out)[0] = low;
            ((u64*)out)[1] = high;
            break;
        }
        case 4: *(u32*)out = *(const u32*)in; break;
        case 2: *(u16*)out = *(const u16*)in; break;
        default: *out = *in; break;
    }
}

struct GatherCoded {
    Rows out, source, more;
    const int* index;
    u32 per, pad;
};

// The same for rows in a block codec, decoded. One thread an element.
KERNEL(gather_coded, GatherCoded, 256) {
    u32 row, column;
    if (!element(p.out.rows, p.out.width, &row, &column)) return;
    const int index = p.index[row];
    float value = 0.0f;
    if (index >= 0) {
        const u32 from = (u32)index / p.per;
        const bool first = from < p.source.rows;
        if (!first && from - p.source.rows >= p.more.rows) {
            fault();
            return;
        }
        value = first ? load(p.source, from, column) : load(p.more, from - p.source.rows, column);
    }
    store(p.out, row, column, value);
}

struct GatherElements {
    Rows out, source, rows, index;
    u32 per, element_bytes, absent, listed;
};

// out[i, j] = source[rows[i], index[i, j] / per]. One thread an element, moved as its bytes.
KERNEL(gather_elements, GatherElements, 256) {
    u32 row, column;
    if (!element(p.out.rows, p.index.width, &row, &column)) return;
    const int index = load_int(p.index, row, column);
    const int from = p.listed ? load_int(p.rows, row, 0) : (int)row;
    u8* const out = row_of(p.out, row) + (u64)column * p.element_bytes;
    if (index < 0 || from < 0) {
        for (u32 i = 0; i < p.element_bytes; i++) out[i] = (u8)p.absent;
        return;
    }
    const u32 at = (u32)index / p.per;
    if ((u32)from >= p.source.rows || at >= p.source.width) {
        fault();
        return;
    }
    const u8* const in = row_of(p.source, (u32)from) + (u64)at * p.element_bytes;
    switch (p.element_bytes) {
        case 4: *(u32*)out = *(const u32*)in; break;
        case 2: *(u16*)out = *(const u16*)in; break;
        default: *out = *in; break;
    }
}

// One thread a unit.
KERNEL(scatter_rows, ScatterRows, 256) { scatter_unit(p, (u64)blockIdx.x * blockDim.x + threadIdx.x); }

struct ScatterCoded {
    Rows target, source, index;
};

// The same where one side is coded. One block a row.
KERNEL(scatter_coded, ScatterCoded, 128) {
    const u32 row = blockIdx.x;
    const int index = load_int(p.index, row, 0);
    if (index < 0) return;
    if ((u32)index >= p.target.rows) {
        fault();
        return;
    }
    encode_row(p.target, (u32)index, [&](u32 column) { return load(p.source, row, column); });
}

// A tensor that broadcasts to three dimensions: strides in bytes, 0 where it repeats.
struct Grid {
    u8* at;
    u64 strides[3];
    u32 kind, pad;
};

struct Map {
    Grid out, x, y, z;
    u32 dims[3];
    u32 f;
    float scale;
    u32 per;
};

// Numbers as in `backends/cuda/src/record/map.rs`.
enum Expression : u32 {
    COPY = 0,
    ADD = 1,
    DIVIDE = 2,
    EXP_MINUS = 3,
    SQRT_SOFTPLUS = 4,
    MASKED_ADD = 5,
    SHARE = 6,
    SWIGLU = 7,
    SWIGLU_WEIGHTED = 8,
    PAGE_ROW = 9,
    COPY_INTS = 10,
};

DEVICE float grid_value(const Grid& grid, u64 offset) {
    const u8* const at = grid.at + offset;
    switch (grid.kind) {
        case F32: return *(const float*)at;
        case BF16: return from_bf16(*(const u16*)at);
        case F16: return from_f16(*(const u16*)at);
        default: return 0.0f;
    }
}

DEVICE void grid_store(const Grid& grid, u64 offset, float value) {
    u8* const at = grid.at + offset;
    switch (grid.kind) {
        case F32: *(float*)at = value; break;
        case BF16: *(u16*)at = to_bf16(value); break;
        case F16: *(u16*)at = to_f16(value); break;
        default: break;
    }
}

// One thread an element.
KERNEL(map, Map, 256) {
    const u64 place = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    const u64 plane = (u64)p.dims[1] * p.dims[2];
    if (place >= p.dims[0] * plane) return;
    const u64 i = place / plane, j = place % plane / p.dims[2], k = place % p.dims[2];
    const auto offset = [&](const Grid& grid) {
        return i * grid.strides[0] + j * grid.strides[1] + k * grid.strides[2];
    };
    const auto x = [&] { return grid_value(p.x, offset(p.x)); };
    const auto y = [&] { return grid_value(p.y, offset(p.y)); };
    float value = 0.0f;
    switch (p.f) {
        case COPY: value = x(); break;
        case ADD: value = x() + y(); break;
        case DIVIDE: value = x() / y(); break;
        case EXP_MINUS: value = expf(x() - y()); break;
        case SQRT_SOFTPLUS: value = sqrt_softplus(x()); break;
        case MASKED_ADD:
            value = *(const int*)(p.z.at + offset(p.z)) < 0 ? -1e30f : x() + y();
            break;
        case SHARE: value = x() / (y() + 1e-20f) * p.scale; break;
        case SWIGLU:
        case SWIGLU_WEIGHTED: {
            const float gate = x(), up = y();
            // Comparisons that keep NaN.
            const float g = gate > p.scale ? p.scale : gate;
            const float u = up > p.scale ? p.scale : up < -p.scale ? -p.scale : up;
            value = silu(g) * u;
            if (p.f == SWIGLU_WEIGHTED) value = grid_value(p.z, offset(p.z)) * silu(g) * u;
            break;
        }
        case PAGE_ROW: {
            const int entry = *(const int*)(p.x.at + offset(p.x));
            const int page = *(const int*)(p.y.at + offset(p.y));
            const int per = (int)p.per;
            *(int*)(p.out.at + offset(p.out)) =
                entry < 0 || page < 0 ? -1 : page * per + entry % per;
            return;
        }
        case COPY_INTS:
            *(int*)(p.out.at + offset(p.out)) = *(const int*)(p.x.at + offset(p.x));
            return;
    }
    grid_store(p.out, offset(p.out), value);
}

struct Reduce {
    Rows out, x, y;
    u32 axis, width, outputs, f;
};

enum Reduction : u32 { SUM = 0, MAX = 1, DOT = 2, MIX = 3 };

// Over the axis of x [n, axis, width], in order; product and sum are rounded apart. One thread an output.
KERNEL(reduce, Reduce, 256) {
    u32 row, column;
    if (!element(p.x.rows, p.outputs * p.width, &row, &column)) return;
    const u32 k = column / p.width, d = column % p.width;
    float result = p.f == MAX ? bits_to_float(0xff800000u) : 0.0f;
    for (u32 j = 0; j < p.axis; j++) {
        const float x = load(p.x, row, j * p.width + d);
        switch (p.f) {
            case SUM: result += x; break;
            case MAX: result = x > result ? x : result; break;
            case DOT: result += x * load(p.y, row, j * p.width + d); break;
            case MIX: result += load(p.y, row, j * p.outputs + k) * x; break;
        }
    }
    store(p.out, row, column, result);
}

struct MeanSquare {
    Rows out, x;
};

// out[n, 0] = mean_d x[n, d]^2. One block a row; shared memory: one float per 128 columns.
KERNEL(mean_square, MeanSquare, 256) {
    SHARED(shared);
    const u32 row = blockIdx.x;
    const float sum = row_sum(p.x.width, (float*)shared, [&](u32 column, float sum) {
        const float x = load(p.x, row, column);
        return fmaf(x, x, sum);
    });
    if (threadIdx.x == 0) store(p.out, row, 0, sum / (float)p.x.width);
}

// Cast, and the round trip through a block format. One block a row, one warp a block of columns.
KERNEL(convert_rows, ConvertRows, 128) { convert_row(p, blockIdx.x, 0, p.x.width); }

struct QuantiseRows {
    Rows out, scales, x;
    Round round;
};

// To codes and scales. One block a row, one warp a block of columns.
KERNEL(quantise_rows, QuantiseRows, 128) {
    const u32 row = blockIdx.x, width = p.x.width;
    const auto value = [&](u32 column) { return load(p.x, row, column); };
    u8* const codes = row_of(p.out, row);
    u8* const scales = row_of(p.scales, row);
    for (u32 block = warp(); block < ceil_div(width, p.round.block); block += warps()) {
        const u32 first = block * p.round.block, end = least(first + p.round.block, width);
        if (p.round.form == FP8_ROWS) {
            encode_e4m3(codes, scales + block, first, end, value);
        } else {
            encode_e2m1(codes, scales + block, first, end, value);
        }
    }
}

struct DequantiseRows {
    Rows out, x, scales;
    Round round;
};

// From codes and scales. One thread an element.
KERNEL(dequantise_rows, DequantiseRows, 256) {
    u32 row, column;
    if (!element(p.out.rows, p.out.width, &row, &column)) return;
    const u8* const codes = row_of(p.x, row);
    const float scale = from_e8m0(row_of(p.scales, row)[column / p.round.block]);
    const u32 pair = codes[p.round.form == FP8_ROWS ? column : column / 2];
    const float value =
        p.round.form == FP8_ROWS ? from_e4m3(pair) : from_e2m1(column % 2 ? pair >> 4 : pair & 15);
    store(p.out, row, column, value * scale);
}

struct RmsNorm {
    Rows out, x;
    const float* gain;  // null: none
    float epsilon;
    u32 pad;
};

// out[r] = x[r] / sqrt(mean(x[r]^2) + epsilon) * gain. One block a row; reads x twice (the second time
// from L1); shared memory: one float per 128 columns.
KERNEL(rms_norm_rows, RmsNorm, 256) {
    SHARED(shared);
    const u32 row = blockIdx.x, width = p.x.width;
    // 1 sum of squares
    const float sum = row_sum(width, (float*)shared, [&](u32 column, float sum) {
        const float x = load(p.x, row, column);
        return fmaf(x, x, sum);
    });
    // 2 scale
    const float scale = 1.0f / sqrtf(sum / (float)width + p.epsilon);
    // 3 write
    for (u32 column = threadIdx.x; column < width; column += blockDim.x) {
        const float value = load(p.x, row, column) * scale;
        store(p.out, row, column, p.gain ? value * p.gain[column] : value);
    }
}

// One block a row.
KERNEL(rope_rows, Rope, 128) { rope_row(p, blockIdx.x); }

// One block a row; shared memory: one float per 128 columns, then the row.
KERNEL(finish_rows, FinishRows, 256) {
    SHARED(shared);
    finish_row(p, blockIdx.x, (float*)shared);
}

struct MakeNoise {
    u8* at;
    u64 bytes;
    u32 seed, and_bits, or_bits, pad;
};

// Word i is hash(seed, i) & and | or, as `hal::Noise` says. One thread a word; the last may be cut off.
KERNEL(make_noise, MakeNoise, 256) {
    const u64 word = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (4 * word >= p.bytes) return;
    u32 hash = (u32)word ^ p.seed ^ (u32)(word >> 32) * 0x9e3779b9u;
    hash = (hash ^ hash >> 16) * 0x21f0aaadu;
    hash = (hash ^ hash >> 15) * 0x735a2d97u;
    hash = ((hash ^ hash >> 15) & p.and_bits) | p.or_bits;
    const u64 left = p.bytes - 4 * word;
    if (left >= 4 && (u64)p.at % 4 == 0) {
        ((u32*)p.at)[word] = hash;
        return;
    }
    for (u32 i = 0; i < 4 && i < left; i++) p.at[4 * word + i] = (u8)(hash >> 8 * i);
}
