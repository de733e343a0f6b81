#include "guard.hpp"
#include "worker_graphs.hpp"

#include "ggml-cpp.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

using namespace llama_shim;

struct llama_shim_transfer {
    ggml_backend_ptr        backend;
    ggml_context_ptr        ctx;
    ggml_backend_buffer_ptr target;
    ggml_backend_buffer_ptr page_locked; // the source, or else:
    std::vector<uint8_t>    pageable;
    const void *            source = nullptr;
    ggml_tensor *           tensor = nullptr;
};

namespace {

// Backends give plain memory instead where there is no more that can be locked: that would be
// measured under a wrong name.
ggml_backend_buffer_ptr page_locked_memory(ggml_backend_dev_t dev, size_t size) {
    ggml_backend_buffer_type_t buft = ggml_backend_dev_host_buffer_type(dev);
    if (buft == nullptr) {
        unsupported("the device has no page-locked memory");
    }
    ggml_backend_buffer_ptr buffer(ggml_backend_buft_alloc_buffer(buft, size));
    if (!buffer || ggml_backend_buffer_get_type(buffer.get()) != buft) {
        throw std::bad_alloc();
    }
    return buffer;
}

} // namespace

enum llama_shim_status llama_shim_transfer_new(
        ggml_backend_dev_t dev,
        bool page_locked,
        size_t size,
        struct llama_shim_transfer ** transfer,
        char ** error) noexcept {
    if (transfer != nullptr) {
        *transfer = nullptr;
    }
    return guard(error, [&] {
        require(dev != nullptr && transfer != nullptr, "an argument is NULL");
        require(size >= 1 && size <= LLAMA_SHIM_TRANSFER_MAX_SIZE, "the size is out of range");
        auto result = std::make_unique<llama_shim_transfer>();
        result->backend.reset(ggml_backend_dev_init(dev, nullptr));
        if (!result->backend) {
            fail();
        }
        if (page_locked) {
            result->page_locked = page_locked_memory(dev, size);
            result->source      = ggml_backend_buffer_get_base(result->page_locked.get());
        } else {
            result->pageable.resize(size);
            result->source = result->pageable.data();
        }
        ggml_init_params params = {ggml_tensor_overhead(), nullptr, true};
        result->ctx.reset(ggml_init(params));
        if (!result->ctx) {
            throw std::bad_alloc();
        }
        result->tensor = ggml_new_tensor_1d(result->ctx.get(), GGML_TYPE_I8, static_cast<int64_t>(size));
        ggml_backend_buffer_type_t buft = ggml_backend_dev_buffer_type(dev);
        require(buft != nullptr, "the device has no memory");
        const size_t allocated = ggml_backend_buft_get_alloc_size(buft, result->tensor);
        result->target.reset(ggml_backend_buft_alloc_buffer(buft, allocated));
        if (!result->target) {
            throw std::bad_alloc();
        }
        void * base = ggml_backend_buffer_get_base(result->target.get());
        if (ggml_backend_tensor_alloc(result->target.get(), result->tensor, base) != GGML_STATUS_SUCCESS) {
            fail();
        }
        *transfer = result.release();
    });
}

enum llama_shim_status llama_shim_transfer_run(struct llama_shim_transfer * transfer, char ** error) noexcept {
    return guard(error, [&] {
        require(transfer != nullptr, "an argument is NULL");
        const size_t size = ggml_nbytes(transfer->tensor);
        ggml_backend_tensor_set_async(transfer->backend.get(), transfer->tensor, transfer->source, 0, size);
        ggml_backend_synchronize(transfer->backend.get());
        // A worker process has its data when it answers, not when all is sent.
        uint8_t last = 0;
        ggml_backend_tensor_get(transfer->tensor, &last, size - 1, 1);
    });
}

void llama_shim_transfer_free(struct llama_shim_transfer * transfer) noexcept {
    forget_worker_graphs();
    delete transfer;
}
