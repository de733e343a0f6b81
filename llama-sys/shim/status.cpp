#include "llama_shim.h"

#include <cstdlib>

const char * llama_shim_status_name(enum llama_shim_status status) noexcept {
    switch (status) {
        case LLAMA_SHIM_OK:               return "ok";
        case LLAMA_SHIM_FAILED:           return "failed";
        case LLAMA_SHIM_EXCEPTION:        return "exception";
        case LLAMA_SHIM_OUT_OF_MEMORY:    return "out of memory";
        case LLAMA_SHIM_INVALID_ARGUMENT: return "invalid argument";
        case LLAMA_SHIM_UNSUPPORTED:      return "unsupported";
    }
    return "unknown status";
}

void llama_shim_string_free(char * text) noexcept {
    std::free(text);
}
