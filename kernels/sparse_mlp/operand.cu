// Brings the activations of many tokens into the form of operand.cuh, once for all blocks that read them.
//
// | argument | dtype            | shape                   | layout                                                             |
// |----------|------------------|-------------------------|--------------------------------------------------------------------|
// | x        | f32              | [tokens, stride]        | row-major, rows aligned to 16 bytes                                |
// | count    | u32              | [1]                     | null: n values of each token                                       |
// | tiles    | f16, bf16, int8  | [parts, tokens, k]      | see operand.cuh                                                    |
// | sums     | i32              | [k / 32 + 1, token pad] | sum of a token's codes before each 32 of k; null: not wanted       |
// | scale    | f32              | [tokens]                | f16: a power of two; int8: max|x| / 127; NaN if a value is not finite |
//
// Requires n % 8 == 0 where there is no count. Grid (tokens); Block 1024; Smem static.
// Values past the count up to a whole span are zeros; what lies beyond is left as it is.
// Wrapper: src/sparse_mlp/cuda/raw/fill_operand.rs.
#include "operand.cuh"
#include "quantize.cuh"

namespace moray::sparse_mlp {

constexpr uint32_t THREADS = 1024;

// The bits of the largest |x|.
__device__ __forceinline__ uint32_t largest_bits(const float* row, uint32_t used) {
    __shared__ uint32_t scratch_smem[32];
    uint32_t largest = 0;
    for (uint32_t i = threadIdx.x; i < used; i += THREADS) {
        largest = max(largest, size_bits(row[i]));
    }
    return block_max(largest, scratch_smem);
}

// Where the tile of a token and span begins.
__device__ __forceinline__ char* operand_tile(const OperandParams& p, uint32_t part, uint32_t token, uint32_t span) {
    const size_t row = size_t(part) * p.token_tiles + token / TILE_TOKENS;
    return reinterpret_cast<char*>(p.tiles) + (row * p.spans + span) * OPERAND_TILE_BYTES;
}

// The lane that has a token's values, its k being the j-th of four.
__device__ __forceinline__ uint32_t lane_of(uint32_t token, uint32_t j) { return token % TILE_TOKENS * 4 + j; }

__device__ __forceinline__ uint32_t pack(__half low, __half high) {
    return __half_as_ushort(low) | static_cast<uint32_t>(__half_as_ushort(high)) << 16;
}

// 2^n for n from -126 to 127.
__device__ __forceinline__ float power_of_two(int n) { return __int_as_float((n + 127) << 23); }

// A token's values as two f16 of x / scale, the largest of which is from 2^14 to 2^15: the rest of the smaller ones is then
// far above f16's smallest number.
struct SplitF16 {
    using Rows = F16Rows;
    float inverse, scale;

    __device__ __forceinline__ SplitF16(const float* row, uint32_t used) {
        const uint32_t largest = largest_bits(row, used);
        const int exponent = max(static_cast<int>(largest >> 23) - 127, -106);  // 14 + 106 is below 127
        inverse = largest < 0x7f800000u ? power_of_two(14 - exponent) : 0.0f;
        scale = largest < 0x7f800000u ? power_of_two(exponent - 14) : NAN;
    }

    __device__ __forceinline__ void split(uint32_t (&words)[2][4], const float (&x)[8]) const {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            __half high[2], low[2];
#pragma unroll
            for (int h = 0; h < 2; h++) {
                // 0 * inf is not asked for: the scale is NaN then
                const float v = inverse == 0.0f ? 0.0f : x[2 * i + h] * inverse;
                high[h] = __float2half_rn(v);
                low[h] = __float2half_rn(v - __half2float(high[h]));
            }
            words[0][i] = pack(high[0], high[1]);
            words[1][i] = pack(low[0], low[1]);
        }
    }
};

// A token's values cut into three bf16: 8 leading bits, the next 8 and the last 8.
struct SplitBf16 {
    using Rows = Bf16Rows;
    float scale;

    __device__ __forceinline__ SplitBf16(const float*, uint32_t) : scale(1.0f) {}

    __device__ __forceinline__ void split(uint32_t (&words)[3][4], const float (&x)[8]) const {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float rest[2] = {x[2 * i], x[2 * i + 1]};
#pragma unroll
            for (int part = 0; part < 3; part++) {
                const uint32_t bits[2] = {__float_as_uint(rest[0]) & 0xffff0000u, __float_as_uint(rest[1]) & 0xffff0000u};
                words[part][i] = bits[0] >> 16 | bits[1];
                // exact; an infinity leaves a NaN
                rest[0] -= __uint_as_float(bits[0]);
                rest[1] -= __uint_as_float(bits[1]);
            }
        }
    }
};

template <class Split>
__device__ __forceinline__ void split(const OperandParams& p) {
    using Rows = typename Split::Rows;
    constexpr uint32_t SPAN = OperandOf<Rows>::SPAN, PARTS = OperandOf<Rows>::PARTS;
    const uint32_t token = blockIdx.x, used = p.count == nullptr ? p.n : min(*p.count, p.n);
    const float* row = p.x + size_t(token) * p.stride;
    const Split way(row, used);
    if (threadIdx.x == 0) {
        p.scale[token] = way.scale;
    }
    const uint32_t eights = (used + SPAN - 1) / SPAN * (SPAN / 8);
    for (uint32_t i = threadIdx.x; i < eights; i += THREADS) {
        float x[8] = {};
#pragma unroll
        for (uint32_t at = 0; at < 8; at += 4) {
            if (8 * i + at + 4 <= used) {
                float four[4];
                load_4(four, row + 8 * i + at);
                x[at] = four[0], x[at + 1] = four[1], x[at + 2] = four[2], x[at + 3] = four[3];
            } else {
#pragma unroll
                for (uint32_t e = at; e < at + 4; e++) {
                    x[e] = 8 * i + e < used ? row[8 * i + e] : 0.0f;
                }
            }
        }
        uint32_t words[PARTS][4];
        way.split(words, x);
#pragma unroll
        for (uint32_t part = 0; part < PARTS; part++) {
            auto* tile = reinterpret_cast<uint4*>(operand_tile(p, part, token, i / 4));
            tile[lane_of(token, i % 4)] = make_uint4(words[part][0], words[part][1], words[part][2], words[part][3]);
        }
    }
}

// Writes the running sums of a round: `before` is the sum of all rounds before it, `sum` a warp's own.
__device__ __forceinline__ int32_t write_sums(const OperandParams& p, uint32_t token, uint32_t first, uint32_t used, int32_t sum,
                                              int32_t before) {
    __shared__ int32_t sums_smem[32];
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (lane == 0) {
        sums_smem[warp] = sum;
    }
    __syncthreads();
    int32_t running = sums_smem[lane];
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
        const int32_t left = __shfl_up_sync(FULL_WARP, running, distance);
        running += lane >= distance ? left : 0;
    }
    const uint32_t segment = first / 32 + lane;
    if (warp == 0 && segment * 32 < used) {
        p.sums[size_t(segment + 1) * p.token_tiles * TILE_TOKENS + token] = before + running;
    }
    __syncthreads();
    return before + __shfl_sync(FULL_WARP, running, 31);
}

__device__ __forceinline__ void quantize(const OperandParams& p) {
    constexpr uint32_t SPAN = OperandOf<FourBitRows>::SPAN;
    const uint32_t token = blockIdx.x, used = p.count == nullptr ? p.n : min(*p.count, p.n);
    const float* row = p.x + size_t(token) * p.stride;
    const Quantizer quantizer(largest_bits(row, used));
    if (threadIdx.x == 0) {
        p.scale[token] = quantizer.scale;
        if (p.sums != nullptr) {
            p.sums[token] = 0;
        }
    }
    const uint32_t padded = (used + SPAN - 1) / SPAN * SPAN;
    int32_t before = 0;
    for (uint32_t first = 0; first < padded; first += THREADS) {
        const uint32_t k = first + threadIdx.x;
        const int32_t code = k < used ? code_of(row[k], quantizer.inverse) : 0;
        if (k < padded) {
            const uint32_t step = k % SPAN / 32, half = k % 32 / 16, j = k % 16 / 4, byte = k % 4;
            operand_tile(p, 0, token, k / SPAN)[(step * 32 + lane_of(token, j)) * 8 + half * 4 + byte] = static_cast<char>(code);
        }
        if (p.sums != nullptr) {
            before = write_sums(p, token, first, used, warp_sum(code), before);
        }
    }
}

}  // namespace moray::sparse_mlp

using namespace moray::sparse_mlp;

extern "C" __global__ void __launch_bounds__(THREADS) sparse_mlp_operand_f16(const __grid_constant__ OperandParams p) {
    split<SplitF16>(p);
}

extern "C" __global__ void __launch_bounds__(THREADS) sparse_mlp_operand_bf16(const __grid_constant__ OperandParams p) {
    split<SplitBf16>(p);
}

extern "C" __global__ void __launch_bounds__(THREADS) sparse_mlp_operand_int8(const __grid_constant__ OperandParams p) {
    quantize(p);
}
