// Reductions by warp shuffles, then through shared memory, then by one atomic a block.
//
// Block: a multiple of 32 up to 1024. Grid: any (grid-stride).

template <typename T, typename Combine>
__device__ T warp_reduce(T value, Combine combine) {
    for (int offset = 16; offset > 0; offset /= 2) {
        value = combine(value, __shfl_xor_sync(0xffffffffu, value, offset));
    }
    return value;
}

// Returns the block's result in thread 0; `identity` stands in for warps that do not exist.
template <typename T, typename Combine>
__device__ T block_reduce(T value, T identity, Combine combine) {
    __shared__ T partial_smem[32];  // (warp)
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    value = warp_reduce(value, combine);
    if (lane == 0) {
        partial_smem[warp] = value;
    }
    __syncthreads();
    if (warp == 0) {
        value = lane < blockDim.x / 32 ? partial_smem[lane] : identity;
        value = warp_reduce(value, combine);
    }
    return value;
}

// total[0] += sum_i x[i], wrapping.
//
// x      i32 [n]
// total  i32 [1]  zeroed by the caller
extern "C" __global__ void reduce_sum_i32(const int* __restrict__ x, int* total, unsigned n) {
    int sum = 0;
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        sum += x[i];
    }
    sum = block_reduce(sum, 0, [](int a, int b) { return a + b; });
    if (threadIdx.x == 0) {
        atomicAdd(total, sum);
    }
}

// best[0] = max(best[0], max_i x[i]) over integers; counts[v & 15] += 1 through shared-memory atomics.
//
// x       i32 [n]
// best    i32 [1]   starts at INT_MIN
// counts  u32 [16]  zeroed by the caller
extern "C" __global__ void max_and_histogram(const int* __restrict__ x, int* best, unsigned* counts, unsigned n) {
    __shared__ unsigned counts_smem[16];
    if (threadIdx.x < 16) {
        counts_smem[threadIdx.x] = 0;
    }
    __syncthreads();
    int largest = -2147483647 - 1;
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        largest = max(largest, x[i]);
        atomicAdd(&counts_smem[x[i] & 15], 1u);
    }
    largest = block_reduce(largest, -2147483647 - 1, [](int a, int b) { return max(a, b); });
    if (threadIdx.x == 0) {
        atomicMax(best, largest);
    }
    __syncthreads();
    if (threadIdx.x < 16) {
        atomicAdd(&counts[threadIdx.x], counts_smem[threadIdx.x]);
    }
}

// sums[r] = sum_c x[r, c] in f32, one block a row; the order of additions is fixed by the block size.
//
// x     f32 [rows, cols]  row-major
// sums  f32 [rows]
//
// Grid: rows blocks.
extern "C" __global__ void row_sums_f32(const float* __restrict__ x, float* __restrict__ sums, unsigned cols) {
    float sum = 0.0f;
    for (unsigned c = threadIdx.x; c < cols; c += blockDim.x) {
        sum += x[(size_t)blockIdx.x * cols + c];
    }
    sum = block_reduce(sum, 0.0f, [](float a, float b) { return a + b; });
    if (threadIdx.x == 0) {
        sums[blockIdx.x] = sum;
    }
}
