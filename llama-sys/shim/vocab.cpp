#include "deep_stack.hpp"
#include "guard.hpp"

#include <algorithm>
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
        case LLAMA_VOCAB_TYPE_PLAMO3:
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

// Byte-level BPE vocabularies for which llama.cpp has no splitter of its own (gpt-4o,
// deepseek-v3, tekken and more) are split by std::regex, which recurses once per character of
// a match: 320 bytes of stack each, measured with libstdc++ 12. A few thousand letters,
// spaces or dashes in a row overflow the 2 MiB of an ordinary thread. Where a text has a
// long match, it is tokenized on a thread with stack for it.
constexpr std::size_t deep_match      = 1024; // bytes
constexpr std::size_t stack_base      = std::size_t{1} << 20;
constexpr std::size_t stack_per_match = 1024; // per byte

bool is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

bool is_letter(char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

// An upper bound for the length of a match, and of what is tried for one. The vocabularies'
// patterns go on for as long as a text consists of
//  - space, then a word, then space or slashes (the slashes are gpt-4o's and tekken's), where a
//    word is anything but space,
//  - or letters with blanks in between (exaone-moe's, which takes a whole sentence for a match).
// A byte beyond ASCII can belong to a space, a letter or something else, so it counts as each.
std::size_t longest_match(const char * text, std::size_t size) {
    // The lengths of the runs that end at the current byte.
    std::size_t before  = 0; // space
    std::size_t word    = 0; // and then a word
    std::size_t after   = 0; // and then space or slashes
    std::size_t prose   = 0; // letters and blanks
    std::size_t longest = 0;
    for (std::size_t i = 0; i < size; ++i) {
        const char c        = text[i];
        const bool is_ascii = static_cast<unsigned char>(c) < 0x80;
        after  = !is_ascii || is_space(c) || c == '/' ? std::max(word, after) + 1 : 0;
        word   = !is_space(c) ? std::max(before, word) + 1 : 0;
        before = !is_ascii || is_space(c) ? before + 1 : 0;
        prose  = !is_ascii || is_letter(c) || c == ' ' ? prose + 1 : 0;
        // One character of any kind may come before the letters.
        longest = std::max({longest, before, word, after, prose + 1});
    }
    return longest;
}

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
        const std::size_t match = llama_vocab_type(vocab) == LLAMA_VOCAB_TYPE_BPE
            ? longest_match(bytes, static_cast<std::size_t>(text_len))
            : 0;
        if (match >= deep_match) {
            run_on_deep_stack(stack_base + stack_per_match * match, tokenize);
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
