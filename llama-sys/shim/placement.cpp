#include "guard.hpp"

#ifndef LLAMA_SHIM_NO_INTERNALS
// INTERNAL: src/llama-model.h: llama_internal_get_tensor_map: the only way from a model to
// its tensors.
#include "llama-model.h"
#endif

#include <algorithm>
#include <string>
#include <unordered_set>
#include <vector>

using namespace llama_shim;

struct llama_shim_placement {
    struct entry {
        std::string       name;
        std::string       buft_name;
        std::string       dev_name;
        llama_shim_tensor facts;
    };

    std::vector<entry> entries;
};

#ifndef LLAMA_SHIM_NO_INTERNALS
namespace {

llama_shim_placement::entry describe(const std::string & name, const ggml_tensor & tensor) {
    llama_shim_placement::entry entry = {name, {}, {}, {}};
    llama_shim_tensor & facts = entry.facts;
    facts.type   = static_cast<int32_t>(tensor.type);
    facts.n_dims = ggml_n_dims(&tensor);
    facts.bytes  = ggml_nbytes(&tensor);
    std::copy_n(tensor.ne, GGML_MAX_DIMS, facts.ne);

    // A view has no buffer of its own until it is computed.
    const ggml_tensor * owner = &tensor;
    while (owner->view_src != nullptr) {
        owner = owner->view_src;
    }
    if (owner->buffer != nullptr) {
        facts.buft      = ggml_backend_buffer_get_type(owner->buffer);
        facts.is_host   = ggml_backend_buffer_is_host(owner->buffer);
        entry.buft_name = ggml_backend_buft_name(facts.buft);
        facts.dev       = ggml_backend_buft_get_device(facts.buft);
        if (facts.dev != nullptr) {
            entry.dev_name = ggml_backend_dev_name(facts.dev);
        }
    }
    return entry;
}

} // namespace
#endif

enum llama_shim_status llama_shim_placement_new(
        const struct llama_model * model, struct llama_shim_placement ** list, char ** error) noexcept {
    if (list != nullptr) {
        *list = nullptr;
    }
    return guard(error, [&] {
        require(model != nullptr && list != nullptr, "an argument is NULL");
#ifndef LLAMA_SHIM_NO_INTERNALS
        const auto & tensors = llama_internal_get_tensor_map(model);
        auto result = std::make_unique<llama_shim_placement>();
        result->entries.reserve(tensors.size());
        std::unordered_set<std::string> seen;
        for (const auto & [name, tensor] : tensors) {
            result->entries.push_back(describe(name, *tensor));
            result->entries.back().facts.duplicate = !seen.insert(name).second;
        }
        *list = result.release();
#else
        no_internals();
#endif
    });
}

size_t llama_shim_placement_count(const struct llama_shim_placement * list) noexcept {
    return list != nullptr ? list->entries.size() : 0;
}

enum llama_shim_status llama_shim_placement_get(
        const struct llama_shim_placement * list,
        size_t index,
        struct llama_shim_tensor * tensor,
        char ** error) noexcept {
    if (tensor != nullptr) {
        *tensor = {};
    }
    return guard(error, [&] {
        require(list != nullptr && tensor != nullptr, "an argument is NULL");
        require(index < list->entries.size(), "the list has no entry with this index");
        const llama_shim_placement::entry & entry = list->entries[index];
        *tensor           = entry.facts;
        tensor->name      = entry.name.c_str();
        tensor->buft_name = entry.facts.buft != nullptr ? entry.buft_name.c_str() : nullptr;
        tensor->dev_name  = entry.facts.dev != nullptr ? entry.dev_name.c_str() : nullptr;
    });
}

void llama_shim_placement_free(struct llama_shim_placement * list) noexcept {
    delete list;
}
