// Checks on GBNF grammars that llama.cpp does not make, or makes too late.
#pragma once

#include "llama.h"

namespace llama_shim {

// Refuses a grammar that does not parse, has undefined rules, is left-recursive, or makes
// llama.cpp recurse too deep or search too long. llama.cpp prints why a grammar does
// not parse to stderr, and logs only that it does not.
void check_grammar(const llama_vocab * vocab, const char * grammar, const char * root);

} // namespace llama_shim
