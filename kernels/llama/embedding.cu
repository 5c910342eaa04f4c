// x[m,:] = table[tokens[m],:] in f32, the table being a matrix of the output layer's forms.
//
// | argument | type | shape  | layout                                                            |
// |----------|------|--------|-------------------------------------------------------------------|
// | tokens   | u32  | [M]    | below N; checked by the caller                                     |
// | table    |      | [N, K] | f32, f16, bf16 [N/16][K][16], or packed w4a8 (kernels/w4a8/layout.cuh) |
// | x        | f32  | [M, K] | row-major                                                         |
//
// Grid: (⌈K/256⌉, M). Block: 256 threads. The numbers of `Linear::row` on the CPU, bit for bit.
// Wrapper: src/llama/cuda/kernels.rs.

#include "common/memory.cuh"
#include "w4a8/dequant.cuh"

namespace moray {

struct EmbedParams {
    const uint32_t* tokens;
    const void* table;
    float* x;
    uint32_t k;
    uint32_t reserved;
};
static_assert(sizeof(EmbedParams) == 32, "as in src/llama/cuda/kernels.rs");

template <typename T>
__device__ __forceinline__ void embed(const EmbedParams& p) {
    const uint32_t k = blockIdx.x * blockDim.x + threadIdx.x, token = p.tokens[blockIdx.y];
    if (k >= p.k) return;
    const T* table = static_cast<const T*>(p.table);
    p.x[size_t(blockIdx.y) * p.k + k] = to_float(table[(size_t(token / 16) * p.k + k) * 16 + token % 16]);
}

// A mode of w4a8, as `Format` in src/w4a8/cuda/variant.rs.
enum class Mode : uint32_t { per_channel = 0, per_group = 1, two_level = 2, qqq = 3 };

struct EmbedPackedParams {
    const uint32_t* tokens;
    const uint8_t* codes;
    const float* scale;
    const void* group_scale;
    const void* offset;
    float* x;
    uint32_t k;
    uint32_t bits;
    Mode mode;
    uint32_t group_size;
    Offset offset_kind;
    uint32_t reserved;
};
static_assert(sizeof(EmbedPackedParams) == 72, "as in src/llama/cuda/kernels.rs");

// Code (n, k) of a packed matrix: `to_tile` of src/w4a8/pack.rs.
__device__ __forceinline__ int32_t code_at(const EmbedPackedParams& p, uint32_t n, uint32_t k) {
    const uint32_t lane = 4 * (n % 8) + k / 4 % 4, tile_k = p.bits == 4 ? 64 : 32, high = n % TILE_N / 8;
    const uint8_t* tile = p.codes + (size_t(n / TILE_N) * (padded(p.k) / tile_k) + k / tile_k) * TILE_BYTES + 16 * lane;
    const uint32_t at = k % tile_k;
    if (p.bits == 4) return tile[4 * (2 * (at / 16 % 2) + at / 32) + at % 4] >> (4 * high) & 15;
    return static_cast<int8_t>(tile[4 * (2 * (at / 16) + high) + at % 4]);
}

__device__ __forceinline__ float dequantize(const EmbedPackedParams& p, uint32_t n, uint32_t k) {
    const int32_t code = code_at(p, n, k), centre = p.bits == 4 ? 8 : 0;
    const size_t group = (size_t(n / TILE_N) * (p.k / p.group_size) + k / p.group_size) * TILE_N + n % TILE_N;
    const __half* halves = static_cast<const __half*>(p.group_scale);
    switch (p.mode) {
        case Mode::per_channel: return __fmul_rn(p.scale[n], __int2float_rn(code - centre));
        case Mode::two_level: {
            const int32_t whole = static_cast<const uint8_t*>(p.group_scale)[group] * (code - 8);
            return __fmul_rn(p.scale[n], __int2float_rn(whole));
        }
        case Mode::qqq: {
            const float product = __half2float(__float2half_rn(__fmul_rn(__int2float_rn(code - 8), __half2float(halves[group]))));
            return __fmul_rn(p.scale[n], rintf(product));
        }
        default: break;
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

extern "C" __global__ void __launch_bounds__(256) llama_embed_f32(const moray::EmbedParams p) { moray::embed<float>(p); }
extern "C" __global__ void __launch_bounds__(256) llama_embed_f16(const moray::EmbedParams p) { moray::embed<__half>(p); }
extern "C" __global__ void __launch_bounds__(256) llama_embed_bf16(const moray::EmbedParams p) { moray::embed<__nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) llama_embed_packed(const moray::EmbedPackedParams p) {
    const uint32_t k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k < p.k) p.x[size_t(blockIdx.y) * p.k + k] = moray::dequantize(p, p.tokens[blockIdx.y], k);
}
