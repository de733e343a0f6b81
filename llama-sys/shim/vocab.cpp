#include "deep_stack.hpp"
#include "guard.hpp"

#include <cstdint>

using namespace llama_shim;

namespace {

void check_vocab(const struct llama_vocab * vocab) {
    require(vocab != nullptr, "the vocabulary is NULL");
    require(llama_vocab_type(vocab) != LLAMA_VOCAB_TYPE_NONE, "the model has no vocabulary");
}

void check_token(const struct llama_vocab * vocab, llama_token token) {
    require(token >= 0 && token < llama_vocab_n_tokens(vocab), "the vocabulary has no token with this id");
}

// Refuses what llama_vocab::impl::tokenize asserts: that the special tokens exist which the
// model wants around a text.
void check_special_tokens(const struct llama_vocab * vocab) {
    const bool has_bos = llama_vocab_bos(vocab) != LLAMA_TOKEN_NULL;
    const bool has_eos = llama_vocab_eos(vocab) != LLAMA_TOKEN_NULL;
    const bool has_sep = llama_vocab_sep(vocab) != LLAMA_TOKEN_NULL;
    switch (llama_vocab_type(vocab)) {
        case LLAMA_VOCAB_TYPE_SPM:
        case LLAMA_VOCAB_TYPE_BPE:
        case LLAMA_VOCAB_TYPE_UGM:
        case LLAMA_VOCAB_TYPE_PLAMO2:
            require(has_bos || !llama_vocab_get_add_bos(vocab),
                    "the model wants a beginning-of-sentence token, but has none");
            require(has_eos || !llama_vocab_get_add_eos(vocab),
                    "the model wants an end-of-sentence token, but has none");
            break;
        case LLAMA_VOCAB_TYPE_WPM:
            require(has_bos && has_sep, "the model wants special tokens around a text, but does not have them");
            break;
        case LLAMA_VOCAB_TYPE_NONE:
        case LLAMA_VOCAB_TYPE_RWKV:
        case LLAMA_VOCAB_TYPE_TEST:
            break;
    }
}

// Byte-level BPE vocabularies for which llama.cpp has no splitter of its own are split by
// std::regex, which recurses for each character of a run of letters. A text that is short
// enough for the stack at hand is tokenized on it; a longer one on a thread whose stack
// holds a single run of its whole length.
constexpr int32_t     deep_from_bytes     = 1024;
constexpr std::size_t stack_base          = std::size_t{1} << 20;
constexpr std::size_t stack_per_text_byte = 1024;

} // namespace

enum llama_shim_status llama_shim_tokenize(
        const struct llama_vocab * vocab,
        const char * text,
        int32_t text_len,
        llama_token * tokens,
        int32_t n_tokens_max,
        bool add_special,
        bool parse_special,
        int32_t * n_tokens,
        char ** error) noexcept {
    if (n_tokens != nullptr) {
        *n_tokens = 0;
    }
    return guard(error, [&] {
        check_vocab(vocab);
        require(n_tokens != nullptr, "there is no place for the number of tokens");
        require(text_len >= 0 && (text != nullptr || text_len == 0), "the text is NULL or its length negative");
        require(n_tokens_max >= 0 && (tokens != nullptr || n_tokens_max == 0),
                "the buffer for tokens is NULL or its length negative");
        if (add_special) {
            check_special_tokens(vocab);
        }

        const char * bytes = text != nullptr ? text : "";
        int32_t count = 0;
        const auto tokenize = [&] {
            count = llama_tokenize(vocab, bytes, text_len, tokens, n_tokens_max, add_special, parse_special);
        };
        if (text_len >= deep_from_bytes && llama_vocab_type(vocab) == LLAMA_VOCAB_TYPE_BPE) {
            run_on_deep_stack(stack_base + stack_per_text_byte * static_cast<std::size_t>(text_len), tokenize);
        } else {
            tokenize();
        }
        if (count == INT32_MIN) {
            fail("the text has more than 2^31 tokens");
        }
        *n_tokens = count < 0 ? -count : count;
    });
}

enum llama_shim_status llama_shim_detokenize(
        const struct llama_vocab * vocab,
        const llama_token * tokens,
        int32_t n_tokens,
        char * text,
        int32_t text_len_max,
        bool remove_special,
        bool unparse_special,
        int32_t * text_len,
        char ** error) noexcept {
    if (text_len != nullptr) {
        *text_len = 0;
    }
    return guard(error, [&] {
        check_vocab(vocab);
        require(text_len != nullptr, "there is no place for the length of the text");
        require(n_tokens >= 0 && (tokens != nullptr || n_tokens == 0),
                "the tokens are NULL or their number negative");
        require(text_len_max >= 0 && (text != nullptr || text_len_max == 0),
                "the buffer for text is NULL or its length negative");
        for (int32_t i = 0; i < n_tokens; ++i) {
            check_token(vocab, tokens[i]);
        }
        const int32_t length =
            llama_detokenize(vocab, tokens, n_tokens, text, text_len_max, remove_special, unparse_special);
        *text_len = length < 0 ? -length : length;
    });
}

enum llama_shim_status llama_shim_token_to_piece(
        const struct llama_vocab * vocab,
        llama_token token,
        char * buffer,
        int32_t buffer_len,
        int32_t lstrip,
        bool special,
        int32_t * piece_len,
        char ** error) noexcept {
    if (piece_len != nullptr) {
        *piece_len = 0;
    }
    return guard(error, [&] {
        check_vocab(vocab);
        check_token(vocab, token);
        require(piece_len != nullptr, "there is no place for the length of the text");
        require(buffer_len >= 0 && (buffer != nullptr || buffer_len == 0),
                "the buffer for text is NULL or its length negative");
        const int32_t length = llama_token_to_piece(vocab, token, buffer, buffer_len, lstrip, special);
        *piece_len = length < 0 ? -length : length;
    });
}

enum llama_shim_status llama_shim_vocab_get(
        const struct llama_vocab * vocab,
        llama_token token,
        struct llama_shim_token * description,
        char ** error) noexcept {
    if (description != nullptr) {
        *description = {};
    }
    return guard(error, [&] {
        check_vocab(vocab);
        check_token(vocab, token);
        require(description != nullptr, "there is no place for the result");
        description->text       = llama_vocab_get_text(vocab, token);
        description->score      = llama_vocab_get_score(vocab, token);
        description->attr       = llama_vocab_get_attr(vocab, token);
        description->is_control = llama_vocab_is_control(vocab, token);
        description->is_eog     = llama_vocab_is_eog(vocab, token);
    });
}
