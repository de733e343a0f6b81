#include "guard.hpp"

#include <cstdint>

using namespace llama_shim;

enum llama_shim_status llama_shim_chat_apply_template(
        const char * tmpl,
        const struct llama_chat_message * messages,
        size_t n_messages,
        bool add_assistant,
        char * buffer,
        int32_t buffer_len,
        int32_t * text_len,
        char ** error) noexcept {
    if (text_len != nullptr) {
        *text_len = 0;
    }
    return guard(error, [&] {
        require(text_len != nullptr, "there is no place for the length of the text");
        require(messages != nullptr || n_messages == 0, "the messages are NULL");
        require(buffer_len >= 0 && (buffer != nullptr || buffer_len == 0),
                "the buffer for text is NULL or its length negative");
        for (size_t i = 0; i < n_messages; ++i) {
            require(messages[i].role != nullptr && messages[i].content != nullptr,
                    "the role or the content of a message is NULL");
        }
        const int32_t length =
            llama_chat_apply_template(tmpl, messages, n_messages, add_assistant, buffer, buffer_len);
        if (length < 0) {
            fail("the chat template is not one of llama.cpp's built-in ones");
        }
        *text_len = length;
    });
}
