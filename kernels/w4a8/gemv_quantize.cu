// y[M,N] = x'[M,K] · w[N,K]ᵀ + bias[N] + residual[M,N] for M from 1 to 4, x' being x, or its RMSNorm, in int8: a quantization and a
// GEMV in one launch. Gated, y[M,N/2] = act(first half of these outputs) ⊙ second half, without residual.
//
// | argument | type              | shape  | layout                    |
// |----------|-------------------|--------|---------------------------|
// | x        | f32, f16 or bf16  | [M, K] | row-major, 16-byte aligned |
// | norm     | f32               | [K]    | null: x as it is          |
//
// The others as in gemm.cu; the numbers are those of quantize.cu and gemv.cu, bit for bit.
//
// Requires: as gemm.cu; M · padded K at most 16384; gated, N a multiple of 32. Grid: any number of blocks, which take rows of tiles (gated,
// the row of a gate and that of its up) by turns. Block: 256 threads for each team, of which each takes rows of its own.
// Shared memory: sizeof(Shared).
//
// Every block quantizes all tokens for itself, from the second-level cache, while its first weights are on their way: less than a launch takes.
// The codes lie as the lanes of gemv.cuh read them, 16 bytes for two steps of K.
// Source: as gemm.cu and quantize.cu. Wrapper: src/w4a8/cuda/gemv.rs.

#include "common/shared.cuh"
#include "w4a8/gemv_quantize.cuh"

namespace moray {

// Teams of a block, of which a multiprocessor holds one: what registers leave room for.
template <typename W>
constexpr uint32_t TEAMS = W::GROUPED || W::BITS == 8 ? 2 : 3;

template <typename W>
__device__ __forceinline__ void gemv_quantize(const GemvParams& q) {
    extern __shared__ __align__(128) unsigned char dynamic_smem[];
    auto& shared = *reinterpret_cast<Shared<W, TEAMS<W>>*>(dynamic_smem);
    const Rows rows = Rows::of<TEAMS<W>>(q, q.gated != 0);
    ask_ahead<W>(q, rows);
    switch (q.x_element) {
        case Element::f16: quantize_tokens<W, TEAMS<W>, __half>(q, q.norm, shared); break;
        case Element::bf16: quantize_tokens<W, TEAMS<W>, __nv_bfloat16>(q, q.norm, shared); break;
        default: quantize_tokens<W, TEAMS<W>, float>(q, q.norm, shared);
    }
    multiply_rows<W, TEAMS<W>>(q, rows, shared);
}

}  // namespace moray

#define MORAY_GEMV_QUANTIZE(name, Weight)                                                                                            \
    MORAY_SHARED(w4a8_gemv_quantize_##name, sizeof(moray::Shared<moray::Weight, moray::TEAMS<moray::Weight>>))                                                   \
    extern "C" __global__ void __launch_bounds__(moray::TEAM * moray::TEAMS<moray::Weight>, 1)        \
    w4a8_gemv_quantize_##name(const __grid_constant__ moray::GemvParams p) { moray::gemv_quantize<moray::Weight>(p); }

MORAY_INTEGER_WEIGHTS(MORAY_GEMV_QUANTIZE)
MORAY_GROUP_WEIGHTS(MORAY_GEMV_QUANTIZE)
