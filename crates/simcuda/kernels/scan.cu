// y[i] = x[0] + … + x[i] (wrapping), in a single pass with decoupled look-back.
//
// x       u32 [n]
// y       u32 [n]
// states  u64 [tiles]  zeroed: high word 0 nothing, 1 the tile's own sum, 2 the sum up to and with the tile
// ticket  u32 [1]      zeroed: hands out tiles in the order in which blocks start
//
// Grid: tiles = ceil(n / 256); Block: 256.
// Source: Merrill and Garland, "Single-pass Parallel Prefix Scan with Decoupled Look-back", 2016.

constexpr unsigned TILE = 256;

__device__ unsigned warp_inclusive_scan(unsigned value) {
    for (unsigned offset = 1; offset < 32; offset *= 2) {
        const unsigned other = __shfl_up_sync(0xffffffffu, value, offset);
        if (threadIdx.x % 32 >= offset) {
            value += other;
        }
    }
    return value;
}

__device__ void store_state(unsigned long long* state, unsigned status, unsigned value) {
    const unsigned long long packed = (static_cast<unsigned long long>(status) << 32) | value;
    asm volatile("st.release.gpu.global.u64 [%0], %1;" ::"l"(state), "l"(packed) : "memory");
}

// Walks back from the tile before `tile`, 32 tiles a step, and returns the sum of all tiles before it.
// Every lane of one warp calls it.
__device__ unsigned look_back(unsigned long long* states, unsigned tile) {
    const int lane = threadIdx.x % 32;
    unsigned exclusive = 0;
    for (int base = static_cast<int>(tile) - 1;; base -= 32) {
        const int index = base - lane;
        unsigned long long state = 2ull << 32;  // before the first tile: a finished sum of nothing
        if (index >= 0) {
            do {
                asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(state) : "l"(states + index) : "memory");
            } while (state >> 32 == 0);
        }
        const unsigned finished = __ballot_sync(0xffffffffu, state >> 32 == 2);
        const int stop = finished == 0 ? 31 : __ffs(finished) - 1;
        exclusive += __reduce_add_sync(0xffffffffu, lane <= stop ? static_cast<unsigned>(state) : 0u);
        if (finished != 0) {
            return exclusive;
        }
    }
}

extern "C" __global__ void __launch_bounds__(256)
inclusive_scan_u32(const unsigned* __restrict__ x, unsigned* __restrict__ y, unsigned long long* states,
                   unsigned* ticket, unsigned n) {
    __shared__ unsigned warp_sums_smem[8], tile_smem, exclusive_smem;
    if (threadIdx.x == 0) {
        tile_smem = atomicAdd(ticket, 1u);
    }
    __syncthreads();
    const unsigned tile = tile_smem, i = tile * TILE + threadIdx.x;
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    unsigned value = warp_inclusive_scan(i < n ? x[i] : 0u);
    if (lane == 31) {
        warp_sums_smem[warp] = value;
    }
    __syncthreads();
    unsigned tile_sum = 0;
    for (unsigned w = 0; w < 8; w++) {
        if (w < warp) {
            value += warp_sums_smem[w];
        }
        tile_sum += warp_sums_smem[w];
    }
    if (warp == 0) {
        if (lane == 0) {
            store_state(states + tile, 1, tile_sum);
        }
        __syncwarp();
        const unsigned exclusive = look_back(states, tile);
        if (lane == 0) {
            store_state(states + tile, 2, exclusive + tile_sum);
            exclusive_smem = exclusive;
        }
    }
    __syncthreads();
    if (i < n) {
        y[i] = exclusive_smem + value;
    }
}
