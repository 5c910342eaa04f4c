// sums[c] = sum over tiles t of x[t, c]: a producer warp streams tiles by bulk copies, consumer warps add them up.
//
// x     i32 [tiles, 256]  row-major, 16-byte aligned
// sums  i32 [256]
//
// Each of the four stages has a `full` barrier (one arrival by the producer plus the copy's bytes) and an `empty`
// barrier (one arrival a consumer warp). Parity flips with each reuse of a stage.
// Requires compute capability 9.0. Grid: 1; Block: 32 producer threads + 256 consumer threads = 288.

constexpr int STAGES = 4, COLUMNS = 256, CONSUMER_WARPS = 8;
constexpr unsigned TILE_BYTES = COLUMNS * sizeof(int);

__device__ unsigned shared_address(const void* pointer) {
    return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

__device__ void barrier_init(unsigned long long* barrier, unsigned arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

__device__ void barrier_wait(unsigned long long* barrier, unsigned parity) {
    asm volatile("{\n\t"
                 ".reg .pred done;\n\t"
                 "WAIT_LOOP:\n\t"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n\t"
                 "@done bra WAIT_DONE;\n\t"
                 "bra WAIT_LOOP;\n\t"
                 "WAIT_DONE:\n\t"
                 "}" ::"r"(shared_address(barrier)),
                 "r"(parity)
                 : "memory");
}

__device__ void produce(const int* x, int tiles, int (*stage_smem)[COLUMNS], unsigned long long* full,
                        unsigned long long* empty) {
    for (int tile = 0; tile < tiles; tile++) {
        const int stage = tile % STAGES;
        barrier_wait(&empty[stage], (tile / STAGES + 1) % 2);
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&full[stage])),
                     "r"(TILE_BYTES)
                     : "memory");
        asm volatile(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                shared_address(stage_smem[stage])),
            "l"(x + (size_t)tile * COLUMNS), "r"(TILE_BYTES), "r"(shared_address(&full[stage]))
            : "memory");
    }
}

__device__ int consume(int tiles, int column, const int (*stage_smem)[COLUMNS], unsigned long long* full,
                       unsigned long long* empty) {
    int sum = 0;
    for (int tile = 0; tile < tiles; tile++) {
        const int stage = tile % STAGES;
        barrier_wait(&full[stage], (tile / STAGES) % 2);
        sum += stage_smem[stage][column];
        __syncwarp();
        if (threadIdx.x % 32 == 0) {
            asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&empty[stage])) : "memory");
        }
    }
    return sum;
}

extern "C" __global__ void __launch_bounds__(288) pipeline_column_sums(const int* __restrict__ x, int* sums, int tiles) {
    __shared__ __align__(128) int stage_smem[STAGES][COLUMNS];
    __shared__ __align__(8) unsigned long long full[STAGES], empty[STAGES];
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < STAGES; stage++) {
            barrier_init(&full[stage], 1);
            barrier_init(&empty[stage], CONSUMER_WARPS);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    __syncthreads();
    if (threadIdx.x < 32) {
        if (threadIdx.x == 0) {
            produce(x, tiles, stage_smem, full, empty);
        }
    } else {
        const int column = threadIdx.x - 32;
        sums[column] = consume(tiles, column, stage_smem, full, empty);
    }
}
