// acc[n] = sum_k q[n, k] * x[k];  y[n] = scale[n] * x_scale * acc[n]
//
// qweight  u32 [N, K/8]  eight int4 a word: byte b holds value k = 4*0+b in its low nibble and k = 4+b in its high
//                        nibble, both offset by +8 (so q = nibble - 8)
// x        i8  [K]       4-byte aligned
// scale    f32 [N]
// x_scale  f32
// acc      i32 [N]
// y        f32 [N]
//
// Requires K % 8 == 0. Grid: ceil(N / warps a block); Block: a multiple of 32; one warp a row.

// Subtracts 8 from each of the four bytes; bytes are 0..=15, so no borrow leaves a byte.
__device__ int center_nibbles(unsigned bytes) {
    return static_cast<int>(((bytes | 0x80808080u) - 0x08080808u) ^ 0x80808080u);
}

extern "C" __global__ void gemv_w4a8(const unsigned* __restrict__ qweight, const signed char* __restrict__ x,
                                     const float* __restrict__ scale, float x_scale, int* __restrict__ acc,
                                     float* __restrict__ y, unsigned n_rows, unsigned k_elems) {
    const unsigned lane = threadIdx.x % 32;
    const unsigned row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= n_rows) {
        return;
    }
    const unsigned words = k_elems / 8;
    const unsigned* w_row = qweight + (size_t)row * words;
    const int2* x_pairs = reinterpret_cast<const int2*>(x);  // four values, four values
    int sum = 0;
    for (unsigned i = lane; i < words; i += 32) {
        const unsigned packed = w_row[i];
        const int2 xs = x_pairs[i];
        sum = __dp4a(center_nibbles(packed & 0x0f0f0f0fu), xs.x, sum);
        sum = __dp4a(center_nibbles((packed >> 4) & 0x0f0f0f0fu), xs.y, sum);
    }
    sum = __reduce_add_sync(0xffffffffu, sum);
    if (lane == 0) {
        acc[row] = sum;
        y[row] = static_cast<float>(sum) * (scale[row] * x_scale);
    }
}
