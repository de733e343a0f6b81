#include "guard.hpp"
#include "lock.hpp"
#include "params.hpp"

#include <vector>

using namespace llama_shim;

#ifndef LLAMA_SHIM_NO_INTERNALS

#include <cstdarg>
#include <cstdio>

// INTERNAL: common/fit.cpp: common_fit_params. It belongs to llama-common, a library for
// llama.cpp's own programs that is neither built nor linked here, so its source is compiled
// as a part of this file. What it needs of the rest of llama-common is replaced below.

// Seen first and once, so that the macros below apply to the source alone.
#include <common/json.h>
#include <common/log.h>

namespace {

// llama-common prints its messages on a thread of its own; here they go where all of
// llama.cpp's messages go.
void fit_log(enum ggml_log_level level, const char * format, ...) {
    va_list arguments;
    va_start(arguments, format);
    va_list again;
    va_copy(again, arguments);
    const int length = std::vsnprintf(nullptr, 0, format, arguments);
    va_end(arguments);
    if (length > 0) {
        std::string text(static_cast<std::size_t>(length) + 1, '\0');
        std::vsnprintf(&text[0], text.size(), format, again);
        log_forward(level, text.c_str(), nullptr);
    }
    va_end(again);
}

// The fit puts a callback of its own in front of the global one while it measures, to
// demote messages. Doing so with the real setter would be a race with every other thread
// that logs, and leaves a pointer to a dead stack behind when an exception ends the fit.
// Here the callback applies to this thread, and ends with the `log_detour`.
void fit_log_get(ggml_log_callback * callback, void ** user_data) {
    *callback  = log_forward;
    *user_data = nullptr;
}

void fit_log_set(ggml_log_callback callback, void * user_data) {
    log_detour::set(callback == log_forward ? nullptr : callback, user_data);
}

// Takes the memory table that the fit builds for JSON logs, and keeps nothing.
class no_json {
public:
    struct item {
        template <typename Value>
        item(const char *, const Value &) {}
    };

    no_json() = default;
    no_json(std::initializer_list<item>) {}

    static no_json array() { return {}; }
    void push_back(std::initializer_list<item>) {}
};

} // namespace

#undef LOG_TRC
#undef LOG_WRN
#undef LOG_ERR
#undef LOG_JSON
#define LOG_TRC(...) fit_log(GGML_LOG_LEVEL_DEBUG, __VA_ARGS__)
#define LOG_WRN(...) fit_log(GGML_LOG_LEVEL_WARN, __VA_ARGS__)
#define LOG_ERR(...) fit_log(GGML_LOG_LEVEL_ERROR, __VA_ARGS__)
#define LOG_JSON(type, data) static_cast<void>(data)

#define common_json   no_json
#define llama_log_get fit_log_get
#define llama_log_set fit_log_set

// Names of our own, so that a program may link llama-common too.
#define common_fit_params             llama_shim_internal_fit_params
#define common_fit_print              llama_shim_internal_fit_print
#define common_memory_breakdown_print llama_shim_internal_memory_breakdown_print
#define common_get_device_memory_data llama_shim_internal_get_device_memory_data
#define common_fit_extra_model        llama_shim_internal_fit_extra_model
#define common_device_memory_data     llama_shim_internal_device_memory_data
#define common_device_memory_data_vec llama_shim_internal_device_memory_data_vec
#define common_params_fit_status      llama_shim_internal_params_fit_status
#define common_params_fit_exception   llama_shim_internal_params_fit_exception

#include <common/fit.cpp>

#undef llama_log_get
#undef llama_log_set

#endif // LLAMA_SHIM_NO_INTERNALS

enum llama_shim_status llama_shim_fit_params(
        const char * path,
        struct llama_model_params * mparams,
        struct llama_context_params * cparams,
        float * tensor_split,
        size_t n_tensor_split,
        struct llama_model_tensor_buft_override * overrides,
        size_t n_overrides,
        const size_t * margins,
        size_t n_margins,
        uint32_t n_ctx_min,
        enum ggml_log_level log_level,
        enum llama_shim_fit_result * result,
        char ** error) noexcept {
    if (result != nullptr) {
        *result = LLAMA_SHIM_FIT_ERROR;
    }
    return guard(error, [&] {
        require(path != nullptr, "the path is NULL");
        require(mparams != nullptr && cparams != nullptr, "the parameters are NULL");
        require(result != nullptr, "there is no place for the result");
        require(tensor_split != nullptr && n_tensor_split >= llama_max_devices(),
                "the tensor split is shorter than llama_max_devices()");
        require(overrides != nullptr && n_overrides >= llama_max_tensor_buft_overrides(),
                "the list of overrides is shorter than llama_max_tensor_buft_overrides()");
        require(margins != nullptr && n_margins > 0, "there is no margin");
        check_model_params(*mparams);
        require(!mparams->vocab_only, "there is nothing to fit without the weights");
        // The context is created many times, and a chain can be attached once.
        require(cparams->samplers == nullptr || cparams->n_samplers == 0, "backend samplers cannot be fitted");
        require(n_ctx_min == 0 || n_ctx_min >= cparams->n_seq_max,
                "the smallest context has fewer positions than sequences");
        // The model's own context size is not known yet; any model's is larger than the
        // number of sequences.
        check_context_params(*cparams, {cparams->n_batch, causal::yes, false});
        // It divides by the number of layers on devices.
        require(mparams->n_gpu_layers != 0, "with no layers on devices there is nothing to fit");
#ifndef LLAMA_SHIM_NO_INTERNALS
        // One margin is read per device of the model, and those are known only after
        // the first of the loads within.
        const size_t n_devices = max_devices_of(*mparams);
        check_n_devices(n_devices);
        require(n_devices <= n_tensor_split, "the tensor split is shorter than the list of devices");
        std::vector<size_t> all_margins(margins, margins + n_margins);
        if (all_margins.size() < n_devices) {
            all_margins.resize(n_devices, all_margins.back());
        }

        const lock loading(load_mutex());
        const lock creating(model_mutex());
        const log_detour detour;
        const auto status = llama_shim_internal_fit_params(
            path, mparams, cparams, tensor_split, overrides, all_margins.data(), n_ctx_min, nullptr, log_level);
        switch (status) {
            case COMMON_PARAMS_FIT_STATUS_SUCCESS: *result = LLAMA_SHIM_FIT_SUCCESS; return;
            case COMMON_PARAMS_FIT_STATUS_FAILURE: *result = LLAMA_SHIM_FIT_TOO_BIG; fail();
            case COMMON_PARAMS_FIT_STATUS_ERROR:   fail();
        }
        fail();
#else
        (void) n_ctx_min;
        (void) log_level;
        no_internals();
#endif
    });
}
