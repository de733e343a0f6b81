#include "guard.hpp"
#include "internals.hpp"

#include "ggml-backend.h"

#if defined(__linux__) && !defined(LLAMA_SHIM_NO_INTERNALS)
#define LLAMA_SHIM_HUGE_PAGES
// INTERNAL: src/llama-model.h: llama_internal_get_tensor_map: the only way from a model to
// its buffers.
#include "llama-model.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <string>
#include <unordered_set>

#include <sys/mman.h>

// Of Linux 6.1; the C library's headers may be older than the kernel.
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#endif

using namespace llama_shim;

#ifdef LLAMA_SHIM_HUGE_PAGES
namespace {

// Bytes of a huge page.
size_t huge_page_size() {
    size_t size = 0;
    std::ifstream("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size") >> size;
    // A length of 0 changes nothing, but advice that is not known is refused.
    if (size == 0 || madvise(nullptr, 0, MADV_COLLAPSE) != 0) {
        unsupported(
            "this kernel cannot move memory to huge pages: it is older than Linux 6.1, or built "
            "without transparent huge pages");
    }
    return size;
}

// Whether a buffer is the CPU's own. What a device has page-locked is the device's, and cannot be
// moved. The CPU's plain buffer type names no device.
bool is_cpu_memory(ggml_backend_buffer_type_t buft) {
    const ggml_backend_dev_t dev = ggml_backend_buft_get_device(buft);
    return dev != nullptr
        ? ggml_backend_dev_type(dev) == GGML_BACKEND_DEVICE_TYPE_CPU
        : ggml_backend_buft_is_host(buft);
}

// Moves a huge page's worth of memory into one; 0, or the errno.
int collapse(void * page, size_t size) {
    constexpr int attempts = 3;
    for (int attempt = 1;; ++attempt) {
        if (madvise(page, size, MADV_COLLAPSE) == 0) {
            return 0;
        }
        if (errno != EAGAIN || attempt == attempts) {
            return errno;
        }
    }
}

void collapse(ggml_backend_buffer_t buffer, llama_shim_huge_pages & result) {
    const auto base  = reinterpret_cast<uintptr_t>(ggml_backend_buffer_get_base(buffer));
    const auto size  = static_cast<uintptr_t>(result.page_size);
    const auto first = (base + size - 1) / size * size;
    const auto end   = (base + ggml_backend_buffer_get_size(buffer)) / size * size;
    if (first >= end) {
        return;
    }
    // So that the kernel keeps them together later on, too. Where it does not, the pages below
    // are what counts.
    (void) madvise(reinterpret_cast<void *>(first), end - first, MADV_HUGEPAGE);
    for (uintptr_t page = first; page < end; page += size) {
        result.asked += size;
        const int error = collapse(reinterpret_cast<void *>(page), size);
        if (error == 0) {
            result.huge += size;
        } else {
            result.refusal = error;
        }
    }
}

} // namespace
#endif

enum llama_shim_status llama_shim_model_use_huge_pages(
        const struct llama_model * model,
        struct llama_shim_huge_pages * result,
        char ** error) noexcept {
    if (result != nullptr) {
        *result = {};
    }
    return guard(error, [&] {
        require(model != nullptr && result != nullptr, "an argument is NULL");
#if defined(LLAMA_SHIM_HUGE_PAGES)
        result->page_size = huge_page_size();
        if (is_no_alloc(model)) {
            return;
        }
        std::unordered_set<ggml_backend_buffer_t> seen;
        for (const auto & [name, tensor] : llama_internal_get_tensor_map(model)) {
            const ggml_backend_buffer_t buffer = (tensor->view_src != nullptr ? tensor->view_src : tensor)->buffer;
            if (buffer == nullptr || !seen.insert(buffer).second) {
                continue;
            }
            const ggml_backend_buffer_type_t buft = ggml_backend_buffer_get_type(buffer);
            if (!is_cpu_memory(buft)) {
                continue;
            }
            if (std::strcmp(ggml_backend_buft_name(buft), "CPU_Mapped") == 0) {
                result->mapped += ggml_backend_buffer_get_size(buffer);
            } else {
                collapse(buffer, *result);
            }
        }
#elif defined(LLAMA_SHIM_NO_INTERNALS)
        no_internals();
#else
        unsupported("only Linux moves memory to huge pages on demand");
#endif
    });
}
