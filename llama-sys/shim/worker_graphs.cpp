#include "worker_graphs.hpp"

#include "internals.hpp"

#include <atomic>

namespace llama_shim {

namespace {

// The context that computed last; NULL once something else has made or freed buffers.
std::atomic<const llama_context *> & last_to_compute() {
    static std::atomic<const llama_context *> context{nullptr};
    return context;
}

} // namespace

void forget_worker_graphs() noexcept {
    last_to_compute() = nullptr;
}

worker_graphs::worker_graphs(llama_context & ctx) noexcept {
    const bool is_first = last_to_compute().exchange(&ctx) != &ctx;
    bool * disabled = is_first ? graph_reuse_switch_of(ctx) : nullptr;
    if (disabled != nullptr && !*disabled) {
        *disabled       = true;
        reuse_disabled_ = disabled;
    }
}

worker_graphs::~worker_graphs() {
    if (reuse_disabled_ != nullptr) {
        *reuse_disabled_ = false;
    }
}

} // namespace llama_shim
