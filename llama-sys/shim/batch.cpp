#include "guard.hpp"
#include "internals.hpp"
#include "worker_graphs.hpp"

using namespace llama_shim;

namespace {

enum class pass { encode, decode };

// What a batch asks of a context.
struct demand {
    size_t n_tokens;
    size_t n_outputs;
};

// Refuses what llama_context::{encode, decode} answer with an abort.
void check_capacity(const struct llama_context & ctx, pass which, const demand & batch) {
    require(!is_no_alloc(llama_get_model(&ctx)), "the model was loaded without weights");

    // Without a memory llama.cpp encodes, whatever it is asked for.
    const bool has_memory = llama_get_memory(&ctx) != nullptr;
    const bool encodes    = which == pass::encode || !has_memory;
    // An encoder's pass has no access to the memory, which a decoder's graph reads unasked.
    require(!encodes || !has_memory || llama_model_has_encoder(llama_get_model(&ctx)),
            "the model has no encoder");
    if (encodes) {
        require(batch.n_tokens <= llama_n_ubatch(&ctx), "an encoder's batch has more tokens than n_ubatch");
    } else {
        require(batch.n_tokens <= llama_n_batch(&ctx), "the batch has more tokens than n_batch");
        require(llama_get_causal_attn(&ctx) || batch.n_tokens <= llama_n_ubatch(&ctx),
                "without causal attention, a batch has at most n_ubatch tokens");
    }

    const context_facts facts = facts_of(&ctx);
    if (facts.known) {
        const size_t n_outputs = encodes || facts.embeddings ? batch.n_tokens : batch.n_outputs;
        require(n_outputs <= facts.n_outputs_max, "the batch has more outputs than n_outputs_max");
    }
}

// Refuses contents of a batch that llama.cpp uses before it checks them, and counts
// what is asked for.
demand check_contents(const struct llama_context & ctx, const struct llama_batch & batch) {
    require(batch.n_tokens >= 0, "the batch has a negative number of tokens");
    require(batch.token != nullptr || batch.embd != nullptr || batch.n_tokens == 0,
            "the batch has neither tokens nor embeddings");
    require((batch.n_seq_id == nullptr) == (batch.seq_id == nullptr),
            "the batch has only one of n_seq_id and seq_id");

    const auto n_seq_max = static_cast<int32_t>(llama_n_seq_max(&ctx));
    size_t n_outputs = batch.logits == nullptr && batch.n_tokens > 0 ? 1 : 0;
    for (int32_t i = 0; i < batch.n_tokens; ++i) {
        if (batch.seq_id != nullptr) {
            require(batch.n_seq_id[i] > 0, "a token of the batch belongs to no sequence");
            require(batch.seq_id[i] != nullptr, "a token's list of sequences is NULL");
            for (int32_t s = 0; s < batch.n_seq_id[i]; ++s) {
                require(batch.seq_id[i][s] >= 0 && batch.seq_id[i][s] < n_seq_max,
                        "a token of the batch belongs to a sequence that the context does not have");
            }
        }
        require(batch.pos == nullptr || batch.pos[i] >= 0, "a token of the batch has a negative position");
        n_outputs += batch.logits != nullptr && batch.logits[i] != 0 ? 1 : 0;
    }
    return {static_cast<size_t>(batch.n_tokens), n_outputs};
}

template <typename Compute>
enum llama_shim_status compute(int32_t * result, char ** error, Compute && call) noexcept {
    if (result != nullptr) {
        *result = 0;
    }
    return guard(error, [&] {
        require(result != nullptr, "there is no place for the result");
        *result = call();
        if (*result != 0) {
            fail();
        }
    });
}

// Runs a call that adds to an extended batch; negative results are failures.
template <typename Add>
enum llama_shim_status add(struct llama_batch_ext * batch, int32_t * index, char ** error, Add && call) noexcept {
    if (index != nullptr) {
        *index = -1;
    }
    return guard(error, [&] {
        require(batch != nullptr && index != nullptr, "an argument is NULL");
        const int32_t added = call();
        switch (added) {
            case -1: fail("the batch is full");
            case -2: fail("the token or the embedding is not one of the model's");
            case -3: fail("the context has no sequence with this id");
            default: break;
        }
        if (added < 0) {
            fail();
        }
        *index = added;
    });
}

void check_embd(const struct llama_embd * embd) {
    require(embd != nullptr && embd->data != nullptr, "the embedding is NULL");
}

} // namespace

enum llama_shim_status llama_shim_decode(
        struct llama_context * ctx, const struct llama_batch * batch, int32_t * result, char ** error) noexcept {
    return compute(result, error, [&] {
        require(ctx != nullptr && batch != nullptr, "an argument is NULL");
        check_capacity(*ctx, pass::decode, check_contents(*ctx, *batch));
        const worker_graphs graphs(*ctx);
        return llama_decode(ctx, *batch);
    });
}

enum llama_shim_status llama_shim_encode(
        struct llama_context * ctx, const struct llama_batch * batch, int32_t * result, char ** error) noexcept {
    return compute(result, error, [&] {
        require(ctx != nullptr && batch != nullptr, "an argument is NULL");
        check_capacity(*ctx, pass::encode, check_contents(*ctx, *batch));
        const worker_graphs graphs(*ctx);
        return llama_encode(ctx, *batch);
    });
}

enum llama_shim_status llama_shim_process(
        struct llama_context * ctx,
        enum llama_process_type type,
        struct llama_batch_ext * batch,
        int32_t * result,
        char ** error) noexcept {
    return compute(result, error, [&] {
        require(ctx != nullptr && batch != nullptr, "an argument is NULL");
        require(type == LLAMA_PROCESS_TYPE_ENCODE || type == LLAMA_PROCESS_TYPE_DECODE,
                "there is no such type of processing");
        const batch_facts facts = facts_of(batch);
        if (facts.known) {
            require(facts.memory == llama_get_memory(ctx), "the batch was made for another context");
            require(!facts.has_negative_position, "an entry of the batch has a negative position");
            check_capacity(
                *ctx,
                type == LLAMA_PROCESS_TYPE_ENCODE ? pass::encode : pass::decode,
                {facts.n_tokens, facts.n_outputs});
        }
        const worker_graphs graphs(*ctx);
        return llama_process(ctx, type, batch);
    });
}

enum llama_shim_status llama_shim_batch_ext_init(
        struct llama_context * ctx, struct llama_batch_ext ** batch, char ** error) noexcept {
    if (batch != nullptr) {
        *batch = nullptr;
    }
    return guard(error, [&] {
        require(ctx != nullptr && batch != nullptr, "an argument is NULL");
        *batch = llama_batch_ext_init(ctx);
    });
}

enum llama_shim_status llama_shim_batch_ext_free(struct llama_batch_ext * batch, char ** error) noexcept {
    return guard(error, [&] { llama_batch_ext_free(batch); });
}

enum llama_shim_status llama_shim_batch_ext_add(
        struct llama_batch_ext * batch, llama_seq_id seq_id, int32_t * index, char ** error) noexcept {
    return add(batch, index, error, [&] { return llama_batch_ext_add(batch, seq_id); });
}

enum llama_shim_status llama_shim_batch_ext_add_token(
        struct llama_batch_ext * batch,
        llama_seq_id seq_id,
        llama_token token,
        int32_t * index,
        char ** error) noexcept {
    return add(batch, index, error, [&] { return llama_batch_ext_add_token(batch, seq_id, token); });
}

enum llama_shim_status llama_shim_batch_ext_add_embd(
        struct llama_batch_ext * batch,
        llama_seq_id seq_id,
        const struct llama_embd * embd,
        int32_t * index,
        char ** error) noexcept {
    return add(batch, index, error, [&] {
        check_embd(embd);
        return llama_batch_ext_add_embd(batch, seq_id, *embd);
    });
}

enum llama_shim_status llama_shim_batch_ext_add_seq(
        struct llama_batch_ext * batch, int32_t index, llama_seq_id seq_id, char ** error) noexcept {
    return guard(error, [&] {
        require(batch != nullptr, "the batch is NULL");
        if (!llama_batch_ext_add_seq(batch, index, seq_id)) {
            fail("the batch has no entry with this index, or the context no sequence with this id");
        }
    });
}

enum llama_shim_status llama_shim_batch_ext_set_embd_token(
        struct llama_batch_ext * batch, int32_t index, const struct llama_embd * embd, char ** error) noexcept {
    return guard(error, [&] {
        require(batch != nullptr, "the batch is NULL");
        check_embd(embd);
        const log_capture log;
        if (!llama_batch_ext_set_embd_token(batch, index, *embd)) {
            const std::string reason = log.reason();
            fail(!reason.empty() ? reason : "the batch has no entry with this index");
        }
    });
}
