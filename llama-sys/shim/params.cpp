#include "params.hpp"

#include "guard.hpp"
#include "regex.hpp"

#include <algorithm>

namespace llama_shim {
namespace {

// llama_context's constructor rounds the positions of each sequence up to a multiple.
constexpr uint32_t n_ctx_alignment = 256;

// A number from another language need not be one of an enumeration's, and llama.cpp aborts
// where it names or uses one that is not.
template <typename Enum>
bool is_one_of(Enum value, Enum first, Enum last) {
    const int number = value;
    return number >= first && number <= last;
}

void check_cache_type(enum ggml_type type) {
    const int number = type;
    require(number >= 0 && number < GGML_TYPE_COUNT && ggml_blck_size(type) > 0 && ggml_type_size(type) > 0,
            "the cache type is not a type of data");
}

void check_samplers(const llama_context_params & params, uint32_t n_seq_max) {
    if (params.samplers == nullptr) {
        return;
    }
    for (size_t i = 0; i < params.n_samplers; ++i) {
        const llama_sampler_seq_config & config = params.samplers[i];
        require(config.seq_id >= 0 && static_cast<uint32_t>(config.seq_id) < n_seq_max,
                "a backend sampler is for a sequence that the context does not have");
        require(llama_sampler_chain_get(config.sampler, -1) != nullptr, "a backend sampler is not a chain");
        require(!was_attached(config.sampler), "a backend sampler has been attached to a context before");
        for (size_t j = 0; j < i; ++j) {
            require(params.samplers[j].sampler != config.sampler, "a backend sampler is given twice");
        }
    }
}

} // namespace

size_t max_devices_of(const llama_model_params & params) {
    if (params.split_mode == LLAMA_SPLIT_MODE_NONE) {
        return 1;
    }
    size_t n_devices = 0;
    if (params.devices != nullptr) {
        while (params.devices[n_devices] != nullptr) {
            ++n_devices;
        }
        return n_devices;
    }
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        switch (ggml_backend_dev_type(ggml_backend_dev_get(i))) {
            case GGML_BACKEND_DEVICE_TYPE_CPU:
            case GGML_BACKEND_DEVICE_TYPE_ACCEL:
                break;
            default:
                ++n_devices;
                break;
        }
    }
    return n_devices;
}

void check_model_params(const llama_model_params & params) {
    require(is_one_of(params.load_mode, LLAMA_LOAD_MODE_AUTO, LLAMA_LOAD_MODE_DIRECT_IO),
            "there is no such load mode");
    require(is_one_of(params.split_mode, LLAMA_SPLIT_MODE_NONE, LLAMA_SPLIT_MODE_TENSOR),
            "there is no such split mode");
    // The split is copied with that many elements, and read with one per device.
    require(params.tensor_split == nullptr || max_devices_of(params) <= llama_max_devices(),
            "a tensor split is for at most llama_max_devices() devices");
    if (params.tensor_buft_overrides == nullptr) {
        return;
    }
    for (const auto * override = params.tensor_buft_overrides; override->pattern != nullptr; ++override) {
        require(override->buft != nullptr, "a tensor buffer override has no buffer type");
        check_pattern(override->pattern);
    }
}

// Follows the arithmetic of llama_context's constructor.
void check_context_params(const llama_context_params & params, const model_facts & model) {
    require(params.n_batch > 0, "n_batch is zero");

    const uint32_t n_ctx = params.n_ctx > 0 ? params.n_ctx : model.n_ctx_train;
    require(n_ctx > 0, "n_ctx is zero, and the model does not say what it was trained with");
    const auto rounding = static_cast<uint32_t>(n_ctx_alignment * llama_max_parallel_sequences());
    require(n_ctx <= UINT32_MAX - rounding, "n_ctx is too large");

    const bool only_backwards = params.attention_type == LLAMA_ATTENTION_TYPE_UNSPECIFIED
        ? model.attention != causal::no
        : params.attention_type == LLAMA_ATTENTION_TYPE_CAUSAL;

    const uint32_t n_seq_max = std::max(1U, params.n_seq_max);
    const uint32_t n_batch   = only_backwards ? std::min(n_ctx, params.n_batch) : params.n_batch;
    const uint32_t n_outputs_max =
        params.n_outputs_max == 0 || model.has_encoder ? n_batch : params.n_outputs_max;
    require(n_seq_max <= n_outputs_max,
            "n_seq_max is greater than n_outputs_max, or than n_batch or n_ctx, which limit it");

    require(is_one_of(params.flash_attn_type, LLAMA_FLASH_ATTN_TYPE_AUTO, LLAMA_FLASH_ATTN_TYPE_ENABLED),
            "there is no such type of flash attention");
    require(is_one_of(params.pooling_type, LLAMA_POOLING_TYPE_UNSPECIFIED, LLAMA_POOLING_TYPE_RANK),
            "there is no such type of pooling");
    check_cache_type(params.type_k);
    check_cache_type(params.type_v);
    check_samplers(params, n_seq_max);
}

void check_n_devices(size_t n_devices) {
    // INTERNAL: ggml/src/ggml-backend.cpp: GGML_SCHED_MAX_BACKENDS, which is in no header and
    // only asserted. A context's backends are the model's devices, the accelerators, the CPU.
    constexpr size_t max_backends = 16;
    size_t n_backends = n_devices + 1;
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        if (ggml_backend_dev_type(ggml_backend_dev_get(i)) == GGML_BACKEND_DEVICE_TYPE_ACCEL) {
            ++n_backends;
        }
    }
    if (n_backends > max_backends) {
        refuse("the model is spread over " + std::to_string(n_devices) + " devices, but a context computes on at most " +
               std::to_string(max_backends - (n_backends - n_devices)));
    }
}

void check_seq_id(const llama_context * ctx, llama_seq_id seq_id) {
    require(seq_id >= 0 && static_cast<uint32_t>(seq_id) < llama_n_seq_max(ctx),
            "the context has no sequence with this id");
}

} // namespace llama_shim
