#include "guard.hpp"
#include "grammar.hpp"
#include "regex.hpp"

#include <cmath>
#include <regex>
#include <string>
#include <vector>

using namespace llama_shim;

namespace {

bool is_chain(llama_sampler * sampler) {
    return llama_sampler_chain_get(sampler, -1) != nullptr;
}

// Calls `visit` for a sampler, or for what is in a chain, and in chains in it.
template <typename Visit>
void for_each(llama_sampler * sampler, const Visit & visit) {
    if (!is_chain(sampler)) {
        visit(sampler);
        return;
    }
    const int32_t n = llama_sampler_chain_n(sampler);
    for (int32_t i = 0; i < n; ++i) {
        for_each(llama_sampler_chain_get(sampler, i), visit);
    }
}

// Grammar samplers are told by their table of functions: a sampler of somebody else may
// have the same name. A grammar that is empty needs no vocabulary.
bool is_grammar(const llama_sampler * sampler) {
    static const llama_sampler_i * const grammar = [] {
        llama_sampler * empty = llama_sampler_init_grammar(nullptr, "", "");
        const llama_sampler_i * iface = empty->iface;
        llama_sampler_free(empty);
        return iface;
    }();
    return sampler->iface == grammar;
}

// Refuses a token that a grammar does not allow. Asking is applying the grammar to that
// one candidate: applying changes the candidates only, not the grammar.
void check_allowed(llama_sampler * sampler, llama_token token) {
    require(token >= 0, "the token is negative");
    for_each(sampler, [token](llama_sampler * part) {
        if (!is_grammar(part)) {
            return;
        }
        llama_token_data       candidate  = {token, 0.0F, 0.0F};
        llama_token_data_array candidates = {&candidate, 1, -1, false};
        llama_sampler_apply(part, &candidates);
        if (std::isinf(candidate.logit)) {
            refuse("the grammar does not allow token " + std::to_string(token));
        }
    });
}

// A grammar that threw has no way left to go on, and the next time it is applied aborts.
void reset_grammars(llama_sampler * sampler) noexcept {
    try {
        for_each(sampler, [](llama_sampler * part) {
            if (is_grammar(part)) {
                llama_sampler_reset(part);
            }
        });
    } catch (...) {
        // The exception that brought us here is the one to report.
    }
}

void accept(llama_sampler * sampler, llama_token token) {
    check_allowed(sampler, token);
    try {
        llama_sampler_accept(sampler, token);
    } catch (...) {
        reset_grammars(sampler);
        throw;
    }
}

void apply(llama_sampler * sampler, llama_token_data_array * candidates) {
    require(sampler->iface != nullptr && sampler->iface->apply != nullptr, "the sampler cannot be applied");
    require(candidates->data != nullptr && candidates->size > 0, "there are no candidates");
    llama_sampler_apply(sampler, candidates);
}

// Fills `candidates` with what a device has narrowed them to, or with the whole
// vocabulary.
void collect_candidates(llama_context * ctx, int32_t index, std::vector<llama_token_data> & candidates) {
    const float * logits = llama_get_logits_ith(ctx, index);
    if (logits == nullptr) {
        fail(); // the reason has been logged
    }
    const float *       some_probs  = llama_get_sampled_probs_ith(ctx, index);
    const float *       some_logits = llama_get_sampled_logits_ith(ctx, index);
    const llama_token * some_ids    = llama_get_sampled_candidates_ith(ctx, index);

    candidates.clear();
    if (some_logits != nullptr && some_ids != nullptr) {
        const uint32_t n = some_probs != nullptr ? llama_get_sampled_probs_count_ith(ctx, index)
                                                 : llama_get_sampled_logits_count_ith(ctx, index);
        candidates.reserve(n);
        for (uint32_t i = 0; i < n; ++i) {
            candidates.push_back({some_ids[i], some_logits[i], some_probs != nullptr ? some_probs[i] : 0.0F});
        }
    } else {
        require(some_probs == nullptr, "the device gave probabilities without logits");
        const int32_t n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(ctx)));
        candidates.reserve(static_cast<size_t>(n_vocab));
        for (llama_token id = 0; id < n_vocab; ++id) {
            candidates.push_back({id, logits[id], 0.0F});
        }
    }
}

// What `llama_sampler_sample` does. It is written anew because that function decides only
// after the sampler ran whether it aborts, when nobody can step in.
llama_token sample(llama_sampler * sampler, llama_context * ctx, int32_t index) {
    const llama_token on_device = llama_get_sampled_token_ith(ctx, index);
    if (on_device != LLAMA_TOKEN_NULL) {
        accept(sampler, on_device);
        return on_device;
    }

    // Kept from call to call: three megabytes for a large vocabulary.
    thread_local std::vector<llama_token_data> buffer;
    collect_candidates(ctx, index, buffer);

    llama_token_data_array candidates = {buffer.data(), buffer.size(), -1, false};
    apply(sampler, &candidates);
    require(candidates.selected >= 0 && static_cast<size_t>(candidates.selected) < candidates.size,
            "the sampler chose no token: a chain must end in one that chooses, such as greedy or dist");

    const llama_token token = candidates.data[candidates.selected].id;
    accept(sampler, token);
    return token;
}

// Runs a function that makes a sampler, and hands it out.
template <typename Make>
enum llama_shim_status make(struct llama_sampler ** sampler, char ** error, Make && call) noexcept {
    if (sampler != nullptr) {
        *sampler = nullptr;
    }
    return guard(error, [&] {
        require(sampler != nullptr, "there is no place for the sampler");
        *sampler = call();
        if (*sampler == nullptr) {
            fail();
        }
    });
}

// llama.cpp takes arrays of texts without const on the pointers, but only reads them.
std::vector<const char *> copy_texts(const char * const * texts, size_t n_texts) {
    require(texts != nullptr || n_texts == 0, "a list of texts is NULL");
    std::vector<const char *> copy(texts, texts + n_texts);
    for (const char * text : copy) {
        require(text != nullptr, "a text is NULL");
    }
    return copy;
}

} // namespace

enum llama_shim_status llama_shim_sampler_init_grammar(
        const struct llama_vocab * vocab,
        const char * grammar,
        const char * root,
        struct llama_sampler ** sampler,
        char ** error) noexcept {
    return make(sampler, error, [&] {
        check_grammar(vocab, grammar, root);
        return llama_sampler_init_grammar(vocab, grammar, root);
    });
}

enum llama_shim_status llama_shim_sampler_init_grammar_lazy_patterns(
        const struct llama_vocab * vocab,
        const char * grammar,
        const char * root,
        const char * const * trigger_patterns,
        size_t n_trigger_patterns,
        const llama_token * trigger_tokens,
        size_t n_trigger_tokens,
        struct llama_sampler ** sampler,
        char ** error) noexcept {
    return make(sampler, error, [&] {
        check_grammar(vocab, grammar, root);
        require(trigger_tokens != nullptr || n_trigger_tokens == 0, "the trigger tokens are NULL");
        std::vector<const char *> patterns = copy_texts(trigger_patterns, n_trigger_patterns);
        for (const char * pattern : patterns) {
            require(check_pattern(pattern).per_byte == 0,
                    "a trigger pattern has an unbounded repetition: std::regex could overflow the stack "
                    "on a long text; patterns are searched for anywhere, without a leading '.*'");
            const std::regex valid(pattern); // llama.cpp leaks the sampler if this throws within
        }
        return llama_sampler_init_grammar_lazy_patterns(
            vocab, grammar, root, patterns.data(), patterns.size(), trigger_tokens, n_trigger_tokens);
    });
}

enum llama_shim_status llama_shim_sampler_init_penalties(
        int32_t n_vocab,
        int32_t penalty_last_n,
        float penalty_repeat,
        float penalty_freq,
        float penalty_present,
        struct llama_sampler ** sampler,
        char ** error) noexcept {
    return make(sampler, error, [&] {
        require(n_vocab > 0, "the vocabulary has no tokens");
        require(penalty_last_n >= 0, "the number of tokens to penalize is negative");
        require(std::isfinite(penalty_repeat) && penalty_repeat > 0.0F,
                "the penalty for repetition is not a positive number");
        require(std::isfinite(penalty_freq) && std::isfinite(penalty_present), "a penalty is not a finite number");
        return llama_sampler_init_penalties(n_vocab, penalty_last_n, penalty_repeat, penalty_freq, penalty_present);
    });
}

enum llama_shim_status llama_shim_sampler_init_dry(
        const struct llama_vocab * vocab,
        float multiplier,
        float base,
        int32_t allowed_length,
        int32_t penalty_last_n,
        const char * const * breakers,
        size_t n_breakers,
        struct llama_sampler ** sampler,
        char ** error) noexcept {
    return make(sampler, error, [&] {
        require(vocab != nullptr && llama_vocab_type(vocab) != LLAMA_VOCAB_TYPE_NONE,
                "the sampler needs a vocabulary");
        require(penalty_last_n >= 0, "the number of tokens to penalize is negative");
        std::vector<const char *> texts = copy_texts(breakers, n_breakers);
        return llama_sampler_init_dry(
            vocab, multiplier, base, allowed_length, penalty_last_n, texts.data(), texts.size());
    });
}

enum llama_shim_status llama_shim_sampler_init_logit_bias(
        int32_t n_vocab,
        const llama_logit_bias * biases,
        size_t n_biases,
        struct llama_sampler ** sampler,
        char ** error) noexcept {
    return make(sampler, error, [&] {
        require(biases != nullptr || n_biases == 0, "the biases are NULL");
        require(n_biases <= INT32_MAX, "there are too many biases");
        for (size_t i = 0; i < n_biases; ++i) {
            require(biases[i].token >= 0 && biases[i].token < n_vocab,
                    "a bias is for a token that is not in the vocabulary");
        }
        return llama_sampler_init_logit_bias(n_vocab, static_cast<int32_t>(n_biases), biases);
    });
}

enum llama_shim_status llama_shim_sampler_init_infill(
        const struct llama_vocab * vocab, struct llama_sampler ** sampler, char ** error) noexcept {
    return make(sampler, error, [&] {
        require(vocab != nullptr && llama_vocab_type(vocab) != LLAMA_VOCAB_TYPE_NONE,
                "the sampler needs a vocabulary");
        // It asserts that there is one, on the day when it finds nothing better to choose.
        require(llama_vocab_eot(vocab) != LLAMA_TOKEN_NULL || llama_vocab_eos(vocab) != LLAMA_TOKEN_NULL,
                "the vocabulary has no token that ends a turn or a text");
        return llama_sampler_init_infill(vocab);
    });
}

enum llama_shim_status llama_shim_sampler_chain_add(
        struct llama_sampler * chain, struct llama_sampler * sampler, char ** error) noexcept {
    return guard(error, [&] {
        require(is_chain(chain), "the sampler to add to is not a chain");
        require(sampler != nullptr, "the sampler is NULL");
        require(sampler != chain, "a chain cannot hold itself");
        llama_sampler_chain_add(chain, sampler);
    });
}

enum llama_shim_status llama_shim_sampler_accept(
        struct llama_sampler * sampler, llama_token token, char ** error) noexcept {
    return guard(error, [&] {
        require(sampler != nullptr, "the sampler is NULL");
        accept(sampler, token);
    });
}

enum llama_shim_status llama_shim_sampler_apply(
        struct llama_sampler * sampler, llama_token_data_array * candidates, char ** error) noexcept {
    return guard(error, [&] {
        require(sampler != nullptr && candidates != nullptr, "an argument is NULL");
        apply(sampler, candidates);
    });
}

enum llama_shim_status llama_shim_sampler_sample(
        struct llama_sampler * sampler,
        struct llama_context * ctx,
        int32_t index,
        llama_token * token,
        char ** error) noexcept {
    if (token != nullptr) {
        *token = LLAMA_TOKEN_NULL;
    }
    return guard(error, [&] {
        require(sampler != nullptr && ctx != nullptr && token != nullptr, "an argument is NULL");
        *token = sample(sampler, ctx, index);
    });
}

enum llama_shim_status llama_shim_sampler_reset(struct llama_sampler * sampler, char ** error) noexcept {
    return guard(error, [&] {
        require(sampler != nullptr, "the sampler is NULL");
        llama_sampler_reset(sampler);
    });
}

enum llama_shim_status llama_shim_sampler_clone(
        const struct llama_sampler * sampler, struct llama_sampler ** clone, char ** error) noexcept {
    return make(clone, error, [&] {
        require(sampler != nullptr, "the sampler is NULL");
        // Only chains are looked into, and nothing is changed.
        for_each(const_cast<llama_sampler *>(sampler), [](llama_sampler * part) {
            require(part->iface->clone != nullptr || part->ctx == nullptr,
                    "a sampler does not implement `clone`");
        });
        return llama_sampler_clone(sampler);
    });
}

enum llama_shim_status llama_shim_sampler_free(struct llama_sampler * sampler, char ** error) noexcept {
    return guard(error, [&] { llama_sampler_free(sampler); });
}
