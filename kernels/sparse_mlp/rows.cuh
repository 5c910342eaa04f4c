// The forms of weight rows: how a lane's 16 bytes multiply activations.
#pragma once

#include "common/ptx.cuh"
#include "common/reduce.cuh"
#include "params.cuh"

namespace moray::sparse_mlp {

// Two 16-bit elements of a word as f32.
struct F16Rows {
    static constexpr bool FOUR_BIT = false;
    __device__ __forceinline__ static float2 widen(uint32_t word) {
        return __half22float2(*reinterpret_cast<const __half2*>(&word));
    }
};
struct Bf16Rows {
    static constexpr bool FOUR_BIT = false;
    __device__ __forceinline__ static float2 widen(uint32_t word) {
        return make_float2(__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u));
    }
};
struct FourBitRows {
    static constexpr bool FOUR_BIT = true;
};

// f16 in half `index` of an array.
__device__ __forceinline__ float f16_at(const void* halves, size_t index) {
    return __half2float(static_cast<const __half*>(halves)[index]);
}

// The scale of a group and what comes with it.
struct Scale {
    float scale;
    float offset;  // OFFSET only
    int zero;      // all other kinds
};

// The scale of a group in a row of scales that begins at `row`.
__device__ __forceinline__ Scale unpack_scale(uint32_t kind, const void* row, uint32_t group) {
    if (kind == CHANNEL) {
        return {*static_cast<const float*>(row), 0.0f, 8};
    }
    if (kind == SYMMETRIC) {
        return {f16_at(row, group), 0.0f, 8};
    }
    const uint32_t pair = static_cast<const uint32_t*>(row)[group];
    const float scale = __half2float(__ushort_as_half(static_cast<uint16_t>(pair)));
    if (kind == OFFSET) {
        return {scale, __half2float(__ushort_as_half(static_cast<uint16_t>(pair >> 16))), 0};
    }
    return {scale, 0.0f, static_cast<int>(pair >> 16)};
}

__device__ __forceinline__ Scale load_scale(const Matrix& matrix, uint32_t neuron, uint32_t group) {
    return unpack_scale(matrix.kind, matrix.scales + static_cast<size_t>(neuron) * matrix.scale_stride, group);
}

// total += scale * (sum of code a - zero * sum of a) + offset * sum of a; the integers are exact.
__device__ __forceinline__ float add_group(const Scale& scale, int32_t dot, int32_t sum, float total) {
    total = __fmaf_rn(static_cast<float>(dot - scale.zero * sum), scale.scale, total);
    return __fmaf_rn(static_cast<float>(sum), scale.offset, total);
}

}  // namespace moray::sparse_mlp
