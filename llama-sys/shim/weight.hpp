// What llama.cpp uses a weight for, by its own table of tensor names.
#pragma once

#include "llama_shim.h"

#include <string>

namespace llama_shim {

#ifndef LLAMA_SHIM_NO_INTERNALS
// The use of the tensor with this name in a model of this architecture; unknown if the
// table has no such name.
llama_shim_weight_use use_of(const std::string & arch, const std::string & name);
#endif

} // namespace llama_shim
