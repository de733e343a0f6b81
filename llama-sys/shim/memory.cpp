#include "guard.hpp"
#include "internals.hpp"

#ifndef LLAMA_SHIM_NO_INTERNALS
// INTERNAL: src/llama-ext.h: llama_get_memory_breakdown: staged for the public API, not in
// llama.h yet.
#include "llama-ext.h"
#endif

#include <algorithm>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

using namespace llama_shim;

struct llama_shim_memory {
    struct entry {
        std::string             buft_name;
        std::string             dev_name;
        llama_shim_memory_entry facts;
    };

    std::vector<entry> entries;
};

enum llama_shim_status llama_shim_memory_new(
        const struct llama_context * ctx, struct llama_shim_memory ** list, char ** error) noexcept {
    if (list != nullptr) {
        *list = nullptr;
    }
    return guard(error, [&] {
        require(ctx != nullptr && list != nullptr, "an argument is NULL");
#ifndef LLAMA_SHIM_NO_INTERNALS
        auto result = std::make_unique<llama_shim_memory>();
        const auto cached = moe_cache_memory(ctx);
        for (const auto & [buft, sizes] : llama_get_memory_breakdown(ctx)) {
            llama_shim_memory::entry entry = {ggml_backend_buft_name(buft), {}, {}};
            entry.facts.buft    = buft;
            entry.facts.dev     = ggml_backend_buft_get_device(buft);
            entry.facts.is_host = ggml_backend_buft_is_host(buft);
            entry.facts.model   = sizes.model;
            entry.facts.context = sizes.context;
            entry.facts.compute = sizes.compute;
            const auto part = cached.find(buft);
            entry.facts.moe_cache = part != cached.end() ? part->second : 0;
            if (entry.facts.dev != nullptr) {
                entry.dev_name = ggml_backend_dev_name(entry.facts.dev);
            }
            result->entries.push_back(std::move(entry));
        }
        // llama.cpp's map is ordered by address, which differs from run to run.
        std::sort(result->entries.begin(), result->entries.end(), [](const auto & a, const auto & b) {
            return std::tie(a.buft_name, a.dev_name) < std::tie(b.buft_name, b.dev_name);
        });
        *list = result.release();
#else
        no_internals();
#endif
    });
}

size_t llama_shim_memory_count(const struct llama_shim_memory * list) noexcept {
    return list != nullptr ? list->entries.size() : 0;
}

enum llama_shim_status llama_shim_memory_get(
        const struct llama_shim_memory * list,
        size_t index,
        struct llama_shim_memory_entry * entry,
        char ** error) noexcept {
    if (entry != nullptr) {
        *entry = {};
    }
    return guard(error, [&] {
        require(list != nullptr && entry != nullptr, "an argument is NULL");
        require(index < list->entries.size(), "the list has no entry with this index");
        const llama_shim_memory::entry & source = list->entries[index];
        *entry           = source.facts;
        entry->buft_name = source.buft_name.c_str();
        entry->dev_name  = source.facts.dev != nullptr ? source.dev_name.c_str() : nullptr;
    });
}

void llama_shim_memory_free(struct llama_shim_memory * list) noexcept {
    delete list;
}
