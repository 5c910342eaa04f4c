// The rows of down of the selected neurons, weighted by the activations of many tokens, on the matrix units.
//
//   partial[s, t, n] = sum of hidden[t, i] down[list[i], n] over the positions i of split s
//
// | argument | dtype               | shape                     | layout                                                  |
// |----------|---------------------|---------------------------|---------------------------------------------------------|
// | down     | f16, bf16 or 4 bits | [d_ff, d_model]           | transposed, row-major, see DownParams                   |
// | list, count | u32              | [d_ff], [1]               | read on the device; null: all neurons                   |
// | operand  | f16, bf16 or int8   | [tokens, positions]       | hidden by position, see operand.cuh                     |
// | partial  | f32                 | [splits, tokens, d_model] | before the tokens' scales, which sparse_mlp_combine has |
//
// Requires d_model % 8 == 0 (4 bits: % 32), rows aligned to 16 bytes, list strictly increasing.
// Grid (ceil(d_model / Tile::COLUMNS), splits, ceil(tokens / TOKENS)); Block Tile::THREADS; Smem dynamic, see Tile.
//
// Columns are the M of 16, tokens the N of 8 and positions the k, so every selected row is read once for TOKENS tokens, in
// whole sectors. 16-bit rows come from shared memory transposed, by ldmatrix. Codes are turned four rows at a time, so that a
// register has four positions of a column; a warp takes the low nibbles of 64 columns, another the high ones. Products of a
// block of group_size neurons are added in integers as long as the split stays in the block: where a step has several blocks,
// each is multiplied with the activations of the others set to 0.
// Source: neuron-major gathers as in Deja Vu (ICML 2023), without its atomic adds. Wrapper: src/sparse_mlp/cuda.
#include "common/shared.cuh"
#include "operand.cuh"

namespace moray::sparse_mlp {

constexpr uint32_t STAGES = 4, NONE = 0xffffffffu;
constexpr uint32_t NIBBLES = 0x0f0f0f0fu, ONES = 0x01010101u;

// A block's tile and its shared memory: STAGES stages, then the neurons of eight stages' positions.
template <class Rows, int TOKENS>
struct Tile {
    static constexpr uint32_t POSITIONS = OperandOf<Rows>::SPAN;  // of a stage
    static constexpr uint32_t TILES = TOKENS / TILE_TOKENS;
    static constexpr uint32_t COLUMNS = (TOKENS == 16 ? 64 : 128) * (Rows::FOUR_BIT ? 2 : 1);
    static constexpr uint32_t WARPS = COLUMNS / 32, THREADS = 32 * WARPS;
    static constexpr uint32_t ROW_BYTES = Rows::FOUR_BIT ? COLUMNS / 2 : COLUMNS * 2;
    static constexpr uint32_t X = POSITIONS * ROW_BYTES;  // (part, tile, byte512); before it the rows, see place_of
    static constexpr uint32_t BYTES = X + OperandOf<Rows>::PARTS * TILES * OPERAND_TILE_BYTES;
    static constexpr uint32_t NEURONS = STAGES * BYTES, SLOTS = 8;  // (stage % 8, position)
    static constexpr uint32_t ALL_BYTES = NEURONS + SLOTS * POSITIONS * 4;
};

// Where 16 bytes of a stage's row lie.
//   16 bits: rows as they are, their pieces swizzled so that the eight rows of a matrix of ldmatrix, 8 r + {0, 1} of four r,
//            touch all banks once
//   4 bits:  (column group of 32 bytes, step2, position % 4, position % 32 / 4, piece2): the rows that a register's four lanes
//            read lie side by side
template <class Rows, int TOKENS>
__device__ __forceinline__ uint32_t place_of(uint32_t position, uint32_t piece) {
    if constexpr (Rows::FOUR_BIT) {
        const uint32_t slot = position / 32 * 32 + position % 4 * 8 + position % 32 / 4;
        return (piece / 2 * Tile<Rows, TOKENS>::POSITIONS + slot) * 32 + piece % 2 * 16;
    }
    return position * Tile<Rows, TOKENS>::ROW_BYTES + (piece ^ (position / 8 * 2 + position % 2)) * 16;
}

// A block's part of the list.
struct Part {
    uint32_t first, end;  // stages
    uint32_t count;       // positions in use
    uint32_t token0, tiles;
    uint32_t column0;
};

// The neuron of a stage's position, NONE past the part and the count.
template <class Rows, int TOKENS>
__device__ __forceinline__ uint32_t neuron_at(const DownParams& p, const Part& part, uint32_t stage, uint32_t within) {
    const uint32_t position = stage * Tile<Rows, TOKENS>::POSITIONS + within;
    return stage < part.end && position < part.count ? neuron_of(p.neurons, position) : NONE;
}

// Where the neurons of a stage's positions are kept.
template <class Rows, int TOKENS>
__device__ __forceinline__ uint32_t* neurons_of(char* smem, uint32_t stage) {
    using T = Tile<Rows, TOKENS>;
    return reinterpret_cast<uint32_t*>(smem + T::NEURONS) + stage % T::SLOTS * T::POSITIONS;
}

// Starts the copies of a stage into its slot.
template <class Rows, int TOKENS>
__device__ __forceinline__ void load_stage(char* smem, const DownParams& p, const Part& part, uint32_t stage) {
    using T = Tile<Rows, TOKENS>;
    const uint32_t stage_smem = shared_address(smem) + stage % STAGES * T::BYTES;
    const uint32_t* neurons = neurons_of<Rows, TOKENS>(smem, stage);
    const auto* rows = static_cast<const char*>(p.rows);
    const uint32_t row_bytes = Rows::FOUR_BIT ? p.d_model / 2 : p.d_model * 2;
    const uint32_t first = Rows::FOUR_BIT ? part.column0 / 2 : part.column0 * 2;
    constexpr uint32_t PIECES = T::ROW_BYTES / 16;
#pragma unroll
    for (uint32_t i = 0; i < T::POSITIONS * PIECES / T::THREADS; i++) {
        const uint32_t at = i * T::THREADS + threadIdx.x, position = at / PIECES, piece = at % PIECES;
        const uint32_t neuron = neurons[position], byte = first + piece * 16;
        const bool valid = neuron != NONE && byte < row_bytes;
        const char* src = valid ? rows + size_t(neuron) * row_bytes + byte : rows;
        cp_async_16(stage_smem + place_of<Rows, TOKENS>(position, piece), src, valid ? 16 : 0);
    }
    load_operand<Rows, T::TILES, 1>(stage_smem + T::X, p.operand, part.token0, part.tiles, stage);
}

// A warp's sums of 16-bit rows: 32 columns, (16 columns, token tile).
template <class Rows, int TOKENS>
struct RowSums {
    float total[2][TOKENS / TILE_TOKENS][4] = {};

    __device__ __forceinline__ void multiply(const DownParams&, const Part& part, const char* stage, const uint32_t*) {
        using T = Tile<Rows, TOKENS>;
        const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = lane % 8, matrix = lane / 8;
        const auto* x = reinterpret_cast<const uint4*>(stage + T::X);
        uint32_t a[2][2][4];  // (step, 16 columns)
#pragma unroll
        for (uint32_t step = 0; step < 2; step++) {
            // mma's k in the operand's order: pairs 8 j + 4 step + {0, 1} for k 0..7, two more for k 8..15
            const uint32_t position = row / 2 * 8 + row % 2 + 4 * step + matrix / 2 * 2;
#pragma unroll
            for (uint32_t m = 0; m < 2; m++) {
                const uint32_t place = place_of<Rows, TOKENS>(position, warp * 4 + m * 2 + matrix % 2);
                ldmatrix_x4_trans(a[step][m], shared_address(stage) + place);
            }
        }
#pragma unroll
        for (uint32_t t = 0; t < T::TILES; t++) {
            if (t >= part.tiles) {
                break;
            }
#pragma unroll
            for (uint32_t i = 0; i < OperandOf<Rows>::PARTS; i++) {
                const uint4 b = x[(i * T::TILES + t) * 32 + lane];
#pragma unroll
                for (uint32_t m = 0; m < 2; m++) {
                    OperandOf<Rows>::multiply(total[m][t], a[0][m], b.x, b.y);
                    OperandOf<Rows>::multiply(total[m][t], a[1][m], b.z, b.w);
                }
            }
        }
    }

    __device__ __forceinline__ void finish(const DownParams&, const Part&) {}

    // The column in the block's tile of a value: m of 16 columns, half of these.
    __device__ __forceinline__ static uint32_t column_of(uint32_t m, uint32_t half) {
        return threadIdx.x / 32 * 32 + m * 16 + half * 8 + threadIdx.x % 32 / 4;
    }
};

// Turns four words of bytes: byte i of word r to byte r of word i.
__device__ __forceinline__ void transpose(uint32_t (&words)[4]) {
    const uint32_t a = __byte_perm(words[0], words[1], 0x5140), b = __byte_perm(words[2], words[3], 0x5140);
    const uint32_t c = __byte_perm(words[0], words[1], 0x7362), d = __byte_perm(words[2], words[3], 0x7362);
    words[0] = __byte_perm(a, b, 0x5410), words[1] = __byte_perm(a, b, 0x7632);
    words[2] = __byte_perm(c, d, 0x5410), words[3] = __byte_perm(c, d, 0x7632);
}

// 0xff in byte i for bit i of the lowest four.
__device__ __forceinline__ uint32_t byte_mask(uint32_t bits) { return ((bits & 15) * 0x00204081u & ONES) * 0xff; }

// A warp's sums of codes: the low (or high) nibbles of 64 columns, (16 columns, token tile).
template <int TOKENS>
struct CodeSums {
    static constexpr uint32_t TILES = TOKENS / TILE_TOKENS;
    float total[2][TILES][4] = {};
    int32_t dots[2][TILES][4] = {};
    int32_t codes[TILES] = {};  // sum of the lane's activations, of token lane / 4 of a tile
    uint32_t block = NONE;      // of neurons, whose products `dots` and `codes` are

    // Column of the lane's first value: a lane has four neighbours, in the order (m2, half2) -> 2 half + m.
    __device__ __forceinline__ static uint32_t column_of(uint32_t m, uint32_t half) {
        const uint32_t warp = threadIdx.x / 32, word = threadIdx.x % 32 / 4;
        return warp / 2 * 64 + word / 4 * 32 + warp % 2 * 16 + word % 4 * 4 + 2 * half + m;
    }

    // Adds the integers of a finished block to the totals and clears them.
    __device__ __forceinline__ void flush(const DownParams& p, const Part& part) {
        const uint32_t column = part.column0 + column_of(0, 0), pair = 2 * (threadIdx.x % 4);
        Scale scales[4] = {};
        if (column < p.d_model) {
            load_down_scales(scales, p, block, column);
        }
#pragma unroll
        for (uint32_t t = 0; t < TILES; t++) {
            if (t >= part.tiles) {
                break;
            }
            const int32_t sum = warp_sum<4>(codes[t]);  // of token lane / 4
            const int32_t sums[2] = {__shfl_sync(FULL_WARP, sum, pair * 4), __shfl_sync(FULL_WARP, sum, pair * 4 + 4)};
#pragma unroll
            for (uint32_t m = 0; m < 2; m++) {
#pragma unroll
                for (uint32_t i = 0; i < 4; i++) {
                    total[m][t][i] = add_group(scales[i / 2 * 2 + m], dots[m][t][i], sums[i % 2], total[m][t][i]);
                    dots[m][t][i] = 0;
                }
            }
            codes[t] = 0;
        }
    }

    // Multiplies the positions of a step that `bits` names.
    __device__ __forceinline__ void multiply_run(const Part& part, const uint32_t (&a)[2][4], const uint2* x, uint32_t bits) {
        const uint32_t lane = threadIdx.x % 32, near = byte_mask(bits >> (lane % 4 * 4)), far = byte_mask(bits >> (lane % 4 * 4 + 16));
#pragma unroll
        for (uint32_t t = 0; t < TILES; t++) {
            if (t >= part.tiles) {
                break;
            }
            uint2 b = x[t * 64 + lane];
            b.x &= near, b.y &= far;
            mma_s8(dots[0][t], a[0], b.x, b.y);
            mma_s8(dots[1][t], a[1], b.x, b.y);
            codes[t] = __dp4a(static_cast<int>(b.x), static_cast<int>(ONES), codes[t]);
            codes[t] = __dp4a(static_cast<int>(b.y), static_cast<int>(ONES), codes[t]);
        }
    }

    __device__ __forceinline__ void multiply(const DownParams& p, const Part& part, const char* stage, const uint32_t* neurons) {
        using T = Tile<FourBitRows, TOKENS>;
        const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        const auto* words = reinterpret_cast<const uint32_t*>(stage + warp / 2 * T::POSITIONS * 32) + lane % 4 * 8 + lane / 4;
#pragma unroll 1  // `flush` has shuffles in a loop: more than one copy of them, and ptxas calls functions for them
        for (uint32_t step = 0; step < 2; step++) {
            const uint32_t neuron = neurons[step * 32 + lane];
            const uint32_t mine = neuron == NONE ? NONE : neuron / p.group_size;
            const uint32_t used = __popc(__ballot_sync(FULL_WARP, neuron != NONE));
            if (used == 0) {
                break;
            }
            uint32_t near[4], far[4], a[2][4];
#pragma unroll
            for (uint32_t r = 0; r < 4; r++) {
                near[r] = words[(step * 32 + r * 8) * 8];
                far[r] = words[(step * 32 + r * 8 + 4) * 8];
            }
            transpose(near);
            transpose(far);
            const uint32_t shift = warp % 2 * 4;
#pragma unroll
            for (uint32_t m = 0; m < 2; m++) {
                a[m][0] = near[m] >> shift & NIBBLES, a[m][1] = near[m + 2] >> shift & NIBBLES;
                a[m][2] = far[m] >> shift & NIBBLES, a[m][3] = far[m + 2] >> shift & NIBBLES;
            }
            const auto* x = reinterpret_cast<const uint2*>(stage + T::X) + step * 32;
            uint32_t before = __shfl_up_sync(FULL_WARP, mine, 1);
            before = lane == 0 ? block : before;
            // bit i: position i is the first of another block
            const uint32_t heads = __ballot_sync(FULL_WARP, neuron != NONE && mine != before);
            for (uint32_t start = 0; start < used;) {
                if (heads >> start & 1) {
                    if (block != NONE) {
                        flush(p, part);
                    }
                    block = neurons[step * 32 + start] / p.group_size;
                }
                const uint32_t later = heads & ~((2u << start) - 1), end = later == 0 ? 32 : __ffs(later) - 1;
                const uint32_t below_end = end == 32 ? 0xffffffffu : (1u << end) - 1;
                multiply_run(part, a, x, below_end & ~((1u << start) - 1));
                start = end;
            }
        }
    }

    __device__ __forceinline__ void finish(const DownParams& p, const Part& part) {
        if (block != NONE) {
            flush(p, part);
        }
    }
};

template <class Rows, int TOKENS>
struct SumsOf {
    using Type = RowSums<Rows, TOKENS>;
};
template <int TOKENS>
struct SumsOf<FourBitRows, TOKENS> {
    using Type = CodeSums<TOKENS>;
};

template <class Sums>
__device__ __forceinline__ void write_partial(const DownParams& p, const Part& part, const Sums& sums) {
    const uint32_t pair = 2 * (threadIdx.x % 4);
#pragma unroll
    for (uint32_t t = 0; t < sizeof(sums.total[0]) / sizeof(sums.total[0][0]); t++) {
#pragma unroll
        for (uint32_t m = 0; m < 2; m++) {
#pragma unroll
            for (uint32_t i = 0; i < 4; i++) {
                const uint32_t column = part.column0 + Sums::column_of(m, i / 2);
                const uint32_t token = part.token0 + t * TILE_TOKENS + pair + i % 2;
                if (column < p.d_model && token < p.tokens) {
                    p.partial[(size_t(blockIdx.y) * p.tokens + token) * p.d_model + column] = sums.total[m][t][i];
                }
            }
        }
    }
}

template <class Rows, int TOKENS>
__device__ __forceinline__ void down(const DownParams& p) {
    using T = Tile<Rows, TOKENS>;
    extern __shared__ __align__(16) char smem[];
    Part part;
    part.count = count_of(p.neurons);
    const uint32_t stages = (part.count + T::POSITIONS - 1) / T::POSITIONS, share = (stages + gridDim.y - 1) / gridDim.y;
    part.first = min(blockIdx.y * share, stages), part.end = min(part.first + share, stages);
    part.token0 = blockIdx.z * TOKENS, part.tiles = tiles_in_use(p.tokens, part.token0, T::TILES);
    part.column0 = blockIdx.x * T::COLUMNS;

    for (uint32_t i = threadIdx.x; i < STAGES * T::POSITIONS; i += T::THREADS) {
        neurons_of<Rows, TOKENS>(smem, part.first + i / T::POSITIONS)[i % T::POSITIONS] =
            neuron_at<Rows, TOKENS>(p, part, part.first + i / T::POSITIONS, i % T::POSITIONS);
    }
    __syncthreads();
    typename SumsOf<Rows, TOKENS>::Type sums;
#pragma unroll
    for (uint32_t i = 0; i < STAGES - 1; i++) {
        if (part.first + i < part.end) {
            load_stage<Rows, TOKENS>(smem, p, part, part.first + i);
        }
        cp_async_commit();
    }
    for (uint32_t index = part.first; index < part.end; index++) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();  // the stage is there for all, and all are done with the one before it, whose slot is next
        if (index + STAGES - 1 < part.end) {
            load_stage<Rows, TOKENS>(smem, p, part, index + STAGES - 1);
        }
        cp_async_commit();
        // one stage ahead of its copies, so that nobody waits for the list
        const bool lists = threadIdx.x < T::POSITIONS;
        const uint32_t neuron = lists ? neuron_at<Rows, TOKENS>(p, part, index + STAGES, threadIdx.x) : NONE;
        sums.multiply(p, part, smem + index % STAGES * T::BYTES, neurons_of<Rows, TOKENS>(smem, index));
        if (lists) {
            neurons_of<Rows, TOKENS>(smem, index + STAGES)[threadIdx.x] = neuron;
        }
    }
    cp_async_wait<0>();
    sums.finish(p, part);
    write_partial(p, part, sums);
}

}  // namespace moray::sparse_mlp

using namespace moray::sparse_mlp;

#define MORAY_DOWN(name, Rows, TOKENS)                                          \
    MORAY_SHARED(sparse_mlp_down_tiles_##name, (Tile<Rows, TOKENS>::ALL_BYTES))  \
    extern "C" __global__ void __launch_bounds__((Tile<Rows, TOKENS>::THREADS)) \
    sparse_mlp_down_tiles_##name(const __grid_constant__ DownParams p) {        \
        down<Rows, TOKENS>(p);                                                  \
    }

MORAY_DOWN(f16_16, F16Rows, 16)
MORAY_DOWN(f16_64, F16Rows, 64)
MORAY_DOWN(bf16_16, Bf16Rows, 16)
MORAY_DOWN(bf16_64, Bf16Rows, 64)
MORAY_DOWN(int4_16, FourBitRows, 16)
MORAY_DOWN(int4_64, FourBitRows, 64)
