// Elements of floating-point buffers: f32, f16 or bf16 in memory, f32 in registers.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "common/kinds.cuh"

namespace moray {

__device__ __forceinline__ float to_float(float v) { return v; }
__device__ __forceinline__ float to_float(__half v) { return __half2float(v); }
__device__ __forceinline__ float to_float(__nv_bfloat16 v) { return __bfloat162float(v); }

// Rounds to nearest, ties to even.
template <typename T>
__device__ __forceinline__ T from_float(float v);
template <>
__device__ __forceinline__ float from_float<float>(float v) { return v; }
template <>
__device__ __forceinline__ __half from_float<__half>(float v) { return __float2half_rn(v); }
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float v) { return __float2bfloat16_rn(v); }

// Four consecutive elements; the address is a multiple of four elements' size.
__device__ __forceinline__ void load_4(float (&v)[4], const float* p) {
    const float4 four = *reinterpret_cast<const float4*>(p);
    v[0] = four.x, v[1] = four.y, v[2] = four.z, v[3] = four.w;
}
template <typename T>  // two bytes each
__device__ __forceinline__ void load_4(float (&v)[4], const T* p) {
    const uint2 four = *reinterpret_cast<const uint2*>(p);
    const uint32_t words[2] = {four.x, four.y};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const uint16_t bits = static_cast<uint16_t>(words[i / 2] >> (16 * (i % 2)));
        v[i] = to_float(*reinterpret_cast<const T*>(&bits));
    }
}

// The same of elements from a multiple of 4 on.
__device__ __forceinline__ void load_4(float (&v)[4], const void* p, size_t index, Element type) {
    switch (type) {
        case Element::f16: return load_4(v, static_cast<const __half*>(p) + index);
        case Element::bf16: return load_4(v, static_cast<const __nv_bfloat16*>(p) + index);
        default: return load_4(v, static_cast<const float*>(p) + index);
    }
}

__device__ __forceinline__ float load_element(const void* p, size_t index, Element type) {
    switch (type) {
        case Element::f16: return to_float(static_cast<const __half*>(p)[index]);
        case Element::bf16: return to_float(static_cast<const __nv_bfloat16*>(p)[index]);
        default: return static_cast<const float*>(p)[index];
    }
}

__device__ __forceinline__ void store_element(void* p, size_t index, Element type, float v) {
    switch (type) {
        case Element::f16: static_cast<__half*>(p)[index] = from_float<__half>(v); break;
        case Element::bf16: static_cast<__nv_bfloat16*>(p)[index] = from_float<__nv_bfloat16>(v); break;
        default: static_cast<float*>(p)[index] = v;
    }
}

}  // namespace moray
