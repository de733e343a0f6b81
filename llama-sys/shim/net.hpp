// The little of TCP that the probe needs, on POSIX and Windows.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>

namespace llama_shim {

// "host:port" with the port as a number.
struct endpoint {
    std::string host;
    uint16_t    port = 0;
};

// Reads an endpoint, and refuses what llama.cpp reads differently or not at all: it splits
// at the first colon, so there is no IPv6, and takes any number for a port.
endpoint parse_endpoint(const char * text);

// The same endpoint with the host's first IPv4 address, which is the one that llama.cpp
// takes.
std::string numeric_address(const endpoint & name);

using deadline = std::chrono::steady_clock::time_point;

// A client's connection. Every failure, and the deadline, is reported by `fail`.
class connection {
public:
    // Resolves the host's first IPv4 address, as llama.cpp does, and connects to it.
    connection(const endpoint & to, deadline until);
    ~connection();

    connection(const connection &) = delete;
    connection & operator=(const connection &) = delete;

    void send(const void * data, std::size_t size);
    void receive(void * data, std::size_t size);

    // No answer is on its way any more: the end needs no care.
    void finish() noexcept { finished_ = true; }

    // The address connected to, as "1.2.3.4:50052".
    const std::string & address() const noexcept { return address_; }

private:
    void wait(bool for_reading);
    [[noreturn]] void fail_with(const std::string & what, int code);

    std::intptr_t socket_;
    deadline      until_;
    std::string   address_;
    bool          connected_ = false;
    bool          finished_  = false;
};

// Fails unless a server could listen on this address now.
void check_can_listen(const endpoint & on);

} // namespace llama_shim
