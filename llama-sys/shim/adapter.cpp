#include "guard.hpp"
#include "internals.hpp"
#include "lock.hpp"
#include "worker_graphs.hpp"

#include <vector>

using namespace llama_shim;

enum llama_shim_status llama_shim_lora_init(
        struct llama_model * model,
        const char * path,
        struct llama_adapter_lora ** adapter,
        char ** error) noexcept {
    if (adapter != nullptr) {
        *adapter = nullptr;
    }
    return guard(error, [&] {
        require(model != nullptr && adapter != nullptr, "an argument is NULL");
        require(path != nullptr, "the path is NULL");
        require(!is_vocab_only(model) && !is_no_alloc(model), "the model was loaded without weights");
        const lock turn(model_mutex());
        forget_worker_graphs();
        *adapter = llama_adapter_lora_init(model, path);
        if (*adapter == nullptr) {
            fail();
        }
    });
}

enum llama_shim_status llama_shim_lora_init_from_file_ptr(
        struct llama_model * model,
        FILE * file,
        struct llama_adapter_lora ** adapter,
        char ** error) noexcept {
    if (adapter != nullptr) {
        *adapter = nullptr;
    }
    return guard(error, [&] {
        require(model != nullptr && adapter != nullptr, "an argument is NULL");
        require(file != nullptr, "the file is NULL");
        require(!is_vocab_only(model) && !is_no_alloc(model), "the model was loaded without weights");
        const lock turn(model_mutex());
        forget_worker_graphs();
        *adapter = llama_adapter_lora_init_from_file_ptr(model, file);
        if (*adapter == nullptr) {
            fail();
        }
    });
}

enum llama_shim_status llama_shim_lora_free(struct llama_adapter_lora * adapter, char ** error) noexcept {
    return guard(error, [&] {
        const lock turn(model_mutex());
        forget_worker_graphs();
        llama_adapter_lora_free(adapter);
    });
}

enum llama_shim_status llama_shim_set_adapters_lora(
        struct llama_context * ctx,
        struct llama_adapter_lora * const * adapters,
        size_t n_adapters,
        const float * scales,
        char ** error) noexcept {
    return guard(error, [&] {
        require(ctx != nullptr, "the context is NULL");
        require(n_adapters == 0 || (adapters != nullptr && scales != nullptr),
                "the list of adapters or their scales are NULL");
        // llama.cpp takes the arrays without const, but only reads them.
        std::vector<llama_adapter_lora *> adapters_copy(adapters, adapters + n_adapters);
        std::vector<float> scales_copy(scales, scales + n_adapters);
        for (const llama_adapter_lora * adapter : adapters_copy) {
            require(adapter != nullptr, "an adapter is NULL");
            require(belongs_to(adapter, llama_get_model(ctx)), "an adapter was loaded for another model");
        }
        if (llama_set_adapters_lora(ctx, adapters_copy.data(), n_adapters, scales_copy.data()) != 0) {
            fail();
        }
    });
}

enum llama_shim_status llama_shim_set_adapter_cvec(
        struct llama_context * ctx,
        const float * data,
        size_t len,
        int32_t n_embd,
        int32_t il_start,
        int32_t il_end,
        char ** error) noexcept {
    return guard(error, [&] {
        require(ctx != nullptr, "the context is NULL");
        require(!is_no_alloc(llama_get_model(ctx)), "the model was loaded without weights");
        forget_worker_graphs();
        if (llama_set_adapter_cvec(ctx, data, len, n_embd, il_start, il_end) != 0) {
            fail();
        }
    });
}
