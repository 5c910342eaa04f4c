// acc[m, n] = sum_k a[m, k] * b[n, k], the k-iterations of all tiles dealt out evenly over the blocks.
//
// a        i8  [M, K]   row-major, 4-byte aligned
// b        i8  [N, K]   row-major, 4-byte aligned
// acc      i32 [M, N]
// partial  i32 [blocks, 32, 32]  workspace
// flags    u32 [blocks]          zeroed by the caller: 1 once a block's partial tile is published
//
// A block that does not hold a tile's first k-iteration publishes its share and raises its flag; the block that does
// waits for the others' flags and adds their shares in block order, so the result does not depend on timing.
// Requires M % 32 == N % 32 == K % 32 == 0. Grid: any number of blocks that are resident together; Block: 256.

constexpr int TILE = 32;

// (thread, value) -> (m = thread/32 + 8*value, n = thread%32)
__device__ void multiply_tile(const signed char* a, const signed char* b, int tile_m, int tile_n, int k_first,
                              int k_last, int K, int acc_frag[4]) {
    __shared__ int a_smem[TILE][TILE / 4 + 1], b_smem[TILE][TILE / 4 + 1];  // (row, K/4), padded
    const int row = threadIdx.x / 8, word = threadIdx.x % 8;
    for (int k = k_first; k < k_last; k++) {
        a_smem[row][word] =
            reinterpret_cast<const int*>(a + (size_t)(tile_m * TILE + row) * K + k * TILE)[word];
        b_smem[row][word] =
            reinterpret_cast<const int*>(b + (size_t)(tile_n * TILE + row) * K + k * TILE)[word];
        __syncthreads();
        for (int value = 0; value < 4; value++) {
            for (int i = 0; i < TILE / 4; i++) {
                acc_frag[value] =
                    __dp4a(a_smem[threadIdx.x / 32 + 8 * value][i], b_smem[threadIdx.x % 32][i], acc_frag[value]);
            }
        }
        __syncthreads();
    }
}

__device__ void publish(int* partial, unsigned* flags, const int acc_frag[4]) {
    int* slot = partial + (size_t)blockIdx.x * TILE * TILE;
    for (int value = 0; value < 4; value++) {
        slot[(threadIdx.x / 32 + 8 * value) * TILE + threadIdx.x % 32] = acc_frag[value];
    }
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        asm volatile("st.release.gpu.global.u32 [%0], 1;" ::"l"(flags + blockIdx.x) : "memory");
    }
}

__device__ void collect(const int* partial, const unsigned* flags, unsigned peer, int acc_frag[4]) {
    if (threadIdx.x == 0) {
        unsigned ready;
        do {
            asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(ready) : "l"(flags + peer) : "memory");
        } while (ready == 0);
    }
    __syncthreads();
    const int* slot = partial + (size_t)peer * TILE * TILE;
    for (int value = 0; value < 4; value++) {
        acc_frag[value] += __ldcg(&slot[(threadIdx.x / 32 + 8 * value) * TILE + threadIdx.x % 32]);
    }
}

extern "C" __global__ void __launch_bounds__(256)
stream_k_gemm(const signed char* __restrict__ a, const signed char* __restrict__ b, int* acc, int* partial,
              unsigned* flags, int M, int N, int K) {
    const int k_iters = K / TILE, tiles_n = N / TILE, total = (M / TILE) * tiles_n * k_iters;
    const int share = (total + gridDim.x - 1) / gridDim.x;
    int first = blockIdx.x * share;
    const int last = min(first + share, total);
    while (first < last) {
        const int tile = first / k_iters, k_first = first % k_iters;
        const int k_last = min(k_iters, k_first + (last - first));
        int acc_frag[4] = {};
        multiply_tile(a, b, tile / tiles_n, tile % tiles_n, k_first, k_last, K, acc_frag);
        if (k_first != 0) {
            publish(partial, flags, acc_frag);
        } else {
            // The rest of this tile is in the blocks that follow.
            int covered = tile * k_iters + k_last;
            for (unsigned peer = blockIdx.x + 1; covered < (tile + 1) * k_iters; peer++) {
                collect(partial, flags, peer, acc_frag);
                covered = (peer + 1) * share;
            }
            for (int value = 0; value < 4; value++) {
                const int m = (tile / tiles_n) * TILE + threadIdx.x / 32 + 8 * value;
                acc[(size_t)m * N + (tile % tiles_n) * TILE + threadIdx.x % 32] = acc_frag[value];
            }
        }
        first += k_last - k_first;
    }
}
