// The rows of down of the selected neurons, weighted by their activations: what down.cu and whole.cu make kernels of.
#pragma once

#include "output.cuh"
#include "quantize.cuh"
#include "rows.cuh"

namespace moray::sparse_mlp {

constexpr int DOWN_WARPS = 8, DOWN_THREADS = 32 * DOWN_WARPS;

// A block's threads in teams of DOWN_THREADS, each of which has units of its own.
template <int TEAMS>
__device__ __forceinline__ uint32_t team_thread() {
    return TEAMS == 1 ? threadIdx.x : threadIdx.x % DOWN_THREADS;
}
template <int TEAMS>
__device__ __forceinline__ void sync_team() {
    if constexpr (TEAMS == 1) __syncthreads();
    else barrier_sync<DOWN_THREADS>(1 + threadIdx.x / DOWN_THREADS);
}

// What a team takes at a time: a part of the list, of which each warp has an eighth, for a tile of columns and some tokens.
struct Unit {
    uint32_t tile, tiles, split, splits, tokens;
};

// How the columns of a tile lie on lanes.
template <class Rows, int T>
struct Columns {
    static constexpr int OF_LANE = 8, TILE = 32 * OF_LANE;
    static constexpr int STRIDE = 36;  // words from a column of a lane to the next: readers in column order touch all banks once

    // The lane's first column.
    __device__ __forceinline__ static uint32_t first(uint32_t lane) { return lane * OF_LANE; }
    // Where column `within` of a tile is, as (column of a lane, lane).
    __device__ __forceinline__ static uint32_t place(uint32_t within) { return within % OF_LANE * STRIDE + within / OF_LANE; }
};

// Of codes a lane has WORDS neighbouring words, each 4 columns low and the 4 that are 16 further high: all low ones, then the high.
template <int T>
struct Columns<FourBitRows, T> {
    static constexpr int WORDS = T == 1 ? 2 : 1, OF_LANE = 8 * WORDS, TILE = 32 * OF_LANE;
    static constexpr int STRIDE = WORDS == 2 ? 34 : 36;
    static constexpr int SIDE = 4 * WORDS, LANES = 4 / WORDS;  // columns of one nibble; lanes of 32 columns

    __device__ __forceinline__ static uint32_t first(uint32_t lane) { return lane / LANES * 32 + lane % LANES * SIDE; }
    __device__ __forceinline__ static uint32_t place(uint32_t within) {
        const uint32_t high = within % 32 / 16, low = within % 16;
        return (high * SIDE + low % SIDE) * STRIDE + within / 32 * LANES + low / SIDE;
    }
};

// A warp's part of the list, and where its columns lie.
struct Part {
    uint32_t begin, end;  // positions of the warp, the first a multiple of 4
    uint32_t token0;
    uint32_t first;  // the lane's first column
    bool valid;      // whether the lane has columns
};

// 32 positions of the list, one a lane: their neurons and activations. Past the end neuron 0 and zeros.
template <int T>
struct Floats {
    uint32_t neuron;
    float h[T];

    __device__ __forceinline__ void load(const DownParams& p, const Part& part, uint32_t base) {
        const uint32_t position = base + threadIdx.x % 32;
        const bool there = position < part.end;
        neuron = there ? neuron_of(p.neurons, position) : 0;
#pragma unroll
        for (int t = 0; t < T; t++) {
            h[t] = there && part.token0 + t < p.tokens
                       ? p.hidden[static_cast<size_t>(part.token0 + t) * p.stride + position]
                       : 0.0f;
        }
    }
};

template <class Rows, int T>
__device__ __forceinline__ void add_rows(float (&total)[T][8], const DownParams& p, const Part& part) {
    constexpr uint32_t BATCH = T == 1 ? 8 : 4;  // rows that are on their way
    const auto* column = static_cast<const uint16_t*>(p.rows) + part.first;
    Floats<T> next;
    next.load(p, part, part.begin);
    for (uint32_t base = part.begin; base < part.end; base += 32) {
        const Floats<T> of = next;
        next.load(p, part, base + 32);
        const uint32_t count = min(part.end - base, 32u);
        for (uint32_t at = 0; at < count; at += BATCH) {
            uint4 words[BATCH];
#pragma unroll
            for (uint32_t i = 0; i < BATCH; i++) {
                const uint32_t neuron = __shfl_sync(FULL_WARP, of.neuron, at + i);
                const bool reads = part.valid && at + i < count;
                words[i] = reads ? load_streaming(column + static_cast<size_t>(neuron) * p.d_model) : make_uint4(0, 0, 0, 0);
            }
#pragma unroll
            for (uint32_t i = 0; i < BATCH; i++) {
                const uint32_t word[4] = {words[i].x, words[i].y, words[i].z, words[i].w};
#pragma unroll
                for (int t = 0; t < T; t++) {
                    const float h = __shfl_sync(FULL_WARP, of.h[t], at + i);
#pragma unroll
                    for (int j = 0; j < 4; j++) {
                        const float2 pair = Rows::widen(word[j]);
                        total[t][2 * j] = __fmaf_rn(pair.x, h, total[t][2 * j]);
                        total[t][2 * j + 1] = __fmaf_rn(pair.y, h, total[t][2 * j + 1]);
                    }
                }
            }
        }
    }
}

// What turns a block's tokens into codes and back; what is finite.
template <int T>
struct Quantizers {
    float scale[T], inverse[T];

    // By all warps of the team, to be followed by a barrier.
    __device__ __forceinline__ void find(const DownParams& p, uint32_t token0, uint32_t thread) {
        for (uint32_t t = thread / 32; t < T && token0 + t < p.tokens; t += DOWN_WARPS) {
            const uint32_t* maxima = p.maxima + static_cast<size_t>(token0 + t) * p.n_maxima;
            uint32_t largest = 0;
            for (uint32_t i = threadIdx.x % 32; i < p.n_maxima; i += 32) {
                largest = max(largest, maxima[i]);
            }
            const Quantizer of(__reduce_max_sync(FULL_WARP, largest));
            if (threadIdx.x % 32 == 0) {
                scale[t] = of.scale, inverse[t] = of.inverse;
            }
        }
    }
};

// The codes of activations of 32 positions: of lanes below 8 those of positions 4 lane to 4 lane + 3.
template <int T>
__device__ __forceinline__ void quantize(uint32_t (&h)[T], const DownParams& p, const Part& part, const Quantizers<T>& quantizers,
                                         uint32_t base) {
    const uint32_t lane = threadIdx.x % 32, quad = base + 4 * lane, there = quad < part.end ? min(part.end - quad, 4u) : 0;
    const uint32_t mask = there == 4 ? 0xffffffffu : (1u << (8 * there)) - 1;
#pragma unroll
    for (int t = 0; t < T; t++) {
        h[t] = 0;
        if (lane < 8 && there > 0 && part.token0 + t < p.tokens) {
            float values[4];
            load_4(values, p.hidden + static_cast<size_t>(part.token0 + t) * p.stride + quad);
            h[t] = codes_of(values, quantizers.inverse[t]) & mask;
        }
    }
}

// 32 positions of the list, one a lane: their neurons and blocks. `starts` has a bit for each position whose block is not that of the
// one before it.
struct Positions {
    uint32_t neuron, block, starts;

    __device__ __forceinline__ void load(const DownParams& p, const Part& part, uint32_t base, uint32_t before) {
        const uint32_t lane = threadIdx.x % 32, position = base + lane;
        neuron = position < part.end ? neuron_of(p.neurons, position) : 0;
        block = position < part.end ? neuron / p.group_size : 0;
        const uint32_t left = __shfl_up_sync(FULL_WARP, block, 1);
        starts = __ballot_sync(FULL_WARP, position < part.end && block != (lane == 0 ? before : left));
    }
};

// The scales of a lane's columns in one block of neurons: f16, and what comes with them; or f32 where columns have one.
template <int T>
struct BlockScales {
    static constexpr int SIDE = Columns<FourBitRows, T>::SIDE;
    uint32_t scale[2][SIDE / 2], more[2][SIDE / 2];  // (high, pair of columns); of f32 the first and second half of a side

    __device__ __forceinline__ static void load_side(uint32_t (&words)[SIDE / 2], const void* from) {
        const auto* row = static_cast<const uint16_t*>(from);
        if constexpr (SIDE == 8) {
            const uint4 four = *reinterpret_cast<const uint4*>(row);
            words[0] = four.x, words[1] = four.y, words[2] = four.z, words[3] = four.w;
        } else {
            const uint2 two = *reinterpret_cast<const uint2*>(row);
            words[0] = two.x, words[1] = two.y;
        }
    }

    // Has them on their way.
    __device__ __forceinline__ void load(const DownParams& p, const Part& part, uint32_t block) {
        if (!part.valid) {
            return;
        }
        if (p.group_scale == GroupScale::none) {
            const auto* floats = static_cast<const float*>(p.scales) + part.first;
#pragma unroll
            for (int high = 0; high < 2; high++) {
                load_side(scale[high], floats + 16 * high);
                load_side(more[high], floats + 16 * high + SIDE / 2);
            }
            return;
        }
        const uint32_t parts = p.offset == Offset::none ? 1 : 2;
        const auto* row = static_cast<const uint16_t*>(p.scales) + static_cast<size_t>(block) * parts * p.d_model + part.first;
#pragma unroll
        for (int high = 0; high < 2; high++) {
            load_side(scale[high], row + 16 * high);
            if (parts == 2) {
                load_side(more[high], row + p.d_model + 16 * high);
            }
        }
    }

    // That of column i of one side.
    __device__ __forceinline__ Scale get(const DownParams& p, int high, int i) const {
        if (p.group_scale == GroupScale::none) {
            return {__uint_as_float(i < SIDE / 2 ? scale[high][i] : more[high][i - SIDE / 2]), 0.0f, 8};
        }
        const auto half_of = [i](const uint32_t (&words)[SIDE / 2]) { return static_cast<uint16_t>(words[i / 2] >> (16 * (i % 2))); };
        const float of = __half2float(__ushort_as_half(half_of(scale[high])));
        switch (p.offset) {
            case Offset::f16: return {of, __half2float(__ushort_as_half(half_of(more[high]))), 0};
            case Offset::zero_point: return {of, 0.0f, half_of(more[high])};
            default: return {of, 0.0f, 8};
        }
    }
};

// A lane's integer sums in one block of neurons.
template <int T>
struct BlockSums {
    static constexpr int SIDE = Columns<FourBitRows, T>::SIDE;
    int32_t acc[T][2][SIDE], sum[T];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int t = 0; t < T; t++) {
            sum[t] = 0;
#pragma unroll
            for (int i = 0; i < SIDE; i++) {
                acc[t][0][i] = acc[t][1][i] = 0;
            }
        }
    }

    // Adds four positions: byte i of columns[c] is position i's codes of column c, low and high; h has their activations.
    __device__ __forceinline__ void add(const uint32_t (&columns)[SIDE], const uint32_t (&h)[T]) {
#pragma unroll
        for (int t = 0; t < T; t++) {
            sum[t] = __dp4a(static_cast<int>(h[t]), 0x01010101, sum[t]);
#pragma unroll
            for (int c = 0; c < SIDE; c++) {
                acc[t][0][c] = __dp4a(static_cast<int>(columns[c] & 0x0f0f0f0fu), static_cast<int>(h[t]), acc[t][0][c]);
                acc[t][1][c] = __dp4a(static_cast<int>(columns[c] >> 4 & 0x0f0f0f0fu), static_cast<int>(h[t]), acc[t][1][c]);
            }
        }
    }

    // Adds the sums times their scales to the totals and clears them.
    __device__ __forceinline__ void flush(float (&total)[T][2 * SIDE], const BlockScales<T>& scales, const DownParams& p) {
#pragma unroll
        for (int i = 0; i < 2 * SIDE; i++) {
            const Scale scale = scales.get(p, i / SIDE, i % SIDE);
#pragma unroll
            for (int t = 0; t < T; t++) {
                total[t][i] = add_group(scale, acc[t][i / SIDE][i % SIDE], sum[t], total[t][i]);
            }
        }
        clear();
    }
};

// Bytes [row][column] of four rows' words as bytes [column][row].
__device__ __forceinline__ void transpose(uint32_t* columns, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    const uint32_t ab = __byte_perm(a, b, 0x5140), cd = __byte_perm(c, d, 0x5140);
    const uint32_t ab_high = __byte_perm(a, b, 0x7362), cd_high = __byte_perm(c, d, 0x7362);
    columns[0] = __byte_perm(ab, cd, 0x5410), columns[1] = __byte_perm(ab, cd, 0x7632);
    columns[2] = __byte_perm(ab_high, cd_high, 0x5410), columns[3] = __byte_perm(ab_high, cd_high, 0x7632);
}

// The words of four rows of codes, of positions `at` to `at` + 3 of `count`; zeros past these.
template <int T>
struct Rows4 {
    static constexpr int WORDS = Columns<FourBitRows, T>::WORDS;
    uint32_t words[4][WORDS];

    __device__ __forceinline__ void load(const DownParams& p, const Part& part, uint32_t neuron_of_lane, uint32_t at, uint32_t count) {
        const auto* column = static_cast<const uint8_t*>(p.rows) + part.first / 32 * 16 + part.first % 16;
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            const uint32_t neuron = __shfl_sync(FULL_WARP, neuron_of_lane, at + i);
            const uint8_t* row = column + static_cast<size_t>(neuron) * (p.d_model / 2);
            const bool reads = part.valid && at + i < count;
            if constexpr (WORDS == 2) {
                const uint2 two = reads ? load_streaming_8(row) : make_uint2(0, 0);
                words[i][0] = two.x, words[i][1] = two.y;
            } else {
                words[i][0] = reads ? *reinterpret_cast<const uint32_t*>(row) : 0;
            }
        }
    }

    __device__ __forceinline__ void to_columns(uint32_t (&columns)[4 * WORDS]) const {
#pragma unroll
        for (int w = 0; w < WORDS; w++) {
            transpose(columns + 4 * w, words[0][w], words[1][w], words[2][w], words[3][w]);
        }
    }
};

// Bytes from .. to of a word.
__device__ __forceinline__ uint32_t bytes_between(uint32_t from, uint32_t to) {
    const uint32_t below = to == 4 ? 0xffffffffu : (1u << (8 * to)) - 1;
    return below & ~((1u << (8 * from)) - 1);
}

template <int T>
__device__ __forceinline__ void add_codes(float (&total)[T][Columns<FourBitRows, T>::OF_LANE], const DownParams& p, const Part& part,
                                          const Quantizers<T>& quantizers) {
    constexpr uint32_t NONE = 0xffffffffu, AHEAD = T == 1 ? 3 : 2;  // quads of rows that are on their way
    BlockSums<T> sums;
    sums.clear();
    BlockScales<T> scales = {};
    uint32_t block = NONE;
    Positions next;
    next.load(p, part, part.begin, NONE);
    for (uint32_t base = part.begin; base < part.end; base += 32) {
        const Positions of = next;
        next.load(p, part, base + 32, __shfl_sync(FULL_WARP, of.block, 31));
        const uint32_t count = min(part.end - base, 32u);
        Rows4<T> ahead[AHEAD];
#pragma unroll
        for (uint32_t i = 0; i < AHEAD; i++) {
            ahead[i].load(p, part, of.neuron, 4 * i, count);
        }
        uint32_t codes[T];
        quantize<T>(codes, p, part, quantizers, base);
#pragma unroll 1
        for (uint32_t at = 0; at < count; at += 4) {
            uint32_t columns[Columns<FourBitRows, T>::SIDE];
            ahead[0].to_columns(columns);
#pragma unroll
            for (uint32_t i = 0; i + 1 < AHEAD; i++) {
                ahead[i] = ahead[i + 1];
            }
            ahead[AHEAD - 1].load(p, part, of.neuron, at + 4 * AHEAD, count);
            // the four positions, cut where a block begins
            uint32_t starts = of.starts >> at & 15, from = 0;
            for (;;) {
                const uint32_t to = starts != 0 ? __ffs(starts) - 1 : 4, mask = bytes_between(from, to);
                uint32_t h[T];
#pragma unroll
                for (int t = 0; t < T; t++) {
                    h[t] = __shfl_sync(FULL_WARP, codes[t], at / 4) & mask;
                }
                sums.add(columns, h);
                if (to == 4) {
                    break;
                }
                if (block != NONE) {
                    sums.flush(total, scales, p);
                }
                block = __shfl_sync(FULL_WARP, of.block, at + to);
                scales.load(p, part, block);
                from = to;
                starts &= starts - 1;
            }
        }
    }
    if (block != NONE) {
        sums.flush(total, scales, p);
    }
}

// What a team has in shared memory.
template <class Rows, int T>
struct TeamRoom {
    float totals[DOWN_WARPS][Columns<Rows, T>::OF_LANE * Columns<Rows, T>::STRIDE];  // (warp, column of a lane, lane) of one token
    Quantizers<T> quantizers;
    bool last;
};

// Leaves a team's sums of its part of the list in `partial`: those of its warps in order.
template <class Rows, int T, int TEAMS>
__device__ __forceinline__ void leave(const DownParams& p, const Unit& unit, const Part& part,
                                      const float (&total)[T][Columns<Rows, T>::OF_LANE], TeamRoom<Rows, T>& room) {
    using Lanes = Columns<Rows, T>;
    const uint32_t thread = team_thread<TEAMS>(), lane = thread % 32, warp = thread / 32, tile = unit.tile * Lanes::TILE;
#pragma unroll
    for (int t = 0; t < T; t++) {
        if (part.token0 + t >= p.tokens) {
            return;
        }
        sync_team<TEAMS>();
#pragma unroll
        for (int i = 0; i < Lanes::OF_LANE; i++) {
            room.totals[warp][i * Lanes::STRIDE + lane] = total[t][i];
        }
        sync_team<TEAMS>();
        for (uint32_t within = thread; within < Lanes::TILE && tile + within < p.d_model; within += DOWN_THREADS) {
            float sum = 0.0f;
#pragma unroll
            for (int w = 0; w < DOWN_WARPS; w++) {
                sum += room.totals[w][Lanes::place(within)];
            }
            p.partial[(static_cast<size_t>(unit.split) * p.tokens + part.token0 + t) * p.d_model + tile + within] = sum;
        }
    }
}

// Whether what every other team of these columns and tokens has left is there.
template <int TEAMS>
__device__ __forceinline__ bool is_last(const DownParams& p, const Unit& unit, bool& last_smem) {
    __threadfence();
    sync_team<TEAMS>();
    if (team_thread<TEAMS>() == 0) {
        last_smem = atomicAdd(p.arrived + unit.tokens * unit.tiles + unit.tile, 1) + 1 == unit.splits;
    }
    sync_team<TEAMS>();
    __threadfence();
    return last_smem;
}

// Makes y of the splits' sums of a token, added in order.
template <uint32_t TILE>
__device__ __forceinline__ void add_splits(const DownParams& p, const Unit& unit, uint32_t thread, uint32_t token, float scale) {
    constexpr uint32_t COLUMNS = TILE / DOWN_THREADS;  // of a thread, DOWN_THREADS apart
    const uint32_t first = unit.tile * TILE + thread;
    const size_t at = static_cast<size_t>(token) * p.d_model, stride = static_cast<size_t>(p.tokens) * p.d_model;
    float sum[COLUMNS] = {};
#pragma unroll 12
    for (uint32_t split = 0; split < unit.splits; split++) {
#pragma unroll
        for (uint32_t c = 0; c < COLUMNS; c++) {
            const uint32_t column = first + c * DOWN_THREADS;
            sum[c] += column < p.d_model ? __ldcg(p.partial + split * stride + at + column) : 0.0f;
        }
    }
#pragma unroll
    for (uint32_t c = 0; c < COLUMNS; c++) {
        const uint32_t column = first + c * DOWN_THREADS;
        if (column < p.d_model) {
            write_output(p.output, at + column, column, sum[c], scale);
        }
    }
}

// The calling warp's part of a unit.
template <class Rows, int T, int TEAMS>
__device__ __forceinline__ Part part_of(const DownParams& p, const Unit& unit) {
    using Lanes = Columns<Rows, T>;
    const uint32_t thread = team_thread<TEAMS>(), lane = thread % 32, warp = thread / 32, count = count_of(p.neurons);
    const uint32_t parts = unit.splits * DOWN_WARPS, share = ((count + parts - 1) / parts + 3) / 4 * 4;
    Part part;
    part.begin = min((unit.split * DOWN_WARPS + warp) * share, count);
    part.end = min(part.begin + share, count);
    part.token0 = unit.tokens * T;
    part.first = unit.tile * Lanes::TILE + Lanes::first(lane);
    part.valid = part.first < p.d_model;
    return part;
}

// Brings the first rows of the calling warp's part to the second-level cache.
template <class Rows, int T, int TEAMS>
__device__ __forceinline__ void ask_ahead(const DownParams& p, const Unit& unit) {
    constexpr uint32_t LINE_BYTES = 128, BYTES_OF_8 = Rows::FOUR_BIT ? 4 : 16, LINES = Columns<Rows, T>::TILE / 8 * BYTES_OF_8 / LINE_BYTES;
    const Part part = part_of<Rows, T, TEAMS>(p, unit);
    const uint32_t lane = threadIdx.x % 32, position = part.begin + lane / LINES, row_bytes = p.d_model / 8 * BYTES_OF_8;
    const uint32_t byte = (unit.tile * LINES + lane % LINES) * LINE_BYTES;
    if (position < part.end && byte < row_bytes) {
        prefetch_l2(static_cast<const char*>(p.rows) + static_cast<size_t>(neuron_of(p.neurons, position)) * row_bytes + byte);
    }
}

template <class Rows, int T, int TEAMS>
__device__ __forceinline__ void down(const DownParams& p, const Unit& unit, TeamRoom<Rows, T>& room) {
    using Lanes = Columns<Rows, T>;
    const Part part = part_of<Rows, T, TEAMS>(p, unit);
    const uint32_t thread = team_thread<TEAMS>();
    float total[T][Lanes::OF_LANE] = {};
    if constexpr (Rows::FOUR_BIT) {
        room.quantizers.find(p, part.token0, thread);
        sync_team<TEAMS>();
        add_codes<T>(total, p, part, room.quantizers);
    } else {
        add_rows<Rows, T>(total, p, part);
    }
    leave<Rows, T, TEAMS>(p, unit, part, total, room);
    if (!is_last<TEAMS>(p, unit, room.last)) {
        return;
    }
    for (uint32_t t = 0; t < T && part.token0 + t < p.tokens; t++) {
        add_splits<Lanes::TILE>(p, unit, thread, part.token0 + t, Rows::FOUR_BIT ? room.quantizers.scale[t] : 1.0f);
    }
}

}  // namespace moray::sparse_mlp
