// y = down(act(gate x) * (up x)) over the selected neurons, of one token: gather.cu and down.cu in one launch.
//
// | argument      | dtype | shape | layout                                                    |
// |---------------|-------|-------|-----------------------------------------------------------|
// | gate_up, down |       |       | as in gather.cu and down.cu, of the same neurons and hidden |
// | arrived       | u32   | [2]   | zeros, and left so                                        |
//
// The numbers are those of the two launches, bit for bit.
//
// Requires: as gather.cu, with gate and up, and down.cu; a cooperative launch. Grid: at most one block for each multiprocessor, which take
// neurons, and then tiles of columns and parts of the list, by turns. Block: 512 threads, for down two teams of 256. Shared memory: static.
//
// Every block asks for the first rows of down that it will read, waits for all blocks, and reads hidden: memory is busy while blocks wait.
// Source: as gather.cu and down.cu. Wrapper: src/sparse_mlp/cuda.
#include "common/grid.cuh"
#include "down.cuh"
#include "gather.cuh"

namespace moray::sparse_mlp {

constexpr int TEAMS = 2;
static_assert(TEAMS * DOWN_THREADS == 32 * WARPS<1>);

template <class Rows>
union Room {
    Inputs<Rows, 1> inputs;
    TeamRoom<Rows, 1> teams[TEAMS];
};

template <class Rows>
__device__ __forceinline__ void whole(const WholeParams& p, Room<Rows>& room) {
    constexpr uint32_t TILE = Columns<Rows, 1>::TILE;
    gate_up<Rows, 1>(p.gate_up, room.inputs);
    const uint32_t tiles = (p.down.d_model + TILE - 1) / TILE, units = tiles * p.splits, team = threadIdx.x / DOWN_THREADS;
    // neighbouring blocks, which neighbouring multiprocessors have, before a block's second team
    const uint32_t first = team * gridDim.x + blockIdx.x;
    const auto unit_of = [&](uint32_t at) { return Unit{at % tiles, tiles, at / tiles, p.splits, 0}; };
    if (first < units) ask_ahead<Rows, 1, TEAMS>(p.down, unit_of(first));
    wait_for_grid(p.arrived);
#pragma unroll 1
    for (uint32_t at = first; at < units; at += TEAMS * gridDim.x) {
        if (at != first) sync_team<TEAMS>();  // the unit before it is done with the room
        down<Rows, 1, TEAMS>(p.down, unit_of(at), room.teams[team]);
    }
}

}  // namespace moray::sparse_mlp

using namespace moray::sparse_mlp;

#define MORAY_WHOLE(name, Rows)                                                                              \
    extern "C" __global__ void __launch_bounds__(32 * WARPS<1>, 1)                                           \
    sparse_mlp_whole_##name##_1(const __grid_constant__ WholeParams p) {                                     \
        __shared__ Room<Rows> room;                                                                          \
        whole<Rows>(p, room);                                                                                \
    }

MORAY_WHOLE(f16, F16Rows)
MORAY_WHOLE(bf16, Bf16Rows)
MORAY_WHOLE(int4, FourBitRows)
