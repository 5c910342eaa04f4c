// One function for each PTX instruction that C++ has no name for. Section numbers are those of the PTX ISA manual, release 9.
#pragma once

#include <cstdint>

namespace moray {

// Shared-memory address of a generic pointer, as the instructions below take it.
__device__ __forceinline__ uint32_t shared_address(const void* p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// cp.async (9.7.9.25): copies 16 bytes to shared memory past the first-level cache; of these, those from `valid_bytes` on are
// zeros and are not read. Both addresses are multiples of 16.
__device__ __forceinline__ void cp_async_16(uint32_t dst_smem, const void* src_gmem, uint32_t valid_bytes = 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(dst_smem), "l"(src_gmem), "r"(valid_bytes) : "memory");
}

// The same for 4 bytes, through the first-level cache.
__device__ __forceinline__ void cp_async_4(uint32_t dst_smem, const void* src_gmem, uint32_t valid_bytes = 4) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(dst_smem), "l"(src_gmem), "r"(valid_bytes) : "memory");
}

// Closes the group of this thread's copies since the last one.
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }

// Waits until at most `Pending` of this thread's groups are under way.
template <int Pending>
__device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;\n" ::"n"(Pending) : "memory");
}

// Stores 16 bytes, aligned to 16, in one access: of a store through a pointer the compiler may make four.
__device__ __forceinline__ void store_shared_16(uint32_t dst_smem, const uint32_t (&words)[4]) {
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};\n" ::"r"(dst_smem), "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3])
                 : "memory");
}

// ldmatrix (9.7.14.5.15): four matrices of 8 rows × 16 bytes; lane 8i + r gives the address of row r of matrix i, and lane l
// receives bytes 4·(l mod 4).. of row ⌊l/4⌋ of each.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&frag)[4], uint32_t row_smem) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(frag[0]), "=r"(frag[1]), "=r"(frag[2]), "=r"(frag[3])
                 : "r"(row_smem)
                 : "memory");
}

// The same, each 8 × 8 matrix of 16-bit values transposed.
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&frag)[4], uint32_t row_smem) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(frag[0]), "=r"(frag[1]), "=r"(frag[2]), "=r"(frag[3])
                 : "r"(row_smem)
                 : "memory");
}

// mma m16n8k32 (9.7.14.5.9), int8 × int8 → int32, acc += a · b. With lane l, row ⌊l/4⌋ and pair 2·(l mod 4):
// a[0] (row, k 4·(l mod 4)..), a[1] (row + 8, same k), a[2], a[3] the same with k + 16; b[0] (k 4·(l mod 4).., column ⌊l/4⌋),
// b[1] with k + 16; acc[0], acc[1] (row, pair..), acc[2], acc[3] (row + 8, pair..).
__device__ __forceinline__ void mma_s8(int32_t (&acc)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};\n"
                 : "+r"(acc[0]), "+r"(acc[1]), "+r"(acc[2]), "+r"(acc[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The same, where acc begins as `init`.
__device__ __forceinline__ void mma_s8_from(int32_t (&acc)[4], const int32_t (&init)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%10, %11, %12, %13};\n"
                 : "=r"(acc[0]), "=r"(acc[1]), "=r"(acc[2]), "=r"(acc[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(init[0]), "r"(init[1]), "r"(init[2]), "r"(init[3]));
}

// mma m16n8k16 (9.7.14.5.8), f16 × f16 → f32: the same rows and columns, each register two consecutive k.
__device__ __forceinline__ void mma_f16(float (&acc)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};\n"
                 : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The same for bf16.
__device__ __forceinline__ void mma_bf16(float (&acc)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};\n"
                 : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// cvt.rna.tf32.f32 (9.7.9.22): the nearest number of 11 significant bits, with the exponents of f32; as the bits of an f32.
__device__ __forceinline__ uint32_t to_tf32(float x) {
    uint32_t bits;
    asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(bits) : "f"(x));
    return bits;
}

// mma m16n8k8 (9.7.14.5.7), tf32 × tf32 → f32: the rows and columns of acc as above; a[0] (row, k l mod 4), a[1] (row + 8, same
// k), a[2], a[3] the same with k + 4; b0 (k l mod 4, column ⌊l/4⌋), b1 with k + 4.
__device__ __forceinline__ void mma_tf32(float (&acc)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};\n"
                 : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 16 bytes that are read once: not kept in the first-level cache. The address is a multiple of 16; nothing may write there
// while the kernel runs.
__device__ __forceinline__ uint4 load_streaming(const void* p_gmem) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p_gmem));
    return v;
}

// The same for 8 bytes, at a multiple of 8.
__device__ __forceinline__ uint2 load_streaming_8(const void* p_gmem) {
    uint2 v;
    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];\n" : "=r"(v.x), "=r"(v.y) : "l"(p_gmem));
    return v;
}

// prefetch (9.7.9.16): brings the line of an address to the second-level cache.
__device__ __forceinline__ void prefetch_l2(const void* p_gmem) { asm volatile("prefetch.global.L2 [%0];\n" ::"l"(p_gmem)); }

// ld.acquire (9.7.9.8): a word that another block has written, and after it all that this block had written before.
__device__ __forceinline__ uint32_t load_acquire(const uint32_t* p_gmem) {
    uint32_t word;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];\n" : "=r"(word) : "l"(p_gmem) : "memory");
    return word;
}

// bar.sync (9.7.13.1): waits at barrier `id`, from 1 to 15, until as many threads of the block are there.
template <uint32_t Threads>
__device__ __forceinline__ void barrier_sync(uint32_t id) {
    asm volatile("bar.sync %0, %1;\n" ::"r"(id), "n"(Threads) : "memory");
}

}  // namespace moray
