// y[i,h,K] = x[r,h,K] / √(mean(x²) + eps) ⊙ weight[K], r = rows[i], or i; y may be x where there are no rows.
//
// | argument | type | shape     | layout                                      |
// |----------|------|-----------|---------------------------------------------|
// | x        | f32  | [*, H, K] | rows x_stride elements apart, 16-byte aligned |
// | weight   | f32  | [K]       | 16-byte aligned                             |
// | rows     | u32  | [M]       | or null                                     |
// | y        | f32  | [M, H, K] | rows y_stride elements apart, 16-byte aligned |
//
// Requires: K and the strides multiples of 4. Grid: M, H. Block: 256. Shared memory: 16 KiB. The CPU's bits, see common/norm.cuh.
// Source: RMSNorm (arXiv 1910.07467). Wrapper: src/llama/cuda/raw/rms_norm.rs.

#include "common/norm.cuh"
#include "params.cuh"

extern "C" __global__ void __launch_bounds__(256) llama_rms_norm(const moray::NormParams p) {
    using namespace moray;
    const size_t row = p.rows ? p.rows[blockIdx.x] : blockIdx.x, head = size_t(blockIdx.y) * p.k;
    const float* x = p.x + row * p.x_stride + head;
    float* y = p.y + size_t(blockIdx.x) * p.y_stride + head;
    const float factor = block_rms_factor(x, p.k, p.eps);
    for (uint32_t i = threadIdx.x; i < p.k; i += blockDim.x) y[i] = __fmul_rn(__fmul_rn(x[i], factor), p.weight[i]);
}
