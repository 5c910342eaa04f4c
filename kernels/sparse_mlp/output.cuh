// What becomes of the sums of down.
#pragma once

#include "common/memory.cuh"
#include "params.cuh"

namespace moray::sparse_mlp {

// y = sum * scale (+ bias) (+ residual), of one token and column; `at` is where they are in y.
__device__ __forceinline__ void write_output(const Output& output, size_t at, uint32_t column, float sum, float scale) {
    float y = __fmul_rn(sum, scale);
    if (output.bias != nullptr) {
        y = __fadd_rn(y, output.bias[column]);
    }
    if (output.residual != nullptr) {
        y = __fadd_rn(y, load_element(output.residual, at, output.dtype));
    }
    store_element(output.y, at, output.dtype, y);
}

}  // namespace moray::sparse_mlp
