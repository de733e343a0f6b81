// Facts that llama.cpp's public API does not tell. Without its internal headers each
// answer is the one that refuses nothing.
#pragma once

#include "llama.h"

#include <cstddef>
#include <cstdint>
#include <map>

namespace llama_shim {

// Loaded for its vocabulary only: a context for it crashes.
bool is_vocab_only(const llama_model * model);

// Loaded without weights: its memory can be measured, but nothing can be computed.
bool is_no_alloc(const llama_model * model);

// How many devices a model is spread over.
std::size_t n_devices_of(const llama_model * model);

// Whether attention looks backwards only, unless a context says otherwise.
enum class causal { no, yes, unknown };
causal is_causal(const llama_model * model);

#ifndef LLAMA_SHIM_NO_INTERNALS
// Whether llama.cpp can write the model's architecture to a file.
bool can_be_saved(const llama_model * model);

// Whether the weights can be read back from where they are.
bool can_be_read(const llama_model * model);

// The most routed experts that a token uses in any layer.
uint32_t n_expert_used_by(const llama_model * model);

// The device that a layer is assigned to; NULL for a layer that the model does not have.
ggml_backend_dev_t device_of_layer(const llama_model * model, int32_t layer);

// A context's cache of experts; NULL without one.
const void * moe_cache_of(const llama_context * ctx);

// Bytes of a context's cache of experts per buffer type.
std::map<ggml_backend_buffer_type_t, std::size_t> moe_cache_memory(const llama_context * ctx);
#endif

// Whether an adapter was loaded for this model.
bool belongs_to(const llama_adapter_lora * adapter, const llama_model * model);

// Whether a chain, or one within it, has been attached to a context in its life; a second
// time aborts.
bool was_attached(const llama_sampler * chain);

// The switch that keeps a context from reusing its last graph, if it computes on an RPC worker.
bool * graph_reuse_switch_of(llama_context & ctx);

// What a context was created with and does not tell.
struct context_facts {
    bool     known;
    bool     embeddings;    // every token is an output
    bool     kv_unified;    // sequences share one buffer
    uint32_t n_outputs_max; // per batch
};
context_facts facts_of(const llama_context * ctx);

// What an extended batch holds.
struct batch_facts {
    bool           known;
    std::size_t    n_tokens;
    std::size_t    n_outputs;
    bool           has_negative_position;
    llama_memory_t memory; // of the context it was made for
};
batch_facts facts_of(const llama_batch_ext * batch);

} // namespace llama_shim
