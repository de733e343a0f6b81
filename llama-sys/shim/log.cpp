#include "log.hpp"

#include "llama_shim.h"

#include <atomic>

namespace llama_shim {
namespace {

// Where lines go. Immutable, so that one atomic pointer swaps callback and data
// together. A sink that was replaced is never freed: another thread may have read the
// pointer and not called it yet, and there is no moment at which this is known to be
// over. A program swaps sinks a few times at most. The list of old ones keeps them
// reachable, so that leak checkers see what is meant.
struct sink {
    ggml_log_callback callback;
    void *            user_data;
    const sink *      previous;
};

std::atomic<const sink *> current_sink{nullptr};

thread_local log_capture * innermost = nullptr;

struct detour {
    ggml_log_callback callback;
    void *            user_data;
};

thread_local detour current_detour = {nullptr, nullptr};

// Called from C, so nothing may get out: not from a sink in C++ either.
void tee(enum ggml_log_level level, const char * text, void * /*unused*/) noexcept {
    try {
        const detour by = current_detour;
        if (by.callback != nullptr) {
            by.callback(level, text, by.user_data);
        } else {
            log_forward(level, text, nullptr);
        }
    } catch (...) {
        // A log line is not worth more than the call that logs it.
    }
}

void set_sink(ggml_log_callback callback, void * user_data) {
    sink * next = new sink{callback, user_data, current_sink.load(std::memory_order_acquire)};
    while (!current_sink.compare_exchange_weak(
            next->previous, next, std::memory_order_acq_rel, std::memory_order_acquire)) {
    }
}

} // namespace

log_capture::log_capture() noexcept : outer_(innermost) {
    innermost = this;
}

log_capture::~log_capture() {
    innermost = outer_;
}

void log_capture::add(enum ggml_log_level level, const char * text) noexcept {
    try {
        const bool is_continuation = level == GGML_LOG_LEVEL_CONT;
        if (!is_continuation) {
            continued_ = level == GGML_LOG_LEVEL_ERROR ? &errors_
                       : level == GGML_LOG_LEVEL_WARN  ? &warnings_
                                                       : nullptr;
        }
        if (continued_ == nullptr || text == nullptr) {
            return;
        }
        std::string & lines = *continued_;
        if (!is_continuation && !lines.empty() && lines.back() != '\n') {
            lines += '\n';
        }
        if (lines.size() < max_size) {
            lines.append(text, 0, max_size - lines.size());
        }
    } catch (...) {
        // Out of memory: the reason stays incomplete.
    }
}

std::string log_capture::reason() const {
    std::string lines = errors_.empty() ? warnings_ : errors_;
    const std::size_t last = lines.find_last_not_of(" \t\r\n");
    lines.erase(last == std::string::npos ? 0 : last + 1);
    return lines;
}

void log_forward(enum ggml_log_level level, const char * text, void * /*unused*/) noexcept {
    if (innermost != nullptr) {
        innermost->add(level, text);
    }
    const sink * to = current_sink.load(std::memory_order_acquire);
    if (to != nullptr && to->callback != nullptr) {
        try {
            to->callback(level, text, to->user_data);
        } catch (...) {
            // As in `tee`.
        }
    }
}

void log_install() noexcept {
    // Initialised once, by the first thread that gets here, while the others wait.
    static const bool installed = [] {
        ggml_log_callback callback = nullptr;
        void * user_data = nullptr;
        // llama.cpp's setter and getter act on ggml's logger too.
        llama_log_get(&callback, &user_data);
        try {
            set_sink(callback, user_data);
        } catch (...) {
            return false; // no memory: leave the log as it is
        }
        llama_log_set(tee, nullptr);
        return true;
    }();
    (void) installed;
}

log_detour::log_detour() noexcept = default;

log_detour::~log_detour() {
    current_detour = {nullptr, nullptr};
}

void log_detour::set(ggml_log_callback callback, void * user_data) noexcept {
    current_detour = {callback, user_data};
}

} // namespace llama_shim

void llama_shim_log_install(void) noexcept {
    llama_shim::log_install();
}

void llama_shim_log_set(ggml_log_callback sink, void * user_data) noexcept {
    llama_shim::log_install();
    try {
        llama_shim::set_sink(sink, user_data);
    } catch (...) {
        // No memory for sixteen bytes: the old sink stays.
    }
}
