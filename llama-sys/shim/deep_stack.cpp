#include "deep_stack.hpp"

#include <exception>
#include <system_error>

#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>

#include <process.h>

#include <cerrno>
#include <cstdint>
#else
#include <pthread.h>
#endif

namespace llama_shim {
namespace {

struct job {
    const std::function<void()> & body;
    std::exception_ptr            exception;

    void run() noexcept {
        try {
            body();
        } catch (...) {
            exception = std::current_exception();
        }
    }
};

#ifdef _WIN32

unsigned __stdcall start(void * argument) {
    static_cast<job *>(argument)->run();
    return 0;
}

void run(job & work, std::size_t stack_size) {
    if (stack_size > UINT32_MAX) {
        throw std::system_error(ENOMEM, std::generic_category(), "no thread with a large stack");
    }
    // Reserved, not committed: pages come into being as they are touched.
    const std::uintptr_t thread = _beginthreadex(
        nullptr, static_cast<unsigned>(stack_size), start, &work, STACK_SIZE_PARAM_IS_A_RESERVATION, nullptr);
    if (thread == 0) {
        throw std::system_error(errno, std::generic_category(), "no thread with a large stack");
    }
    const auto handle = reinterpret_cast<HANDLE>(thread);
    WaitForSingleObject(handle, INFINITE);
    CloseHandle(handle);
}

#else

void * start(void * argument) {
    static_cast<job *>(argument)->run();
    return nullptr;
}

void check(int code) {
    if (code != 0) {
        throw std::system_error(code, std::generic_category(), "no thread with a large stack");
    }
}

void run(job & work, std::size_t stack_size) {
    struct owned_attributes {
        pthread_attr_t value;
        owned_attributes() { check(pthread_attr_init(&value)); }
        ~owned_attributes() { pthread_attr_destroy(&value); }
    } attributes;
    check(pthread_attr_setstacksize(&attributes.value, stack_size));
    pthread_t thread;
    check(pthread_create(&thread, &attributes.value, start, &work));
    pthread_join(thread, nullptr);
}

#endif

} // namespace

void run_on_deep_stack(std::size_t stack_size, const std::function<void()> & body) {
    job work = {body, nullptr};
    // Some systems, macOS among them, take whole pages only.
    constexpr std::size_t page = std::size_t{64} << 10;
    run(work, (stack_size + page - 1) / page * page);
    if (work.exception != nullptr) {
        std::rethrow_exception(work.exception);
    }
}

} // namespace llama_shim
