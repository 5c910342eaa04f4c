// RoPE on q and k, fused with writing K and V into the cache under a policy for skipped groups.
// The formulas are in projected.cuh.
//
// | argument | dtype          | shape                               | layout                                                  |
// |----------|----------------|-------------------------------------|---------------------------------------------------------|
// | q        | f32, f16, bf16 | [M, n_q_heads, head_dim]            | rows q_stride elements apart; null: K and V only        |
// | k, v     | f32, f16, bf16 | [M, n_kv_heads, head_dim]           | rows k_stride, v_stride elements apart                  |
// | rope     | f32            | [context, head_dim]                 | h cosines, then h sines; null: no rotation              |
// | q_out    | f32            | [M, n_q_heads, head_dim]            | row-major; rows of skipped heads are left as they are   |
// | cache    | f32 to i8      | [pages, n_kv_heads, page, head_dim] | by strides, see KvView                                  |
// | present  | u32            | [slots, n_kv_heads, present_words]  | bit per position; null where no position may be missing |
//
// A group without a running head gets, by policy: its K and V all the same (WRITE_ALL), a cleared presence bit (HOLE),
// zeros (ZERO), or nothing, not even the bit (KEEP).
//
// Requires head_dim % 8 == 0, head_dim <= 256, positions below the capacity and the rope table (others are left out).
// attention_write_*: Grid (tokens of the longest span, spans, parts of the heads); Block 128, a warp a row: q heads first, then K, then V;
// Smem none.
// attention_advance: Grid (ceil(spans / 128)); Block 128.
// Source: RoFormer (arXiv 2104.09864), half-split pairing. Wrapper: src/attention/cuda.
#include "heads.cuh"
#include "projected.cuh"

namespace moray::attention {

constexpr int WARPS = 4, THREADS = 32 * WARPS;
constexpr int DIM = 256;  // the largest head_dim

template <class Kv>
__device__ inline void write_token(const WriteParams& p) {
    const Span span = p.spans[blockIdx.y];
    const uint32_t position = span.start + blockIdx.x, row = span.first_row + blockIdx.x;
    if (blockIdx.x >= span.len || position >= p.kv.capacity) {
        return;
    }
    const uint32_t q_heads = p.projected.q == nullptr ? 0 : p.n_q_heads, group = p.n_q_heads / p.kv.n_kv_heads;
    const uint32_t items = q_heads + 2 * p.kv.n_kv_heads;
    for (uint32_t item = blockIdx.z * WARPS + threadIdx.x / 32; item < items; item += gridDim.z * WARPS) {
        if (item < q_heads) {
            if (head_runs(p.heads, blockIdx.y, item, group)) {
                float* out = p.q_out + (static_cast<size_t>(row) * p.n_q_heads + item) * p.head_dim;
                store_query(turned_query<DIM>(p.projected, row, position, item, p.head_dim), out, p.head_dim);
            }
            continue;
        }
        const uint32_t kv_head = (item - q_heads) % p.kv.n_kv_heads;
        const bool runs = p.projected.policy == WRITE_ALL || group_runs(p.heads, blockIdx.y, kv_head, group);
        const Content what = content_of(p.projected, runs);
        const NewRow at = {row, span.slot, position, kv_head};
        if (item - q_heads < p.kv.n_kv_heads) {
            write_key<Kv, DIM>(p.projected, p.kv, at, what, p.head_dim);
        } else {
            write_value<Kv, DIM>(p.projected, p.kv, at, what, p.head_dim);
        }
    }
}

}  // namespace moray::attention

using namespace moray::attention;

#define MORAY_WRITE(name, Kv)                                                                                           \
    extern "C" __global__ void __launch_bounds__(THREADS) attention_write_##name(const __grid_constant__ WriteParams p) { \
        write_token<Kv>(p);                                                                                             \
    }

MORAY_WRITE(f16, F16Kv)
MORAY_WRITE(bf16, Bf16Kv)
MORAY_WRITE(int8, Int8Kv)
MORAY_WRITE(f32, F32Kv)

// start += len for every span: the next step of a captured graph continues where this one ended. Spans of length 0 stay.
extern "C" __global__ void __launch_bounds__(THREADS) attention_advance(const __grid_constant__ AdvanceParams p) {
    const uint32_t i = blockIdx.x * THREADS + threadIdx.x;
    if (i < p.n_spans) {
        p.spans[i].start += p.spans[i].len;
    }
}
