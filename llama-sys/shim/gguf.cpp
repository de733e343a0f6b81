#include "guard.hpp"

#include <algorithm>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

using namespace llama_shim;

namespace {

// Runs a reading function and hands out its result.
template <typename Read>
enum llama_shim_status read(
        const struct gguf_init_params * params, struct gguf_context ** gguf, char ** error, Read && call) noexcept {
    if (gguf != nullptr) {
        *gguf = nullptr;
    }
    return guard(error, [&] {
        require(gguf != nullptr, "there is no place for the result");
        require(params != nullptr, "the parameters are NULL");
        *gguf = call();
        if (*gguf == nullptr) {
            fail();
        }
    });
}

void check_key(const struct gguf_context * gguf, int64_t key_id) {
    require(gguf != nullptr, "the GGUF header is NULL");
    require(key_id >= 0 && key_id < gguf_get_n_kv(gguf), "the GGUF header has no key with this index");
}

void check_texts(const struct gguf_context * gguf, int64_t key_id) {
    check_key(gguf, key_id);
    require(gguf_get_kv_type(gguf, key_id) == GGUF_TYPE_ARRAY &&
                gguf_get_arr_type(gguf, key_id) == GGUF_TYPE_STRING,
            "the value is not an array of strings");
}

// A text as a vocabulary reads it.
struct vocabulary_text {
    std::string      name;
    std::string_view view;

    vocabulary_text(const struct gguf_context * gguf, int64_t key_id, size_t index)
        : view(gguf_get_arr_str(gguf, key_id, index)) {
        if (view.empty()) {
            name = "[EMPTY_" + std::to_string(index) + "]";
            view = name;
        }
    }

    vocabulary_text(const vocabulary_text &) = delete;
};

// A caller's callback that is not trusted with its return value: ggml aborts on more
// bytes than it asked for.
struct checked_reader {
    gguf_reader_callback_t callback;
    void *                 user_data;

    static size_t read(void * self, void * output, uint64_t offset, size_t len) {
        const auto & reader = *static_cast<const checked_reader *>(self);
        return std::min(len, reader.callback(reader.user_data, output, offset, len));
    }
};

} // namespace

enum llama_shim_status llama_shim_gguf_init_from_file(
        const char * path,
        const struct gguf_init_params * params,
        struct gguf_context ** gguf,
        char ** error) noexcept {
    return read(params, gguf, error, [&] {
        require(path != nullptr, "the path is NULL");
        return gguf_init_from_file(path, *params);
    });
}

enum llama_shim_status llama_shim_gguf_init_from_buffer(
        const void * data,
        size_t size,
        const struct gguf_init_params * params,
        struct gguf_context ** gguf,
        char ** error) noexcept {
    return read(params, gguf, error, [&] {
        require(data != nullptr && size > 0, "there are no bytes to read");
        return gguf_init_from_buffer(data, size, *params);
    });
}

enum llama_shim_status llama_shim_gguf_init_from_callback(
        gguf_reader_callback_t callback,
        void * user_data,
        size_t max_chunk,
        uint64_t max_size,
        const struct gguf_init_params * params,
        struct gguf_context ** gguf,
        char ** error) noexcept {
    return read(params, gguf, error, [&] {
        require(callback != nullptr, "the callback is NULL");
        checked_reader reader{callback, user_data};
        return gguf_init_from_callback(checked_reader::read, &reader, max_chunk, max_size, *params);
    });
}

enum llama_shim_status llama_shim_gguf_free(struct gguf_context * gguf, char ** error) noexcept {
    return guard(error, [&] { gguf_free(gguf); });
}

enum llama_shim_status llama_shim_gguf_get_kv(
        const struct gguf_context * gguf,
        int64_t key_id,
        struct llama_shim_gguf_kv * kv,
        char ** error) noexcept {
    if (kv != nullptr) {
        *kv = {};
    }
    return guard(error, [&] {
        require(kv != nullptr, "there is no place for the result");
        check_key(gguf, key_id);
        kv->key  = gguf_get_key(gguf, key_id);
        kv->type = gguf_get_kv_type(gguf, key_id);
        if (kv->type == GGUF_TYPE_ARRAY) {
            kv->element_type = gguf_get_arr_type(gguf, key_id);
            kv->n            = gguf_get_arr_n(gguf, key_id);
            if (kv->element_type != GGUF_TYPE_STRING && kv->n > 0) {
                kv->data = gguf_get_arr_data(gguf, key_id);
            }
        } else {
            kv->element_type = kv->type;
            kv->n            = 1;
            if (kv->type == GGUF_TYPE_STRING) {
                kv->string = gguf_get_val_str(gguf, key_id);
            } else {
                kv->data = gguf_get_val_data(gguf, key_id);
            }
        }
    });
}

enum llama_shim_status llama_shim_gguf_get_arr_str(
        const struct gguf_context * gguf,
        int64_t key_id,
        size_t index,
        const char ** string,
        char ** error) noexcept {
    if (string != nullptr) {
        *string = nullptr;
    }
    return guard(error, [&] {
        require(string != nullptr, "there is no place for the result");
        check_texts(gguf, key_id);
        require(index < gguf_get_arr_n(gguf, key_id), "the array has no element with this index");
        *string = gguf_get_arr_str(gguf, key_id, index);
    });
}

enum llama_shim_status llama_shim_gguf_find_repeated(
        const struct gguf_context * gguf,
        int64_t key_id,
        size_t * index,
        char ** error) noexcept {
    if (index != nullptr) {
        *index = 0;
    }
    return guard(error, [&] {
        require(index != nullptr, "there is no place for the result");
        check_texts(gguf, key_id);
        const size_t n = gguf_get_arr_n(gguf, key_id);
        require(n <= UINT32_MAX / 2, "the array is too long");
        // The hash and the index + 1 of a text, at the first free place from the hash on:
        // std::unordered_set would allocate a node for each of a vocabulary's texts.
        struct place {
            uint32_t hash;
            uint32_t index;
        };
        size_t n_places = 4;
        while (n_places < 2 * n) {
            n_places *= 2;
        }
        std::vector<place> places(n_places);
        for (*index = 0; *index < n; ++*index) {
            const vocabulary_text text(gguf, key_id, *index);
            const uint32_t hash = static_cast<uint32_t>(std::hash<std::string_view>()(text.view));
            size_t at = hash & (n_places - 1);
            for (; places[at].index != 0; at = (at + 1) & (n_places - 1)) {
                if (places[at].hash == hash &&
                        vocabulary_text(gguf, key_id, places[at].index - 1).view == text.view) {
                    return;
                }
            }
            places[at] = {hash, static_cast<uint32_t>(*index + 1)};
        }
    });
}

enum llama_shim_status llama_shim_gguf_get_tensor(
        const struct gguf_context * gguf,
        int64_t tensor_id,
        struct llama_shim_gguf_tensor * tensor,
        char ** error) noexcept {
    if (tensor != nullptr) {
        *tensor = {};
    }
    return guard(error, [&] {
        require(gguf != nullptr, "the GGUF header is NULL");
        require(tensor != nullptr, "there is no place for the result");
        require(tensor_id >= 0 && tensor_id < gguf_get_n_tensors(gguf),
                "the GGUF header has no tensor with this index");
        tensor->name   = gguf_get_tensor_name(gguf, tensor_id);
        tensor->type   = gguf_get_tensor_type(gguf, tensor_id);
        tensor->offset = gguf_get_tensor_offset(gguf, tensor_id);
        tensor->size   = gguf_get_tensor_size(gguf, tensor_id);
        std::copy_n(gguf_get_tensor_ne(gguf, tensor_id), GGML_MAX_DIMS, tensor->ne);
    });
}

enum llama_shim_status llama_shim_gguf_write_to_file(
        const struct gguf_context * gguf,
        const char * path,
        bool only_meta,
        char ** error) noexcept {
    return guard(error, [&] {
        require(gguf != nullptr, "the GGUF header is NULL");
        require(path != nullptr, "the path is NULL");
        if (!gguf_write_to_file(gguf, path, only_meta)) {
            fail();
        }
    });
}
