#include "guard.hpp"
#include "internals.hpp"
#include "lock.hpp"

#include <algorithm>

using namespace llama_shim;

namespace {

// llama_context's constructor rounds the positions of each sequence up to a multiple.
constexpr uint32_t n_ctx_alignment = 256;

void check_cache_type(enum ggml_type type) {
    require(type >= 0 && type < GGML_TYPE_COUNT && ggml_blck_size(type) > 0 && ggml_type_size(type) > 0,
            "the cache type is not a type of data");
}

void check_samplers(const struct llama_context_params & params, uint32_t n_seq_max) {
    if (params.samplers == nullptr) {
        return;
    }
    for (size_t i = 0; i < params.n_samplers; ++i) {
        const struct llama_sampler_seq_config & config = params.samplers[i];
        require(config.seq_id >= 0 && static_cast<uint32_t>(config.seq_id) < n_seq_max,
                "a backend sampler is for a sequence that the context does not have");
        require(llama_sampler_chain_get(config.sampler, -1) != nullptr, "a backend sampler is not a chain");
        require(!was_attached(config.sampler), "a backend sampler has been attached to a context before");
        for (size_t j = 0; j < i; ++j) {
            require(params.samplers[j].sampler != config.sampler, "a backend sampler is given twice");
        }
    }
}

// Refuses parameters that llama_context's constructor answers with an abort. It follows
// that constructor's arithmetic.
void check_params(const struct llama_model & model, const struct llama_context_params & params) {
    require(params.n_batch > 0, "n_batch is zero");

    const uint32_t n_ctx_train = static_cast<uint32_t>(std::max(0, llama_model_n_ctx_train(&model)));
    const uint32_t n_ctx       = params.n_ctx > 0 ? params.n_ctx : n_ctx_train;
    require(n_ctx > 0, "n_ctx is zero, and the model does not say what it was trained with");
    const auto rounding = static_cast<uint32_t>(n_ctx_alignment * llama_max_parallel_sequences());
    require(n_ctx <= UINT32_MAX - rounding, "n_ctx is too large");

    const bool only_backwards = params.attention_type == LLAMA_ATTENTION_TYPE_UNSPECIFIED
        ? is_causal(&model) != causal::no
        : params.attention_type == LLAMA_ATTENTION_TYPE_CAUSAL;

    const uint32_t n_seq_max = std::max(1U, params.n_seq_max);
    const uint32_t n_batch   = only_backwards ? std::min(n_ctx, params.n_batch) : params.n_batch;
    const uint32_t n_outputs_max =
        params.n_outputs_max == 0 || llama_model_has_encoder(&model) ? n_batch : params.n_outputs_max;
    require(n_seq_max <= n_outputs_max,
            "n_seq_max is greater than n_outputs_max, or than n_batch or n_ctx, which limit it");

    check_cache_type(params.type_k);
    check_cache_type(params.type_v);
    check_samplers(params, n_seq_max);
}

} // namespace

enum llama_shim_status llama_shim_init_from_model(
        struct llama_model * model,
        const struct llama_context_params * params,
        struct llama_context ** ctx,
        char ** error) noexcept {
    if (ctx != nullptr) {
        *ctx = nullptr;
    }
    return guard(error, [&] {
        require(model != nullptr, "the model is NULL");
        require(params != nullptr, "the context parameters are NULL");
        require(ctx != nullptr, "there is no place for the context");
        require(!is_vocab_only(model), "the model was loaded for its vocabulary only");
        check_params(*model, *params);
        const lock turn(model_mutex());
        *ctx = llama_init_from_model(model, *params);
        if (*ctx == nullptr) {
            fail();
        }
    });
}

enum llama_shim_status llama_shim_free(struct llama_context * ctx, char ** error) noexcept {
    return guard(error, [&] { llama_free(ctx); });
}

enum llama_shim_status llama_shim_set_sampler(
        struct llama_context * ctx,
        llama_seq_id seq_id,
        struct llama_sampler * chain,
        bool * offloaded,
        char ** error) noexcept {
    if (offloaded != nullptr) {
        *offloaded = false;
    }
    return guard(error, [&] {
        require(ctx != nullptr && offloaded != nullptr, "an argument is NULL");
        require(seq_id >= 0 && static_cast<uint32_t>(seq_id) < llama_n_seq_max(ctx),
                "the context has no sequence with this id");
        if (chain == nullptr) {
            llama_set_sampler(ctx, seq_id, nullptr);
            return;
        }
        // llama.cpp takes anything that can run on a device for a chain.
        require(llama_sampler_chain_get(chain, -1) != nullptr, "the sampler is not a chain");
        require(!was_attached(chain), "the sampler has been attached to a context before");
        *offloaded = llama_set_sampler(ctx, seq_id, chain);
    });
}

enum llama_shim_status llama_shim_synchronize(struct llama_context * ctx, char ** error) noexcept {
    return guard(error, [&] {
        require(ctx != nullptr, "the context is NULL");
        llama_synchronize(ctx);
    });
}
