// y[M,N] = x[M,K] · w[N,K]ᵀ + bias[N] + residual[M,N] in f32, w in f32, f16 or bf16: the baseline, and the output layer where it
// stays in 16 bits.
//
// | argument | type           | shape  | layout                                |
// |----------|----------------|--------|---------------------------------------|
// | w        | f32, f16, bf16 | [N, K] | [N/16][K][16], rows past N are zeros  |
// | x        | f32            | [M, K] | row-major                             |
// | bias     | f32            | [N]    | or null                               |
// | residual | f32            | [M, N] | row-major, or null                    |
// | y        | f32            | [M, N] | row-major                             |
//
// Grid: (⌈⌈N/16⌉/8⌉, ⌈M/TOKENS⌉). Block: 256 threads, 8 warps, each 16 rows by TOKENS tokens.
//
// As on the CPU an output is four chains of fused multiply-adds, over k ≡ 0, 1, 2, 3 (mod 4), added as (0 + 1) + (2 + 3): the
// same bits. A warp takes four k at once: (lane32, i2) -> (k lane/8, row 2·(lane mod 8) + i), one stretch of memory.
// It is meant to be right and to read its weights at full speed for a few tokens; for long prompts a matrix-unit GEMM is
// several times as fast.
// Wrapper: src/llama/cuda/raw/dense.rs.

#include "common/memory.cuh"
#include "common/reduce.cuh"
#include "params.cuh"

namespace moray {

constexpr uint32_t WARPS = 8;

__device__ __forceinline__ float2 load_2(const float* p) { return *reinterpret_cast<const float2*>(p); }
__device__ __forceinline__ float2 load_2(const __half* p) { return __half22float2(*reinterpret_cast<const __half2*>(p)); }
__device__ __forceinline__ float2 load_2(const __nv_bfloat16* p) {
    return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(p));
}

template <typename T, uint32_t TOKENS>
__device__ __forceinline__ void multiply_dense(const DenseParams& p) {
    const uint32_t lane = threadIdx.x % 32, phase = lane / 8, pair = lane % 8;
    const uint32_t block = blockIdx.x * WARPS + threadIdx.x / 32, m0 = blockIdx.y * TOKENS;
    if (block * 16 >= p.n) return;
    const T* w = static_cast<const T*>(p.w) + (size_t(block) * p.k + phase) * 16 + 2 * pair;
    const float* x[TOKENS];
#pragma unroll
    for (uint32_t t = 0; t < TOKENS; ++t) x[t] = p.x + size_t(min(m0 + t, p.m - 1)) * p.k + phase;

    float acc[TOKENS][2] = {};
    const uint32_t whole = p.k / 4 * 4;
#pragma unroll 8
    for (uint32_t k = 0; k < whole; k += 4) {
        const float2 rows = load_2(w + size_t(k) * 16);
#pragma unroll
        for (uint32_t t = 0; t < TOKENS; ++t) {
            acc[t][0] = __fmaf_rn(rows.x, x[t][k], acc[t][0]);
            acc[t][1] = __fmaf_rn(rows.y, x[t][k], acc[t][1]);
        }
    }
    if (whole + phase < p.k) {
        const float2 rows = load_2(w + size_t(whole) * 16);
#pragma unroll
        for (uint32_t t = 0; t < TOKENS; ++t) {
            acc[t][0] = __fmaf_rn(rows.x, x[t][whole], acc[t][0]);
            acc[t][1] = __fmaf_rn(rows.y, x[t][whole], acc[t][1]);
        }
    }
#pragma unroll
    for (uint32_t t = 0; t < TOKENS; ++t)
#pragma unroll
        for (uint32_t i = 0; i < 2; ++i) {
            float sum = acc[t][i];
            sum = __fadd_rn(sum, __shfl_xor_sync(FULL_WARP, sum, 8));
            sum = __fadd_rn(sum, __shfl_xor_sync(FULL_WARP, sum, 16));
            const uint32_t m = m0 + t, n = block * 16 + 2 * pair + i;
            if (phase == 0 && m < p.m && n < p.n) {
                const size_t at = size_t(m) * p.n + n;
                sum = __fadd_rn(sum, p.bias ? p.bias[n] : 0.0f);
                p.y[at] = __fadd_rn(sum, p.residual ? p.residual[at] : 0.0f);
            }
        }
}

}  // namespace moray

#define MORAY_DENSE(name, T, TOKENS) \
    extern "C" __global__ void __launch_bounds__(256, 2) name(const moray::DenseParams p) { moray::multiply_dense<T, TOKENS>(p); }

MORAY_DENSE(llama_dense_f32_1, float, 1)
MORAY_DENSE(llama_dense_f32_8, float, 8)
MORAY_DENSE(llama_dense_f16_1, __half, 1)
MORAY_DENSE(llama_dense_f16_8, __half, 8)
MORAY_DENSE(llama_dense_bf16_1, __nv_bfloat16, 1)
MORAY_DENSE(llama_dense_bf16_8, __nv_bfloat16, 8)
