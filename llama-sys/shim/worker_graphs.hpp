// Graphs that an RPC worker keeps, and forgets.
//
// A worker forgets all graphs that it keeps when any buffer is freed. The client does not know:
// asked to compute a graph again, it names one that is gone, the worker hangs up, and the client
// aborts. So a context reuses its last graph only if nothing else of this process has had to do
// with memory of devices since.
#pragma once

#include "llama.h"

namespace llama_shim {

// To be called where buffers of a device are made or freed.
void forget_worker_graphs() noexcept;

// Lives while a context computes.
class worker_graphs {
public:
    explicit worker_graphs(llama_context & ctx) noexcept;
    ~worker_graphs();

    worker_graphs(const worker_graphs &)             = delete;
    worker_graphs & operator=(const worker_graphs &) = delete;

private:
    bool * reuse_disabled_ = nullptr; // the context's own switch, where it was changed
};

} // namespace llama_shim
