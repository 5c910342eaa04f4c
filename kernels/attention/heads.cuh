// The query heads that run, read by a warp from any of the four forms.
#pragma once

#include "common/reduce.cuh"
#include "params.cuh"

namespace moray::attention {

// Entries of a span's list in use.
__device__ inline uint32_t count_of(const HeadsView& heads, uint32_t span) { return min(heads.counts[span], heads.width); }

// Largest group (query heads per KV head) that a block lists.
constexpr int MAX_GROUP = 256;

// Says whether any lane's entry of a span's list equals `index`. All lanes of the warp take part.
__device__ inline bool is_listed(const HeadsView& heads, uint32_t span, uint32_t index) {
    const uint32_t* list = heads.list + static_cast<size_t>(span) * heads.width;
    const uint32_t count = count_of(heads, span);
    bool found = false;
    for (uint32_t i = threadIdx.x % 32; i < count; i += 32) {
        found |= list[i] == index;
    }
    return __any_sync(FULL_WARP, found);
}

__device__ inline bool mask_has(const HeadsView& heads, uint32_t span, uint32_t head) {
    return heads.list[static_cast<size_t>(span) * heads.width + head / 32] >> (head % 32) & 1;
}

// Says whether a query head runs. All lanes of the warp take part, with the same arguments.
__device__ inline bool head_runs(const HeadsView& heads, uint32_t span, uint32_t head, uint32_t group) {
    switch (heads.form) {
        case HEAD_LIST: return is_listed(heads, span, head);
        case GROUP_LIST: return is_listed(heads, span, head / group);
        case HEAD_MASK: return mask_has(heads, span, head);
        default: return true;
    }
}

// Says whether any query head of a KV head's group runs. All lanes of the warp take part, with the same arguments.
__device__ inline bool group_runs(const HeadsView& heads, uint32_t span, uint32_t kv_head, uint32_t group) {
    const uint32_t lane = threadIdx.x % 32;
    bool found = false;
    switch (heads.form) {
        case GROUP_LIST: return is_listed(heads, span, kv_head);
        case HEAD_LIST:
            for (uint32_t i = lane; i < count_of(heads, span); i += 32) {
                found |= heads.list[static_cast<size_t>(span) * heads.width + i] / group == kv_head;
            }
            return __any_sync(FULL_WARP, found);
        case HEAD_MASK:
            for (uint32_t i = lane; i < group; i += 32) {
                found |= mask_has(heads, span, kv_head * group + i);
            }
            return __any_sync(FULL_WARP, found);
        default: return true;
    }
}

// Appends the lanes' values where `keep` holds, in lane order, and returns the new count.
__device__ inline uint32_t append(uint16_t* list_smem, uint32_t count, bool keep, uint32_t value) {
    const uint32_t kept = __ballot_sync(FULL_WARP, keep), lane = threadIdx.x % 32;
    const uint32_t at = count + __popc(kept & ((1u << lane) - 1));
    if (keep && at < MAX_GROUP) {
        list_smem[at] = static_cast<uint16_t>(value);
    }
    return min(count + __popc(kept), MAX_GROUP);
}

// Lists the running query heads of a group in increasing order and returns their number. One whole warp calls it.
__device__ inline uint32_t list_running(const HeadsView& heads, uint32_t span, uint32_t kv_head, uint32_t group,
                                        uint16_t* list_smem) {
    const uint32_t lane = threadIdx.x % 32, first = kv_head * group;
    uint32_t count = 0;
    if (heads.form == HEAD_LIST) {
        const uint32_t* list = heads.list + static_cast<size_t>(span) * heads.width;
        const uint32_t entries = count_of(heads, span);
        for (uint32_t base = 0; base < entries; base += 32) {
            const uint32_t head = base + lane < entries ? list[base + lane] : 0xffffffffu;
            count = append(list_smem, count, head / group == kv_head && base + lane < entries, head);
        }
        return count;
    }
    if (heads.form == GROUP_LIST && !is_listed(heads, span, kv_head)) {
        return 0;
    }
    for (uint32_t base = 0; base < group; base += 32) {
        const uint32_t head = first + base + lane;
        const bool runs = base + lane < group && (heads.form != HEAD_MASK || mask_has(heads, span, head));
        count = append(list_smem, count, runs, head);
    }
    return count;
}

}  // namespace moray::attention
