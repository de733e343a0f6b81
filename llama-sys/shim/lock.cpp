#include "lock.hpp"

namespace llama_shim {

// Never destroyed: a thread may still be loading while the process runs its
// static destructors.

std::recursive_mutex & load_mutex() noexcept {
    static std::recursive_mutex & mutex = *new std::recursive_mutex;
    return mutex;
}

std::recursive_mutex & model_mutex() noexcept {
    static std::recursive_mutex & mutex = *new std::recursive_mutex;
    return mutex;
}

} // namespace llama_shim
