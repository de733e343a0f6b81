#include "llama_shim_rpc.h"

#include "guard.hpp"
#include "net.hpp"

#if __has_include("ggml-rpc.h")
#include "ggml-rpc.h"
#define LLAMA_SHIM_HAS_RPC
#endif

#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#ifndef _WIN32
#include <csignal>
#include <pthread.h>
#endif

using namespace llama_shim;

#ifdef LLAMA_SHIM_HAS_RPC
namespace {

// INTERNAL: ggml/src/ggml-rpc/ggml-rpc.cpp: the wire format, as of protocol version 8.0.
// A request is a command of one byte, the size of its data as 64 bits, and the data. An
// answer is a size as 64 bits, and data. Numbers are in the byte order of the machine,
// since ggml does not convert them either. A connection begins with HELLO; DEVICE_COUNT
// has an empty request.
static_assert(RPC_PROTO_MAJOR_VERSION == 8 && RPC_PROTO_MINOR_VERSION == 0,
              "the protocol has changed: compare the messages below with ggml-rpc.cpp");

constexpr uint8_t command_hello        = 14; // RPC_CMD_HELLO
constexpr uint8_t command_device_count = 15; // RPC_CMD_DEVICE_COUNT

struct hello_request {
    uint8_t capabilities[24]; // RPC_CONN_CAPS_SIZE; zeros ask for plain TCP
};

struct hello_answer {
    uint8_t major;
    uint8_t minor;
    uint8_t patch;
    uint8_t padding;
    uint8_t capabilities[24];
};

static_assert(sizeof(hello_request) == 24 && sizeof(hello_answer) == 28, "the messages are packed");

void send_request(connection & server, uint8_t command, const void * data, uint64_t size) {
    std::vector<uint8_t> message(sizeof(command) + sizeof(size) + size);
    message[0] = command;
    std::memcpy(&message[1], &size, sizeof(size));
    if (size > 0) {
        std::memcpy(&message[1 + sizeof(size)], data, size);
    }
    server.send(message.data(), message.size());
}

template <typename Answer>
Answer receive_answer(connection & server) {
    uint64_t size = 0;
    server.receive(&size, sizeof(size));
    if (size != sizeof(Answer)) {
        fail(server.address() + " is no RPC server, or one of another version: its answer has " +
             std::to_string(size) + " bytes instead of " + std::to_string(sizeof(Answer)));
    }
    Answer answer;
    server.receive(&answer, sizeof(answer));
    return answer;
}

llama_shim_rpc_info probe(const endpoint & to, int32_t timeout_ms) {
    require(timeout_ms > 0, "the timeout is not positive");
    const deadline until = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
    connection server(to, until);

    const hello_request hello = {};
    send_request(server, command_hello, &hello, sizeof(hello));
    const auto version = receive_answer<hello_answer>(server);

    // The client's own test, of which only the abort is left out.
    if (version.major != RPC_PROTO_MAJOR_VERSION || version.minor > RPC_PROTO_MINOR_VERSION) {
        server.finish();
        fail(server.address() + " speaks version " + std::to_string(version.major) + "." +
             std::to_string(version.minor) + "." + std::to_string(version.patch) +
             " of the RPC protocol, but this build needs " + std::to_string(RPC_PROTO_MAJOR_VERSION) + "." +
             std::to_string(RPC_PROTO_MINOR_VERSION));
    }

    send_request(server, command_device_count, nullptr, 0);
    const auto n_devices = receive_answer<uint32_t>(server);
    server.finish();
    if (n_devices == 0) {
        fail(server.address() + " offers no devices");
    }
    if (n_devices > LLAMA_SHIM_RPC_MAX_DEVICES) {
        fail(server.address() + " claims to have " + std::to_string(n_devices) + " devices");
    }

    llama_shim_rpc_info info = {};
    server.address().copy(info.address, sizeof(info.address) - 1);
    info.major     = version.major;
    info.minor     = version.minor;
    info.patch     = version.patch;
    info.n_devices = n_devices;
    return info;
}

// The RPC backend's function of this name. It is asked for rather than linked, since the
// backend may be a module that is loaded at run time.
template <typename Function>
Function * rpc_function(const char * name) {
    ggml_backend_reg_t rpc = ggml_backend_reg_by_name("RPC");
    if (rpc == nullptr) {
        unsupported("llama.cpp was built without its RPC backend, or the backend's module is not loaded");
    }
    void * address = ggml_backend_reg_get_proc_address(rpc, name);
    if (address == nullptr) {
        unsupported(std::string("the RPC backend has no function ") + name);
    }
    return reinterpret_cast<Function *>(address);
}

// The servers that were added, by the address that answered.
struct added_servers {
    std::mutex                                mutex;
    std::map<std::string, ggml_backend_reg_t> by_endpoint; // as asked for
    std::map<std::string, ggml_backend_reg_t> by_address;
};

added_servers & added() {
    static added_servers & servers = *new added_servers; // outlives every thread
    return servers;
}

// llama.cpp's server writes without MSG_NOSIGNAL: a client that leaves at the wrong moment
// would end the process. Blocked, the signal stays away and the write fails.
class no_pipe_signal {
public:
#ifndef _WIN32
    no_pipe_signal() {
        sigset_t pipe;
        sigemptyset(&pipe);
        sigaddset(&pipe, SIGPIPE);
        pthread_sigmask(SIG_BLOCK, &pipe, &before_);
    }
    ~no_pipe_signal() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

private:
    sigset_t before_;
#endif
};

} // namespace
#endif // LLAMA_SHIM_HAS_RPC

enum llama_shim_status llama_shim_rpc_probe(
        const char * endpoint, int32_t timeout_ms, struct llama_shim_rpc_info * info, char ** error) noexcept {
    if (info != nullptr) {
        *info = {};
    }
    return guard(error, [&] {
#ifdef LLAMA_SHIM_HAS_RPC
        const llama_shim_rpc_info answer = probe(parse_endpoint(endpoint), timeout_ms);
        if (info != nullptr) {
            *info = answer;
        }
#else
        (void) endpoint;
        (void) timeout_ms;
        unsupported("the installed llama.cpp came without ggml-rpc.h");
#endif
    });
}

enum llama_shim_status llama_shim_rpc_add_server(
        const char * endpoint, int32_t timeout_ms, ggml_backend_reg_t * reg, char ** error) noexcept {
    if (reg != nullptr) {
        *reg = nullptr;
    }
    return guard(error, [&] {
#ifdef LLAMA_SHIM_HAS_RPC
        require(reg != nullptr, "there is no place for the result");
        const llama_shim::endpoint to = parse_endpoint(endpoint);
        auto * const add_server =
            rpc_function<ggml_backend_reg_t(const char *)>("ggml_backend_rpc_add_server");

        added_servers & servers = added();
        const std::lock_guard<std::mutex> lock(servers.mutex);
        // A server that this process uses already is too busy to be probed.
        const auto known = servers.by_endpoint.find(endpoint);
        if (known != servers.by_endpoint.end()) {
            *reg = known->second;
            return;
        }
        const std::string numeric = numeric_address(to);
        ggml_backend_reg_t & entry = servers.by_address[numeric];
        if (entry == nullptr) {
            probe(parse_endpoint(numeric.c_str()), timeout_ms);
            entry = add_server(numeric.c_str());
            if (entry == nullptr) {
                fail(numeric + " offers no devices");
            }
            ggml_backend_register(entry); // does nothing the second time
        }
        servers.by_endpoint[endpoint] = entry;
        *reg = entry;
#else
        (void) endpoint;
        (void) timeout_ms;
        unsupported("the installed llama.cpp came without ggml-rpc.h");
#endif
    });
}

enum llama_shim_status llama_shim_rpc_serve(
        const char * endpoint,
        const char * cache_dir,
        size_t n_threads,
        const ggml_backend_dev_t * devices,
        size_t n_devices,
        char ** error) noexcept {
    return guard(error, [&] {
#ifdef LLAMA_SHIM_HAS_RPC
        const llama_shim::endpoint on = parse_endpoint(endpoint);
        require(n_threads >= 1 && n_threads <= GGML_MAX_N_THREADS, "the number of threads is not from 1 to 512");
        require(devices != nullptr && n_devices > 0, "there are no devices to serve");
        require(n_devices <= LLAMA_SHIM_RPC_MAX_DEVICES, "there are too many devices to serve");
        std::vector<ggml_backend_dev_t> list(devices, devices + n_devices);
        require(std::find(list.begin(), list.end(), nullptr) == list.end(), "a device is NULL");
        require(cache_dir == nullptr || std::filesystem::is_directory(std::filesystem::u8path(cache_dir)),
                "the cache is not a folder");
        check_can_listen(on);

        auto * const start_server =
            rpc_function<void(const char *, const char *, size_t, size_t, ggml_backend_dev_t *)>(
                "ggml_backend_rpc_start_server");
        const no_pipe_signal quiet;
        start_server(endpoint, cache_dir, n_threads, list.size(), list.data());
        fail("the RPC server stopped; llama.cpp prints the reason to stderr");
#else
        (void) endpoint;
        (void) cache_dir;
        (void) n_threads;
        (void) devices;
        (void) n_devices;
        unsupported("the installed llama.cpp came without ggml-rpc.h");
#endif
    });
}
