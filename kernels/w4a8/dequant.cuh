// The weight modes, each as a policy: how 16 bytes of a packed tile become int8 operands of the matrix unit, and what the
// integer sums are scaled with. A new mode is a new policy and its line in MORAY_INTEGER_WEIGHTS or MORAY_GROUP_WEIGHTS.
//
// A policy has
//   BITS         of a stored code;
//   GROUPED      whether groups of K are combined in f32 (scale and offset for each) or everything stays in integers;
//   SCALE_BYTES  of a group's scale for one row, 0 if there is none;
//   MIN_GROUP    the least K that groups have, of modes whose scales act in `fragment`;
//   ZERO         what is subtracted from a code besides: through Σ a, so it costs nothing per weight;
//   fragment     16 bytes of a lane and a k-step -> the A operand (lane32, val16) -> (m16, k32).
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "w4a8/layout.cuh"

namespace moray {

// The bits of the group scales of a lane's two rows, ⌊lane/4⌋ and that + 8.
struct RowScales {
    uint32_t low;
    uint32_t high;
};

// k-steps of 32 in the 16 bytes that a lane holds of a tile.
template <int Bits>
constexpr int STEPS_PER_TILE = Bits == 4 ? 2 : 1;

constexpr uint32_t NIBBLES = 0x0f0f0f0fu;

// Codes 0..15 as they are. Registers in the order of mma: (row, k), (row + 8, k), (row, k + 16), (row + 8, k + 16).
__device__ __forceinline__ void nibbles(uint32_t (&a)[4], const uint4& tile, int step) {
    const uint32_t near = step == 0 ? tile.x : tile.y, far = step == 0 ? tile.z : tile.w;
    a[0] = near & NIBBLES;
    a[1] = (near >> 4) & NIBBLES;
    a[2] = far & NIBBLES;
    a[3] = (far >> 4) & NIBBLES;
}

// Sixteen times (code − 8), in the same order. `eights` is 0x80808080, from a register: of two masks an instruction holds one.
__device__ __forceinline__ void centred_nibbles(uint32_t (&a)[4], const uint4& tile, int step, uint32_t eights) {
    constexpr uint32_t UPPER = ~NIBBLES;
    const uint32_t near = step == 0 ? tile.x : tile.y, far = step == 0 ? tile.z : tile.w;
    a[0] = ((near << 4) & UPPER) ^ eights;
    a[1] = (near & UPPER) ^ eights;
    a[2] = ((far << 4) & UPPER) ^ eights;
    a[3] = (far & UPPER) ^ eights;
}

__device__ __forceinline__ void bytes(uint32_t (&a)[4], const uint4& tile) {
    a[0] = tile.x, a[1] = tile.y, a[2] = tile.z, a[3] = tile.w;
}

// w = scale[n] · (code − 8).
struct PerChannel {
    static constexpr int BITS = 4;
    static constexpr bool GROUPED = false;
    static constexpr uint32_t SCALE_BYTES = 0;
    static constexpr uint32_t MIN_GROUP = 128;
    static constexpr int32_t ZERO = 8;

    static __device__ __forceinline__ void fragment(uint32_t (&a)[4], const uint4& tile, int step, RowScales) {
        nibbles(a, tile, step);
    }
};

// w = scale[n] · code, int8.
struct W8 {
    static constexpr int BITS = 8;
    static constexpr bool GROUPED = false;
    static constexpr uint32_t SCALE_BYTES = 0;
    static constexpr uint32_t MIN_GROUP = 128;
    static constexpr int32_t ZERO = 0;

    static __device__ __forceinline__ void fragment(uint32_t (&a)[4], const uint4& tile, int, RowScales) { bytes(a, tile); }
};

// w = scale[n] · group_scale[n, g] · (code − 8), group_scale 1..16 in u8: the product is an int8 from −128 to 112.
struct TwoLevel {
    static constexpr int BITS = 4;
    static constexpr bool GROUPED = false;
    static constexpr uint32_t SCALE_BYTES = 1;
    static constexpr uint32_t MIN_GROUP = 32;
    static constexpr int32_t ZERO = 0;

    // Four at a time: code · s + (128 − 8·s) is 0..248, so no byte carries into the next; less 128 it is the product.
    static __device__ __forceinline__ uint32_t scaled(uint32_t codes, uint32_t s) {
        return (codes * s + (128 - 8 * s) * 0x01010101u) ^ 0x80808080u;
    }

    static __device__ __forceinline__ void fragment(uint32_t (&a)[4], const uint4& tile, int step, RowScales s) {
        nibbles(a, tile, step);
        a[0] = scaled(a[0], s.low), a[1] = scaled(a[1], s.high);
        a[2] = scaled(a[2], s.low), a[3] = scaled(a[3], s.high);
    }
};

// QQQ: w = scale[n] · rne((code − 8) · group_scale[n, g]), group_scale in f16, one rounding.
struct Qqq {
    static constexpr int BITS = 4;
    static constexpr bool GROUPED = false;
    static constexpr uint32_t SCALE_BYTES = 2;
    static constexpr uint32_t MIN_GROUP = 128;
    static constexpr int32_t ZERO = 0;

    // The codes in bytes 0 and 2 of `pair`, as integers in bytes 0 and 2.
    static __device__ __forceinline__ uint32_t scaled(uint32_t pair, __half2 s) {
        // 0x6400 | code is 1024 + code; less 1032 it is code − 8, exactly
        const uint32_t biased = (pair & 0x000f000fu) | 0x64006400u;
        const __half2 code = __hsub2_rn(*reinterpret_cast<const __half2*>(&biased), __float2half2_rn(1032.0f));
        // 1536 + code · s is rounded once, to an integer, ties to even, whose low byte is the int8 weight
        const __half2 rounded = __hfma2(code, s, __float2half2_rn(1536.0f));
        return *reinterpret_cast<const uint32_t*>(&rounded);
    }

    static __device__ __forceinline__ uint32_t word(uint32_t codes, uint32_t scale) {
        const __half2 s = __halves2half2(__ushort_as_half(scale), __ushort_as_half(scale));
        const uint32_t even = scaled(codes, s), odd = scaled(codes >> 8, s);
        return __byte_perm(even, odd, 0x6240);
    }

    static __device__ __forceinline__ void fragment(uint32_t (&a)[4], const uint4& tile, int step, RowScales s) {
        nibbles(a, tile, step);
        a[0] = word(a[0], s.low), a[1] = word(a[1], s.high);
        a[2] = word(a[2], s.low), a[3] = word(a[3], s.high);
    }
};

// w = scale[n, g] · (code − zero_point) or scale[n, g] · code + offset[n, g], f16 scale and offset.
struct PerGroup {
    static constexpr int BITS = 4;
    static constexpr bool GROUPED = true;
    static constexpr uint32_t SCALE_BYTES = 2;
    static constexpr uint32_t MIN_GROUP = 32;
    static constexpr int32_t ZERO = 8;

    static __device__ __forceinline__ void fragment(uint32_t (&a)[4], const uint4& tile, int step, RowScales) {
        nibbles(a, tile, step);
    }
};

// The same with int8 codes.
struct PerGroup8 {
    static constexpr int BITS = 8;
    static constexpr bool GROUPED = true;
    static constexpr uint32_t SCALE_BYTES = 2;
    static constexpr uint32_t MIN_GROUP = 32;
    static constexpr int32_t ZERO = 0;

    static __device__ __forceinline__ void fragment(uint32_t (&a)[4], const uint4& tile, int, RowScales) { bytes(a, tile); }
};

// What is subtracted from the codes of a group of one row; `point` is its zero point where it has one.
template <typename W>
__device__ __forceinline__ int32_t group_zero(Offset kind, uint32_t point) {
    switch (kind) {
        case Offset::none: return W::ZERO;
        case Offset::f16: return 0;
        default: return static_cast<int32_t>(point);
    }
}

// Integers as a number; with fine scales, times that of their block's activations.
template <bool FINE>
__device__ __forceinline__ float activations(float integers, float act_scale) {
    return FINE ? __fmul_rn(integers, act_scale) : integers;
}

// Adds a group's integers times its scale, or its sum of activations times its offset, to a row's sum: in the CPU's order, one
// rounding for each product and sum together.
template <bool FINE>
__device__ __forceinline__ float add_group(float acc, float integers, float act_scale, float scale) {
    return __fmaf_rn(activations<FINE>(integers, act_scale), scale, acc);
}

// Adds the integers that share a fine scale to a row's sum, in modes that stay in integers otherwise.
__device__ __forceinline__ float add_block(float acc, float integers, float act_scale) {
    return __fmaf_rn(integers, act_scale, acc);
}

}  // namespace moray

// Every mode: F(its name in symbols, its policy). Those whose sums stay in integers, those whose groups have scales in f16.
#define MORAY_INTEGER_WEIGHTS(F) \
    F(per_channel, PerChannel)   \
    F(w8, W8)                    \
    F(two_level, TwoLevel)       \
    F(qqq, Qqq)
#define MORAY_GROUP_WEIGHTS(F) \
    F(per_group, PerGroup)     \
    F(per_group8, PerGroup8)
