// Sums and maxima over the lanes of a warp and the warps of a block, in fixed orders.
#pragma once

#include <cstdint>

namespace moray {

constexpr uint32_t FULL_WARP = 0xffffffffu;

// Sum over the lanes of a group of `Width` (a power of two), in every lane: lane i plus i ^ Width/2, then i ^ Width/4, …, 1.
template <int Width = 32>
__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
    for (int distance = Width / 2; distance > 0; distance /= 2) v = __fadd_rn(v, __shfl_xor_sync(FULL_WARP, v, distance));
    return v;
}

template <int Width = 32>
__device__ __forceinline__ int32_t warp_sum(int32_t v) {
#pragma unroll
    for (int distance = Width / 2; distance > 0; distance /= 2) v += __shfl_xor_sync(FULL_WARP, v, distance);
    return v;
}

// The order in which the CPU's vectors add 16 lanes, for two of them side by side: i + 8, i + 4, i + 2, i + 1 in each half of
// the warp, then the halves.
__device__ __forceinline__ float warp_sum_of_two_vectors(float v) {
    v = warp_sum<16>(v);
    return __fadd_rn(v, __shfl_xor_sync(FULL_WARP, v, 16));
}

// Maximum over a block of up to 1024 threads, in every thread. `scratch` is 32 words of shared memory that no other call uses
// before the block's next barrier but one.
__device__ __forceinline__ uint32_t block_max(uint32_t v, uint32_t* scratch_smem) {
    v = __reduce_max_sync(FULL_WARP, v);
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    if (lane == 0) scratch_smem[warp] = v;
    __syncthreads();
    v = lane < warps ? scratch_smem[lane] : 0;
    return __reduce_max_sync(FULL_WARP, v);
}

}  // namespace moray
