/*
 * The shim's part for RPC: devices of other machines, or of worker processes.
 *
 * llama.cpp's client aborts the process when a server cannot be reached, says
 * something unexpected, or goes away later. The shim talks to a server first, with a
 * timeout, and lets llama.cpp connect only after that went well. Between the two, and
 * whenever the device is used later, a server that vanishes still ends the process.
 *
 * The protocol has no authentication and no encryption, and its server trusts its
 * clients: for private networks only.
 *
 * The common rules are those of llama_shim.h. An endpoint is "host:port", where host
 * is an IPv4 address or a name that has one.
 */
#ifndef LLAMA_SHIM_RPC_H
#define LLAMA_SHIM_RPC_H

#include "llama_shim.h"

#ifdef __cplusplus
extern "C" {
#endif

/* More devices in one answer are taken for garbage. A context uses at most 15, of all servers
   and of this machine; a model spread over more is refused one. */
enum llama_shim_rpc_limit { LLAMA_SHIM_RPC_MAX_DEVICES = 64 };

/* What a server said of itself. */
struct llama_shim_rpc_info {
    char     address[32]; /* the address that answered, "1.2.3.4:50052" */
    uint8_t  major;       /* version of its protocol */
    uint8_t  minor;
    uint8_t  patch;
    uint32_t n_devices;
};

/* Connects, shakes hands, asks for the number of devices and closes, all within
   `timeout_ms`, which must be positive; only the resolution of a name is outside of it.
   `info` may be NULL. A server that is there but busy with another client does not answer
   before that one leaves, and so is a timeout that says so. LLAMA_SHIM_FAILED also
   covers a protocol version that llama.cpp would refuse. Any thread. */
enum llama_shim_status llama_shim_rpc_probe(
    const char * endpoint,
    int32_t timeout_ms,
    struct llama_shim_rpc_info * info,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Probes a server, then has llama.cpp add its devices to the registry, once: the same
   server again gives the same `reg`, without a probe. llama.cpp is told the address
   that answered the probe, not the name it was found by, so that it cannot reach another.
   The registry is not synchronised: no other thread may list or load devices or
   models meanwhile. LLAMA_SHIM_UNSUPPORTED if llama.cpp was built without RPC, or its RPC
   module is not loaded. */
enum llama_shim_status llama_shim_rpc_add_server(
    const char * endpoint,
    int32_t timeout_ms,
    ggml_backend_reg_t * reg,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Serves devices to one client after the other until the process ends. Returns only if
   serving is impossible or breaks down, with LLAMA_SHIM_FAILED at the least. The host
   of the endpoint must be an IPv4 address of this machine, or 0.0.0.0 for all of them.
   `cache_dir` is NULL or a folder to keep large tensors in. Whether the address can be
   bound is checked before, since llama.cpp says nothing about the reason; it reports
   clients on stdout, and failures on stderr. Any thread. */
enum llama_shim_status llama_shim_rpc_serve(
    const char * endpoint,
    const char * cache_dir,
    size_t n_threads,
    const ggml_backend_dev_t * devices,
    size_t n_devices,
    char ** error) LLAMA_SHIM_NOEXCEPT;

#ifdef __cplusplus
}
#endif

#endif /* LLAMA_SHIM_RPC_H */
