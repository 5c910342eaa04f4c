// The KV cache as kernels see it: element types, where a row lies, and the copying of tiles into shared memory.
#pragma once

#include "element.cuh"
#include "params.cuh"

namespace moray::attention {

// What a cache stores, and the type that tensor cores multiply.
struct F16Kv {
    using Compute = Half;
    using Stored = uint16_t;
    static constexpr bool QUANTIZED = false;
};
struct Bf16Kv {
    using Compute = Bfloat;
    using Stored = uint16_t;
    static constexpr bool QUANTIZED = false;
};
struct F32Kv {
    using Compute = Single;
    using Stored = float;
    static constexpr bool QUANTIZED = false;
};
// x = scale * code, scale = max|x| / 127 of the row; widened to f16, whose rounding (2^-11) is far below the code's (2^-8).
struct Int8Kv {
    using Compute = Half;
    using Stored = int8_t;
    static constexpr bool QUANTIZED = true;
};

// A row's page and its place in the page.
struct Place {
    uint64_t page;
    uint32_t row;
};

__device__ inline Place place_of(const KvView& kv, uint32_t slot, uint32_t position) {
    if (kv.page_table == nullptr) {
        return {slot, position};
    }
    const uint32_t shift = 31 - __clz(kv.page_size);
    return {kv.page_table[static_cast<size_t>(slot) * kv.max_pages + (position >> shift)], position & (kv.page_size - 1)};
}

__device__ inline size_t row_offset(const KvView& kv, Place place, uint32_t kv_head) {
    return place.page * kv.page_stride + kv_head * kv.head_stride + static_cast<size_t>(place.row) * kv.row_stride;
}

__device__ inline size_t scale_offset(const KvView& kv, Place place, uint32_t kv_head) {
    return (place.page * kv.n_kv_heads + kv_head) * kv.page_size + place.row;
}

__device__ inline uint32_t* presence_of(const KvView& kv, uint32_t slot, uint32_t kv_head) {
    return kv.present + (static_cast<size_t>(slot) * kv.n_kv_heads + kv_head) * kv.present_words;
}

// The positions of a block of BLOCK that the cache holds and that lie below `end`, as bits.
__device__ inline uint64_t visible_block(const KvView& kv, uint32_t slot, uint32_t kv_head, uint32_t first, uint32_t end) {
    const uint32_t left = end > first ? end - first : 0;
    const uint64_t below = left >= BLOCK ? ~0ull : (1ull << left) - 1;
    if (kv.present == nullptr || left == 0) {
        return below;
    }
    const uint32_t* words = presence_of(kv, slot, kv_head) + first / 32;
    const uint64_t high = first / 32 + 1 < kv.present_words ? words[1] : 0;
    return below & (high << 32 | words[0]);
}

// The element (row, 8 chunk) of a 16-bit tile: chunks of 16 bytes are exchanged within a row so that the eight rows of an
// 8 x 8 matrix, and the eight lanes of a 16-byte store, touch all banks once.
template <int DIM>
__device__ inline int tile_offset(int row, int chunk) {
    return row * DIM + (chunk ^ (row & 7)) * 8;
}

// The element (row, 4 chunk) of an f32 tile. The exchange is by pairs of chunks and takes rows 0 to 3 (and 4 to 7) to four
// places, as rows 0, 2, 4, 6 (and 1, 3, 5, 7): half a warp reads 8 bytes of each of four keys' rows for scores, a warp 4 bytes of
// every second row for values, and both touch all banks once.
template <int DIM>
__device__ inline int wide_offset(int row, int chunk) {
    const int place = (row & 2) | ((row ^ row >> 2) & 1);
    return row * DIM + (chunk ^ 2 * place) * 4;
}

// Shared memory of a tile of K or V rows.
template <class Kv, int DIM, int KEYS>
struct KvTile {
    typename Kv::Compute::Element elements[KEYS * DIM];  // (KEYS, DIM), swizzled
    // int8 rows on their way, and their scales.
    typename Kv::Stored codes[Kv::QUANTIZED ? KEYS * DIM : 16];  // (KEYS, DIM)
    float scales[Kv::QUANTIZED ? KEYS : 4];
};

// Whose keys a block reads.
struct Source {
    const KvView& kv;
    uint32_t slot;
    uint32_t kv_head;
    uint32_t head_dim;
};

// A tile's first position and which of its positions are visible, as bits.
struct Window {
    uint32_t first;
    uint64_t visible;
};

// Moves on to the first block from `window.first` on with anything visible below `end`; holes cost nothing.
__device__ inline void seek(Window& window, const Source& from, uint32_t end) {
    for (; window.first < end; window.first += BLOCK) {
        window.visible = visible_block(from.kv, from.slot, from.kv_head, window.first, end);
        if (window.visible != 0) {
            return;
        }
    }
}

// Begins copying a window's rows; rows whose bit is clear, and columns past head_dim, become zeros and are not read.
template <class Kv, int DIM, int KEYS, int THREADS>
__device__ inline void load_tile(KvTile<Kv, DIM, KEYS>& tile, const void* base, const float* scales, const Source& from,
                                 const Window& window) {
    constexpr int PER_CHUNK = 16 / sizeof(typename Kv::Stored), CHUNKS = DIM / PER_CHUNK;
    const auto* rows = static_cast<const typename Kv::Stored*>(base);
#pragma unroll 2
    for (int i = threadIdx.x; i < KEYS * CHUNKS; i += THREADS) {
        const int key = i / CHUNKS, chunk = i % CHUNKS;
        const bool valid = (window.visible >> key & 1) && chunk * PER_CHUNK < from.head_dim;
        const typename Kv::Stored* source = rows;
        if (valid) {
            const Place place = place_of(from.kv, from.slot, window.first + key);
            source += row_offset(from.kv, place, from.kv_head) + chunk * PER_CHUNK;
        }
        if constexpr (Kv::QUANTIZED) {
            cp_async_16(shared_address(&tile.codes[key * DIM + chunk * 16]), source, valid ? 16 : 0);
        } else if constexpr (Kv::Compute::WIDE) {
            cp_async_16(shared_address(&tile.elements[wide_offset<DIM>(key, chunk)]), source, valid ? 16 : 0);
        } else {
            cp_async_16(shared_address(&tile.elements[tile_offset<DIM>(key, chunk)]), source, valid ? 16 : 0);
        }
    }
    if constexpr (Kv::QUANTIZED) {
        for (int key = threadIdx.x; key < KEYS; key += THREADS) {
            const bool valid = window.visible >> key & 1;
            const float* source = scales;
            if (valid) {
                source += scale_offset(from.kv, place_of(from.kv, from.slot, window.first + key), from.kv_head);
            }
            cp_async_4(shared_address(&tile.scales[key]), source, valid ? 4 : 0);
        }
    }
    cp_async_commit();
}

// Turns the int8 rows that have arrived into 16-bit elements.
template <class Kv, int DIM, int KEYS, int THREADS>
__device__ inline void widen_tile(KvTile<Kv, DIM, KEYS>& tile) {
    constexpr int CHUNKS = DIM / 8;
#pragma unroll 2
    for (int i = threadIdx.x; i < KEYS * CHUNKS; i += THREADS) {
        const int key = i / CHUNKS, chunk = i % CHUNKS;
        const uint2 codes = *reinterpret_cast<const uint2*>(&tile.codes[key * DIM + chunk * 8]);
        const float scale = tile.scales[key];
        uint32_t pairs[4];
#pragma unroll
        for (int pair = 0; pair < 4; pair++) {
            const uint32_t word = pair < 2 ? codes.x : codes.y;
            const int shift = 16 * (pair % 2);
            const int low = static_cast<int8_t>(word >> shift), high = static_cast<int8_t>(word >> (shift + 8));
            pairs[pair] = Kv::Compute::pack(scale * static_cast<float>(low), scale * static_cast<float>(high));
        }
        store_shared_16(shared_address(&tile.elements[tile_offset<DIM>(key, chunk)]), pairs);
    }
}

}  // namespace moray::attention
