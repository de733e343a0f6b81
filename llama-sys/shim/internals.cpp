#include "internals.hpp"

#include <cstring>

#ifndef LLAMA_SHIM_NO_INTERNALS

// INTERNAL: src/llama-model.h: llama_model::{arch, devices, hparams, no_alloc}: vocab_only,
// no_alloc and causal_attn have no public getter, nor has the list of devices.
#include "llama-model.h"
// INTERNAL: src/llama-context.h: llama_context::get_cparams: the output limit and the
// kind of memory have no public getter. llama_context::{moe_cache, graph_reuse_disable}: neither
// have the cache of experts and the reuse of graphs.
#include "llama-context.h"
// INTERNAL: src/llama-batch.h: llama_batch_ext::{tokens, mem}: an extended batch does not
// tell what it holds.
#include "llama-batch.h"
// INTERNAL: src/llama-adapter.h: llama_adapter_lora::model: an adapter does not tell
// whose it is.
#include "llama-adapter.h"
// INTERNAL: src/llama-sampler.h: llama_sampler_chain::{is_init, samplers}: attaching a chain twice
// aborts, and a chain does not tell.
#include "llama-sampler.h"
// INTERNAL: ggml/src/ggml-backend-impl.h: ggml_backend_buffer::iface: some buffers, such as
// those of repacked weights, cannot be read back, and reading them calls a NULL pointer.
#include "ggml/src/ggml-backend-impl.h"
// INTERNAL: src/llama-ext.h: llama_arch_supports_save: saving any other architecture aborts.
#include "llama-ext.h"

namespace llama_shim {

namespace {

// A member that is private. The rules of access do not apply to what is named in an explicit
// instantiation, so this needs no change of llama.cpp's header.
template <auto Member>
struct exposed {
    friend const llama_moe_cache * cache_in(const llama_context & ctx) {
        return (ctx.*Member).get();
    }
};
const llama_moe_cache * cache_in(const llama_context & ctx);
template struct exposed<&llama_context::moe_cache>;

template <auto Member>
struct exposed_switch {
    friend bool & reuse_disabled_in(llama_context & ctx) {
        return ctx.*Member;
    }
};
bool & reuse_disabled_in(llama_context & ctx);
template struct exposed_switch<&llama_context::graph_reuse_disable>;

bool is_on_worker(const llama_model & model) {
    for (const llama_device & device : model.devices) {
        ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(device.dev);
        if (reg != nullptr && std::strcmp(ggml_backend_reg_name(reg), "RPC") == 0) {
            return true;
        }
    }
    return false;
}

} // namespace

const void * moe_cache_of(const llama_context * ctx) {
    return cache_in(*ctx);
}

std::map<ggml_backend_buffer_type_t, std::size_t> moe_cache_memory(const llama_context * ctx) {
    const llama_moe_cache * cache = cache_in(*ctx);
    if (cache == nullptr) {
        return {};
    }
    return cache->memory_breakdown();
}

bool * graph_reuse_switch_of(llama_context & ctx) {
    return is_on_worker(*llama_get_model(&ctx)) ? &reuse_disabled_in(ctx) : nullptr;
}

uint32_t n_expert_used_by(const llama_model * model) {
    return model->hparams.n_expert_used_max();
}

ggml_backend_dev_t device_of_layer(const llama_model * model, int32_t layer) {
    if (layer < 0 || static_cast<std::size_t>(layer) >= model->layers.size()) {
        return nullptr;
    }
    return model->dev_layer(layer);
}

bool is_vocab_only(const llama_model * model) {
    return model->hparams.vocab_only;
}

bool is_no_alloc(const llama_model * model) {
    return model->no_alloc();
}

std::size_t n_devices_of(const llama_model * model) {
    return model->devices.size();
}

causal is_causal(const llama_model * model) {
    return model->hparams.causal_attn ? causal::yes : causal::no;
}

bool can_be_saved(const llama_model * model) {
    return llama_arch_supports_save(model->arch);
}

bool can_be_read(const llama_model * model) {
    for (const auto & [name, tensor] : model->tensors_by_name) {
        const ggml_tensor * owner = tensor->view_src != nullptr ? tensor->view_src : tensor;
        if (owner->buffer == nullptr || owner->buffer->iface.get_tensor == nullptr) {
            return false;
        }
    }
    return true;
}

bool belongs_to(const llama_adapter_lora * adapter, const llama_model * model) {
    return adapter->model == model;
}

bool was_attached(const llama_sampler * chain) {
    const auto & inner = *static_cast<const llama_sampler_chain *>(chain->ctx);
    if (inner.is_init) {
        return true;
    }
    for (const auto & part : inner.samplers) {
        if (llama_sampler_chain_get(part.ptr, -1) != nullptr && was_attached(part.ptr)) {
            return true;
        }
    }
    return false;
}

context_facts facts_of(const llama_context * ctx) {
    const llama_cparams & cparams = ctx->get_cparams();
    return {true, cparams.embeddings, cparams.kv_unified, cparams.n_outputs_max};
}

batch_facts facts_of(const llama_batch_ext * batch) {
    std::size_t n_outputs = 0;
    bool has_negative_position = false;
    for (const llama_batch_ext::token & token : batch->tokens) {
        n_outputs += token.output ? 1 : 0;
        has_negative_position = has_negative_position || token.pos[0] < 0;
    }
    return {true, batch->tokens.size(), n_outputs, has_negative_position, batch->mem};
}

} // namespace llama_shim

#else

namespace llama_shim {

bool is_vocab_only(const llama_model *) {
    return false;
}

bool is_no_alloc(const llama_model *) {
    return false;
}

std::size_t n_devices_of(const llama_model *) {
    return 0;
}

causal is_causal(const llama_model *) {
    return causal::unknown;
}

bool belongs_to(const llama_adapter_lora *, const llama_model *) {
    return true;
}

bool * graph_reuse_switch_of(llama_context &) {
    return nullptr;
}

bool was_attached(const llama_sampler *) {
    return false;
}

context_facts facts_of(const llama_context *) {
    return {false, false, false, 0};
}

batch_facts facts_of(const llama_batch_ext *) {
    return {false, 0, 0, false, nullptr};
}

} // namespace llama_shim

#endif
