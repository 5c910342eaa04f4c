// Kernels that are wrong on purpose, one fault each, to see what the driver reports.

// Writes one element past the end when launched with one thread too many.
extern "C" __global__ void write_without_bound(int* x) {
    x[blockIdx.x * blockDim.x + threadIdx.x] = 1;
}

// Reads four bytes at an odd address.
extern "C" __global__ void read_misaligned(const char* x, int* y) {
    *y = *reinterpret_cast<const int*>(x + 1);
}

// Stops with a trap in its last thread.
extern "C" __global__ void trap_in_last_thread() {
    if (threadIdx.x == blockDim.x - 1) {
        __trap();
    }
}

// Waits for a flag that nobody raises.
extern "C" __global__ void wait_forever(const volatile int* flag) {
    while (*flag == 0) {
    }
}

// Copies x to y; reads what nobody wrote when x was not initialised.
extern "C" __global__ void copy_words(const int* x, int* y, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        y[i] = x[i];
    }
}

// Reverses 256 values through shared memory; the barrier between its writes and its reads is missing.
extern "C" __global__ void reverse_without_barrier(int* x) {
    __shared__ int tile_smem[256];
    tile_smem[threadIdx.x] = 0;
    __syncthreads();
    tile_smem[threadIdx.x] = x[threadIdx.x];
    x[threadIdx.x] = tile_smem[255 - threadIdx.x];
}
