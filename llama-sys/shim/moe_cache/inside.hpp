// What the shim reads inside of llama.cpp's cache of experts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "ggml-backend.h"

namespace llama_shim {

// Counts of micro-batches of one kind.
struct moe_cache_counts {
    std::size_t hits   = 0;
    std::size_t misses = 0;
    std::size_t bytes  = 0;
};

// Layers that share their slots.
struct moe_cache_group_facts {
    ggml_backend_dev_t   device;
    std::vector<int32_t> layers;
    int32_t              n_expert;
    int32_t              n_slots; // 0: its layers are not cached
};

struct moe_cache_facts {
    moe_cache_counts small; // micro-batches of up to 8 tokens
    moe_cache_counts large; // up to 32
    moe_cache_counts copied; // experts of larger ones that came from the cache; no misses
    std::vector<moe_cache_group_facts> groups;
};

// `cache` is a llama_moe_cache of llama.cpp's.
moe_cache_facts read_moe_cache(const void * cache);

} // namespace llama_shim
