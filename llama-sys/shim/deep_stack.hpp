// Running code on a thread with as much stack as it needs.
#pragma once

#include <cstddef>
#include <functional>

namespace llama_shim {

// Calls `body` on a thread of its own with `stack_size` bytes of stack, and waits for
// it. Its exception, if any, comes out of here. Throws std::system_error if there is no
// such thread to be had.
void run_on_deep_stack(std::size_t stack_size, const std::function<void()> & body);

} // namespace llama_shim
