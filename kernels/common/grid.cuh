// A barrier of all blocks of a launch.
#pragma once

#include "common/ptx.cuh"

namespace moray {

// Waits until every thread of a cooperative launch is here, whose blocks are resident together: what they have written can be read then, but
// not through the read-only path. `arrived` [2] is zeros, and is left so: blocks that have come, and blocks that have seen that all have.
__device__ __forceinline__ void wait_for_grid(uint32_t* arrived) {
    __syncthreads();
    if (threadIdx.x == 0) {
        const uint32_t blocks = gridDim.x * gridDim.y * gridDim.z;
        __threadfence();
        atomicAdd(arrived, 1);
        while (load_acquire(arrived) != blocks) __nanosleep(20);
        if (atomicAdd(arrived + 1, 1) + 1 == blocks) arrived[0] = arrived[1] = 0;  // nobody looks any more
    }
    __syncthreads();
}

}  // namespace moray
