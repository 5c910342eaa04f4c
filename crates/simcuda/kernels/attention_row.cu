// out[h] = sum_t softmax_t(q[h] . k[h, t] * scale) v[h, t], one query row a head, in one pass (running maximum).
//
// q    f32 [heads, 64]
// k    f16 [heads, T, 64]
// v    f16 [heads, T, 64]
// out  f32 [heads, 64]
//
// Grid: heads; Block: 128 (4 warps, each takes every fourth key; a lane owns dimensions 2*lane and 2*lane+1).
#include <cuda_fp16.h>

constexpr int HEAD_DIM = 64, WARPS = 4;

extern "C" __global__ void __launch_bounds__(128)
attention_row(const float* __restrict__ q, const __half* __restrict__ k, const __half* __restrict__ v,
              float* __restrict__ out, int T, float scale) {
    __shared__ float max_smem[WARPS], sum_smem[WARPS];
    __shared__ float2 out_smem[WARPS][32];  // (warp, lane)
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, head = blockIdx.x;
    const float2 q2 = reinterpret_cast<const float2*>(q + head * HEAD_DIM)[lane];
    float running_max = -INFINITY, running_sum = 0.0f;
    float2 acc = {0.0f, 0.0f};
    for (int t = warp; t < T; t += WARPS) {
        const size_t row = ((size_t)head * T + t) * (HEAD_DIM / 2) + lane;
        const float2 k2 = __half22float2(reinterpret_cast<const __half2*>(k)[row]);
        const float2 v2 = __half22float2(reinterpret_cast<const __half2*>(v)[row]);
        float score = q2.x * k2.x + q2.y * k2.y;
        for (int offset = 16; offset > 0; offset /= 2) {
            score += __shfl_xor_sync(0xffffffffu, score, offset);
        }
        score *= scale;
        const float new_max = fmaxf(running_max, score);
        const float keep = __expf(running_max - new_max), weight = __expf(score - new_max);
        acc.x = acc.x * keep + weight * v2.x;
        acc.y = acc.y * keep + weight * v2.y;
        running_sum = running_sum * keep + weight;
        running_max = new_max;
    }
    if (lane == 0) {
        max_smem[warp] = running_max;
        sum_smem[warp] = running_sum;
    }
    out_smem[warp][lane] = acc;
    __syncthreads();
    if (warp == 0) {
        float total_max = -INFINITY, total_sum = 0.0f;
        float2 total = {0.0f, 0.0f};
        for (int w = 0; w < WARPS; w++) {
            total_max = fmaxf(total_max, max_smem[w]);
        }
        for (int w = 0; w < WARPS; w++) {
            // A warp without keys has maximum -inf and weight exp(-inf) = 0.
            const float weight = __expf(max_smem[w] - total_max);
            total_sum += sum_smem[w] * weight;
            total.x += out_smem[w][lane].x * weight;
            total.y += out_smem[w][lane].y * weight;
        }
        reinterpret_cast<float2*>(out + head * HEAD_DIM)[lane] = {total.x / total_sum, total.y / total_sum};
    }
}
