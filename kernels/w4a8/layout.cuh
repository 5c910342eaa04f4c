// What the kernels of w4a8 are given, and where things lie: the packed layout of src/w4a8/pack.rs, version 1.
#pragma once

#include <cstdint>

#include "common/memory.cuh"
#include "w4a8/format.cuh"

namespace moray {

constexpr uint32_t TILE_N = 16;        // rows of a packed tile
constexpr uint32_t TILE_BYTES = 512;   // 32 lanes × 16 bytes: (lane32, byte16) -> (n, k), see pack.rs
constexpr uint32_t PAD_K = 64;         // K is padded to this, in weights and in activations

struct LinearParams {
    const uint4* codes;       // [N/16][padded K / tile_k][32 lanes]
    const float* scale;       // f32 [N/16][16]; not for group modes
    const void* group_scale;  // f16 or u8 [N/16][groups][16]
    const void* offset;       // f16 or u8 [N/16][groups][16]
    const int8_t* x;          // [M, padded K]
    const float* act_scale;   // f32 [M]
    const int32_t* sums;      // int32 [groups][M], or [M] over all K
    const float* bias;        // f32 [N], or null
    const void* residual;     // [M, N], or null
    void* y;                  // [M, N]
    uint32_t* partial;        // [splits][blocks][values of a block], as the threads hold them
    uint32_t* arrived;        // [blocks], zeros between launches
    uint32_t m;
    uint32_t n;
    uint32_t k;
    uint32_t group_size;
    Offset offset_kind;
    Element element;          // of y and residual
    uint32_t splits;
    uint32_t reserved;
};
static_assert(sizeof(LinearParams) == 128, "as in src/w4a8/cuda/raw.rs");

__device__ __forceinline__ uint32_t tiles_n(uint32_t n) { return (n + TILE_N - 1) / TILE_N; }

__device__ __forceinline__ uint32_t padded(uint32_t k) { return (k + PAD_K - 1) / PAD_K * PAD_K; }

// One output from its sum before act_scale, in the order of the CPU: act_scale, bias, residual.
__device__ __forceinline__ void write_output(const LinearParams& p, uint32_t m, uint32_t n, float sum) {
    const size_t at = size_t(m) * p.n + n;
    float v = __fmul_rn(sum, p.act_scale[m]);
    if (p.bias) v = __fadd_rn(v, p.bias[n]);
    if (p.residual) v = __fadd_rn(v, load_element(p.residual, at, p.element));
    store_element(p.y, at, p.element, v);
}

}  // namespace moray
