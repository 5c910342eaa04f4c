// token[r] = argmax_v logits[r,v], the first of equals; 0xffffffff if one is NaN or +∞, or all are −∞.
//
// | argument | type | shape     | layout    |
// |----------|------|-----------|-----------|
// | logits   | f32  | [R, V]    | row-major |
// | token    | u32  | [R]       |           |
//
// Grid: R. Block: 1024 threads. As greedy `Sampler` on the CPU. Wrapper: src/llama/cuda/kernels.rs.

#include "common/reduce.cuh"

namespace moray {

struct ArgmaxParams {
    const float* logits;
    uint32_t* token;
    uint32_t vocab;
    uint32_t reserved;
};
static_assert(sizeof(ArgmaxParams) == 24, "as in src/llama/cuda/kernels.rs");

// Orders (logit, token) pairs in one integer: larger logit first, then the smaller token. Bits of a float order as integers
// once those of negative numbers are turned around.
__device__ __forceinline__ uint64_t rank(float logit, uint32_t token) {
    const uint32_t bits = __float_as_uint(logit == 0.0f ? 0.0f : logit);  // −0 equals 0
    const uint32_t ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return uint64_t(ordered) << 32 | (0xffffffffu - token);
}

__device__ __forceinline__ uint64_t warp_max(uint64_t v) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        const uint64_t other = __shfl_xor_sync(FULL_WARP, v, distance);
        v = other > v ? other : v;
    }
    return v;
}

}  // namespace moray

extern "C" __global__ void __launch_bounds__(1024) llama_argmax(const moray::ArgmaxParams p) {
    using namespace moray;
    __shared__ uint64_t best_smem[32];
    const float* logits = p.logits + size_t(blockIdx.x) * p.vocab;
    const float infinity = __int_as_float(0x7f800000);
    uint64_t best = 0;  // below every rank
    bool bad = false;
    for (uint32_t v = threadIdx.x; v < p.vocab; v += blockDim.x) {
        const float logit = logits[v];
        bad |= !(logit < infinity);
        const uint64_t mine = rank(logit, v);
        if (logit > -infinity && mine > best) best = mine;
    }
    best = warp_max(best);
    if (threadIdx.x % 32 == 0) best_smem[threadIdx.x / 32] = best;
    bad = __syncthreads_or(bad);
    if (threadIdx.x < 32) {
        best = warp_max(best_smem[threadIdx.x]);
        if (threadIdx.x == 0) p.token[blockIdx.x] = bad || best == 0 ? 0xffffffffu : 0xffffffffu - uint32_t(best);
    }
}
