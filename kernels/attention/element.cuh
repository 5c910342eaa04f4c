// The 16-bit types that tensor cores multiply.
#pragma once

#include "common/memory.cuh"
#include "common/ptx.cuh"

namespace moray::attention {

struct Half {
    static constexpr uint32_t ONES = 0x3C003C00;  // two values 1

    __device__ __forceinline__ static uint32_t pack(float low, float high) {
        const __half2 pair = __floats2half2_rn(low, high);
        return *reinterpret_cast<const uint32_t*>(&pair);
    }
    __device__ __forceinline__ static uint16_t narrow(float x) { return __half_as_ushort(__float2half_rn(x)); }
    __device__ __forceinline__ static void multiply(float (&acc)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
        mma_f16(acc, a, b0, b1);
    }
};

struct Bfloat {
    static constexpr uint32_t ONES = 0x3F803F80;

    __device__ __forceinline__ static uint32_t pack(float low, float high) {
        const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
        return *reinterpret_cast<const uint32_t*>(&pair);
    }
    __device__ __forceinline__ static uint16_t narrow(float x) { return __bfloat16_as_ushort(__float2bfloat16_rn(x)); }
    __device__ __forceinline__ static void multiply(float (&acc)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
        mma_bf16(acc, a, b0, b1);
    }
};

// ex2.approx (9.7.3.21): 2^x to 2 ulp, subnormal results as 0; 2^-inf is 0.
__device__ __forceinline__ float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
    return y;
}

}  // namespace moray::attention
