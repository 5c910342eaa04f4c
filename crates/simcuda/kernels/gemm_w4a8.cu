// acc[m, n] = sum_k x[m, k] * q[n, k]
//
// x        i8  [M, K]     row-major
// qweight  u32 [N, K/8]   eight int4 a word: nibble j holds value k = j, offset by +8
// acc      i32 [M, N]     row-major
//
// Weights are the A operand (16 rows n), tokens the B operand (8 columns m) of mma.m16n8k32.
// Requires N % 64 == 0, K % 64 == 0; M any (rows past M are zero-filled by cp.async).
// Grid: (N/64, ceil(M/64)); Block: 128 (4 warps, 16 n-rows each); Smem: 2 stages of 64 x 64 x-bytes and 64 x 8 words.

constexpr int TILE_N = 64, TILE_M = 64, TILE_K = 64;
constexpr int X_ROW_BYTES = TILE_K + 16;  // padded so that the eight rows of one ldmatrix touch distinct banks
constexpr int W_ROW_WORDS = TILE_K / 8;

struct Stage {
    signed char x[TILE_M * X_ROW_BYTES];   // (M, K)
    unsigned w[TILE_N * W_ROW_WORDS];      // (N, K/8)
};

__device__ unsigned shared_address(const void* pointer) {
    return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

// Copies 16 bytes, or writes zeros when `valid` is false.
__device__ void copy_async_16(void* smem, const void* gmem, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(smem)), "l"(gmem),
                 "r"(valid ? 16 : 0)
                 : "memory");
}

__device__ void load_stage(Stage& stage, const signed char* x, const unsigned* qweight, int m0, int n0, int k0, int M,
                           int K) {
    for (int i = threadIdx.x; i < TILE_M * TILE_K / 16; i += blockDim.x) {
        const int row = i / (TILE_K / 16), chunk = i % (TILE_K / 16);
        const bool valid = m0 + row < M;
        copy_async_16(&stage.x[row * X_ROW_BYTES + chunk * 16],
                      x + (size_t)(valid ? m0 + row : 0) * K + k0 + chunk * 16, valid);
    }
    for (int i = threadIdx.x; i < TILE_N * W_ROW_WORDS / 4; i += blockDim.x) {
        const int row = i / (W_ROW_WORDS / 4), chunk = i % (W_ROW_WORDS / 4);
        copy_async_16(&stage.w[row * W_ROW_WORDS + chunk * 4],
                      qweight + (size_t)(n0 + row) * (K / 8) + k0 / 8 + chunk * 4, true);
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Widens four nibbles (16 bits) of `half_word` to four int8 in k order and removes the offset of 8.
__device__ unsigned widen(unsigned half_word) {
    const unsigned even = half_word & 0x0f0fu, odd = (half_word >> 4) & 0x0f0fu;
    const unsigned bytes = __byte_perm(even, odd, 0x5140);  // even0 odd0 even1 odd1
    return ((bytes | 0x80808080u) - 0x08080808u) ^ 0x80808080u;
}

// One k-step of 32: A fragment (lane, reg) -> (n = lane/4 + 8*(reg%2), k = 4*(lane%4) + 16*(reg/2)).
__device__ void multiply(const Stage& stage, int k_step, int acc_frag[8][4]) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    unsigned a[4];
#pragma unroll
    for (int reg = 0; reg < 4; reg++) {
        const int n = warp * 16 + lane / 4 + 8 * (reg % 2), k = k_step * 32 + 4 * (lane % 4) + 16 * (reg / 2);
        const unsigned word = stage.w[n * W_ROW_WORDS + k / 8];
        a[reg] = widen((word >> (4 * (k % 8))) & 0xffffu);
    }
#pragma unroll
    for (int pair = 0; pair < 4; pair++) {
        // Four 8 x 16-byte matrices: (m 0..8, k 0..16), (m 0..8, k 16..32), (m 8..16, k 0..16), (m 8..16, k 16..32).
        const int m = pair * 16 + lane % 8 + 8 * (lane / 16), k = k_step * 32 + 16 * (lane / 8 % 2);
        unsigned b[4];
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
                     : "r"(shared_address(&stage.x[m * X_ROW_BYTES + k]))
                     : "memory");
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int* d = acc_frag[pair * 2 + half];
            asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
                         "{%8, %9}, {%0, %1, %2, %3};"
                         : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[2 * half]), "r"(b[2 * half + 1]));
        }
    }
}

// Accumulator (lane, value) -> (n = lane/4 + 8*(value/2), m = 2*(lane%4) + value%2).
__device__ void write_back(int* acc, const int acc_frag[8][4], int m0, int n0, int M, int N) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int column = 0; column < 8; column++) {
        for (int value = 0; value < 4; value++) {
            const int m = m0 + column * 8 + 2 * (lane % 4) + value % 2;
            const int n = n0 + warp * 16 + lane / 4 + 8 * (value / 2);
            if (m < M) {
                acc[(size_t)m * N + n] = acc_frag[column][value];
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(128)
gemm_w4a8(const signed char* __restrict__ x, const unsigned* __restrict__ qweight, int* __restrict__ acc, int M, int N,
          int K) {
    extern __shared__ __align__(16) unsigned char smem[];
    Stage* stages = reinterpret_cast<Stage*>(smem);
    const int n0 = blockIdx.x * TILE_N, m0 = blockIdx.y * TILE_M, k_tiles = K / TILE_K;
    int acc_frag[8][4] = {};
    load_stage(stages[0], x, qweight, m0, n0, 0, M, K);
    for (int tile = 0; tile < k_tiles; tile++) {
        if (tile + 1 < k_tiles) {
            load_stage(stages[(tile + 1) % 2], x, qweight, m0, n0, (tile + 1) * TILE_K, M, K);
            asm volatile("cp.async.wait_group 1;" ::: "memory");
        } else {
            asm volatile("cp.async.wait_group 0;" ::: "memory");
        }
        __syncthreads();
        multiply(stages[tile % 2], 0, acc_frag);
        multiply(stages[tile % 2], 1, acc_frag);
        __syncthreads();  // the next round overwrites this stage
    }
    write_back(acc, acc_frag, m0, n0, M, N);
}
