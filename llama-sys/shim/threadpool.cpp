#include "guard.hpp"

#include "ggml-backend.h"
#include "ggml-cpu.h"

#include <memory>

using namespace llama_shim;

struct llama_shim_threadpool {
    struct ggml_threadpool *       pool;
    decltype(&ggml_threadpool_free) free;
};

namespace {

// The CPU backend may be a module that is loaded at run time, so its functions are asked for.
template <typename Function> Function * cpu_function(const char * name) {
    const ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    void * function = cpu != nullptr
        ? ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(cpu), name)
        : nullptr;
    if (function == nullptr) {
        unsupported("the CPU backend has no thread pools");
    }
    return reinterpret_cast<Function *>(function);
}

} // namespace

enum llama_shim_status llama_shim_threadpool_attach(
        struct llama_context * ctx,
        int32_t n_threads,
        uint32_t poll,
        struct llama_shim_threadpool ** threadpool,
        char ** error) noexcept {
    if (threadpool != nullptr) {
        *threadpool = nullptr;
    }
    return guard(error, [&] {
        require(ctx != nullptr && threadpool != nullptr, "an argument is NULL");
        require(n_threads >= 1 && n_threads <= GGML_MAX_N_THREADS, "the number of threads is out of range");
        require(poll <= 100, "the polling level is out of range");
        const auto create = cpu_function<decltype(ggml_threadpool_new)>("ggml_threadpool_new");
        auto result = std::make_unique<llama_shim_threadpool>();
        result->free = cpu_function<decltype(ggml_threadpool_free)>("ggml_threadpool_free");
        auto params = ggml_threadpool_params_default(n_threads);
        params.poll = poll;
        result->pool = create(&params);
        if (result->pool == nullptr) {
            fail();
        }
        llama_attach_threadpool(ctx, result->pool, nullptr);
        *threadpool = result.release();
    });
}

void llama_shim_threadpool_free(struct llama_shim_threadpool * threadpool) noexcept {
    const std::unique_ptr<llama_shim_threadpool> owned(threadpool);
    if (owned) {
        owned->free(owned->pool);
    }
}
