// RMSNorm's factor for one row, with the CPU's bits.
#pragma once

#include <cstdint>

#include "common/memory.cuh"
#include "common/reduce.cuh"

namespace moray {

// The factor of a row, from what each lane of a warp has added of its squares.
__device__ __forceinline__ float rms_of_squares(float squares, uint32_t k, float eps) {
    const float mean = __fdiv_rn(warp_sum_of_two_vectors(squares), static_cast<float>(k));
    return __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(mean, eps)));
}

// 1 / √(mean(x²) + eps) of x [K], K a multiple of 4 and x aligned to four elements, by all threads of a block and for all.
//
// The squares are added in 32 chains, as two 16-lane vectors of the CPU add them: lane l of the first warp takes values l,
// l + 32, …. The other warps fetch; the row comes through 16 KiB of shared memory, a chunk after another.
template <typename T>
__device__ float block_rms_factor(const T* x_gmem, uint32_t k, float eps) {
    constexpr uint32_t CHUNK = 4096;
    __shared__ float chunk_smem[CHUNK];
    __shared__ float factor_smem;
    float squares = 0.0f;
    for (uint32_t start = 0; start < k; start += CHUNK) {
        const uint32_t count = min(k - start, CHUNK);
        for (uint32_t i = 4 * threadIdx.x; i < count; i += 4 * blockDim.x) {
            float v[4];
            load_4(v, x_gmem + start + i);
            *reinterpret_cast<float4*>(chunk_smem + i) = make_float4(v[0], v[1], v[2], v[3]);
        }
        __syncthreads();
        if (threadIdx.x < 32) {
#pragma unroll 8
            for (uint32_t i = threadIdx.x; i < count; i += 32) squares = __fmaf_rn(chunk_smem[i], chunk_smem[i], squares);
        }
        __syncthreads();
    }
    if (threadIdx.x < 32) {
        const float factor = rms_of_squares(squares, k, eps);
        if (threadIdx.x == 0) factor_smem = factor;
    }
    __syncthreads();
    return factor_smem;
}

}  // namespace moray
