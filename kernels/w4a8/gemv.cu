// y[M,N] = act_scale[M] · (x[M,K] · w[N,K]ᵀ) + bias[N] + residual[M,N], act_scale perhaps finer, for M from 1 to 4: the weights' bytes are all that counts.
//
// Arguments, types and layouts as in gemm.cu; `splits`, `partial` and `arrived` are not used.
//
// Requires: as gemm.cu. Grid: ⌈N/16⌉. Block: 256 threads, 8 warps that share the K of one row of tiles.
// Shared memory: 32 KiB in group modes, 8 KiB in the others.
//
// What a block does is that of gemv.cuh.
// Source: as gemm.cu. Wrapper: src/w4a8/cuda/linear.rs.

#include "w4a8/gemv.cuh"

namespace moray {

// Blocks of a multiprocessor: what shared memory and the registers of its tiles leave room for.
template <typename W>
constexpr uint32_t MIN_BLOCKS = W::GROUPED || W::BITS == 8 ? 2 : W::SCALE_BYTES == 0 ? 4 : 3;

template <typename W, bool FINE>
__device__ __forceinline__ void gemv(const LinearParams& p, int32_t* smem) {
    uint32_t slot = 0;
    const float sum = row_output<W, FINE, 1>(p, DeviceTokens(p), blockIdx.x, smem, slot);
    const uint32_t token = threadIdx.x / TILE_N, n = blockIdx.x * TILE_N + threadIdx.x % TILE_N;
    if (token < p.m && n < p.n) write_output(p, token, n, sum);
}

template <typename W>
__device__ __forceinline__ void gemv(const LinearParams& p) {
    __shared__ int32_t smem[TEAM_WORDS<W>];
    if (p.fine) gemv<W, true>(p, smem);
    else gemv<W, false>(p, smem);
}

}  // namespace moray

#define MORAY_GEMV(name, Weight)                                                                \
    extern "C" __global__ void __launch_bounds__(moray::TEAM, moray::MIN_BLOCKS<moray::Weight>) \
    w4a8_gemv_##name(const moray::LinearParams p) { moray::gemv<moray::Weight>(p); }

MORAY_INTEGER_WEIGHTS(MORAY_GEMV)
MORAY_GROUP_WEIGHTS(MORAY_GEMV)
