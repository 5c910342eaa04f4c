// y[M,N] = h[M,K] · w[N,K]ᵀ + bias[N] + residual[M,N], h = act(first half of g) ⊙ second half, g[M,2K] = x'[M,L] · v[2K,L]ᵀ + bias[2K], for M from
// 1 to 4, x' being x, or its RMSNorm, and h in int8: a whole MLP in one launch.
//
// | argument | type | shape  | layout                                     |
// |----------|------|--------|--------------------------------------------|
// | x        | f32  | [M, L] | row-major, 16-byte aligned                 |
// | norm     | f32  | [L]    | null: x as it is                           |
// | h        | f32  | [M, K] | row-major, 16-byte aligned: worked in      |
// | arrived  | u32  | [2]    | zeros, and left so                         |
//
// The others as in gemm.cu, twice; the numbers are those of two launches of gemv_quantize.cu, bit for bit.
//
// Requires: as gemv_quantize.cu, of both products, whose formats have the same kind of weights; a cooperative launch. Grid: at most one block
// for each multiprocessor, which take rows of tiles by turns. Block: 512 threads, two teams. Shared memory: sizeof(Shared).
//
// Every block asks for the first weights of the second product, waits for all blocks, and quantizes h: memory is busy while blocks wait.
// Source: as gemm.cu and quantize.cu. Wrapper: src/w4a8/cuda/gemv.rs.

#include "common/grid.cuh"
#include "common/shared.cuh"
#include "w4a8/gemv_quantize.cuh"

namespace moray {

// Of three the registers would not hold what two products keep.
constexpr uint32_t TEAMS = 2;

template <typename W>
__device__ __forceinline__ void gemv_pair(const GemvPairParams& p) {
    extern __shared__ __align__(128) unsigned char dynamic_smem[];
    auto& shared = *reinterpret_cast<Shared<W, TEAMS>*>(dynamic_smem);
    const Rows gates = Rows::of<TEAMS>(p.first, true);
    ask_ahead<W>(p.first, gates);
    quantize_tokens<W, TEAMS, float>(p.first, p.first.norm, shared);
    multiply_rows<W, TEAMS>(p.first, gates, shared);
    const Rows rows = Rows::of<TEAMS>(p.second, false);
    ask_ahead<W>(p.second, rows);
    wait_for_grid(p.arrived);
    quantize_tokens<W, TEAMS, float>(p.second, nullptr, shared);
    multiply_rows<W, TEAMS>(p.second, rows, shared);
}

}  // namespace moray

#define MORAY_GEMV_PAIR(name, Weight)                                                                \
    MORAY_SHARED(w4a8_gemv_pair_##name, sizeof(moray::Shared<moray::Weight, moray::TEAMS>))          \
    extern "C" __global__ void __launch_bounds__(moray::TEAM * moray::TEAMS, 1)                      \
    w4a8_gemv_pair_##name(const __grid_constant__ moray::GemvPairParams p) { moray::gemv_pair<moray::Weight>(p); }

MORAY_INTEGER_WEIGHTS(MORAY_GEMV_PAIR)
MORAY_GEMV_PAIR(per_group, PerGroup)
