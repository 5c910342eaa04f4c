// What the host passes to the kernels of input_sparse. `cargo xtask mirror` writes src/input_sparse/cuda/mirror.rs from it.
#pragma once

#include <cstdint>

#include "w4a8/format.cuh"

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

struct FourBitParams {
    const void* rows;        // codes [k, d / 2]: 16 bytes for each 32 columns, byte i holds column i low and i + 16 high
    const void* scales;      // f32 [d], or u16 [k / group_size, 1 or 2, d]: f16 scales, then f16 offsets or u16 zero points
    const float* x;          // [m, k]
    const float* bias;       // [n] or null
    const float* residual;   // [m, n] or null
    float* y;                // [m, n]
    float* act_scale;        // [m]: of several tokens, which input_sparse_four_bit_scales writes
    uint32_t* partial;       // [shares, m, n] of f32, int32 where channels have the scales; not for one share
    uint32_t* arrived;       // [tiles of columns], zeros between launches; not for one share
    uint32_t m;
    uint32_t n;
    uint32_t k;
    uint32_t d;              // n up to a multiple of 32: columns past n are zeros
    uint32_t group_size;     // inputs that share a scale; where channels have them, any of 32, 64 or 128
    GroupScale group_scale;  // none or f16
    Offset offset;           // of a group
    uint32_t shares;         // blocks that share K: 1, or for up to 8 tokens the runs of K
    float threshold;         // an input counts unless its size is at most this
    uint32_t reserved;
};
static_assert(sizeof(FourBitParams) == 112);

}  // namespace moray::input_sparse
