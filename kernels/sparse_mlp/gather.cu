// Gate and up rows of the selected neurons times the activations, and their product.
//
//   gate_values[t, i] = act(gate[j, :] . x[t, :] + gate_bias[j]),  j = list[i]
//   hidden[t, i]      = gate_values[t, i] * (up[j, :] . x[t, :] + up_bias[j]),  0 where token t's mask leaves j out
//
// | argument    | dtype               | shape             | layout                                                       |
// |-------------|---------------------|-------------------|--------------------------------------------------------------|
// | gate, up    | f16, bf16 or 4 bits | [d_ff, d_model]   | row-major, see MatrixView; either may be null                |
// | list, count | u32                 | [d_ff], [1]       | read on the device; null: all neurons                        |
// | masks       | u32                 | [tokens, words]   | bit per neuron; null: none                                   |
// | x           | f32                 | [tokens, d_model] | for 16-bit rows                                              |
// | x_int8      | int8, i32, f32      | [tokens, d_model] | codes, sums of 32, scale per token: for 4-bit rows           |
// | gate_values | f32                 | [tokens, stride]  | by position; read by neuron where gate is null               |
// | hidden      | f32                 | [tokens, stride]  | by position; positions past the count are left as they are   |
//
// Requires d_model % 8 == 0 (4 bits: % 32), rows aligned to 16 bytes, list strictly increasing.
// Grid (ceil(d_ff / 16), ceil(tokens / T)); Block 256: a warp two neurons; Smem static: x of T tokens, a piece of d_model at a
// time. Blocks past the count end at once.
//
// A lane takes 16 bytes of a row, a warp 512 neighbouring ones, so a gathered row is read in whole sectors and once for T
// tokens. 16-bit rows: f32 sums per lane in the order of k. 4-bit rows: integer sums of 32 products, f32 across. Lanes are
// added by the fixed tree of warp_sum: a result depends on nothing but its row and its token.
// Source: neuron-major gathers as in Deja Vu (ICML 2023) and CATS (arXiv 2404.08763). Wrapper: src/sparse_mlp/cuda.
#include "product.cuh"
#include "rows.cuh"

namespace moray::sparse_mlp {

constexpr int WARPS = 8, THREADS = 32 * WARPS, NEURONS = 2;  // neurons of a warp

// Elements of x in shared memory at a time: 32 KiB for 8 tokens.
template <class Rows>
constexpr int PIECE = Rows::FOUR_BIT ? 4096 : 1024;

// x of the block's tokens. A lane's 32 bytes of x lie in two planes of 16, so that neighbouring lanes read neighbouring 16 bytes;
// the second plane begins 64 bytes off the first's banks, so that the two halves of four chunks are written at once.
template <class Rows, int T>
struct Inputs {
    static constexpr int CHUNKS = PIECE<Rows> / (Rows::FOUR_BIT ? 32 : 8);
    uint4 plane[2][T * CHUNKS + 4];  // (half, token x CHUNKS + lane's chunk)
    int32_t sums[T][Rows::FOUR_BIT ? PIECE<Rows> / 32 : 1];
};

template <class Rows, int T>
__device__ __forceinline__ void load_inputs(Inputs<Rows, T>& inputs, const GateUpParams& p, uint32_t token0, uint32_t k0) {
    constexpr int CHUNK = Rows::FOUR_BIT ? 32 : 8;
    const uint32_t width = min(static_cast<uint32_t>(PIECE<Rows>), p.d_model - k0), halves = width / CHUNK * 2;
    for (uint32_t i = threadIdx.x; i < T * halves; i += THREADS) {
        const uint32_t token = i / halves, half = i % halves;
        uint4 words = {0, 0, 0, 0};
        if (token0 + token < p.tokens) {
            const size_t row = static_cast<size_t>(token0 + token) * p.d_model + k0;
            const void* from = Rows::FOUR_BIT ? static_cast<const void*>(p.x_int8.codes + row + half * 16)
                                              : static_cast<const void*>(p.x + row + half * 4);
            words = *static_cast<const uint4*>(from);
        }
        inputs.plane[half % 2][token * Inputs<Rows, T>::CHUNKS + half / 2] = words;
    }
    if constexpr (Rows::FOUR_BIT) {
        for (uint32_t i = threadIdx.x; i < T * (width / 32); i += THREADS) {
            const uint32_t token = i / (width / 32), segment = i % (width / 32);
            const bool valid = token0 + token < p.tokens;
            inputs.sums[token][segment] =
                valid ? p.x_int8.sums[static_cast<size_t>(token0 + token) * (p.d_model / 32) + k0 / 32 + segment] : 0;
        }
    }
}

// acc[t] += the lane's 8 elements of a row times x.
template <class Rows, int T>
__device__ __forceinline__ void multiply(float (&acc)[T], const uint4& words, const Inputs<Rows, T>& inputs, uint32_t chunk) {
    const uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int t = 0; t < T; t++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const uint4 x = inputs.plane[half][t * Inputs<Rows, T>::CHUNKS + chunk];
            const float2 low = Rows::widen(word[2 * half]), high = Rows::widen(word[2 * half + 1]);
            acc[t] = __fmaf_rn(low.x, __uint_as_float(x.x), acc[t]);
            acc[t] = __fmaf_rn(low.y, __uint_as_float(x.y), acc[t]);
            acc[t] = __fmaf_rn(high.x, __uint_as_float(x.z), acc[t]);
            acc[t] = __fmaf_rn(high.y, __uint_as_float(x.w), acc[t]);
        }
    }
}

// acc[t] += the lane's 32 codes of a row times x, exact in integers, times their group's scale.
template <int T>
__device__ __forceinline__ void multiply_codes(float (&acc)[T], const uint4& words, const Scale& scale,
                                               const Inputs<FourBitRows, T>& inputs, uint32_t chunk) {
    const uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int t = 0; t < T; t++) {
        const uint32_t at = t * Inputs<FourBitRows, T>::CHUNKS + chunk;
        const uint4 low = inputs.plane[0][at], high = inputs.plane[1][at];
        const uint32_t lows[4] = {low.x, low.y, low.z, low.w}, highs[4] = {high.x, high.y, high.z, high.w};
        int32_t dot = 0;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            dot = __dp4a(static_cast<int>(word[i] & 0x0f0f0f0fu), static_cast<int>(lows[i]), dot);
            dot = __dp4a(static_cast<int>(word[i] >> 4 & 0x0f0f0f0fu), static_cast<int>(highs[i]), dot);
        }
        acc[t] = add_group(scale, dot, inputs.sums[t][chunk], acc[t]);
    }
}

// acc[t] += a row's part of this piece of x.
template <class Rows, int T>
__device__ __forceinline__ void multiply_chunk(float (&acc)[T], const MatrixView& matrix, const GateUpParams& p, uint32_t neuron,
                                               uint32_t k, const Inputs<Rows, T>& inputs, uint32_t chunk) {
    if (matrix.rows == nullptr) {
        return;
    }
    const size_t element = static_cast<size_t>(neuron) * p.d_model + k;
    const auto* bytes = static_cast<const uint8_t*>(matrix.rows);
    if constexpr (Rows::FOUR_BIT) {
        const uint4 words = load_streaming(bytes + element / 2);
        multiply_codes<T>(acc, words, load_scale(matrix, neuron, k / 32 / matrix.segments_per_group), inputs, chunk);
    } else {
        multiply<Rows, T>(acc, load_streaming(bytes + element * 2), inputs, chunk);
    }
}

template <class Rows, int T>
__device__ __forceinline__ void gate_up(const GateUpParams& p) {
    constexpr int CHUNK = Rows::FOUR_BIT ? 32 : 8;
    __shared__ Inputs<Rows, T> inputs;
    const uint32_t count = count_of(p.neurons), lane = threadIdx.x % 32, token0 = blockIdx.y * T;
    if (blockIdx.x * WARPS * NEURONS >= count) {
        return;
    }
    const uint32_t position0 = (blockIdx.x * WARPS + threadIdx.x / 32) * NEURONS;
    uint32_t neuron[NEURONS];
#pragma unroll
    for (int r = 0; r < NEURONS; r++) {
        neuron[r] = neuron_of(p.neurons, min(position0 + r, count - 1));
    }
    float gate_acc[NEURONS][T] = {}, up_acc[NEURONS][T] = {};
    for (uint32_t k0 = 0; k0 < p.d_model; k0 += PIECE<Rows>) {
        __syncthreads();
        load_inputs<Rows, T>(inputs, p, token0, k0);
        __syncthreads();
        if (position0 >= count) {
            continue;
        }
        const uint32_t chunks = min(static_cast<uint32_t>(PIECE<Rows>), p.d_model - k0) / CHUNK;
#pragma unroll 2
        for (uint32_t chunk = lane; chunk < chunks; chunk += 32) {
#pragma unroll
            for (int r = 0; r < NEURONS; r++) {
                const bool again = r > 0 && neuron[r] == neuron[0];  // the last warp's odd end reads nothing twice
                if (!again) {
                    multiply_chunk<Rows, T>(gate_acc[r], p.gate, p, neuron[r], k0 + chunk * CHUNK, inputs, chunk);
                    multiply_chunk<Rows, T>(up_acc[r], p.up, p, neuron[r], k0 + chunk * CHUNK, inputs, chunk);
                }
            }
        }
    }
#pragma unroll
    for (int r = 0; r < NEURONS; r++) {
#pragma unroll
        for (int t = 0; t < T; t++) {
            float gate = warp_sum(gate_acc[r][t]), up = warp_sum(up_acc[r][t]);
            if (lane == t && position0 + r < count && token0 + t < p.tokens) {
                if constexpr (Rows::FOUR_BIT) {
                    gate *= p.x_int8.scale[token0 + t];
                    up *= p.x_int8.scale[token0 + t];
                }
                write_back(p, token0 + t, position0 + r, neuron[r], gate, up);
            }
        }
    }
}

}  // namespace moray::sparse_mlp

using namespace moray::sparse_mlp;

#define MORAY_GATE_UP(name, Rows, T)                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS) sparse_mlp_gate_up_##name(const __grid_constant__ GateUpParams p) { \
        gate_up<Rows, T>(p);                                                                                                 \
    }

MORAY_GATE_UP(f16_1, F16Rows, 1)
MORAY_GATE_UP(f16_8, F16Rows, 8)
MORAY_GATE_UP(bf16_1, Bf16Rows, 1)
MORAY_GATE_UP(bf16_8, Bf16Rows, 8)
MORAY_GATE_UP(int4_1, FourBitRows, 1)
MORAY_GATE_UP(int4_8, FourBitRows, 8)
