// The rows of down of the selected neurons, weighted by their activations.
//
//   y[t, n] = sum_i hidden[t, i] down[list[i], n] (* act_scale[t]) (+ bias[n]) (+ residual[t, n])
//
// | argument    | dtype               | shape                     | layout                                           |
// |-------------|---------------------|---------------------------|--------------------------------------------------|
// | down        | f16, bf16 or 4 bits | [d_ff, d_model]           | transposed, row-major, see DownParams            |
// | list, count | u32                 | [d_ff], [1]               | read on the device; null: all neurons            |
// | hidden      | f32                 | [tokens, stride]          | by position; quantized here for 4-bit rows       |
// | maxima      | u32                 | [tokens, n_maxima]        | bits of |hidden| that have a token's largest     |
// | partial     | f32                 | [splits, tokens, d_model] | sums of one part of the list each                |
// | arrived     | u32                 | [tokens / T, tiles]       | 0 before                                         |
// | y, residual | f32, f16, bf16      | [tokens, d_model]         | row-major                                        |
//
// Requires d_model % 8 == 0 (4 bits: % 32), rows aligned to 16 bytes, list strictly increasing.
// sparse_mlp_down_*: Grid (column tiles, splits, ceil(tokens / T)), about as many blocks as are resident; Block 256; Smem static.
// A tile is 256 columns, of codes for one token 512.
// sparse_mlp_combine: Grid (ceil(d_model / 256), tokens); Block 256.
//
// A lane takes 16 bytes of a row (codes: 8; for several tokens 4), a warp neighbouring ones and an eighth of the split's positions. The
// lanes of a warp hold 32 of its positions, the next 32 are on their way; of the rows eight are (codes: twelve; for several tokens
// four and eight): 3 or 4 KiB a warp, so memory binds. The warps' sums are added in order, then the splits' in order by the
// block of a tile that comes last: a result depends on the list, neither on the batch nor on which block that is.
// 4-bit rows: the codes of four positions are turned into four of a column, so that a dp4a multiplies them; products of a block of
// group_size neurons are added in integers as long as a warp stays in the block, whose scales are on their way meanwhile.
// Source: neuron-major gathers as in Deja Vu (ICML 2023), without its atomic adds. Wrapper: src/sparse_mlp/cuda.
#include "down.cuh"

using namespace moray;
using namespace moray::sparse_mlp;

#define MORAY_DOWN(name, Rows, T)                                                                                        \
    extern "C" __global__ void __launch_bounds__(DOWN_THREADS, 1) sparse_mlp_down_##name(const __grid_constant__ DownParams p) { \
        __shared__ TeamRoom<Rows, T> room;                                                                               \
        const Unit unit = {blockIdx.x, gridDim.x, blockIdx.y, gridDim.y, blockIdx.z};                                    \
        down<Rows, T, 1>(p, unit, room);                                                                                 \
    }

MORAY_DOWN(f16_1, F16Rows, 1)
MORAY_DOWN(f16_8, F16Rows, 8)
MORAY_DOWN(bf16_1, Bf16Rows, 1)
MORAY_DOWN(bf16_8, Bf16Rows, 8)
MORAY_DOWN(int4_1, FourBitRows, 1)
MORAY_DOWN(int4_8, FourBitRows, 8)

// The same for many tokens: y = the splits' sums in order (* act_scale) (+ bias) (+ residual).
extern "C" __global__ void __launch_bounds__(DOWN_THREADS) sparse_mlp_combine(const __grid_constant__ CombineParams p) {
    const uint32_t column = blockIdx.x * DOWN_THREADS + threadIdx.x, token = blockIdx.y;
    if (column >= p.d_model) {
        return;
    }
    const size_t at = static_cast<size_t>(token) * p.d_model + column;
    float sum = 0.0f;
    for (uint32_t split = 0; split < p.n_splits; split++) {
        sum += p.partial[static_cast<size_t>(split) * p.tokens * p.d_model + at];
    }
    write_output(p.output, at, column, sum, p.act_scale != nullptr ? p.act_scale[token] : 1.0f);
}
