// x[m,:] = table[tokens[m],:] in f32, the table being a floating-point matrix of the output layer's form; a packed one is
// read by kernels/w4a8/rows.cu.
//
// | argument | type | shape  | layout                                                            |
// |----------|------|--------|-------------------------------------------------------------------|
// | tokens   | u32  | [M]    | below N; checked by the caller                                     |
// | table    |      | [N, K] | f32, f16 or bf16 [N/16][K][16]                                    |
// | x        | f32  | [M, K] | row-major                                                         |
//
// Grid: (⌈K/256⌉, M). Block: 256 threads. The numbers of `Linear::row` on the CPU, bit for bit.
// Wrapper: src/llama/cuda/raw/embed.rs.

#include "common/memory.cuh"
#include "params.cuh"

namespace moray {

template <typename T>
__device__ __forceinline__ void embed(const EmbedParams& p) {
    const uint32_t k = blockIdx.x * blockDim.x + threadIdx.x, token = p.tokens[blockIdx.y];
    if (k >= p.k) return;
    const T* table = static_cast<const T*>(p.table);
    p.x[size_t(blockIdx.y) * p.k + k] = to_float(table[(size_t(token / 16) * p.k + k) * 16 + token % 16]);
}

}  // namespace moray

extern "C" __global__ void __launch_bounds__(256) llama_embed_f32(const moray::EmbedParams p) { moray::embed<float>(p); }
extern "C" __global__ void __launch_bounds__(256) llama_embed_f16(const moray::EmbedParams p) { moray::embed<__half>(p); }
extern "C" __global__ void __launch_bounds__(256) llama_embed_bf16(const moray::EmbedParams p) { moray::embed<__nv_bfloat16>(p); }
