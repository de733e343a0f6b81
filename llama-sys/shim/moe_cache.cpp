#include "guard.hpp"
#include "internals.hpp"
#include "moe_cache/inside.hpp"

#include <algorithm>
#include <memory>

using namespace llama_shim;

struct llama_shim_moe_cache {
    moe_cache_facts facts;
};

enum llama_shim_status llama_shim_moe_cache_new(
        const struct llama_context * ctx, struct llama_shim_moe_cache ** cache, char ** error) noexcept {
    if (cache != nullptr) {
        *cache = nullptr;
    }
    return guard(error, [&] {
        require(ctx != nullptr && cache != nullptr, "an argument is NULL");
#ifndef LLAMA_SHIM_NO_INTERNALS
        if (const void * inside = moe_cache_of(ctx)) {
            *cache = std::make_unique<llama_shim_moe_cache>(llama_shim_moe_cache{read_moe_cache(inside)}).release();
        }
#else
        no_internals();
#endif
    });
}

void llama_shim_moe_cache_get_stats(
        const struct llama_shim_moe_cache * cache, struct llama_shim_moe_cache_stats * stats) noexcept {
    *stats = {};
    if (cache == nullptr) {
        return;
    }
    const auto copy = [](const moe_cache_counts & counts) {
        return llama_shim_moe_cache_counts{counts.hits, counts.misses, counts.bytes};
    };
    stats->up_to_8  = copy(cache->facts.small);
    stats->up_to_32 = copy(cache->facts.large);
    stats->copied   = copy(cache->facts.copied);
}

size_t llama_shim_moe_cache_n_groups(const struct llama_shim_moe_cache * cache) noexcept {
    return cache != nullptr ? cache->facts.groups.size() : 0;
}

enum llama_shim_status llama_shim_moe_cache_get_group(
        const struct llama_shim_moe_cache * cache,
        size_t index,
        struct llama_shim_moe_cache_group * group,
        char ** error) noexcept {
    if (group != nullptr) {
        *group = {};
    }
    return guard(error, [&] {
        require(cache != nullptr && group != nullptr, "an argument is NULL");
        require(index < cache->facts.groups.size(), "the cache has no group with this index");
        const moe_cache_group_facts & facts = cache->facts.groups[index];
        group->dev      = facts.device;
        group->layers   = facts.layers.data();
        group->n_layers = facts.layers.size();
        group->n_expert = facts.n_expert;
        group->n_slots  = facts.n_slots;
    });
}

void llama_shim_moe_cache_free(struct llama_shim_moe_cache * cache) noexcept {
    delete cache;
}
