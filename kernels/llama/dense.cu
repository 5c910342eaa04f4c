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
// Grid: (⌈N/16⌉, ⌈M/TOKENS⌉). Block: 32 threads, 16 rows by TOKENS tokens.
//
// As on the CPU an output is four chains of fused multiply-adds, over k ≡ 0, 1, 2, 3 (mod 4), added as (0 + 1) + (2 + 3): the
// same bits. So rows are not cut along K, and of a matrix of 4096 rows a multiprocessor has two or three warps: what keeps memory busy is a ring
// of stages of 2 KB in shared memory for each of them, of which all but the one at hand are on their way.
// A warp multiplies four k at once: (lane32, i2) -> (k lane/8, row 2·(lane mod 8) + i), one stretch of memory.
// It is meant to be right and to read its weights at full speed for a few tokens; for long prompts a matrix-unit GEMM is
// several times as fast.
// Wrapper: src/llama/cuda/raw/dense.rs.

#include "common/memory.cuh"
#include "common/ptx.cuh"
#include "common/reduce.cuh"
#include "params.cuh"

namespace moray {

constexpr uint32_t ROWS = 16, STAGE_BYTES = 2048;

// Stages of a ring: of more tokens a stage takes half as much again, and more warps share a multiprocessor.
template <uint32_t TOKENS>
constexpr uint32_t STAGES = TOKENS == 1 ? 10 : 6;

__device__ __forceinline__ float2 load_2(const float* p) { return *reinterpret_cast<const float2*>(p); }
__device__ __forceinline__ float2 load_2(const __half* p) { return __half22float2(*reinterpret_cast<const __half2*>(p)); }
__device__ __forceinline__ float2 load_2(const __nv_bfloat16* p) {
    return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(p));
}

// Columns of K of a stage.
template <typename T>
constexpr uint32_t DEPTH = STAGE_BYTES / (ROWS * sizeof(T));

template <typename T, uint32_t TOKENS>
struct Ring {
    alignas(16) T w[STAGES<TOKENS>][DEPTH<T>][ROWS];
    alignas(16) float x[STAGES<TOKENS>][DEPTH<T>][TOKENS];
};

// Asks for a stage of both operands, where there is one; a group of copies in any case.
template <typename T, uint32_t TOKENS>
__device__ __forceinline__ void ask(const DenseParams& p, uint32_t stage, Ring<T, TOKENS>& ring) {
    const uint32_t lane = threadIdx.x, first = stage * DEPTH<T>, at = stage % STAGES<TOKENS>, m0 = blockIdx.y * TOKENS;
    const uint32_t depth = first < p.k ? min(p.k - first, DEPTH<T>) : 0;
    const T* w = static_cast<const T*>(p.w) + (size_t(blockIdx.x) * p.k + first) * ROWS;
    constexpr uint32_t CHUNK = 16 / sizeof(T);
#pragma unroll
    for (uint32_t chunk = lane; chunk < STAGE_BYTES / 16; chunk += 32) {
        if (chunk * CHUNK < depth * ROWS) cp_async_16(shared_address(&ring.w[at][0][chunk * CHUNK]), w + chunk * CHUNK);
    }
#pragma unroll
    for (uint32_t k = lane; k < DEPTH<T>; k += 32) {
#pragma unroll
        for (uint32_t t = 0; t < TOKENS; ++t) {
            const float* x = p.x + size_t(min(m0 + t, p.m - 1)) * p.k + first + k;
            if (k < depth) cp_async_4(shared_address(&ring.x[at][k][t]), x);
        }
    }
    cp_async_commit();
}

template <typename T, uint32_t TOKENS>
__device__ __forceinline__ void multiply_column(float (&acc)[TOKENS][2], const T* w, const float* x) {
    const float2 rows = load_2(w);
#pragma unroll
    for (uint32_t t = 0; t < TOKENS; ++t) {
        acc[t][0] = __fmaf_rn(rows.x, x[t], acc[t][0]);
        acc[t][1] = __fmaf_rn(rows.y, x[t], acc[t][1]);
    }
}

template <typename T, uint32_t TOKENS>
__device__ __forceinline__ void multiply_dense(const DenseParams& p, Ring<T, TOKENS>& ring) {
    const uint32_t lane = threadIdx.x, phase = lane / 8, pair = lane % 8, m0 = blockIdx.y * TOKENS;
    const uint32_t stages = (p.k + DEPTH<T> - 1) / DEPTH<T>;
    float acc[TOKENS][2] = {};
#pragma unroll 1
    for (uint32_t stage = 0; stage < STAGES<TOKENS> - 1; ++stage) ask(p, stage, ring);
#pragma unroll 1
    for (uint32_t stage = 0; stage < stages; ++stage) {
        cp_async_wait<STAGES<TOKENS> - 2>();
        __syncwarp();  // copies of other lanes; and the stage that is asked for next has been read
        ask(p, stage + STAGES<TOKENS> - 1, ring);
        const uint32_t depth = p.k - stage * DEPTH<T>;
        const T* w = &ring.w[stage % STAGES<TOKENS>][phase][2 * pair];
        const float* x = ring.x[stage % STAGES<TOKENS>][phase];
        if (depth >= DEPTH<T>) {
#pragma unroll
            for (uint32_t k = 0; k < DEPTH<T>; k += 4) multiply_column<T, TOKENS>(acc, w + k * ROWS, x + k * TOKENS);
        } else {
            for (uint32_t k = 0; k + phase < depth; k += 4) multiply_column<T, TOKENS>(acc, w + k * ROWS, x + k * TOKENS);
        }
    }
#pragma unroll
    for (uint32_t t = 0; t < TOKENS; ++t)
#pragma unroll
        for (uint32_t i = 0; i < 2; ++i) {
            float sum = acc[t][i];
            sum = __fadd_rn(sum, __shfl_xor_sync(FULL_WARP, sum, 8));
            sum = __fadd_rn(sum, __shfl_xor_sync(FULL_WARP, sum, 16));
            const uint32_t m = m0 + t, n = blockIdx.x * ROWS + 2 * pair + i;
            if (phase == 0 && m < p.m && n < p.n) {
                const size_t at = size_t(m) * p.n + n;
                sum = __fadd_rn(sum, p.bias ? p.bias[n] : 0.0f);
                p.y[at] = __fadd_rn(sum, p.residual ? p.residual[at] : 0.0f);
            }
        }
}

}  // namespace moray

#define MORAY_DENSE(name, T, TOKENS)                                                                \
    extern "C" __global__ void __launch_bounds__(32) name(const __grid_constant__ moray::DenseParams p) { \
        __shared__ moray::Ring<T, TOKENS> ring;                                                     \
        moray::multiply_dense<T, TOKENS>(p, ring);                                                  \
    }

MORAY_DENSE(llama_dense_f32_1, float, 1)
MORAY_DENSE(llama_dense_f32_8, float, 8)
MORAY_DENSE(llama_dense_f16_1, __half, 1)
MORAY_DENSE(llama_dense_f16_8, __half, 8)
MORAY_DENSE(llama_dense_bf16_1, __nv_bfloat16, 1)
MORAY_DENSE(llama_dense_bf16_8, __nv_bfloat16, 8)
