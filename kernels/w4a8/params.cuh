// What the host passes to the kernels of w4a8. `cargo xtask mirror` writes src/w4a8/cuda/mirror.rs from it.
#pragma once

#include "common/kinds.cuh"
#include "w4a8/format.cuh"

namespace moray {

struct LinearParams {
    const uint4* codes;       // [N/16][padded K / tile_k][32 lanes]
    const float* scale;       // f32 [N/16][16]; not for group modes
    const void* group_scale;  // f16 or u8 [N/16][groups][16]
    const void* offset;       // f16 or u8 [N/16][groups][16]
    const int8_t* x;          // [M, padded K]
    const float* act_scale;   // f32 [M], fine [⌈K/128⌉][M]
    const int32_t* sums;      // int32 [groups][M]; others [M] over all K, fine [⌈K/128⌉][M]
    const float* bias;        // f32 [N], or null
    const void* residual;     // [M, N], or null
    void* y;                  // [M, N]
    uint32_t* partial;        // [tiles that are cut][runs, of f32][values of a block], as the threads hold them; zeros between launches
    uint32_t* arrived;        // [tiles that are cut], zeros between launches
    uint32_t m;
    uint32_t n;
    uint32_t k;
    uint32_t group_size;
    Offset offset_kind;
    Element element;          // of y and residual
    uint32_t shares;          // blocks that share the K of tiles that are left after one for each block, at least 1
    uint32_t fine;            // whether each 128 of a token's K has a scale of its own
};
static_assert(sizeof(LinearParams) == 128);

struct GemvParams {
    LinearParams linear;  // but for x, act_scale, sums, partial, arrived and shares
    const void* x;        // [M, K]
    const float* norm;    // f32 [K], or null
    float eps;
    Element x_element;
    uint32_t gated;       // whether y is [M, N/2]: act of the first half of the outputs times the second
    uint32_t activation;
};
static_assert(sizeof(GemvParams) == 160);

// Two products, of which the second takes what the first gives.
struct GemvPairParams {
    GemvParams first;   // of gated outputs, in f32
    GemvParams second;  // of these, as they are; not gated
    uint32_t* arrived;  // [2], zeros between launches
};
static_assert(sizeof(GemvPairParams) == 328);

struct QuantizeParams {
    const void* x;
    const float* weight;
    int8_t* codes;
    float* scale;
    int32_t* sums[3];
    int32_t* totals;
    uint32_t m;
    uint32_t k;
    float eps;
    uint32_t activation;
    uint32_t fine;  // as in LinearParams
    uint32_t reserved;
};
static_assert(sizeof(QuantizeParams) == 88);

struct RowsParams {
    const uint32_t* rows;
    const uint8_t* codes;
    const float* scale;
    const void* group_scale;
    const void* offset;
    float* y;
    uint32_t n;
    uint32_t k;
    uint32_t bits;
    GroupScale group_scale_kind;
    uint32_t group_size;
    Offset offset_kind;
};
static_assert(sizeof(RowsParams) == 72);

}  // namespace moray
