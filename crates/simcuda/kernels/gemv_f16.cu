// y[n] = sum_k w[n, k] * x[k]
//
// w  f16 [N, K]  row-major, 16-byte aligned rows
// x  f16 [K]     16-byte aligned
// y  f32 [N]
//
// Requires K % 8 == 0. Grid: ceil(N / warps a block); Block: a multiple of 32; one warp a row.
#include <cuda_fp16.h>

extern "C" __global__ void gemv_f16(const __half* __restrict__ w, const __half* __restrict__ x,
                                    float* __restrict__ y, unsigned n_rows, unsigned k_elems) {
    const unsigned lane = threadIdx.x % 32;
    const unsigned row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= n_rows) {
        return;
    }
    const uint4* w_row = reinterpret_cast<const uint4*>(w + (size_t)row * k_elems);
    const uint4* x_vec = reinterpret_cast<const uint4*>(x);
    float sum = 0.0f;
    for (unsigned i = lane; i < k_elems / 8; i += 32) {
        const uint4 w8 = w_row[i], x8 = x_vec[i];
        const __half2* w2 = reinterpret_cast<const __half2*>(&w8);
        const __half2* x2 = reinterpret_cast<const __half2*>(&x8);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const float2 wf = __half22float2(w2[j]), xf = __half22float2(x2[j]);
            sum = fmaf(wf.x, xf.x, sum);
            sum = fmaf(wf.y, xf.y, sum);
        }
    }
    for (int offset = 16; offset > 0; offset /= 2) {
        sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    }
    if (lane == 0) {
        y[row] = sum;
    }
}

// out[i] = a[i] * b[i] + c[i] in packed half arithmetic (one rounding).
//
// a, b, c, out  f16x2 [pairs]
extern "C" __global__ void half2_fma(const __half2* a, const __half2* b, const __half2* c, __half2* out,
                                     unsigned pairs) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < pairs) {
        out[i] = __hfma2(a[i], b[i], c[i]);
    }
}
