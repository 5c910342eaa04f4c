// y[i] = a[i] + b[i]
//
// a, b  f32 [n]   inputs
// y     f32 [n]   output
// n     u32       elements
//
// Grid: any; Block: any. A grid-stride loop covers n.
extern "C" __global__ void vector_add(const float* __restrict__ a, const float* __restrict__ b,
                                      float* __restrict__ y, unsigned n) {
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        y[i] = a[i] + b[i];
    }
}

// x[i] = x[i] * factor + bias, in place.
//
// x             f32 [n]
// factor, bias  f32     fused into one rounding (fma)
extern "C" __global__ void scale_in_place(float* x, float factor, float bias, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        x[i] = fmaf(x[i], factor, bias);
    }
}
