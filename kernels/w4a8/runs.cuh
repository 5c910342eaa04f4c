// Runs of K: where sums in f32 are cut, as src/w4a8/runs.rs has it. Each run is a chain from 0; the chains are added to 0 in order.
#pragma once

#include <cstdint>

namespace moray {

constexpr uint32_t RUN_STEP = 256;  // of K that a run is a whole number of, but for the last

__device__ __forceinline__ uint32_t runs_of(uint32_t k) { return min((k + 1023) / 1024, 8u); }

// The first column of a run, K for the number of them.
__device__ __forceinline__ uint32_t run_start(uint32_t k, uint32_t run) {
    return min(run * ((k + RUN_STEP - 1) / RUN_STEP) / runs_of(k) * RUN_STEP, k);
}

// The run that begins at a column, of which so many steps come before: the first whose start is not below.
__device__ __forceinline__ uint32_t run_at(uint32_t k, uint32_t start) {
    const uint32_t steps = (k + RUN_STEP - 1) / RUN_STEP;
    return ((start + RUN_STEP - 1) / RUN_STEP * runs_of(k) + steps - 1) / steps;
}

// Where the run ends that begins at a column.
__device__ __forceinline__ uint32_t run_end(uint32_t k, uint32_t start) { return run_start(k, run_at(k, start) + 1); }

}  // namespace moray
