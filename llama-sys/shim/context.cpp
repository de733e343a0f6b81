#include "guard.hpp"
#include "internals.hpp"
#include "lock.hpp"
#include "params.hpp"
#include "worker_graphs.hpp"

#include <algorithm>

using namespace llama_shim;

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
        check_n_devices(n_devices_of(model));
        const auto n_ctx_train = static_cast<uint32_t>(std::max(0, llama_model_n_ctx_train(model)));
        check_context_params(*params, {n_ctx_train, is_causal(model), llama_model_has_encoder(model)});
        const lock turn(model_mutex());
        forget_worker_graphs();
        *ctx = llama_init_from_model(model, *params);
        if (*ctx == nullptr) {
            fail();
        }
    });
}

enum llama_shim_status llama_shim_free(struct llama_context * ctx, char ** error) noexcept {
    return guard(error, [&] {
        forget_worker_graphs();
        llama_free(ctx);
    });
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
