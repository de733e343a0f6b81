// Compiled by itself: llama.cpp's class of the same name, which the rest of the shim sees, must
// not be declared here.
#include "inside.hpp"

#ifndef LLAMA_SHIM_NO_INTERNALS

// INTERNAL: src/llama-moe-cache.cpp: llama_moe_cache::impl::{stats_small, stats_large, stats_copy,
// groups, devices}. The numbers are logged when a context ends and are not public otherwise. The
// struct is defined in the source file alone, so that file is compiled a second time, under
// another name, for nothing but its layout. Both have the same definition by construction; a
// test holds the numbers against those that llama.cpp logs.

// Everything that the header includes comes first: only its own text is to be changed.
#include <map>
#include <memory>
#include <vector>

#define llama_moe_cache llama_shim_moe_cache_twin
#define private public
#include "llama-moe-cache.h"
#undef private
#include "llama-moe-cache.cpp"
#undef llama_moe_cache

namespace llama_shim {
namespace {

using twin = llama_shim_moe_cache_twin;

moe_cache_counts counts_of(const twin::impl::stats & stats) {
    return {stats.hits, stats.misses, stats.bytes};
}

} // namespace

moe_cache_facts read_moe_cache(const void * cache) {
    const twin::impl & inside = *static_cast<const twin *>(cache)->pimpl;
    moe_cache_facts facts;
    facts.small  = counts_of(inside.stats_small);
    facts.large  = counts_of(inside.stats_large);
    facts.copied = counts_of(inside.stats_copy);
    for (const twin::impl::group & group : inside.groups) {
        moe_cache_group_facts copy = {};
        copy.device   = ggml_backend_get_device(inside.devices[static_cast<std::size_t>(group.id)].backend);
        copy.layers   = group.layers;
        copy.n_expert = static_cast<int32_t>(group.ref.front()->ne[2]);
        copy.n_slots  = group.n_slots;
        facts.groups.push_back(std::move(copy));
    }
    return facts;
}

} // namespace llama_shim

#endif // LLAMA_SHIM_NO_INTERNALS
