// What the host passes to the kernels of input_sparse. `cargo xtask mirror` writes src/input_sparse/cuda/mirror.rs from it.
#pragma once

#include <cstdint>

namespace moray::input_sparse {

struct ByInputParams {
    const void* w;          // [k, stride] f32, f16 or bf16: a row holds one input's n weights
    const float* x;         // [m, k]
    const float* bias;      // [n] or null
    const float* residual;  // [m, n] or null
    float* y;               // [m, n]
    uint32_t m;
    uint32_t n;
    uint32_t k;
    uint32_t row_bytes;     // from one row of w to the next
    float threshold;        // an input counts unless its size is at most this
    uint32_t reserved;
};
static_assert(sizeof(ByInputParams) == 64);

}  // namespace moray::input_sparse
