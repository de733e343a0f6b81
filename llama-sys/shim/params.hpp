// Checks on llama.cpp's parameter structs: what it answers with an abort is refused.
#pragma once

#include "internals.hpp"
#include "llama.h"

#include <cstdint>

namespace llama_shim {

// For whatever loads a model with these parameters.
void check_model_params(const llama_model_params & params);

// What a context's parameters depend on.
struct model_facts {
    uint32_t n_ctx_train;
    causal   attention;
    bool     has_encoder;
};

// For whatever creates a context with these parameters.
void check_context_params(const llama_context_params & params, const model_facts & model);

} // namespace llama_shim
