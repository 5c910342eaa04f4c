// Activations as int8, with the CPU's bits: code = x / scale to nearest even, scale = max|x| / 127.
#pragma once

#include <cstdint>

namespace moray::sparse_mlp {

// The bits of |x|, whose order is that of the numbers, NaN above all.
__device__ __forceinline__ uint32_t size_bits(float x) { return __float_as_uint(x) & 0x7fffffffu; }

// What values are multiplied with, 0 where the scale has none.
__device__ __forceinline__ float inverse_of(float scale) {
    const float inverse = scale > 0.0f ? __fdiv_rn(1.0f, scale) : 0.0f;
    return isfinite(inverse) ? inverse : 0.0f;
}

// How the values of a token are quantized. One that is not finite makes the scale NaN.
struct Quantizer {
    float scale, inverse;

    // Of the largest size_bits of the values.
    __device__ __forceinline__ explicit Quantizer(uint32_t largest) {
        scale = largest < 0x7f800000u ? __fdiv_rn(__uint_as_float(largest), 127.0f) : NAN;
        inverse = inverse_of(scale);
    }
};

__device__ __forceinline__ int32_t code_of(float x, float inverse) {
    return __float2int_rn(fminf(fmaxf(__fmul_rn(x, inverse), -127.0f), 127.0f));
}

// The codes of four values, the first in the lowest byte.
__device__ __forceinline__ uint32_t codes_of(const float (&x)[4], float inverse) {
    uint32_t code[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        code[i] = static_cast<uint32_t>(code_of(x[i], inverse));
    }
    return __byte_perm(__byte_perm(code[0], code[1], 0x0040), __byte_perm(code[2], code[3], 0x0040), 0x5410);
}

}  // namespace moray::sparse_mlp
