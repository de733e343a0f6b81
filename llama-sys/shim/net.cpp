#include "net.hpp"

#include "guard.hpp"

#include <algorithm>
#include <climits>
#include <cstring>
#include <system_error>

#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <winsock2.h>
#include <ws2tcpip.h>
#ifdef _MSC_VER
#pragma comment(lib, "ws2_32")
#endif
#else
#include <arpa/inet.h>
#include <cerrno>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>
#endif

namespace llama_shim {
namespace {

#ifdef _WIN32

using socket_type = SOCKET;
constexpr socket_type no_socket = INVALID_SOCKET;
constexpr int would_block = WSAEWOULDBLOCK;
constexpr int in_progress = WSAEWOULDBLOCK;
constexpr int interrupted = WSAEINTR;
constexpr int no_signal   = 0;

int last_error() {
    return WSAGetLastError();
}

void close_socket(socket_type socket) {
    closesocket(socket);
}

bool set_non_blocking(socket_type socket) {
    u_long on = 1;
    return ioctlsocket(socket, FIONBIO, &on) == 0;
}

int poll_one(socket_type socket, bool for_reading, int timeout_ms) {
    WSAPOLLFD entry = {socket, static_cast<SHORT>(for_reading ? POLLRDNORM : POLLWRNORM), 0};
    return WSAPoll(&entry, 1, timeout_ms);
}

// Counted by Windows; never undone, since llama.cpp may be using sockets too.
void start_sockets() {
    static const int code = [] {
        WSADATA data;
        return WSAStartup(MAKEWORD(2, 2), &data);
    }();
    if (code != 0) {
        fail("there are no sockets: " + std::system_category().message(code));
    }
}

#else

using socket_type = int;
constexpr socket_type no_socket = -1;
constexpr int would_block = EAGAIN;
constexpr int in_progress = EINPROGRESS;
constexpr int interrupted = EINTR;
#ifdef MSG_NOSIGNAL
constexpr int no_signal = MSG_NOSIGNAL;
#else
constexpr int no_signal = 0; // macOS: an option of the socket instead
#endif

int last_error() {
    return errno;
}

void close_socket(socket_type socket) {
    close(socket);
}

bool set_non_blocking(socket_type socket) {
    const int flags = fcntl(socket, F_GETFL, 0);
    return flags != -1 && fcntl(socket, F_SETFL, flags | O_NONBLOCK) == 0;
}

int poll_one(socket_type socket, bool for_reading, int timeout_ms) {
    pollfd entry = {socket, static_cast<short>(for_reading ? POLLIN : POLLOUT), 0};
    return poll(&entry, 1, timeout_ms);
}

void start_sockets() {}

#endif

// A socket that no program inherits which is started meanwhile: it would keep the connection
// open, and a server that serves one client at a time busy.
socket_type make_socket() {
#if defined(SOCK_CLOEXEC)
    const socket_type handle = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
#else
    const socket_type handle = ::socket(AF_INET, SOCK_STREAM, 0);
#ifndef _WIN32
    if (handle != no_socket) {
        fcntl(handle, F_SETFD, FD_CLOEXEC);
    }
#endif
#endif
    return handle;
}

std::string message_of(int code) {
    return std::system_category().message(code);
}

template <typename Value>
bool set_option(socket_type socket, int level, int name, const Value & value) {
    return setsockopt(socket, level, name, reinterpret_cast<const char *>(&value), sizeof(value)) == 0;
}

template <typename Value>
bool get_option(socket_type socket, int level, int name, Value & value) {
    socklen_t size = sizeof(value);
    return getsockopt(socket, level, name, reinterpret_cast<char *>(&value), &size) == 0;
}

sockaddr_in resolve(const endpoint & name) {
    addrinfo hints = {};
    hints.ai_family   = AF_INET;
    hints.ai_socktype = SOCK_STREAM;
    addrinfo * found = nullptr;
    const int code = getaddrinfo(name.host.c_str(), nullptr, &hints, &found);
    if (code != 0 || found == nullptr) {
#ifdef _WIN32
        const std::string reason = message_of(code);
#else
        const std::string reason = gai_strerror(code);
#endif
        fail("cannot find the host '" + name.host + "': " + reason);
    }
    sockaddr_in address = {};
    std::memcpy(&address, found->ai_addr, std::min<std::size_t>(sizeof(address), found->ai_addrlen));
    freeaddrinfo(found);
    address.sin_port = htons(name.port);
    return address;
}

std::string to_text(const sockaddr_in & address) {
    char text[INET_ADDRSTRLEN] = {};
    inet_ntop(AF_INET, &address.sin_addr, text, sizeof(text));
    return std::string(text) + ":" + std::to_string(ntohs(address.sin_port));
}

// Closes a socket at the end of a scope.
struct owned_socket {
    socket_type handle;
    ~owned_socket() {
        if (handle != no_socket) {
            close_socket(handle);
        }
    }
};

} // namespace

endpoint parse_endpoint(const char * text) {
    require(text != nullptr, "the endpoint is NULL");
    const char * colon = std::strchr(text, ':');
    require(colon != nullptr && colon != text, "an endpoint is written as host:port");
    endpoint result;
    result.host.assign(text, colon);
    unsigned long port = 0;
    const char * digit = colon + 1;
    for (; *digit >= '0' && *digit <= '9' && port <= UINT16_MAX; ++digit) {
        port = port * 10 + static_cast<unsigned long>(*digit - '0');
    }
    require(*digit == '\0' && port > 0 && port <= UINT16_MAX, "the port of an endpoint is a number from 1 to 65535");
    result.port = static_cast<uint16_t>(port);
    return result;
}

std::string numeric_address(const endpoint & name) {
    start_sockets();
    return to_text(resolve(name));
}

connection::connection(const endpoint & to, deadline until) : socket_(-1), until_(until) {
    start_sockets();
    const sockaddr_in server = resolve(to);
    address_ = to_text(server);

    const socket_type handle = make_socket();
    if (handle == no_socket) {
        fail_with("cannot make a socket", last_error());
    }
    owned_socket owner = {handle}; // until the constructor has succeeded
    socket_ = static_cast<std::intptr_t>(handle);
    if (!set_non_blocking(handle)) {
        fail_with("cannot set up a socket", last_error());
    }
    const int on = 1;
    set_option(handle, IPPROTO_TCP, TCP_NODELAY, on); // a matter of speed only
#ifdef SO_NOSIGPIPE
    set_option(handle, SOL_SOCKET, SO_NOSIGPIPE, on);
#endif

    if (::connect(handle, reinterpret_cast<const sockaddr *>(&server), sizeof(server)) != 0) {
        const int code = last_error();
        if (code != in_progress && code != would_block) {
            fail_with("cannot connect to " + address_, code);
        }
        wait(false);
        int outcome_code = 0;
        if (!get_option(handle, SOL_SOCKET, SO_ERROR, outcome_code)) {
            outcome_code = last_error();
        }
        if (outcome_code != 0) {
            fail_with("cannot connect to " + address_, outcome_code);
        }
    }
    connected_ = true;
    owner.handle = no_socket;
}

connection::~connection() {
    const auto handle = static_cast<socket_type>(socket_);
#ifndef _WIN32
    if (!finished_) {
        // A busy server has this connection in its queue, with our request in it. If it
        // came to answer after an orderly end, its second write to a closed socket would
        // raise SIGPIPE and end it. After a reset it reads an error instead, and goes on.
        // Windows has no such signal, and lets a server fail to accept what was reset.
        const linger reset = {1, 0};
        set_option(handle, SOL_SOCKET, SO_LINGER, reset);
    }
#endif
    close_socket(handle);
}

void connection::send(const void * data, std::size_t size) {
    const char * at = static_cast<const char *>(data);
    while (size > 0) {
        const auto chunk = std::min<std::size_t>(size, INT_MAX);
#ifdef _WIN32
        const auto sent = ::send(static_cast<socket_type>(socket_), at, static_cast<int>(chunk), no_signal);
#else
        const auto sent = ::send(static_cast<socket_type>(socket_), at, chunk, no_signal);
#endif
        if (sent >= 0) {
            at += sent;
            size -= static_cast<std::size_t>(sent);
            continue;
        }
        const int code = last_error();
        if (code == would_block) {
            wait(false);
        } else if (code != interrupted) {
            fail_with("the connection to " + address_ + " broke", code);
        }
    }
}

void connection::receive(void * data, std::size_t size) {
    char * at = static_cast<char *>(data);
    while (size > 0) {
        const auto chunk = std::min<std::size_t>(size, INT_MAX);
#ifdef _WIN32
        const auto got = ::recv(static_cast<socket_type>(socket_), at, static_cast<int>(chunk), 0);
#else
        const auto got = ::recv(static_cast<socket_type>(socket_), at, chunk, 0);
#endif
        if (got > 0) {
            at += got;
            size -= static_cast<std::size_t>(got);
            continue;
        }
        if (got == 0) {
            fail(address_ + " closed the connection: it is no RPC server, or one of another version");
        }
        const int code = last_error();
        if (code == would_block) {
            wait(true);
        } else if (code != interrupted) {
            fail_with("the connection to " + address_ + " broke", code);
        }
    }
}

void connection::wait(bool for_reading) {
    for (;;) {
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(until_ - std::chrono::steady_clock::now());
        int ready = 0;
        if (left.count() > 0) {
            const auto timeout = static_cast<int>(std::min<std::chrono::milliseconds::rep>(left.count(), INT_MAX));
            ready = poll_one(static_cast<socket_type>(socket_), for_reading, timeout);
        }
        if (ready > 0) {
            return;
        }
        if (ready == 0 && left.count() > 0) {
            continue; // a little early: look at the clock again
        }
        if (ready == 0) {
            fail(connected_ ? address_ + " accepts connections but does not answer in time: it may be busy with "
                                         "another client, since an RPC server serves one at a time"
                            : "cannot connect to " + address_ + " in time");
        }
        if (last_error() != interrupted) {
            fail_with("cannot wait for " + address_, last_error());
        }
    }
}

void connection::fail_with(const std::string & what, int code) {
    fail(what + ": " + message_of(code));
}

void check_can_listen(const endpoint & on) {
    start_sockets();
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port   = htons(on.port);
    // llama.cpp's server reads 255.255.255.255 as a mistake, which it is.
    require(inet_pton(AF_INET, on.host.c_str(), &address.sin_addr) == 1 && address.sin_addr.s_addr != INADDR_NONE,
            "a server's host is an IPv4 address, such as 127.0.0.1 or 0.0.0.0");

    const owned_socket probe = {make_socket()};
    if (probe.handle == no_socket) {
        fail("cannot make a socket: " + message_of(last_error()));
    }
    const int set = 1;
#ifdef _WIN32
    // There SO_REUSEADDR, which llama.cpp's server sets, takes over a port in use.
    set_option(probe.handle, SOL_SOCKET, SO_EXCLUSIVEADDRUSE, set);
#else
    set_option(probe.handle, SOL_SOCKET, SO_REUSEADDR, set);
#endif
    if (::bind(probe.handle, reinterpret_cast<const sockaddr *>(&address), sizeof(address)) != 0 ||
        ::listen(probe.handle, 1) != 0) {
        fail("cannot listen on " + to_text(address) + ": " + message_of(last_error()));
    }
}

} // namespace llama_shim
