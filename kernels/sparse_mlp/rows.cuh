// The forms of weight rows: how a lane's 16 bytes multiply activations.
#pragma once

#include "common/memory.cuh"
#include "common/ptx.cuh"
#include "common/reduce.cuh"
#include "neurons.cuh"

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
    float offset;  // where groups have one
    int zero;      // where they do not
};

// The scale of a group in a row of scales that begins at `row`.
__device__ __forceinline__ Scale unpack_scale(GroupScale group_scale, Offset offset, const void* row, uint32_t group) {
    if (group_scale == GroupScale::none) {
        return {*static_cast<const float*>(row), 0.0f, 8};
    }
    if (offset == Offset::none) {
        return {f16_at(row, group), 0.0f, 8};
    }
    const uint32_t pair = static_cast<const uint32_t*>(row)[group];
    const float scale = __half2float(__ushort_as_half(static_cast<uint16_t>(pair)));
    if (offset == Offset::f16) {
        return {scale, __half2float(__ushort_as_half(static_cast<uint16_t>(pair >> 16))), 0};
    }
    return {scale, 0.0f, static_cast<int>(pair >> 16)};
}

__device__ __forceinline__ Scale load_scale(const MatrixView& matrix, uint32_t neuron, uint32_t group) {
    return unpack_scale(matrix.group_scale, matrix.offset, matrix.scales + static_cast<size_t>(neuron) * matrix.scale_stride, group);
}

// The scales of down of four neighbouring columns, from a multiple of 4 on, in a block of neurons.
__device__ __forceinline__ void load_down_scales(Scale (&scales)[4], const DownParams& p, uint32_t block, uint32_t column) {
    if (p.group_scale == GroupScale::none) {
        const float4 four = *reinterpret_cast<const float4*>(static_cast<const float*>(p.scales) + column);
        scales[0] = {four.x, 0.0f, 8}, scales[1] = {four.y, 0.0f, 8};
        scales[2] = {four.z, 0.0f, 8}, scales[3] = {four.w, 0.0f, 8};
        return;
    }
    const uint32_t parts = p.offset == Offset::none ? 1 : 2;
    const auto* row = static_cast<const uint16_t*>(p.scales) + size_t(block) * parts * p.d_model + column;
    const uint2 words = *reinterpret_cast<const uint2*>(row);
    const uint2 more = parts == 2 ? *reinterpret_cast<const uint2*>(row + p.d_model) : make_uint2(0, 0);
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        const auto half_of = [i](uint2 two) { return static_cast<uint16_t>((i < 2 ? two.x : two.y) >> (16 * (i % 2))); };
        const float second = __half2float(__ushort_as_half(half_of(more)));
        const int zero = p.offset == Offset::none ? 8 : half_of(more);
        scales[i] = {__half2float(__ushort_as_half(half_of(words))), p.offset == Offset::f16 ? second : 0.0f, p.offset == Offset::f16 ? 0 : zero};
    }
}

// total += scale * (sum of code a - zero * sum of a) + offset * sum of a; the integers are exact.
__device__ __forceinline__ float add_group(const Scale& scale, int32_t dot, int32_t sum, float total) {
    total = __fmaf_rn(static_cast<float>(dot - scale.zero * sum), scale.scale, total);
    return __fmaf_rn(static_cast<float>(sum), scale.offset, total);
}

}  // namespace moray::sparse_mlp
