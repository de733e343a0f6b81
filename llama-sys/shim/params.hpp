// Checks on parameters: what llama.cpp answers with an abort is refused.
#pragma once

#include "internals.hpp"
#include "llama.h"

#include <cstddef>
#include <cstdint>

namespace llama_shim {

// For whatever loads a model with these parameters.
void check_model_params(const llama_model_params & params);

// The most devices that a model loaded with these parameters can be spread over.
size_t max_devices_of(const llama_model_params & params);

// What a context's parameters depend on.
struct model_facts {
    uint32_t n_ctx_train;
    causal   attention;
    bool     has_encoder;
};

// For whatever creates a context with these parameters.
void check_context_params(const llama_context_params & params, const model_facts & model);

// For whatever creates a context for a model that is spread over so many devices.
void check_n_devices(size_t n_devices);

// For whatever names a sequence of a context.
void check_seq_id(const llama_context * ctx, llama_seq_id seq_id);

} // namespace llama_shim
