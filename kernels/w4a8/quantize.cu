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
#include "w4a8/quantize.cuh"

namespace moray {

constexpr uint32_t THREADS = 512;

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

// Where the codes of a block's token go in device memory.
struct DeviceCodes {
    const QuantizeParams& p;

    __device__ __forceinline__ void codes(uint32_t k, uint32_t word) const {
        reinterpret_cast<uint32_t*>(p.codes + size_t(blockIdx.x) * padded(p.k))[k / 4] = word;
    }
    __device__ __forceinline__ void sum(uint32_t level, uint32_t group, int32_t sum) const {
        p.sums[level][size_t(group) * p.m + blockIdx.x] = sum;
    }
    __device__ __forceinline__ void scale(float scale, uint32_t block) const { p.scale[size_t(block) * p.m + blockIdx.x] = scale; }
    __device__ __forceinline__ void total(int32_t sum) const { p.totals[blockIdx.x] = sum; }
};

template <typename Values>
__device__ void quantize(const QuantizeParams& p) {
    constexpr uint32_t KEPT = Values::KEPT;
    __shared__ uint32_t scratch_smem[32];
    __shared__ int32_t total_smem;
    if (threadIdx.x == 0) total_smem = 0;
    const Values values(p);
    float kept[KEPT][4];
    load_kept<THREADS>(kept, values, p.k);
    quantize_token<THREADS>(kept, values, p.k, p.fine, DeviceCodes{p}, scratch_smem, &total_smem);
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
