// The rows of down of the selected neurons, weighted by their activations.
//
//   y[t, n] = sum_i hidden[t, i] down[list[i], n] (* act_scale[t]) (+ bias[n]) (+ residual[t, n])
//
// | argument    | dtype               | shape                     | layout                                           |
// |-------------|---------------------|---------------------------|--------------------------------------------------|
// | down        | f16, bf16 or 4 bits | [d_ff, d_model]           | transposed, row-major, see DownParams            |
// | list, count | u32                 | [d_ff], [1]               | read on the device; null: all neurons            |
// | hidden      | f32                 | [tokens, stride]          | by position, for 16-bit rows                     |
// | hidden_int8 | int8, f32           | [tokens, stride]          | codes by position, scale per token: 4-bit rows   |
// | partial     | f32                 | [splits, tokens, d_model] | sums of one part of the list each                |
// | y, residual | f32, f16, bf16      | [tokens, d_model]         | row-major                                        |
//
// Requires d_model % 8 == 0 (4 bits: % 32), rows aligned to 16 bytes, list strictly increasing.
// sparse_mlp_down_*: Grid (ceil(d_model / 256), splits, ceil(tokens / T)); Block 256; Smem static.
// sparse_mlp_combine: Grid (ceil(d_model / 256), tokens); Block 256.
//
// A lane takes 8 columns, a warp 256 neighbouring ones of a row and an eighth of the split's positions. The warps' sums are
// added in order, then the splits' in order: no atomics, and a result depends on the list, not on the batch.
// 4-bit rows: products of a block of group_size neurons are added in integers as long as a warp stays in the block.
// Source: neuron-major gathers as in Deja Vu (ICML 2023), without its atomic adds. Wrapper: src/sparse_mlp/cuda.
#include "rows.cuh"

namespace moray::sparse_mlp {

constexpr int WARPS = 8, THREADS = 32 * WARPS, COLUMNS = 8, TILE = 32 * COLUMNS;

// The columns of a lane: 8 neighbours of 16 bits; of codes, the 4 low and the 4 high ones of a word, 16 apart.
template <class Rows>
__device__ __forceinline__ uint32_t column_of(uint32_t tile, uint32_t lane, int i) {
    if constexpr (Rows::FOUR_BIT) {
        return tile * TILE + lane / 4 * 32 + lane % 4 * 4 + (i < 4 ? i : i + 12);
    }
    return tile * TILE + lane * COLUMNS + i;
}

// A warp's part of the list, and where its columns lie.
struct Part {
    uint32_t begin, end;  // positions of the warp
    uint32_t token0;
    uint32_t first;  // the lane's first column
    bool valid;      // whether the lane has columns
};

template <class Rows, int T>
__device__ __forceinline__ void add_rows(float (&total)[T][COLUMNS], const DownParams& p, const Part& part) {
#pragma unroll 2
    for (uint32_t position = part.begin; position < part.end; position++) {
        const uint32_t neuron = neuron_of(p.neurons, position);
        if (!part.valid) {
            continue;
        }
        const auto* row = static_cast<const uint16_t*>(p.rows) + static_cast<size_t>(neuron) * p.d_model + part.first;
        const uint4 words = load_streaming(row);
        const uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
        for (int t = 0; t < T; t++) {
            const bool there = part.token0 + t < p.tokens;
            const float h = there ? p.hidden[static_cast<size_t>(part.token0 + t) * p.stride + position] : 0.0f;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float2 pair = Rows::widen(word[i]);
                total[t][2 * i] = __fmaf_rn(pair.x, h, total[t][2 * i]);
                total[t][2 * i + 1] = __fmaf_rn(pair.y, h, total[t][2 * i + 1]);
            }
        }
    }
}

// Adds the integer sums of a block of neurons to the totals and clears them.
template <int T>
__device__ __forceinline__ void flush(float (&total)[T][COLUMNS], int32_t (&acc)[T][COLUMNS], int32_t (&sum)[T],
                                      const DownParams& p, const Part& part, uint32_t block) {
#pragma unroll
    for (int high = 0; high < COLUMNS; high += 4) {
        Scale scales[4];
        load_down_scales(scales, p, block, part.first + 4 * high);
#pragma unroll
        for (int i = high; i < high + 4; i++) {
#pragma unroll
            for (int t = 0; t < T; t++) {
                total[t][i] = add_group(scales[i - high], acc[t][i], sum[t], total[t][i]);
                acc[t][i] = 0;
            }
        }
    }
#pragma unroll
    for (int t = 0; t < T; t++) {
        sum[t] = 0;
    }
}

template <int T>
__device__ __forceinline__ void add_codes(float (&total)[T][COLUMNS], const DownParams& p, const Part& part) {
    constexpr uint32_t NONE = 0xffffffffu;
    int32_t acc[T][COLUMNS] = {}, sum[T] = {};
    uint32_t block = NONE;
    for (uint32_t position = part.begin; position < part.end; position++) {
        const uint32_t neuron = neuron_of(p.neurons, position);
        if (!part.valid) {
            continue;
        }
        if (block != NONE && block != neuron / p.group_size) {
            flush<T>(total, acc, sum, p, part, block);
        }
        block = neuron / p.group_size;
        // 4 bytes hold the lane's 8 columns: low nibbles from part.first on, high ones 16 further
        const size_t byte = static_cast<size_t>(neuron) * (p.d_model / 2) + part.first / 32 * 16 + part.first % 16;
        const uint32_t word = *reinterpret_cast<const uint32_t*>(static_cast<const uint8_t*>(p.rows) + byte);
#pragma unroll
        for (int t = 0; t < T; t++) {
            const bool there = part.token0 + t < p.tokens;
            const int h = there ? p.hidden_int8.codes[static_cast<size_t>(part.token0 + t) * p.stride + position] : 0;
            sum[t] += h;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                acc[t][i] += static_cast<int>(word >> (8 * i) & 15) * h;
                acc[t][i + 4] += static_cast<int>(word >> (8 * i + 4) & 15) * h;
            }
        }
    }
    if (block != NONE) {
        flush<T>(total, acc, sum, p, part, block);
    }
}

template <class Rows, int T>
__device__ __forceinline__ void down(const DownParams& p) {
    // (warp, column i of a lane, lane) of one token; 36 words a row, so that readers in column order touch all banks once
    constexpr int STRIDE = 36;
    __shared__ float totals[WARPS][COLUMNS * STRIDE];
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, count = count_of(p.neurons);
    const uint32_t parts = gridDim.y * WARPS, share = (count + parts - 1) / parts;
    Part part;
    part.begin = min((blockIdx.y * WARPS + warp) * share, count);
    part.end = min(part.begin + share, count);
    part.token0 = blockIdx.z * T;
    part.first = column_of<Rows>(blockIdx.x, lane, 0);
    part.valid = part.first < p.d_model;
    float total[T][COLUMNS] = {};
    if constexpr (Rows::FOUR_BIT) {
        add_codes<T>(total, p, part);
    } else {
        add_rows<Rows, T>(total, p, part);
    }
    const uint32_t column = blockIdx.x * TILE + threadIdx.x;
#pragma unroll
    for (int t = 0; t < T; t++) {
        if (part.token0 + t >= p.tokens) {
            return;
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < COLUMNS; i++) {
            totals[warp][i * STRIDE + lane] = total[t][i];
        }
        __syncthreads();
        // thread -> (lane of the tile's columns, i) of its column
        const uint32_t within = threadIdx.x;
        uint32_t from;
        if constexpr (Rows::FOUR_BIT) {
            const uint32_t low = within % 32 % 16;
            from = (within % 32 / 16 * 4 + low % 4) * STRIDE + within / 32 * 4 + low / 4;
        } else {
            from = within % COLUMNS * STRIDE + within / COLUMNS;
        }
        float sum = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            sum += totals[w][from];
        }
        if (column < p.d_model) {
            p.partial[(static_cast<size_t>(blockIdx.y) * p.tokens + part.token0 + t) * p.d_model + column] = sum;
        }
    }
}

}  // namespace moray::sparse_mlp

using namespace moray;
using namespace moray::sparse_mlp;

#define MORAY_DOWN(name, Rows, T)                                                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS) sparse_mlp_down_##name(const __grid_constant__ DownParams p) { \
        down<Rows, T>(p);                                                                                                \
    }

MORAY_DOWN(f16_1, F16Rows, 1)
MORAY_DOWN(f16_8, F16Rows, 8)
MORAY_DOWN(bf16_1, Bf16Rows, 1)
MORAY_DOWN(bf16_8, Bf16Rows, 8)
MORAY_DOWN(int4_1, FourBitRows, 1)
MORAY_DOWN(int4_8, FourBitRows, 8)

// y = the splits' sums in order (* act_scale) (+ bias) (+ residual).
extern "C" __global__ void __launch_bounds__(THREADS) sparse_mlp_combine(const __grid_constant__ CombineParams p) {
    const uint32_t column = blockIdx.x * THREADS + threadIdx.x, token = blockIdx.y;
    if (column >= p.d_model) {
        return;
    }
    const size_t at = static_cast<size_t>(token) * p.d_model + column;
    float sum = 0.0f;
    for (uint32_t split = 0; split < p.n_splits; split++) {
        sum += p.partial[static_cast<size_t>(split) * p.tokens * p.d_model + at];
    }
    if (p.act_scale != nullptr) {
        sum *= p.act_scale[token];
    }
    if (p.bias != nullptr) {
        sum += p.bias[column];
    }
    if (p.residual != nullptr) {
        sum += load_element(p.residual, at, p.dtype);
    }
    store_element(p.y, at, p.dtype, sum);
}
