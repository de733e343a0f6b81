// What must not happen twice at once in a process.
#pragma once

#include <mutex>

namespace llama_shim {

// Loading a model. Recursive, because a progress callback may load another model.
std::recursive_mutex & load_mutex() noexcept;

// Writing to a loaded model: creating a context adjusts its hyperparameters, and LoRA
// adapters register with it. Taken after `load_mutex` where both are needed.
std::recursive_mutex & model_mutex() noexcept;

using lock = std::lock_guard<std::recursive_mutex>;

} // namespace llama_shim
