#include "guard.hpp"
#include "internals.hpp"
#include "params.hpp"

#include <cstdint>

using namespace llama_shim;

namespace {

// Runs a call whose result is a number of bytes, and for which none is a failure.
template <typename Transfer>
enum llama_shim_status transfer(
        const struct llama_context * ctx, size_t * size, char ** error, Transfer && call) noexcept {
    if (size != nullptr) {
        *size = 0;
    }
    return guard(error, [&] {
        require(ctx != nullptr, "the context is NULL");
        require(size != nullptr, "there is no place for the size");
        *size = call();
        if (*size == 0) {
            fail();
        }
    });
}

// There is no place for the contents where nothing was allocated.
void check_can_restore(const struct llama_context * ctx) {
    require(!is_no_alloc(llama_get_model(ctx)), "the model was loaded without weights");
}

// Files count tokens in 32 bits.
void check_tokens(const llama_token * tokens, size_t n_tokens) {
    require(tokens != nullptr || n_tokens == 0, "the tokens are NULL");
    require(n_tokens <= UINT32_MAX, "there are too many tokens for a file");
}

} // namespace

enum llama_shim_status llama_shim_state_get_size(
        struct llama_context * ctx, size_t * size, char ** error) noexcept {
    return transfer(ctx, size, error, [&] { return llama_state_get_size(ctx); });
}

enum llama_shim_status llama_shim_state_get_data(
        struct llama_context * ctx, uint8_t * data, size_t capacity, size_t * size, char ** error) noexcept {
    return transfer(ctx, size, error, [&] {
        require(data != nullptr, "the buffer is NULL");
        return llama_state_get_data(ctx, data, capacity);
    });
}

enum llama_shim_status llama_shim_state_set_data(
        struct llama_context * ctx, const uint8_t * data, size_t size, size_t * size_read, char ** error) noexcept {
    return transfer(ctx, size_read, error, [&] {
        check_can_restore(ctx);
        require(data != nullptr, "the data are NULL");
        return llama_state_set_data(ctx, data, size);
    });
}

enum llama_shim_status llama_shim_state_save_file(
        struct llama_context * ctx,
        const char * path,
        const llama_token * tokens,
        size_t n_tokens,
        char ** error) noexcept {
    return guard(error, [&] {
        require(ctx != nullptr && path != nullptr, "an argument is NULL");
        check_tokens(tokens, n_tokens);
        if (!llama_state_save_file(ctx, path, tokens, n_tokens)) {
            fail();
        }
    });
}

enum llama_shim_status llama_shim_state_load_file(
        struct llama_context * ctx,
        const char * path,
        llama_token * tokens,
        size_t capacity,
        size_t * n_tokens,
        char ** error) noexcept {
    if (n_tokens != nullptr) {
        *n_tokens = 0;
    }
    return guard(error, [&] {
        require(ctx != nullptr && path != nullptr && n_tokens != nullptr, "an argument is NULL");
        require(tokens != nullptr || capacity == 0, "the buffer for tokens is NULL");
        check_can_restore(ctx);
        if (!llama_state_load_file(ctx, path, tokens, capacity, n_tokens)) {
            *n_tokens = 0;
            fail();
        }
    });
}

enum llama_shim_status llama_shim_state_seq_get_size(
        struct llama_context * ctx,
        llama_seq_id seq_id,
        llama_state_seq_flags flags,
        size_t * size,
        char ** error) noexcept {
    return transfer(ctx, size, error, [&] {
        check_seq_id(ctx, seq_id);
        return llama_state_seq_get_size_ext(ctx, seq_id, flags);
    });
}

enum llama_shim_status llama_shim_state_seq_get_data(
        struct llama_context * ctx,
        llama_seq_id seq_id,
        llama_state_seq_flags flags,
        uint8_t * data,
        size_t capacity,
        size_t * size,
        char ** error) noexcept {
    return transfer(ctx, size, error, [&] {
        check_seq_id(ctx, seq_id);
        require(data != nullptr, "the buffer is NULL");
        return llama_state_seq_get_data_ext(ctx, data, capacity, seq_id, flags);
    });
}

enum llama_shim_status llama_shim_state_seq_set_data(
        struct llama_context * ctx,
        llama_seq_id seq_id,
        llama_state_seq_flags flags,
        const uint8_t * data,
        size_t size,
        size_t * size_read,
        char ** error) noexcept {
    return transfer(ctx, size_read, error, [&] {
        check_can_restore(ctx);
        check_seq_id(ctx, seq_id);
        require(data != nullptr, "the data are NULL");
        return llama_state_seq_set_data_ext(ctx, data, size, seq_id, flags);
    });
}

enum llama_shim_status llama_shim_state_seq_save_file(
        struct llama_context * ctx,
        const char * path,
        llama_seq_id seq_id,
        const llama_token * tokens,
        size_t n_tokens,
        size_t * size,
        char ** error) noexcept {
    return transfer(ctx, size, error, [&] {
        require(path != nullptr, "the path is NULL");
        check_seq_id(ctx, seq_id);
        check_tokens(tokens, n_tokens);
        return llama_state_seq_save_file(ctx, path, seq_id, tokens, n_tokens);
    });
}

enum llama_shim_status llama_shim_state_seq_load_file(
        struct llama_context * ctx,
        const char * path,
        llama_seq_id seq_id,
        llama_token * tokens,
        size_t capacity,
        size_t * n_tokens,
        size_t * size_read,
        char ** error) noexcept {
    if (n_tokens != nullptr) {
        *n_tokens = 0;
    }
    return transfer(ctx, size_read, error, [&] {
        require(path != nullptr, "the path is NULL");
        require(n_tokens != nullptr, "there is no place for the number of tokens");
        if (tokens != nullptr) {
            check_can_restore(ctx);
        }
        check_seq_id(ctx, seq_id);
        const size_t read = llama_state_seq_load_file(ctx, path, seq_id, tokens, capacity, n_tokens);
        if (read == 0) {
            *n_tokens = 0;
        }
        return read;
    });
}
