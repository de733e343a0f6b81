// The guard that every function of the shim runs in.
#pragma once

#include "llama_shim.h"
#include "log.hpp"

#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <regex>
#include <string>
#include <utility>

namespace llama_shim {

// How the shim's own code ends a guarded call early. Not derived from std::exception,
// so that it cannot be mistaken for one of llama.cpp's.
struct outcome {
    enum llama_shim_status status;
    std::string            text; // empty: the captured log lines
};

[[noreturn]] inline void refuse(std::string text) {
    throw outcome{LLAMA_SHIM_INVALID_ARGUMENT, std::move(text)};
}

[[noreturn]] inline void fail(std::string text = {}) {
    throw outcome{LLAMA_SHIM_FAILED, std::move(text)};
}

[[noreturn]] inline void unsupported(std::string text) {
    throw outcome{LLAMA_SHIM_UNSUPPORTED, std::move(text)};
}

// Refuses the call unless `condition` holds. A literal, so that the usual case builds
// no string.
inline void require(bool condition, const char * text) {
    if (!condition) {
        refuse(text);
    }
}

#ifdef LLAMA_SHIM_NO_INTERNALS
// What functions say that exist only together with llama.cpp's sources.
[[noreturn]] inline void no_internals() {
    unsupported(
        "this build uses an installed llama.cpp, which does not come with the internal "
        "headers that this function needs");
}
#endif

// A copy for the caller, or NULL: an error's text must not become an error.
inline char * copy_text(const char * text) noexcept {
    const std::size_t size = std::strlen(text) + 1;
    char * copy = static_cast<char *>(std::malloc(size));
    if (copy != nullptr) {
        std::memcpy(copy, text, size);
    }
    return copy;
}

// Writes the text of a failure: `text`, then what was logged, either of which may be
// missing.
inline void report(char ** error, const char * text, const log_capture & log) noexcept {
    if (error == nullptr) {
        return;
    }
    try {
        std::string all = text != nullptr ? text : "";
        const std::string logged = log.reason();
        if (!all.empty() && !logged.empty()) {
            all += '\n';
        }
        all += logged;
        if (all.empty()) {
            all = "llama.cpp gave no reason; its log callback may have been replaced by a "
                  "direct call of llama_log_set";
        }
        *error = copy_text(all.c_str());
    } catch (...) {
        *error = text != nullptr ? copy_text(text) : nullptr;
    }
}

// Runs `body` and turns the way it ends into a status and a text. `body` returns for
// success, and calls `refuse`, `fail` or `unsupported` otherwise.
template <typename Body>
enum llama_shim_status guard(char ** error, Body && body) noexcept {
    if (error != nullptr) {
        *error = nullptr;
    }
    log_install();
    log_capture log;
    try {
        std::forward<Body>(body)();
        return LLAMA_SHIM_OK;
    } catch (const outcome & end) {
        if (end.status == LLAMA_SHIM_FAILED && end.text.empty()) {
            report(error, nullptr, log);
        } else if (error != nullptr) {
            *error = copy_text(end.text.c_str());
        }
        return end.status;
    } catch (const std::bad_alloc &) {
        report(error, "out of memory", log);
        return LLAMA_SHIM_OUT_OF_MEMORY;
    } catch (const std::regex_error & exception) {
        try {
            report(error, (std::string("not a valid regular expression: ") + exception.what()).c_str(), log);
        } catch (...) {
            report(error, exception.what(), log);
        }
        return LLAMA_SHIM_EXCEPTION;
    } catch (const std::exception & exception) {
        report(error, exception.what(), log);
        return LLAMA_SHIM_EXCEPTION;
    } catch (...) {
        report(error, "an exception of unknown type", log);
        return LLAMA_SHIM_EXCEPTION;
    }
}

} // namespace llama_shim
