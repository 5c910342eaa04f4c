// Reductions across a cluster through distributed shared memory, and a dependent launch.
// Requires compute capability 9.0.
#include <cuda_runtime.h>

__device__ unsigned cluster_rank() {
    unsigned rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

__device__ unsigned cluster_size() {
    unsigned size;
    asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
    return size;
}

__device__ void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

__device__ int load_from_peer(const int* pointer, unsigned rank) {
    unsigned address, local = static_cast<unsigned>(__cvta_generic_to_shared(pointer));
    int value;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(local), "r"(rank));
    asm volatile("ld.shared::cluster.s32 %0, [%1];" : "=r"(value) : "r"(address) : "memory");
    return value;
}

// totals[cluster] = sum of the cluster's slice of x, wrapping.
//
// x       i32 [blocks, per_block]
// totals  i32 [clusters]
//
// Grid: blocks, a multiple of the cluster size given at launch; Block: 128.
extern "C" __global__ void __launch_bounds__(128)
cluster_sums(const int* __restrict__ x, int* __restrict__ totals, int per_block) {
    __shared__ int warp_smem[4], block_smem;
    int sum = 0;
    for (int i = threadIdx.x; i < per_block; i += blockDim.x) {
        sum += x[(size_t)blockIdx.x * per_block + i];
    }
    sum = __reduce_add_sync(0xffffffffu, sum);
    if (threadIdx.x % 32 == 0) {
        warp_smem[threadIdx.x / 32] = sum;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        block_smem = warp_smem[0] + warp_smem[1] + warp_smem[2] + warp_smem[3];
    }
    cluster_sync();
    if (cluster_rank() == 0 && threadIdx.x == 0) {
        int total = 0;
        for (unsigned rank = 0; rank < cluster_size(); rank++) {
            total += load_from_peer(&block_smem, rank);
        }
        totals[blockIdx.x / cluster_size()] = total;
    }
    cluster_sync();  // no block leaves while its shared memory may still be read
}

// x[i] = 2 * x[i] + 1 after everything the kernel before it in the stream has written.
//
// x  i32 [n]
extern "C" __global__ void double_after_previous(int* x, unsigned n) {
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    asm volatile("griddepcontrol.wait;" ::: "memory");
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        x[i] = 2 * x[i] + 1;
    }
}
