#include "guard.hpp"
#include "internals.hpp"
#include "lock.hpp"
#include "params.hpp"
#include "regex.hpp"
#include "worker_graphs.hpp"

#ifndef LLAMA_SHIM_NO_INTERNALS
// INTERNAL: src/llama-ext.h: llama_model_n_devices, llama_model_get_device,
// llama_model_n_expert: staged for the public API, not in llama.h yet.
#include "llama-ext.h"
#endif

#include <vector>

using namespace llama_shim;

namespace {

// A caller's progress callback, which remembers that it ended the load: llama.cpp gives no
// reason then.
struct watched_progress {
    llama_progress_callback callback;
    void *                  user_data;
    bool                    cancelled = false;

    static bool report(float progress, void * self) {
        auto & watched = *static_cast<watched_progress *>(self);
        const bool go_on = watched.callback(progress, watched.user_data);
        watched.cancelled = watched.cancelled || !go_on;
        return go_on;
    }
};

// Runs a loading function with the lock held, and hands out its model.
template <typename Load>
enum llama_shim_status load(
        const struct llama_model_params * params, struct llama_model ** model, char ** error, Load && call) noexcept {
    if (model != nullptr) {
        *model = nullptr;
    }
    return guard(error, [&] {
        require(model != nullptr, "there is no place for the model");
        require(params != nullptr, "the model parameters are NULL");
        require(!params->no_alloc || params->load_mode == LLAMA_LOAD_MODE_NONE,
                "a model without weights (no_alloc) needs the load mode NONE");
        check_model_params(*params);
        // Not used after the load, like all that the parameters point to.
        watched_progress progress = {params->progress_callback, params->progress_callback_user_data};
        llama_model_params watched = *params;
        if (progress.callback != nullptr) {
            watched.progress_callback           = watched_progress::report;
            watched.progress_callback_user_data = &progress;
        }
        const lock turn(load_mutex());
        forget_worker_graphs();
        *model = call(watched);
        if (*model == nullptr) {
            fail(progress.cancelled ? "the progress callback cancelled the load" : "");
        }
    });
}

} // namespace

enum llama_shim_status llama_shim_model_load_from_file(
        const char * path,
        const struct llama_model_params * params,
        struct llama_model ** model,
        char ** error) noexcept {
    return load(params, model, error, [&](const llama_model_params & watched) {
        require(path != nullptr, "the path is NULL");
        return llama_model_load_from_file(path, watched);
    });
}

enum llama_shim_status llama_shim_model_load_from_splits(
        const char * const * paths,
        size_t n_paths,
        const struct llama_model_params * params,
        struct llama_model ** model,
        char ** error) noexcept {
    return load(params, model, error, [&](const llama_model_params & watched) {
        require(paths != nullptr && n_paths > 0, "the list of split files is empty");
        // llama.cpp takes the array without const, but only reads it.
        std::vector<const char *> copy(paths, paths + n_paths);
        for (const char * path : copy) {
            require(path != nullptr, "a path is NULL");
        }
        return llama_model_load_from_splits(copy.data(), copy.size(), watched);
    });
}

enum llama_shim_status llama_shim_model_load_from_file_ptr(
        FILE * file,
        const struct llama_model_params * params,
        struct llama_model ** model,
        char ** error) noexcept {
    return load(params, model, error, [&](const llama_model_params & watched) {
        require(file != nullptr, "the file is NULL");
        return llama_model_load_from_file_ptr(file, watched);
    });
}

enum llama_shim_status llama_shim_model_init_from_user(
        struct gguf_context * metadata,
        llama_model_set_tensor_data_t set_tensor_data,
        void * set_tensor_data_user_data,
        const struct llama_model_params * params,
        struct llama_model ** model,
        char ** error) noexcept {
    return load(params, model, error, [&](const llama_model_params & watched) {
        require(metadata != nullptr, "the metadata is NULL");
        require(set_tensor_data != nullptr, "the function that sets tensor data is NULL");
        return llama_model_init_from_user(metadata, set_tensor_data, set_tensor_data_user_data, watched);
    });
}

enum llama_shim_status llama_shim_model_save_to_file(
        const struct llama_model * model,
        const char * path,
        char ** error) noexcept {
    return guard(error, [&] {
        require(model != nullptr, "the model is NULL");
        require(path != nullptr, "the path is NULL");
#ifndef LLAMA_SHIM_NO_INTERNALS
        require(!is_vocab_only(model) && !is_no_alloc(model), "the model was loaded without weights");
        require(can_be_saved(model), "llama.cpp cannot save a model of this architecture");
        require(can_be_read(model),
                "some weights are in a form that cannot be read back (repacked for the CPU); "
                "load the model with use_extra_bufts = false to save it");
        const log_capture log;
        llama_model_save_to_file(model, path);
        if (log.has_error()) {
            fail(log.reason());
        }
#else
        no_internals();
#endif
    });
}

enum llama_shim_status llama_shim_model_free(struct llama_model * model, char ** error) noexcept {
    return guard(error, [&] {
        forget_worker_graphs();
        llama_model_free(model);
    });
}

enum llama_shim_status llama_shim_model_quantize(
        const char * path_in,
        const char * path_out,
        const struct llama_model_quantize_params * params,
        char ** error) noexcept {
    return guard(error, [&] {
        require(path_in != nullptr && path_out != nullptr, "a path is NULL");
        require(params != nullptr, "the quantization parameters are NULL");
        if (params->tt_overrides != nullptr) {
            for (const auto * override = params->tt_overrides; override->pattern != nullptr; ++override) {
                check_pattern(override->pattern);
            }
        }
        if (llama_model_quantize(path_in, path_out, params) != 0) {
            fail();
        }
    });
}

enum llama_shim_status llama_shim_model_n_devices(
        const struct llama_model * model, int32_t * n_devices, char ** error) noexcept {
    if (n_devices != nullptr) {
        *n_devices = 0;
    }
    return guard(error, [&] {
        require(model != nullptr && n_devices != nullptr, "an argument is NULL");
#ifndef LLAMA_SHIM_NO_INTERNALS
        *n_devices = ::llama_model_n_devices(model);
#else
        no_internals();
#endif
    });
}

enum llama_shim_status llama_shim_model_get_device(
        const struct llama_model * model, int32_t index, ggml_backend_dev_t * device, char ** error) noexcept {
    if (device != nullptr) {
        *device = nullptr;
    }
    return guard(error, [&] {
        require(model != nullptr && device != nullptr, "an argument is NULL");
#ifndef LLAMA_SHIM_NO_INTERNALS
        *device = ::llama_model_get_device(model, index);
        require(*device != nullptr, "the model has no device with this index");
#else
        (void) index;
        no_internals();
#endif
    });
}

enum llama_shim_status llama_shim_model_layer_device(
        const struct llama_model * model, int32_t layer, ggml_backend_dev_t * device, char ** error) noexcept {
    if (device != nullptr) {
        *device = nullptr;
    }
    return guard(error, [&] {
        require(model != nullptr && device != nullptr, "an argument is NULL");
#ifndef LLAMA_SHIM_NO_INTERNALS
        require(!is_vocab_only(model), "the model was loaded for its vocabulary only");
        *device = device_of_layer(model, layer);
        require(*device != nullptr, "the model has no layer with this index");
#else
        (void) layer;
        no_internals();
#endif
    });
}

enum llama_shim_status llama_shim_model_n_expert(
        const struct llama_model * model, int32_t * n_expert, char ** error) noexcept {
    if (n_expert != nullptr) {
        *n_expert = 0;
    }
    return guard(error, [&] {
        require(model != nullptr && n_expert != nullptr, "an argument is NULL");
#ifndef LLAMA_SHIM_NO_INTERNALS
        *n_expert = ::llama_model_n_expert(model);
#else
        no_internals();
#endif
    });
}

enum llama_shim_status llama_shim_model_n_expert_used(
        const struct llama_model * model, int32_t * n_expert_used, char ** error) noexcept {
    if (n_expert_used != nullptr) {
        *n_expert_used = 0;
    }
    return guard(error, [&] {
        require(model != nullptr && n_expert_used != nullptr, "an argument is NULL");
#ifndef LLAMA_SHIM_NO_INTERNALS
        *n_expert_used = static_cast<int32_t>(n_expert_used_by(model));
#else
        no_internals();
#endif
    });
}
