// Limits for regular expressions that std::regex compiles.
#pragma once

#include <cstddef>

namespace llama_shim {

// How deep std::regex may recurse for a pattern.
struct regex_depth {
    std::size_t fixed;    // whatever the text is
    std::size_t per_byte; // of the text; 0 without unbounded repetitions
};

// Estimates the depth, and refuses a pattern beyond a limit of llama_shim.h, or that is
// NULL. A pattern that std::regex will reject may pass.
regex_depth check_pattern(const char * pattern);

} // namespace llama_shim
