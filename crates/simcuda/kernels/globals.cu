// Module variables: a constant table, an initialised array and a counter, read back with cuModuleGetGlobal.

__constant__ int polynomial[4] = {7, -3, 2, 1};
__device__ int bias[2] = {100, 200};
__device__ unsigned calls;

// y[i] = 7 - 3*i + 2*i^2 + i^3 + bias[i % 2]; counts its threads in `calls`.
//
// y  i32 [n]
extern "C" __global__ void evaluate(int* y, unsigned n) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        int value = 0;
        for (int degree = 3; degree >= 0; degree--) {
            value = value * static_cast<int>(i) + polynomial[degree];
        }
        y[i] = value + bias[i % 2];
        atomicAdd(&calls, 1u);
    }
}
