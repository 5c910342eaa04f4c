// Quantizes tokens to int8: scale[m] = max_k |v[m,k]| / 127, code[m,k] = rne(v[m,k] / scale[m]) in −127..127, and sums the codes
// of each 32, 64 and 128 of K and of all K, for weights with zero points or offsets. Fine: a scale for each 128 of K.
//
//   plain     v = x
//   rms_norm  v = x / √(mean(x²) + eps) ⊙ weight
//   swiglu    v = act(x[m, 0..K]) ⊙ x[m, K..2K]
//
// | argument    | type                | shape              | layout                                            |
// |-------------|---------------------|--------------------|---------------------------------------------------|
// | x           | f32, f16 or bf16    | [M, K], swiglu [M, 2K] | row-major, 16-byte aligned                    |
// | weight      | f32                 | [K]                | rms_norm only, 16-byte aligned                    |
// | codes       | int8                | [M, padded K]      | row-major, zeros from K on; padded K = K up to 64 |
// | scale       | f32                 | [M]                | NaN for a token that is not finite, codes 0;      |
// |             |                     | fine [⌈K/128⌉, M]  | fine, for those of its blocks that are not        |
// | sums[level] | int32               | [groups, M]        | groups = ⌈padded K / (32 << level)⌉               |
// | totals      | int32               | [M]                |                                                   |
//
// Requires: K a multiple of 32. Grid: M blocks. Block: 512 threads. Shared memory: 16.2 KiB (rms_norm), 0.2 KiB.
// Every number has the CPU's bits: RMSNorm adds squares in 32 chains, as two 16-lane vectors do, in one warp.
// Source: per-token quantization as in QQQ (arXiv 2406.09904); RMSNorm (arXiv 1910.07467); SwiGLU (arXiv 2002.05202).
// Wrapper: src/w4a8/cuda/activation.rs.

#include "common/activation.cuh"
#include "common/memory.cuh"
#include "common/norm.cuh"
#include "common/reduce.cuh"
#include "w4a8/layout.cuh"

namespace moray {

constexpr int THREADS = 512;

// The values of one token as they are. A thread holds KEPT times four of them, enough for the layers of a 7B model; what is past them is
// loaded, and made, twice.
template <typename T>
struct Plain {
    static constexpr uint32_t KEPT = 2;
    const T* x;

    __device__ Plain(const QuantizeParams& p) : x(static_cast<const T*>(p.x) + size_t(blockIdx.x) * p.k) {}
    __device__ void load(float (&v)[4], uint32_t k) const { load_4(v, x + k); }
};

// The values of one token, normalised.
template <typename T>
struct RmsNorm {
    static constexpr uint32_t KEPT = 2;
    const T* x;
    const float* weight;
    float inverse;

    __device__ RmsNorm(const QuantizeParams& p)
        : x(static_cast<const T*>(p.x) + size_t(blockIdx.x) * p.k), weight(p.weight) {
        inverse = block_rms_factor(x, p.k, p.eps);
    }

    __device__ void load(float (&v)[4], uint32_t k) const {
        float w[4];
        load_4(v, x + k);
        load_4(w, weight + k);
#pragma unroll
        for (int i = 0; i < 4; ++i) v[i] = __fmul_rn(__fmul_rn(v[i], inverse), w[i]);
    }
};

// The values of one token, gate and up multiplied.
template <typename T>
struct SwiGlu {
    static constexpr uint32_t KEPT = 6;
    const T* gate;
    const T* up;
    Activation activation;

    __device__ SwiGlu(const QuantizeParams& p)
        : gate(static_cast<const T*>(p.x) + size_t(blockIdx.x) * 2 * p.k), up(gate + p.k), activation(Activation(p.activation)) {}
    __device__ void load(float (&v)[4], uint32_t k) const {
        float g[4];
        load_4(g, gate + k);
        load_4(v, up + k);
#pragma unroll
        for (int i = 0; i < 4; ++i) v[i] = __fmul_rn(activate(activation, g[i]), v[i]);
    }
};

// The largest magnitude's bits of four values, which order as the numbers do; those of infinities and NaN are above all others.
__device__ __forceinline__ uint32_t largest_bits(const float (&v)[4]) {
    uint32_t largest = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) largest = max(largest, __float_as_uint(v[i]) & 0x7fffffffu);
    return largest;
}

// Four codes in one word, the first in the lowest byte.
__device__ __forceinline__ uint32_t pack_codes(const float (&v)[4], float inverse) {
    uint32_t word = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float scaled = fminf(fmaxf(__fmul_rn(v[i], inverse), -127.0f), 127.0f);
        word |= (static_cast<uint32_t>(__float2int_rn(scaled)) & 0xffu) << (8 * i);
    }
    return word;
}

// What shares a scale is multiplied with the scale's inverse.
struct Scale {
    float scale, inverse;
    bool finite;

    // Of the largest magnitude's bits.
    __device__ explicit Scale(uint32_t largest) : finite(largest < 0x7f800000u) {
        scale = finite ? __fdiv_rn(__uint_as_float(largest), 127.0f) : __int_as_float(0x7fffffff);
        // a scale below the normal range loses the bits that keep |v|/scale ≤ 127, hence the clamp in pack_codes
        inverse = scale > 0.0f ? __fdiv_rn(1.0f, scale) : 0.0f;
        inverse = inverse < __int_as_float(0x7f800000) ? inverse : 0.0f;
    }
};

template <typename Values>
__device__ void quantize(const QuantizeParams& p) {
    constexpr uint32_t STRIDE = 4 * THREADS, KEPT = Values::KEPT;
    __shared__ uint32_t scratch_smem[32];
    __shared__ int32_t total_smem;
    if (threadIdx.x == 0) total_smem = 0;
    const Values values(p);
    // (thread, i4) -> k 4·thread + i of each STRIDE values, of which the first are loaded once
    float kept[KEPT][4];
    uint32_t largest = 0;
#pragma unroll
    for (uint32_t piece = 0; piece < KEPT; ++piece) {
        const uint32_t k = piece * STRIDE + 4 * threadIdx.x;
        if (k < p.k) values.load(kept[piece], k);
        else kept[piece][0] = kept[piece][1] = kept[piece][2] = kept[piece][3] = 0.0f;
        largest = max(largest, largest_bits(kept[piece]));
    }
    if (p.fine) __syncthreads();  // the total is 0 for all, as it is after a maximum
    else {
        for (uint32_t k = KEPT * STRIDE + 4 * threadIdx.x; k < p.k; k += STRIDE) {
            float v[4];
            values.load(v, k);
            largest = max(largest, largest_bits(v));
        }
    }
    Scale scale(p.fine ? 0 : block_max(largest, scratch_smem));

    const uint32_t m = blockIdx.x, padded_k = padded(p.k), lane = threadIdx.x % 32;
    uint32_t* codes = reinterpret_cast<uint32_t*>(p.codes + size_t(m) * padded_k);
    // A warp takes 128 values at a time, a block of a fine scale: 8 lanes share a sum of the finest level.
    const auto put = [&](uint32_t k, const float (&v)[4]) {
        if (p.fine) {
            scale = Scale(__reduce_max_sync(FULL_WARP, largest_bits(v)));
            if (lane == 0) p.scale[size_t(k / ACT_BLOCK) * p.m + m] = scale.scale;
        }
        const uint32_t word = scale.finite ? pack_codes(v, scale.inverse) : 0;
        if (k < padded_k) codes[k / 4] = word;
        int32_t sum = __dp4a(static_cast<int32_t>(word), 0x01010101, 0);
        sum = warp_sum<8>(sum);
        if (lane % 8 == 0 && k < padded_k) p.sums[0][size_t(k / 32) * p.m + m] = sum;
        sum += __shfl_xor_sync(FULL_WARP, sum, 8);
        if (lane % 16 == 0 && k < padded_k) p.sums[1][size_t(k / 64) * p.m + m] = sum;
        sum += __shfl_xor_sync(FULL_WARP, sum, 16);
        if (lane == 0) {
            p.sums[2][size_t(k / 128) * p.m + m] = sum;
            atomicAdd(&total_smem, sum);  // integers: the order does not matter
        }
    };
    uint32_t start = ACT_BLOCK * (threadIdx.x / 32);
#pragma unroll
    for (uint32_t piece = 0; piece < KEPT; ++piece, start += STRIDE) {
        if (start < padded_k) put(start + 4 * lane, kept[piece]);
    }
    for (; start < padded_k; start += STRIDE) {
        float v[4] = {};
        if (start + 4 * lane < p.k) values.load(v, start + 4 * lane);
        put(start + 4 * lane, v);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        if (!p.fine) p.scale[m] = scale.scale;
        p.totals[m] = total_smem;
    }
}

}  // namespace moray

#define MORAY_QUANTIZE(name, Values) \
    extern "C" __global__ void __launch_bounds__(moray::THREADS, 1) name(const moray::QuantizeParams p) { moray::quantize<moray::Values>(p); }

MORAY_QUANTIZE(w4a8_quantize_f32, Plain<float>)
MORAY_QUANTIZE(w4a8_quantize_f16, Plain<__half>)
MORAY_QUANTIZE(w4a8_quantize_bf16, Plain<__nv_bfloat16>)
MORAY_QUANTIZE(w4a8_quantize_rms_norm_f32, RmsNorm<float>)
MORAY_QUANTIZE(w4a8_quantize_rms_norm_f16, RmsNorm<__half>)
MORAY_QUANTIZE(w4a8_quantize_rms_norm_bf16, RmsNorm<__nv_bfloat16>)
MORAY_QUANTIZE(w4a8_quantize_swiglu_f32, SwiGlu<float>)
MORAY_QUANTIZE(w4a8_quantize_swiglu_f16, SwiGlu<__half>)
MORAY_QUANTIZE(w4a8_quantize_swiglu_bf16, SwiGlu<__nv_bfloat16>)
