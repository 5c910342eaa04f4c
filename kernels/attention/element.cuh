// The types that tensor cores multiply: 16 bits, and f32 as sums of two tf32 numbers.
#pragma once

#include "common/memory.cuh"
#include "common/ptx.cuh"

namespace moray::attention {

struct Half {
    using Element = uint16_t;
    static constexpr bool WIDE = false;
    static constexpr int STEP = 16;               // k of an mma
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
    using Element = uint16_t;
    static constexpr bool WIDE = false;
    static constexpr int STEP = 16;
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

// x = high + low with an error of 2^-22 |x|.
struct Parts {
    uint32_t high, low;
};

__device__ __forceinline__ Parts split(float x) {
    const uint32_t high = to_tf32(x);
    return {high, to_tf32(x - __uint_as_float(high))};
}

// f32 on tensor cores: a b = a_high b_high + a_high b_low + a_low b_high; the fourth product is below 2^-22 |a b|.
struct Single {
    using Element = float;
    static constexpr bool WIDE = true;
    static constexpr int STEP = 8;
    static constexpr uint32_t ONES = 0x3F800000;  // one value 1

    __device__ __forceinline__ static float narrow(float x) { return x; }
    // The small products first, so that the large sum rounds them together.
    __device__ __forceinline__ static void multiply(float (&acc)[4], const uint32_t (&a_high)[4], const uint32_t (&a_low)[4],
                                                    float b0, float b1) {
        const Parts first = split(b0), second = split(b1);
        mma_tf32(acc, a_low, first.high, second.high);
        mma_tf32(acc, a_high, first.low, second.low);
        mma_tf32(acc, a_high, first.high, second.high);
    }
};

// ex2.approx (9.7.3.21): 2^x to 2 ulp, subnormal results as 0; 2^-inf is 0.
__device__ __forceinline__ float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
    return y;
}

}  // namespace moray::attention
