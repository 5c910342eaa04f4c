// What the kernels of w4a8 are given, and where things lie: the packed layout of src/w4a8/pack.rs, version 1.
#pragma once

#include <cstdint>

#include "common/memory.cuh"
#include "w4a8/params.cuh"

namespace moray {

constexpr uint32_t TILE_N = 16;        // rows of a packed tile
constexpr uint32_t TILE_BYTES = 512;   // 32 lanes × 16 bytes: (lane32, byte16) -> (n, k), see pack.rs
constexpr uint32_t PAD_K = 64;         // K is padded to this, in weights and in activations
constexpr uint32_t ACT_BLOCK = 128;    // of K that share a scale where a token's are fine

__device__ __forceinline__ uint32_t tiles_n(uint32_t n) { return (n + TILE_N - 1) / TILE_N; }

__device__ __forceinline__ uint32_t padded(uint32_t k) { return (k + PAD_K - 1) / PAD_K * PAD_K; }

// One output from its sum before act_scale, in the order of the CPU: act_scale, unless fine ones are in the sum, bias, residual.
__device__ __forceinline__ float output(const LinearParams& p, uint32_t m, uint32_t n, float sum, float act_scale) {
    float v = p.fine ? sum : __fmul_rn(sum, act_scale);
    if (p.bias) v = __fadd_rn(v, p.bias[n]);
    if (p.residual) v = __fadd_rn(v, load_element(p.residual, size_t(m) * p.n + n, p.element));
    return v;
}

// The same, with the token's scale in device memory, as y.
__device__ __forceinline__ void write_output(const LinearParams& p, uint32_t m, uint32_t n, float sum) {
    store_element(p.y, size_t(m) * p.n + n, p.element, output(p, m, n, sum, p.fine ? 1.0f : p.act_scale[m]));
}

}  // namespace moray
