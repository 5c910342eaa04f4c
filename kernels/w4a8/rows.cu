// y[m,:] = w[rows[m],:] in f32, w being packed: an embedding that shares its matrix with the output layer.
//
// | argument    | type        | shape       | layout                              |
// |-------------|-------------|-------------|-------------------------------------|
// | rows        | u32         | [M]         | those of N and above give NaN       |
// | codes       | 4- or 8-bit | [N, K]      | packed tiles                        |
// | scale       | f32         | [N]         | [N/16][16]                          |
// | group_scale | f16 or u8   | [N, groups] | [N/16][groups][16]                  |
// | offset      | f16 or u8   | [N, groups] | as group_scale                      |
// | y           | f32         | [M, K]      | row-major                           |
//
// Requires: K a multiple of 32 and of the group size. Grid: (⌈K/256⌉, M). Block: 256 threads.
// The numbers of `PackedWeight::dequantize_row` on the CPU, bit for bit. Wrapper: src/w4a8/cuda/rows.rs.

#include <cuda_fp16.h>

#include "w4a8/layout.cuh"

namespace moray {

// Code (n, k) of a packed matrix: `to_tile` of src/w4a8/pack.rs.
__device__ __forceinline__ int32_t code_at(const RowsParams& p, uint32_t n, uint32_t k) {
    const uint32_t lane = 4 * (n % 8) + k / 4 % 4, tile_k = p.bits == 4 ? 64 : 32, high = n % TILE_N / 8;
    const uint8_t* tile = p.codes + (size_t(n / TILE_N) * (padded(p.k) / tile_k) + k / tile_k) * TILE_BYTES + 16 * lane;
    const uint32_t at = k % tile_k;
    if (p.bits == 4) return tile[4 * (2 * (at / 16 % 2) + at / 32) + at % 4] >> (4 * high) & 15;
    return static_cast<int8_t>(tile[4 * (2 * (at / 16) + high) + at % 4]);
}

__device__ __forceinline__ float dequantize(const RowsParams& p, uint32_t n, uint32_t k) {
    const int32_t code = code_at(p, n, k), centre = p.bits == 4 ? 8 : 0;
    const size_t group = (size_t(n / TILE_N) * (p.k / p.group_size) + k / p.group_size) * TILE_N + n % TILE_N;
    const __half* halves = static_cast<const __half*>(p.group_scale);
    switch (p.group_scale_kind) {
        case GroupScale::none: return __fmul_rn(p.scale[n], __int2float_rn(code - centre));
        case GroupScale::integer: {
            const int32_t whole = static_cast<const uint8_t*>(p.group_scale)[group] * (code - centre);
            return __fmul_rn(p.scale[n], __int2float_rn(whole));
        }
        case GroupScale::qqq: {
            // 4 bits times 11: exact
            const float product = __fmul_rn(__int2float_rn(code - centre), __half2float(halves[group]));
            return __fmul_rn(p.scale[n], rintf(product));
        }
        case GroupScale::f16: break;
    }
    const float scale = __half2float(halves[group]);
    if (p.offset_kind == Offset::f16) {
        const float offset = __half2float(static_cast<const __half*>(p.offset)[group]);
        return __fadd_rn(__fmul_rn(scale, __int2float_rn(code)), offset);
    }
    const bool point = p.offset_kind == Offset::zero_point;
    return __fmul_rn(scale, __int2float_rn(code - (point ? static_cast<const uint8_t*>(p.offset)[group] : centre)));
}

}  // namespace moray

extern "C" __global__ void __launch_bounds__(256) w4a8_rows(const moray::RowsParams p) {
    const uint32_t k = blockIdx.x * blockDim.x + threadIdx.x, n = p.rows[blockIdx.y];
    if (k < p.k) p.y[size_t(blockIdx.y) * p.k + k] = n < p.n ? moray::dequantize(p, n, k) : __int_as_float(0x7fffffff);
}
