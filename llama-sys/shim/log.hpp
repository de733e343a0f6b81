// The log tee: one callback in front of everybody else's, which lets a guarded call
// return the reason that llama.cpp only logs.
#pragma once

#include "ggml.h"

#include <cstddef>
#include <string>

namespace llama_shim {

// Collects what the current thread logs as error or warning while it lives. Scopes
// nest; a line goes to the innermost one. Nothing here throws but `reason`.
class log_capture {
public:
    log_capture() noexcept;
    ~log_capture();

    log_capture(const log_capture &) = delete;
    log_capture & operator=(const log_capture &) = delete;

    void add(enum ggml_log_level level, const char * text) noexcept;

    // The errors, or the warnings if there was no error; trimmed, maybe empty.
    std::string reason() const;

    bool has_error() const noexcept { return !errors_.empty(); }

private:
    // A load that fails says so in a few lines; more is not kept.
    static constexpr std::size_t max_size = 16 * 1024;

    std::string errors_;
    std::string warnings_;
    std::string * continued_ = nullptr; // where a continuation belongs; NULL: nowhere
    log_capture * outer_;
};

// Installs the tee, once in a process.
void log_install() noexcept;

// What the tee does with a line: capture it, and pass it on to the sink.
void log_forward(enum ggml_log_level level, const char * text, void * unused) noexcept;

// While it lives, `callback` receives what the current thread logs, instead of
// `log_forward`. NULL changes nothing.
class log_detour {
public:
    log_detour() noexcept;
    ~log_detour();

    log_detour(const log_detour &) = delete;
    log_detour & operator=(const log_detour &) = delete;

    static void set(ggml_log_callback callback, void * user_data) noexcept;
};

} // namespace llama_shim
