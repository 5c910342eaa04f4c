// The gate's nonlinearity, with the very roundings of the CPU's (src/sparse_mlp/elementwise.rs).
#pragma once

#include <cstdint>

#include "common/kinds.cuh"

namespace moray {

// x / (1 + e⁻ˣ), e⁻ˣ = 2ⁿ · a polynomial of degree 7 in |r| ≤ ln 2 / 2.
__device__ __forceinline__ float silu(float x) {
    const float z = fmaxf(fminf(-x, 88.0f), -87.0f);
    const float n = rintf(__fmul_rn(z, 1.44269504088896340736f));
    // ln 2 in two parts: the first has 15 zero bits at the end, so n times it is exact
    float r = __fmaf_rn(n, -0.6933594f, z);
    r = __fmaf_rn(n, 2.1219444e-4f, r);
    float p = 1.0f / 5040.0f;
    const float coefficients[7] = {1.0f / 720.0f, 1.0f / 120.0f, 1.0f / 24.0f, 1.0f / 6.0f, 0.5f, 1.0f, 1.0f};
#pragma unroll
    for (int i = 0; i < 7; ++i) p = __fmaf_rn(p, r, coefficients[i]);
    const float power = __int_as_float((static_cast<int32_t>(n) + 127) << 23);
    return __fdiv_rn(x, __fmaf_rn(p, power, 1.0f));
}

__device__ __forceinline__ float activate(Activation activation, float x) {
    return activation == Activation::silu ? silu(x) : fmaxf(x, 0.0f);
}

}  // namespace moray
