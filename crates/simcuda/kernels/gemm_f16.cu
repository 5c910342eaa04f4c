// d[m, n] = sum_k a[m, k] * b[n, k] by mma.m16n8k16 with f32 accumulation; one warp computes one 16 x 8 tile.
//
// a  f16 or bf16 [M, K]  row-major
// b  f16 or bf16 [N, K]  row-major (columns of B contiguous in k)
// d  f32 [M, N]
//
// Requires M % 16 == 0, N % 8 == 0, K % 16 == 0. Grid: (N/8, M/16); Block: 32.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

template <bool BF16>
__device__ void mma_16816(float d[4], const unsigned a[4], const unsigned b[2]) {
    if constexpr (BF16) {
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
                     "{%8, %9}, {%0, %1, %2, %3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    } else {
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
                     "{%8, %9}, {%0, %1, %2, %3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }
}

// 16-bit elements two at a time. A (lane, reg) -> (m = lane/4 + 8*(reg%2), k = 2*(lane%4) + 8*(reg/2)).
template <bool BF16>
__device__ void gemm_tile(const unsigned short* a, const unsigned short* b, float* d, int N, int K) {
    const int lane = threadIdx.x, m0 = blockIdx.y * 16, n0 = blockIdx.x * 8;
    float acc_frag[4] = {};
    for (int k0 = 0; k0 < K; k0 += 16) {
        unsigned a_frag[4], b_frag[2];
        for (int reg = 0; reg < 4; reg++) {
            const int m = m0 + lane / 4 + 8 * (reg % 2), k = k0 + 2 * (lane % 4) + 8 * (reg / 2);
            a_frag[reg] = *reinterpret_cast<const unsigned*>(a + (size_t)m * K + k);
        }
        for (int reg = 0; reg < 2; reg++) {
            const int n = n0 + lane / 4, k = k0 + 2 * (lane % 4) + 8 * reg;
            b_frag[reg] = *reinterpret_cast<const unsigned*>(b + (size_t)n * K + k);
        }
        mma_16816<BF16>(acc_frag, a_frag, b_frag);
    }
    for (int value = 0; value < 4; value++) {
        const int m = m0 + lane / 4 + 8 * (value / 2), n = n0 + 2 * (lane % 4) + value % 2;
        d[(size_t)m * N + n] = acc_frag[value];
    }
}

extern "C" __global__ void gemm_f16(const unsigned short* a, const unsigned short* b, float* d, int N, int K) {
    gemm_tile<false>(a, b, d, N, K);
}

extern "C" __global__ void gemm_bf16(const unsigned short* a, const unsigned short* b, float* d, int N, int K) {
    gemm_tile<true>(a, b, d, N, K);
}
