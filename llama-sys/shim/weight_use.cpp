#include "weight.hpp"

#ifndef LLAMA_SHIM_NO_INTERNALS

// INTERNAL: src/llama-arch.h: LLM_TN, llm_tensor_info_for, llm_arch_from_string: the loader's
// table of tensor names, layers and operations.
#include "llama-arch.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <unordered_map>
#include <vector>

namespace llama_shim {

namespace {

// Stands for any block number in the names of the table.
constexpr int BLOCK = 987654321;

// A tensor's name without block number and suffix.
using use_table = std::unordered_map<std::string, std::vector<llm_tensor>>;

const llm_tensor_info * find_info(llm_tensor id) {
    try {
        return &llm_tensor_info_for(id);
    } catch (const std::out_of_range &) {
        return nullptr; // declared, but no weight the loader knows how to place
    }
}

use_table make_use_table() {
    use_table table;
    const LLM_TN tn(LLM_ARCH_LLAMA); // any: the names do not depend on it
    for (int index = 0; index <= LLM_TENSOR_ATTN_V_EXPS; ++index) {
        const auto id = static_cast<llm_tensor>(index);
        // Whatever has an entry has a name as well, without which `str` would abort.
        if (find_info(id) != nullptr) {
            table[tn(id, nullptr, BLOCK).str()].push_back(id);
        }
    }
    return table;
}

const use_table & uses() {
    static const use_table table = make_use_table();
    return table;
}

// Three names stand for two tensors each; which of them, depends on the architecture.
bool is_meant(llm_tensor id, llm_arch arch) {
    const bool is_lfm2 = arch == LLM_ARCH_LFM2 || arch == LLM_ARCH_LFM2MOE;
    const bool scans   = arch == LLM_ARCH_MAMBA || arch == LLM_ARCH_MAMBA2 || arch == LLM_ARCH_JAMBA ||
                         arch == LLM_ARCH_FALCON_H1 || arch == LLM_ARCH_PLAMO2 || arch == LLM_ARCH_GRANITE_HYBRID ||
                         arch == LLM_ARCH_NEMOTRON_H || arch == LLM_ARCH_NEMOTRON_H_MOE;
    switch (id) {
        case LLM_TENSOR_OUTPUT_NORM_LFM2:       return is_lfm2;
        case LLM_TENSOR_TOKEN_EMBD_NORM:        return !is_lfm2;
        case LLM_TENSOR_SSM_A:                  return scans;
        case LLM_TENSOR_SSM_A_NOSCAN:           return !scans;
        case LLM_TENSOR_INDEXER_KPOOL_APE:      return arch == LLM_ARCH_GLM5_NEXT;
        case LLM_TENSOR_INDEXER_COMPRESSOR_APE: return arch != LLM_ARCH_GLM5_NEXT;
        default:                                return true;
    }
}

bool is_number(const std::string & text) {
    return !text.empty() && text.size() <= 9 && text.find_first_not_of("0123456789") == text.npos;
}

// Replaces the first part of the name that is a number by the one in the table; returns
// that number, or -1.
int32_t take_block(std::string & name) {
    for (std::size_t dot = name.find('.'); dot != name.npos; dot = name.find('.', dot + 1)) {
        const std::size_t end  = std::min(name.find('.', dot + 1), name.size());
        const std::string part = name.substr(dot + 1, end - dot - 1);
        if (is_number(part)) {
            name.replace(dot + 1, part.size(), std::to_string(BLOCK));
            return static_cast<int32_t>(std::strtol(part.c_str(), nullptr, 10));
        }
    }
    return -1;
}

// Cuts a suffix that llama.cpp gives to tensors, and returns it.
std::string take_suffix(std::string & name) {
    for (const char * known : {"weight", "bias", "scale", "input_scale", "lora_a", "lora_b"}) {
        const std::string ending = std::string(".") + known;
        if (name.size() > ending.size() && name.compare(name.size() - ending.size(), ending.size(), ending) == 0) {
            name.resize(name.size() - ending.size());
            return known;
        }
    }
    return {};
}

ggml_op op_of(ggml_op table_op, const std::string & suffix, llm_arch arch) {
    if (table_op == GGML_OP_NONE) {
        return GGML_OP_NONE;
    }
    if (suffix == "bias") {
        return table_op == GGML_OP_MUL_MAT_ID ? GGML_OP_ADD_ID : GGML_OP_ADD;
    }
    // Adapters within the model, chosen per token.
    if (arch == LLM_ARCH_GRANITE_SWITCH && (suffix == "lora_a" || suffix == "lora_b")) {
        return GGML_OP_MUL_MAT_ID;
    }
    return table_op;
}

llama_shim_weight_layer layer_of(llm_tensor_layer layer) {
    switch (layer) {
        case LLM_TENSOR_LAYER_INPUT:     return LLAMA_SHIM_WEIGHT_INPUT;
        case LLM_TENSOR_LAYER_REPEATING: return LLAMA_SHIM_WEIGHT_REPEATING;
        case LLM_TENSOR_LAYER_OUTPUT:    return LLAMA_SHIM_WEIGHT_OUTPUT;
    }
    return LLAMA_SHIM_WEIGHT_UNKNOWN;
}

} // namespace

llama_shim_weight_use use_of(const std::string & arch_name, const std::string & name) {
    const llm_arch arch = llm_arch_from_string(arch_name);
    std::string key = name;
    const std::string suffix = take_suffix(key);
    const int32_t block = take_block(key);
    const auto found = uses().find(key);
    if (found != uses().end()) {
        for (const llm_tensor id : found->second) {
            if (is_meant(id, arch)) {
                const llm_tensor_info & info = llm_tensor_info_for(id);
                return {layer_of(info.layer), op_of(info.op, suffix, arch), block};
            }
        }
    }
    return {LLAMA_SHIM_WEIGHT_UNKNOWN, GGML_OP_NONE, block};
}

} // namespace llama_shim

#endif
