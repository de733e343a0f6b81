#include "guard.hpp"
#include "internals.hpp"
#include "params.hpp"

#include <cstdint>

using namespace llama_shim;

namespace {

llama_memory_t memory_of(const struct llama_context * ctx) {
    require(ctx != nullptr, "the context is NULL");
    llama_memory_t memory = llama_get_memory(ctx);
    require(memory != nullptr, "the context has no memory");
    return memory;
}

// Sequences with buffers of their own are copied as a whole; a recurrent state is one
// anyway.
void check_whole(const struct llama_context * ctx, llama_pos p0, llama_pos p1) {
    const context_facts facts = facts_of(ctx);
    if (!facts.known || facts.kv_unified || llama_model_is_recurrent(llama_get_model(ctx))) {
        return;
    }
    const bool to_the_end = p1 < 0 || static_cast<uint32_t>(p1) >= llama_n_ctx_seq(ctx);
    require(p0 <= 0 && to_the_end, "without kv_unified only a whole sequence can be copied");
}

// Positions are moved when the next batch is computed, where it is too late to refuse.
void check_can_shift(const struct llama_context * ctx, llama_memory_t memory) {
    const enum llama_rope_type rope = llama_model_rope_type(llama_get_model(ctx));
    require(rope != LLAMA_ROPE_TYPE_MROPE && rope != LLAMA_ROPE_TYPE_IMROPE,
            "positions with several dimensions (M-RoPE) cannot be moved");
    require(llama_memory_can_shift(memory), "this memory cannot move positions");
}

} // namespace

enum llama_shim_status llama_shim_seq_clear(struct llama_context * ctx, bool data, char ** error) noexcept {
    return guard(error, [&] { llama_memory_clear(memory_of(ctx), data); });
}

enum llama_shim_status llama_shim_seq_rm(
        struct llama_context * ctx,
        llama_seq_id seq_id,
        llama_pos p0,
        llama_pos p1,
        bool * removed,
        char ** error) noexcept {
    if (removed != nullptr) {
        *removed = false;
    }
    return guard(error, [&] {
        llama_memory_t memory = memory_of(ctx);
        require(removed != nullptr, "there is no place for the result");
        if (seq_id != -1) {
            check_seq_id(ctx, seq_id);
        }
        *removed = llama_memory_seq_rm(memory, seq_id, p0, p1);
    });
}

enum llama_shim_status llama_shim_seq_cp(
        struct llama_context * ctx,
        llama_seq_id seq_id_src,
        llama_seq_id seq_id_dst,
        llama_pos p0,
        llama_pos p1,
        char ** error) noexcept {
    return guard(error, [&] {
        llama_memory_t memory = memory_of(ctx);
        check_seq_id(ctx, seq_id_src);
        check_seq_id(ctx, seq_id_dst);
        if (seq_id_src == seq_id_dst) {
            return;
        }
        check_whole(ctx, p0, p1);
        if (p1 == INT32_MAX) {
            p1 = -1; // the same, but llama.cpp adds one to it
        }
        llama_memory_seq_cp(memory, seq_id_src, seq_id_dst, p0, p1);
    });
}

enum llama_shim_status llama_shim_seq_keep(
        struct llama_context * ctx, llama_seq_id seq_id, char ** error) noexcept {
    return guard(error, [&] {
        llama_memory_t memory = memory_of(ctx);
        check_seq_id(ctx, seq_id);
        llama_memory_seq_keep(memory, seq_id);
    });
}

enum llama_shim_status llama_shim_seq_add(
        struct llama_context * ctx,
        llama_seq_id seq_id,
        llama_pos p0,
        llama_pos p1,
        llama_pos delta,
        char ** error) noexcept {
    return guard(error, [&] {
        llama_memory_t memory = memory_of(ctx);
        check_seq_id(ctx, seq_id);
        if (delta == 0) {
            return;
        }
        check_can_shift(ctx, memory);
        require(delta < 0 || llama_memory_seq_pos_max(memory, seq_id) <= INT32_MAX - delta,
                "a position would be moved beyond the greatest number");
        llama_memory_seq_add(memory, seq_id, p0, p1, delta);
    });
}

enum llama_shim_status llama_shim_seq_div(
        struct llama_context * ctx,
        llama_seq_id seq_id,
        llama_pos p0,
        llama_pos p1,
        int divisor,
        char ** error) noexcept {
    return guard(error, [&] {
        llama_memory_t memory = memory_of(ctx);
        check_seq_id(ctx, seq_id);
        require(divisor >= 1, "the divisor is less than one");
        if (divisor == 1) {
            return;
        }
        check_can_shift(ctx, memory);
        llama_memory_seq_div(memory, seq_id, p0, p1, divisor);
    });
}

enum llama_shim_status llama_shim_seq_pos(
        struct llama_context * ctx,
        llama_seq_id seq_id,
        llama_pos * min,
        llama_pos * max,
        char ** error) noexcept {
    if (min != nullptr) {
        *min = -1;
    }
    if (max != nullptr) {
        *max = -1;
    }
    return guard(error, [&] {
        llama_memory_t memory = memory_of(ctx);
        require(min != nullptr && max != nullptr, "there is no place for the result");
        check_seq_id(ctx, seq_id);
        *min = llama_memory_seq_pos_min(memory, seq_id);
        *max = llama_memory_seq_pos_max(memory, seq_id);
    });
}
