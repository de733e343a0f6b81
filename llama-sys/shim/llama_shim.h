/*
 * The C++ shim of llama-sys: llama.cpp's C API, guarded.
 *
 * llama.cpp's C functions are written in C++ and let exceptions out. An exception
 * that leaves an `extern "C"` function into Rust ends the process, so every
 * function that can throw is called through a guard of this shim. The guards also
 * refuse arguments that would make llama.cpp abort, where that can be told cheaply.
 *
 * Common rules
 *
 *  - A guarded function returns `enum llama_shim_status`. Its results come through
 *    out-parameters, which are set to NULL, zero or false first, and so have a
 *    defined value after a failure too.
 *  - The last parameter `char ** error` may be NULL. It is set to NULL on success;
 *    otherwise to a text that the caller frees with `llama_shim_string_free`, or to
 *    NULL if there was no memory for a text. The text is not checked to be UTF-8:
 *    it may quote file names and pieces of tokens.
 *  - No function keeps a pointer to its arguments beyond the call unless it says so.
 *  - llama.cpp's own getters need no guard: they read what is in memory (`llama_n_ctx`), or
 *    allocate the few bytes of a name (`llama_model_meta_val_str`, `llama_model_desc`). Having
 *    no memory for that much counts as impossible, as it does in Rust.
 *  - Nothing here is a defence against `GGML_ABORT`: a hostile model file, or a
 *    device that fails in the middle of a computation, can still end the process.
 *
 * Threads: "any thread" means that calls need no order among each other. "One
 * thread per X" means that X must not be in use by another call, in this shim or in
 * llama.cpp, at the same time.
 */
#ifndef LLAMA_SHIM_H
#define LLAMA_SHIM_H

#include "llama.h"
#include "ggml-backend.h"
#include "gguf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
#define LLAMA_SHIM_NOEXCEPT noexcept
extern "C" {
#else
#define LLAMA_SHIM_NOEXCEPT
#endif

/* ---- outcome of a call ------------------------------------------------------- */

enum llama_shim_status {
    /* The call did what it says. */
    LLAMA_SHIM_OK               = 0,
    /* llama.cpp reported a failure. The text is what it logged on the calling
       thread during the call: its errors, or its warnings if there was no error. */
    LLAMA_SHIM_FAILED           = 1,
    /* An exception was caught; the text is its message. */
    LLAMA_SHIM_EXCEPTION        = 2,
    /* `std::bad_alloc` was caught. */
    LLAMA_SHIM_OUT_OF_MEMORY    = 3,
    /* The shim refused the arguments; llama.cpp was not called. */
    LLAMA_SHIM_INVALID_ARGUMENT = 4,
    /* The function needs something that this build does not have. */
    LLAMA_SHIM_UNSUPPORTED      = 5,
};

/* A status as a short static text, such as "invalid argument". Any thread. */
const char * llama_shim_status_name(enum llama_shim_status status) LLAMA_SHIM_NOEXCEPT;

/* Frees a text received through an `error` parameter; NULL is fine. Any thread. */
void llama_shim_string_free(char * text) LLAMA_SHIM_NOEXCEPT;

/* ---- log ---------------------------------------------------------------------- */

/* Puts the shim's log callback in front of the one llama.cpp has now, which keeps
   receiving everything. Every guarded function does this by itself; calling it early
   only fixes the moment. Later calls do nothing. A later `llama_log_set` by somebody
   else removes the shim's callback, and failures then come without a reason. Any
   thread, but the first call must not race with llama.cpp logging elsewhere, as
   llama.cpp's own setter is not synchronised. */
void llama_shim_log_install(void) LLAMA_SHIM_NOEXCEPT;

/* Sends the log of llama.cpp and ggml to `sink` from now on; NULL discards it. Any
   thread, at any time. `sink` is called from any thread, must not unwind, and gets
   fragments of lines: text of level GGML_LOG_LEVEL_CONT continues the previous one. A
   call that is under way on another thread may still use the sink just replaced, so
   `user_data` must stay valid for the life of the process. */
void llama_shim_log_set(ggml_log_callback sink, void * user_data) LLAMA_SHIM_NOEXCEPT;

/* ---- models ------------------------------------------------------------------- */

/* The loading functions take turns: one load at a time in a process. A progress
   callback may load another model on its own thread. They refuse what would abort: an
   override without a buffer type, an override pattern that is too large for std::regex
   (see `llama_shim_regex_new`), a tensor split for more than llama_max_devices() devices,
   modes that do not exist, and `no_alloc` together with any load mode but LLAMA_LOAD_MODE_NONE. The caller sees to it that arrays are terminated and
   that `tensor_split` has llama_max_devices() elements. The model returned is freed
   with `llama_shim_model_free`. */

/* Loads the model at `path`, with its further splits. Any thread. */
enum llama_shim_status llama_shim_model_load_from_file(
    const char * path,
    const struct llama_model_params * params,
    struct llama_model ** model,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Loads a model from split files given in their order. Any thread. */
enum llama_shim_status llama_shim_model_load_from_splits(
    const char * const * paths,
    size_t n_paths,
    const struct llama_model_params * params,
    struct llama_model ** model,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Loads a model from the current position of an open file, which stays the caller's
   to close. One thread per file. */
enum llama_shim_status llama_shim_model_load_from_file_ptr(
    FILE * file,
    const struct llama_model_params * params,
    struct llama_model ** model,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Builds a model from metadata; `set_tensor_data` is called for every tensor before
   this returns, and must not unwind. `metadata` stays the caller's. Any thread. */
enum llama_shim_status llama_shim_model_init_from_user(
    struct gguf_context * metadata,
    llama_model_set_tensor_data_t set_tensor_data,
    void * set_tensor_data_user_data,
    const struct llama_model_params * params,
    struct llama_model ** model,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Writes a model as a GGUF file. llama.cpp reports nothing when the file cannot be
   written, so an error it logged meanwhile counts as failure. Models without weights,
   weights that cannot be read back (repacked for the CPU's kernels) and architectures
   that llama.cpp cannot save are refused: it would crash on each. Needs llama.cpp's
   internal headers at build time. Any thread. */
enum llama_shim_status llama_shim_model_save_to_file(
    const struct llama_model * model,
    const char * path,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Frees a model and the LoRA adapters that were loaded for it; NULL is fine. All its
   contexts, and all samplers that use its vocabulary, must be gone. */
enum llama_shim_status llama_shim_model_free(
    struct llama_model * model,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Quantizes a model file into another. A tensor type override whose pattern is too large for
   std::regex is refused. Any thread; takes minutes. */
enum llama_shim_status llama_shim_model_quantize(
    const char * path_in,
    const char * path_out,
    const struct llama_model_quantize_params * params,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* The number of devices the model was spread over. Any thread. Needs llama.cpp's
   internal headers at build time, as do the following two. */
enum llama_shim_status llama_shim_model_n_devices(
    const struct llama_model * model,
    int32_t * n_devices,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* One of those devices; an index out of range is refused. Any thread. */
enum llama_shim_status llama_shim_model_get_device(
    const struct llama_model * model,
    int32_t index,
    ggml_backend_dev_t * device,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* The most routed experts that a token uses in any layer; 0 for a dense model. Needs
   llama.cpp's internal headers at build time. Any thread. */
enum llama_shim_status llama_shim_model_n_expert_used(
    const struct llama_model * model,
    int32_t * n_expert_used,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* The device that layer `layer` is assigned to; its attention is there, and its experts would
   be but for overrides. The number of layers is refused, and so is more. Needs llama.cpp's
   internal headers at build time. Any thread. */
enum llama_shim_status llama_shim_model_layer_device(
    const struct llama_model * model,
    int32_t layer,
    ggml_backend_dev_t * device,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* The number of experts per layer, 0 for a dense model. Any thread. */
enum llama_shim_status llama_shim_model_n_expert(
    const struct llama_model * model,
    int32_t * n_expert,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* ---- adapters ----------------------------------------------------------------- */

/* Loads a LoRA adapter. It belongs to `model`, whose end it must not outlive, and may be
   freed before. Takes turns with context creation and other adapters. Any thread. */
enum llama_shim_status llama_shim_lora_init(
    struct llama_model * model,
    const char * path,
    struct llama_adapter_lora ** adapter,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* The same from the current position of an open file, the caller's to close. */
enum llama_shim_status llama_shim_lora_init_from_file_ptr(
    struct llama_model * model,
    FILE * file,
    struct llama_adapter_lora ** adapter,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Frees an adapter that no context uses any more and whose model still lives; NULL is
   fine. */
enum llama_shim_status llama_shim_lora_free(
    struct llama_adapter_lora * adapter,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Replaces the context's adapters; `n_adapters` 0 removes them. The adapters must
   live as long as they are set. An adapter of another model is refused. One thread per
   context. */
enum llama_shim_status llama_shim_set_adapters_lora(
    struct llama_context * ctx,
    struct llama_adapter_lora * const * adapters,
    size_t n_adapters,
    const float * scales,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Sets the context's control vector from `len` floats, n_embd for each layer from 1 on,
   or disables it if `data` is NULL. After a failure for want of memory the context
   must not be given another. One thread per context. */
enum llama_shim_status llama_shim_set_adapter_cvec(
    struct llama_context * ctx,
    const float * data,
    size_t len,
    int32_t n_embd,
    int32_t il_start,
    int32_t il_end,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* ---- GGUF files --------------------------------------------------------------- */

/* One key/value pair of a GGUF header. */
struct llama_shim_gguf_kv {
    const char *   key;          /* owned by the gguf_context */
    enum gguf_type type;         /* GGUF_TYPE_ARRAY for an array */
    enum gguf_type element_type; /* of an array; otherwise the same as `type` */
    size_t         n;            /* elements of an array; otherwise 1 */
    const void *   data;         /* the numbers, bools as one byte each, aligned to their
                                    type; NULL for strings and empty arrays */
    const char *   string;       /* of a single string, up to its first NUL; else NULL */
};

/* One tensor of a GGUF header. */
struct llama_shim_gguf_tensor {
    const char *   name;   /* owned by the gguf_context */
    enum ggml_type type;
    int64_t        ne[GGML_MAX_DIMS];
    size_t         offset; /* from the start of the data section */
    size_t         size;   /* in bytes */
};

/* Reads a GGUF header, and its data too unless `params->no_alloc` (see gguf.h). The
   result is freed with `llama_shim_gguf_free`. Any thread. */
enum llama_shim_status llama_shim_gguf_init_from_file(
    const char * path,
    const struct gguf_init_params * params,
    struct gguf_context ** gguf,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* The same from `size` bytes of memory, of which nothing is kept. Any thread. */
enum llama_shim_status llama_shim_gguf_init_from_buffer(
    const void * data,
    size_t size,
    const struct gguf_init_params * params,
    struct gguf_context ** gguf,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* The same from a callback that fills `len` bytes from `offset` on and returns how many
   it filled; more than `len` counts as `len`. It is called before this returns only, and
   must not unwind. `max_size` is the size of the whole file, or an upper bound;
   `max_chunk` 0 means no limit per call. */
enum llama_shim_status llama_shim_gguf_init_from_callback(
    gguf_reader_callback_t callback,
    void * user_data,
    size_t max_chunk,
    uint64_t max_size,
    const struct gguf_init_params * params,
    struct gguf_context ** gguf,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Frees a header; NULL is fine. */
enum llama_shim_status llama_shim_gguf_free(
    struct gguf_context * gguf,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Reads the pair with index `key_id`. llama.cpp's own getters abort on an index out of
   range and on any type but the one they are named for; here the type is part of the
   answer. Pointers stay valid until `gguf` is changed or freed. Any thread. */
enum llama_shim_status llama_shim_gguf_get_kv(
    const struct gguf_context * gguf,
    int64_t key_id,
    struct llama_shim_gguf_kv * kv,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Element `index` of an array of strings; refused for any other pair. Any thread. */
enum llama_shim_status llama_shim_gguf_get_arr_str(
    const struct gguf_context * gguf,
    int64_t key_id,
    size_t index,
    const char ** string,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Finds an element of an array of strings that is equal to an earlier one: `index` receives
   its index, or the array's length if all differ. Empty element i counts as "[EMPTY_i]", the
   text that a vocabulary gives it. Refused for any other pair. Any thread. */
enum llama_shim_status llama_shim_gguf_find_repeated(
    const struct gguf_context * gguf,
    int64_t key_id,
    size_t * index,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Reads the description of the tensor with index `tensor_id`. Any thread. */
enum llama_shim_status llama_shim_gguf_get_tensor(
    const struct gguf_context * gguf,
    int64_t tensor_id,
    struct llama_shim_gguf_tensor * tensor,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Writes a GGUF file, its header only or with the data that was set. Every tensor must have
   data then: llama.cpp aborts otherwise, and a header that was read from a file has none. One
   thread per `gguf`. */
enum llama_shim_status llama_shim_gguf_write_to_file(
    const struct gguf_context * gguf,
    const char * path,
    bool only_meta,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* ---- contexts ----------------------------------------------------------------- */

/* Creates a context. Refuses what would abort instead of failing: no batch size, more
   sequences than outputs, sizes that overflow, types that do not exist, backend samplers
   that are no chains or that are attached already, a model loaded for its vocabulary
   only or spread over more devices than ggml can schedule. Calls take turns, because creation writes to the model. The model, and the
   samplers in `params`, must outlive the context. Samplers given to a creation that failed
   count as attached and can only be freed. Any thread. */
enum llama_shim_status llama_shim_init_from_model(
    struct llama_model * model,
    const struct llama_context_params * params,
    struct llama_context ** ctx,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Frees a context; NULL is fine. */
enum llama_shim_status llama_shim_free(
    struct llama_context * ctx,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Threads that compute graphs on the CPU, and stay for the next one. */
struct llama_shim_threadpool;

/* Makes threads for a context, which computes on them from now on, single tokens as well as
   batches: without them, and without OpenMP, ggml starts and ends threads for each part of
   each graph. The context must not be set to more threads than `n_threads`, which is at most
   GGML_MAX_N_THREADS. `poll` is how long a thread that has nothing to do looks for more before
   it sleeps, from 0, at once, to 100. Unsupported where the CPU backend has no pools. A pool
   outlives its context, one that another has taken the place of included. One thread per
   context. */
enum llama_shim_status llama_shim_threadpool_attach(
    struct llama_context * ctx,
    int32_t n_threads,
    uint32_t poll,
    struct llama_shim_threadpool ** threadpool,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Ends the threads; NULL is fine. */
void llama_shim_threadpool_free(struct llama_shim_threadpool * threadpool) LLAMA_SHIM_NOEXCEPT;

/* Computes a batch. `result` receives llama.cpp's own code: 0 is LLAMA_SHIM_OK;
   1 (no room in the memory), 2 (aborted by the callback) and negative codes come with
   LLAMA_SHIM_FAILED. Refused is what would abort or be undefined: more tokens than a
   batch or, without causal attention, a micro-batch holds, more outputs than the context
   was made for, tokens without a sequence, sequence ids out of range, negative
   positions. The caller answers for the lengths of the arrays: n_tokens entries each,
   `embd` n_tokens rows of the model's input width, `pos` n_tokens x 4 for embeddings of
   an M-RoPE model. After LLAMA_SHIM_EXCEPTION or LLAMA_SHIM_OUT_OF_MEMORY the context is
   fit to be freed only. One thread per context. */
enum llama_shim_status llama_shim_decode(
    struct llama_context * ctx,
    const struct llama_batch * batch,
    int32_t * result,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* The same for the encoder, or without a memory; a batch must fit a micro-batch. Refused
   for a context with a memory whose model has no encoder. */
enum llama_shim_status llama_shim_encode(
    struct llama_context * ctx,
    const struct llama_batch * batch,
    int32_t * result,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* The same for an extended batch, which must have been made for this context. */
enum llama_shim_status llama_shim_process(
    struct llama_context * ctx,
    enum llama_process_type type,
    struct llama_batch_ext * batch,
    int32_t * result,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Extended batches, freed with `llama_shim_batch_ext_free`. A batch refers to its
   context's memory, so the context must outlive it. One thread per batch. The calls
   that add give the new entry's index in `index`; what llama.cpp answers with a negative
   code (a full batch, a bad token or a bad sequence) is LLAMA_SHIM_FAILED. A bad token or
   embedding leaves an empty entry behind, with which the batch cannot be processed. */
enum llama_shim_status llama_shim_batch_ext_init(
    struct llama_context * ctx,
    struct llama_batch_ext ** batch,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Frees an extended batch; NULL is fine. */
enum llama_shim_status llama_shim_batch_ext_free(
    struct llama_batch_ext * batch,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Adds an entry without token and embedding, which are to be set before use. */
enum llama_shim_status llama_shim_batch_ext_add(
    struct llama_batch_ext * batch,
    llama_seq_id seq_id,
    int32_t * index,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Adds a token. */
enum llama_shim_status llama_shim_batch_ext_add_token(
    struct llama_batch_ext * batch,
    llama_seq_id seq_id,
    llama_token token,
    int32_t * index,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Adds an embedding, which is copied. */
enum llama_shim_status llama_shim_batch_ext_add_embd(
    struct llama_batch_ext * batch,
    llama_seq_id seq_id,
    const struct llama_embd * embd,
    int32_t * index,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Adds the entry at `index` to a further sequence. */
enum llama_shim_status llama_shim_batch_ext_add_seq(
    struct llama_batch_ext * batch,
    int32_t index,
    llama_seq_id seq_id,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Gives the entry at `index` an embedding, which is copied. */
enum llama_shim_status llama_shim_batch_ext_set_embd_token(
    struct llama_batch_ext * batch,
    int32_t index,
    const struct llama_embd * embd,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Attaches a sampler chain to a sequence, to run on the output's device as far as it
   can; NULL detaches. `offloaded` says whether it will. A chain can be attached once in
   its life, and must outlive the context or be detached before its end. A sampler taken out
   of a chain that was attached must not be attached again: llama.cpp aborts. One thread per
   context. */
enum llama_shim_status llama_shim_set_sampler(
    struct llama_context * ctx,
    llama_seq_id seq_id,
    struct llama_sampler * chain,
    bool * offloaded,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Waits until what was started has been computed. One thread per context. */
enum llama_shim_status llama_shim_synchronize(
    struct llama_context * ctx,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* ---- sequences in a context's memory -------------------------------------------- */

/* These take the context, not the memory, because only the context knows which
   sequence ids exist: llama.cpp aborts on any other. A context without a memory is
   refused. Ranges are [p0, p1) with a negative bound for "from the start" and "to the
   end". One thread per context. */

/* Empties the memory, with `data` its buffers too. */
enum llama_shim_status llama_shim_seq_clear(
    struct llama_context * ctx,
    bool data,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Removes a range of a sequence, or of all if `seq_id` is -1. `removed` is false where
   the memory cannot remove a part. */
enum llama_shim_status llama_shim_seq_rm(
    struct llama_context * ctx,
    llama_seq_id seq_id,
    llama_pos p0,
    llama_pos p1,
    bool * removed,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Copies a range of a sequence to another. Where sequences have buffers of their own
   (kv_unified false) only whole sequences can be copied; anything else is refused. */
enum llama_shim_status llama_shim_seq_cp(
    struct llama_context * ctx,
    llama_seq_id seq_id_src,
    llama_seq_id seq_id_dst,
    llama_pos p0,
    llama_pos p1,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Removes every other sequence. */
enum llama_shim_status llama_shim_seq_keep(
    struct llama_context * ctx,
    llama_seq_id seq_id,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Moves positions by `delta`; refused where the memory cannot shift, and for M-RoPE. */
enum llama_shim_status llama_shim_seq_add(
    struct llama_context * ctx,
    llama_seq_id seq_id,
    llama_pos p0,
    llama_pos p1,
    llama_pos delta,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Divides positions by `divisor`, at least 1; refused as `llama_shim_seq_add` is. */
enum llama_shim_status llama_shim_seq_div(
    struct llama_context * ctx,
    llama_seq_id seq_id,
    llama_pos p0,
    llama_pos p1,
    int divisor,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* The lowest and the highest position of a sequence, -1 if it is empty. */
enum llama_shim_status llama_shim_seq_pos(
    struct llama_context * ctx,
    llama_seq_id seq_id,
    llama_pos * min,
    llama_pos * max,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* ---- vocabulary ----------------------------------------------------------------- */

/* The special tokens (`llama_vocab_bos` and its kin) need no guard. All functions here
   are for any thread. */

/* Tokenizes `text_len` bytes. `n_tokens` receives the number of tokens; if that is
   more than `n_tokens_max`, nothing was written and the status is still LLAMA_SHIM_OK.
   `tokens` may be NULL if `n_tokens_max` is 0. Refused are a negative length, a
   model without a vocabulary, and `add_special` where the model asks for a special token
   it does not have. A text with very long words may be tokenized on a thread of its own
   with a larger stack: std::regex, which some vocabularies need, recurses once per
   character. No such thread to be had is LLAMA_SHIM_EXCEPTION. */
enum llama_shim_status llama_shim_tokenize(
    const struct llama_vocab * vocab,
    const char * text,
    int32_t text_len,
    llama_token * tokens,
    int32_t n_tokens_max,
    bool add_special,
    bool parse_special,
    int32_t * n_tokens,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Turns tokens into text. `text_len` receives the number of bytes; if that is more
   than `text_len_max` the text is incomplete and the status is still LLAMA_SHIM_OK. No
   NUL is written. Refused are token ids out of range. */
enum llama_shim_status llama_shim_detokenize(
    const struct llama_vocab * vocab,
    const llama_token * tokens,
    int32_t n_tokens,
    char * text,
    int32_t text_len_max,
    bool remove_special,
    bool unparse_special,
    int32_t * text_len,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* The text of one token, as `llama_shim_detokenize` gives it, without up to `lstrip`
   leading spaces. Nothing is written if the buffer is too small. */
enum llama_shim_status llama_shim_token_to_piece(
    const struct llama_vocab * vocab,
    llama_token token,
    char * buffer,
    int32_t buffer_len,
    int32_t lstrip,
    bool special,
    int32_t * piece_len,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* What the vocabulary says of one token. */
struct llama_shim_token {
    const char *          text;  /* as in the vocabulary, escaped; owned by the model */
    float                 score;
    enum llama_token_attr attr;  /* a set of bits */
    bool                  is_control;
    bool                  is_eog;
};

/* Describes a token; an id out of range is refused. */
enum llama_shim_status llama_shim_vocab_get(
    const struct llama_vocab * vocab,
    llama_token token,
    struct llama_shim_token * description,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* ---- chat ------------------------------------------------------------------------ */

/* Formats a conversation by one of the templates that llama.cpp has built in. `tmpl` is a
   name of `llama_chat_builtin_templates`, or the text of a Jinja template, which is not run
   but compared with what is known of the built-in ones; NULL is "chatml". A template that
   resembles none is LLAMA_SHIM_FAILED. `text_len` receives the number of bytes; if that is
   more than `buffer_len`, the text is incomplete and the status is still LLAMA_SHIM_OK. No NUL
   is written. Roles and contents that are NULL are refused. Any thread. */
enum llama_shim_status llama_shim_chat_apply_template(
    const char * tmpl,
    const struct llama_chat_message * messages,
    size_t n_messages,
    bool add_assistant,
    char * buffer,
    int32_t buffer_len,
    int32_t * text_len,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* ---- samplers ------------------------------------------------------------------- */

/* Limits for grammars. Parsing, and the search for left recursion, recurse along the
   nesting and along chains of rules. */
enum llama_shim_grammar_limit {
    LLAMA_SHIM_GRAMMAR_MAX_LENGTH = 1 << 18, /* bytes */
    LLAMA_SHIM_GRAMMAR_MAX_DEPTH  = 256,     /* of parentheses */
    LLAMA_SHIM_GRAMMAR_MAX_CHAIN  = 4096,    /* of rules that begin with one another */
    LLAMA_SHIM_GRAMMAR_MAX_STEPS  = 50000000, /* of that search */
};

/* Samplers that can fail to be made. The others (`llama_sampler_init_top_k` and its kin)
   allocate a few bytes and need no guard. All are freed with `llama_shim_sampler_free`
   unless they were added to a chain. Any thread. */

/* A sampler that keeps to a GBNF grammar; an empty grammar allows everything. The
   vocabulary must outlive it. Refused, with the place of the error, is a grammar that
   does not parse, is left-recursive, or exceeds a limit above. */
enum llama_shim_status llama_shim_sampler_init_grammar(
    const struct llama_vocab * vocab,
    const char * grammar,
    const char * root,
    struct llama_sampler ** sampler,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* The same, from the point on where a token is sampled or a pattern is found in the
   text generated so far. A pattern with an unbounded repetition ('*', '+', '{n,}') is
   refused: std::regex recurses along the whole text for it. Patterns are searched for
   anywhere, so no leading '.*' is needed; the first group that matched says where the
   grammar's text begins. */
enum llama_shim_status llama_shim_sampler_init_grammar_lazy_patterns(
    const struct llama_vocab * vocab,
    const char * grammar,
    const char * root,
    const char * const * trigger_patterns,
    size_t n_trigger_patterns,
    const llama_token * trigger_tokens,
    size_t n_trigger_tokens,
    struct llama_sampler ** sampler,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Penalties for the last `penalty_last_n` tokens, 0 for none. */
enum llama_shim_status llama_shim_sampler_init_penalties(
    int32_t n_vocab,
    int32_t penalty_last_n,
    float penalty_repeat,
    float penalty_freq,
    float penalty_present,
    struct llama_sampler ** sampler,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* "Don't repeat yourself"; the vocabulary is used during this call only. */
enum llama_shim_status llama_shim_sampler_init_dry(
    const struct llama_vocab * vocab,
    float multiplier,
    float base,
    int32_t allowed_length,
    int32_t penalty_last_n,
    const char * const * breakers,
    size_t n_breakers,
    struct llama_sampler ** sampler,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Biases for single tokens, copied; ids outside the vocabulary are refused, since they
   would abort once the sampler runs on a device. */
enum llama_shim_status llama_shim_sampler_init_logit_bias(
    int32_t n_vocab,
    const llama_logit_bias * biases,
    size_t n_biases,
    struct llama_sampler ** sampler,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Fill-in-the-middle; the vocabulary must outlive the sampler, and have a token that ends a
   turn or a text. Takes the square of the number of candidates in time: put it after a sampler
   that leaves few. */
enum llama_shim_status llama_shim_sampler_init_infill(
    const struct llama_vocab * vocab,
    struct llama_sampler ** sampler,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Appends a sampler to a chain, which owns it from then on; after a failure it is still
   the caller's. One thread per chain. */
enum llama_shim_status llama_shim_sampler_chain_add(
    struct llama_sampler * chain,
    struct llama_sampler * sampler,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* The remaining functions are for one thread per sampler. */

/* Tells the sampler which token was chosen. If it is or contains a grammar that does
   not allow the token, the call is refused and nothing has changed: llama.cpp would throw
   or, for an end-of-generation token, abort. Text that triggers a lazy grammar without
   fitting it is LLAMA_SHIM_EXCEPTION. That, like any exception in here, leaves the
   grammar back at its start, where llama.cpp alone would abort at the next use. */
enum llama_shim_status llama_shim_sampler_accept(
    struct llama_sampler * sampler,
    llama_token token,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Applies the sampler to candidates, of which there must be at least one. */
enum llama_shim_status llama_shim_sampler_apply(
    struct llama_sampler * sampler,
    llama_token_data_array * candidates,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Chooses a token from output `index` of the last batch, negative counting from the
   end, and accepts it. Does what `llama_sampler_sample` does, backend sampling included,
   with errors in place of its three aborts: an output that does not exist, a chain whose
   last sampler chooses nothing, a token that the grammar does not allow. One thread per
   context and sampler. */
enum llama_shim_status llama_shim_sampler_sample(
    struct llama_sampler * sampler,
    struct llama_context * ctx,
    int32_t index,
    llama_token * token,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Forgets what was accepted. If a grammar's start cannot be built again, the sampler is
   fit to be freed only. */
enum llama_shim_status llama_shim_sampler_reset(
    struct llama_sampler * sampler,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Copies a sampler with its state. Custom samplers must implement `clone`. */
enum llama_shim_status llama_shim_sampler_clone(
    const struct llama_sampler * sampler,
    struct llama_sampler ** clone,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Frees a sampler, with a chain what it holds; NULL is fine. */
enum llama_shim_status llama_shim_sampler_free(
    struct llama_sampler * sampler,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* ---- state ---------------------------------------------------------------------- */

/* Saving and restoring a context's memory. One thread per context. A restore that
   fails leaves the memory partly written: clear it. Restore only what this llama.cpp saved
   for this model: contents made to harm are not all detected. */

/* The number of bytes `llama_shim_state_get_data` needs now. */
enum llama_shim_status llama_shim_state_get_size(
    struct llama_context * ctx,
    size_t * size,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Copies the state into `capacity` bytes; `size` receives how many were written. */
enum llama_shim_status llama_shim_state_get_data(
    struct llama_context * ctx,
    uint8_t * data,
    size_t capacity,
    size_t * size,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Restores the state; `size_read` receives how many of the bytes were used. */
enum llama_shim_status llama_shim_state_set_data(
    struct llama_context * ctx,
    const uint8_t * data,
    size_t size,
    size_t * size_read,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Writes the state and a list of tokens to a file. */
enum llama_shim_status llama_shim_state_save_file(
    struct llama_context * ctx,
    const char * path,
    const llama_token * tokens,
    size_t n_tokens,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Restores both; more than `capacity` tokens are a failure. */
enum llama_shim_status llama_shim_state_load_file(
    struct llama_context * ctx,
    const char * path,
    llama_token * tokens,
    size_t capacity,
    size_t * n_tokens,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* The same five for one sequence. With LLAMA_STATE_SEQ_FLAGS_ON_DEVICE the tensors
   stay on the device and `data` only refers to them: llama.cpp aborts unless it is given
   back to the very context, with the last data got from it for that sequence. */
enum llama_shim_status llama_shim_state_seq_get_size(
    struct llama_context * ctx,
    llama_seq_id seq_id,
    llama_state_seq_flags flags,
    size_t * size,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* See `llama_shim_state_seq_get_size` and `llama_shim_state_get_data`. */
enum llama_shim_status llama_shim_state_seq_get_data(
    struct llama_context * ctx,
    llama_seq_id seq_id,
    llama_state_seq_flags flags,
    uint8_t * data,
    size_t capacity,
    size_t * size,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* See `llama_shim_state_seq_get_size` and `llama_shim_state_set_data`. */
enum llama_shim_status llama_shim_state_seq_set_data(
    struct llama_context * ctx,
    llama_seq_id seq_id,
    llama_state_seq_flags flags,
    const uint8_t * data,
    size_t size,
    size_t * size_read,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Writes one sequence and a list of tokens to a file; `size` receives its length. */
enum llama_shim_status llama_shim_state_seq_save_file(
    struct llama_context * ctx,
    const char * path,
    llama_seq_id seq_id,
    const llama_token * tokens,
    size_t n_tokens,
    size_t * size,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Restores both into sequence `seq_id`. If `tokens` is NULL, only the number of tokens is
   read and nothing is restored. */
enum llama_shim_status llama_shim_state_seq_load_file(
    struct llama_context * ctx,
    const char * path,
    llama_seq_id seq_id,
    llama_token * tokens,
    size_t capacity,
    size_t * n_tokens,
    size_t * size_read,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* ---- placement ------------------------------------------------------------------ */

/* Where one tensor of a loaded model lies. */
struct llama_shim_tensor {
    const char *               name;      /* owned by the list */
    int32_t                    type;      /* enum ggml_type */
    int32_t                    n_dims;
    int64_t                    ne[GGML_MAX_DIMS];
    uint64_t                   bytes;
    ggml_backend_buffer_type_t buft;      /* where it would lie, if it was not allocated
                                             (no_alloc); NULL if that is not known */
    const char *               buft_name; /* NULL with `buft`; "CPU_Mapped" for weights
                                             that are used in place in a mapped file */
    ggml_backend_dev_t         dev;       /* NULL if the buffer type has none */
    const char *               dev_name;  /* NULL with `dev` */
    bool                       is_host;   /* the CPU can address it */
    bool                       duplicate; /* an earlier entry has this name */
};

/* The tensors of a model in the order of llama.cpp's own table. */
struct llama_shim_placement;

/* Lists where the tensors of a model are; empty if only its vocabulary was loaded. The
   list holds copies and pointers to buffer types and devices, which live as long as the
   process, so it may outlive the model. Needs llama.cpp's internal headers at build
   time. Any thread. */
enum llama_shim_status llama_shim_placement_new(
    const struct llama_model * model,
    struct llama_shim_placement ** list,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* The number of entries; 0 for NULL. Any thread. */
size_t llama_shim_placement_count(
    const struct llama_shim_placement * list) LLAMA_SHIM_NOEXCEPT;

/* Copies entry `index` to `tensor`; an index out of range is refused. Any thread. */
enum llama_shim_status llama_shim_placement_get(
    const struct llama_shim_placement * list,
    size_t index,
    struct llama_shim_tensor * tensor,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Frees the list with its names; NULL is fine. */
void llama_shim_placement_free(struct llama_shim_placement * list) LLAMA_SHIM_NOEXCEPT;

/* ---- huge pages ------------------------------------------------------------------- */

/* How much of a model's weights is on huge pages. */
struct llama_shim_huge_pages {
    uint64_t page_size; /* bytes of a huge page */
    uint64_t asked;     /* bytes of all whole huge pages within the weights' buffers */
    uint64_t huge;      /* those of them that are huge pages now */
    uint64_t mapped;    /* bytes of buffers in a mapped file, which stay as they are */
    int32_t  refusal;   /* errno of the last page that was refused; 0 if there is none */
};

/* Moves the weights in the CPU's own memory to huge pages (MADV_COLLAPSE): computing finds them
   with fewer steps of address translation. Copies each page once. Weights in the page-locked
   memory of a device stay as they are. Needs Linux 6.1 and llama.cpp's internal headers at
   build time, and is refused as unsupported otherwise. Any thread, also while the model
   computes. */
enum llama_shim_status llama_shim_model_use_huge_pages(
    const struct llama_model * model,
    struct llama_shim_huge_pages * result,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* ---- weights before they are loaded ---------------------------------------------- */

/* Where the loader would put a weight can be told from a file's header: it takes the first
   place of a list in which the device can compute with the weight. These functions give the
   lists, the answers and the sizes; nothing is allocated. A worker process (RPC) may be
   asked for a size. Registering devices meanwhile is not allowed, as with all that reads
   the registry. */

/* A buffer type, and the device that would compute with a weight in it. */
struct llama_shim_weight_place {
    ggml_backend_dev_t         dev;
    ggml_backend_buffer_type_t buft;
};

/* The places for weights on the CPU in the loader's order: those of accelerators, the
   page-locked memory of the first of the model's `devices` that has such (unless
   `no_host`), the CPU's extra ones, such as for repacked weights (if `use_extra_bufts`),
   the CPU's own. Copies up to `capacity` of them to `list`; `n` receives how many there
   are. Any thread. */
enum llama_shim_status llama_shim_weight_places_cpu(
    const ggml_backend_dev_t * devices,
    size_t n_devices,
    bool no_host,
    bool use_extra_bufts,
    struct llama_shim_weight_place * list,
    size_t capacity,
    size_t * n,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* The places for weights of a layer on `dev`, to which the loader appends those of the CPU.
   With `split_rows` (LLAMA_SPLIT_MODE_ROW) the first spreads a matrix by `tensor_split`,
   NULL or llama_max_devices() floats; a device that cannot do that is refused. Any
   thread. */
enum llama_shim_status llama_shim_weight_places_device(
    ggml_backend_dev_t dev,
    bool split_rows,
    const float * tensor_split,
    struct llama_shim_weight_place * list,
    size_t capacity,
    size_t * n,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* The bytes that a weight with the GGML_MAX_DIMS extents `ne` takes in a buffer of this
   type, padded to its alignment: a loaded model's buffer has the sum of these. Refused are
   shapes that ggml would abort on, and weights of more than 2^40 elements. Any thread. */
enum llama_shim_status llama_shim_weight_size(
    ggml_backend_buffer_type_t buft,
    enum ggml_type type,
    const int64_t * ne,
    size_t * size,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* What of a model's hyper-parameters the test of an operation needs; 0 where it is not
   known, which is refused for the operations named. */
struct llama_shim_weight_hparams {
    int64_t n_expert_used; /* the most of any layer: MUL_MAT_ID, ADD_ID */
    int64_t n_embd_head;   /* of V: ROPE */
    int64_t n_head;        /* of the first layer: ROPE */
    int64_t n_embd_inp;    /* IM2COL */
    int64_t ssm_d_state;   /* SSM_SCAN, if the weight has rows of one element */
    int64_t ssm_d_inner;   /* SSM_SCAN */
    int64_t ssm_n_group;   /* SSM_SCAN; 0 counts as 1 */
};

/* Whether `dev` can compute `op` with a weight in a buffer of type `buft`, by the loader's
   own test: a batch of 512 tokens. An operation that llama.cpp has no weights for, a shape
   that does not suit it, and hyper-parameters out of range are refused. Any thread. */
enum llama_shim_status llama_shim_weight_supported(
    ggml_backend_dev_t dev,
    ggml_backend_buffer_type_t buft,
    enum ggml_op op,
    enum ggml_type type,
    const int64_t * ne,
    const struct llama_shim_weight_hparams * hparams,
    bool * supported,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Which layers a weight belongs to. */
enum llama_shim_weight_layer {
    LLAMA_SHIM_WEIGHT_UNKNOWN   = 0, /* llama.cpp's table has no such name */
    LLAMA_SHIM_WEIGHT_INPUT     = 1, /* always on the CPU */
    LLAMA_SHIM_WEIGHT_REPEATING = 2, /* on the device of its block */
    LLAMA_SHIM_WEIGHT_OUTPUT    = 3, /* on the device of the layer after the last */
};

/* What llama.cpp uses a weight for. */
struct llama_shim_weight_use {
    enum llama_shim_weight_layer layer;
    enum ggml_op                 op;    /* GGML_OP_NONE: the loader leaves it out */
    int32_t                      block; /* the number in the name; -1: none. Repeating
                                           weights without one go with the first block, or,
                                           as frequency factors do, with every block */
};

/* Looks a tensor's name up in llama.cpp's own table. Three names mean different tensors in
   different architectures, hence `arch`, such as "qwen3moe"; one that is not known is fine.
   Needs llama.cpp's internal headers at build time. Any thread. */
enum llama_shim_status llama_shim_weight_find(
    const char * arch,
    const char * name,
    struct llama_shim_weight_use * use,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* ---- memory breakdown ------------------------------------------------------------- */

/* What a context and its model take of one kind of memory. */
struct llama_shim_memory_entry {
    ggml_backend_buffer_type_t buft;
    const char *               buft_name; /* owned by the list */
    ggml_backend_dev_t         dev;       /* NULL if the buffer type has none */
    const char *               dev_name;  /* NULL with `dev`; owned by the list */
    bool                       is_host;
    uint64_t                   model;     /* bytes; a mapped file counts as a whole */
    uint64_t                   context;   /* all of it, the cache of experts included */
    uint64_t                   moe_cache; /* the part of `context` that is the cache of experts */
    uint64_t                   compute;
};

/* One entry per buffer type in use, by name. */
struct llama_shim_memory;

/* Measures the memory of a context. The list may outlive it. Needs llama.cpp's internal
   headers at build time. One thread per context. */
enum llama_shim_status llama_shim_memory_new(
    const struct llama_context * ctx,
    struct llama_shim_memory ** list,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* The number of entries; 0 for NULL. Any thread. */
size_t llama_shim_memory_count(const struct llama_shim_memory * list) LLAMA_SHIM_NOEXCEPT;

/* Copies entry `index` to `entry`; an index out of range is refused. Any thread. */
enum llama_shim_status llama_shim_memory_get(
    const struct llama_shim_memory * list,
    size_t index,
    struct llama_shim_memory_entry * entry,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Frees the list; NULL is fine. */
void llama_shim_memory_free(struct llama_shim_memory * list) LLAMA_SHIM_NOEXCEPT;

/* ---- the cache of experts ------------------------------------------------------------ */

/* Experts that micro-batches selected, counted once per layer and micro-batch. */
struct llama_shim_moe_cache_counts {
    uint64_t hits;   /* were in the cache */
    uint64_t misses; /* were uploaded */
    uint64_t bytes;  /* uploaded */
};

struct llama_shim_moe_cache_stats {
    struct llama_shim_moe_cache_counts up_to_8;  /* micro-batches of up to 8 tokens */
    struct llama_shim_moe_cache_counts up_to_32; /* of 9 to 32 tokens */
    struct llama_shim_moe_cache_counts copied;   /* experts of larger micro-batches that were
                                                    copied from the cache, with their bytes */
};

/* Layers on one device whose experts have one form. They share their slots. */
struct llama_shim_moe_cache_group {
    ggml_backend_dev_t dev;
    const int32_t *    layers; /* owned by the cache's facts */
    size_t             n_layers;
    int32_t            n_expert;
    int32_t            n_slots; /* experts that fit; 0: these layers are not cached */
};

/* What llama.cpp's cache of experts holds and did. */
struct llama_shim_moe_cache;

/* Reads the facts of a context's cache; NULL in `cache` if it has none. They are a copy, which
   may outlive the context. Needs llama.cpp's internal headers at build time. One thread per
   context. */
enum llama_shim_status llama_shim_moe_cache_new(
    const struct llama_context * ctx,
    struct llama_shim_moe_cache ** cache,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* The counts; zeros for NULL. Any thread. */
void llama_shim_moe_cache_get_stats(
    const struct llama_shim_moe_cache * cache,
    struct llama_shim_moe_cache_stats * stats) LLAMA_SHIM_NOEXCEPT;

/* The number of groups; 0 for NULL. Any thread. */
size_t llama_shim_moe_cache_n_groups(const struct llama_shim_moe_cache * cache) LLAMA_SHIM_NOEXCEPT;

/* Describes group `index`; an index out of range is refused. Any thread. */
enum llama_shim_status llama_shim_moe_cache_get_group(
    const struct llama_shim_moe_cache * cache,
    size_t index,
    struct llama_shim_moe_cache_group * group,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Frees the facts; NULL is fine. */
void llama_shim_moe_cache_free(struct llama_shim_moe_cache * cache) LLAMA_SHIM_NOEXCEPT;

/* ---- how fast memory gets to a device ------------------------------------------------- */

/* The most that one transfer can copy, in bytes: 1 GiB. */
enum llama_shim_transfer_limit {
    LLAMA_SHIM_TRANSFER_MAX_SIZE = 1 << 30
};

/* A piece of system memory, and one as large of a device. */
struct llama_shim_transfer;

/* Allocates both: `size` bytes of memory that the system may move, or with `page_locked` of
   the device's own host memory, which is unsupported where it has none. For a worker process
   (RPC), one thread per connection. */
enum llama_shim_status llama_shim_transfer_new(
    ggml_backend_dev_t dev,
    bool page_locked,
    size_t size,
    struct llama_shim_transfer ** transfer,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Copies all of it to the device, as a computation copies weights it needs, and waits until it
   is there. One thread per transfer; for a worker process, per connection. */
enum llama_shim_status llama_shim_transfer_run(
    struct llama_shim_transfer * transfer,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Frees both; NULL is fine. */
void llama_shim_transfer_free(struct llama_shim_transfer * transfer) LLAMA_SHIM_NOEXCEPT;

/* ---- the loader's regular expressions ----------------------------------------------- */

/* Limits. libstdc++ recurses while it compiles and while it matches. MAX_STEPS bounds
   how deep a match can get, as the shim estimates it before it compiles: every part of the
   pattern once, counted repetitions multiplied out, and the parts inside of an unbounded
   repetition once more per byte of text. At all limits at once a search needs less than
   half of a stack of 2 MiB. No limit exists for time: nested unbounded repetitions such
   as "(a*)*b" take exponentially long, here and in the loader. */
enum llama_shim_regex_limit {
    LLAMA_SHIM_REGEX_MAX_LENGTH = 4096, /* bytes of a pattern */
    LLAMA_SHIM_REGEX_MAX_DEPTH  = 64,   /* of groups in groups */
    LLAMA_SHIM_REGEX_MAX_STEPS  = 16384, /* of a match */
    LLAMA_SHIM_REGEX_MAX_TEXT   = 128,  /* bytes; tensor names have less than 64 */
};

/* A compiled pattern. */
struct llama_shim_regex;

/* Compiles a pattern as the loader does for tensor buffer overrides: std::regex with its
   default grammar, ECMAScript. A pattern with a mistake is LLAMA_SHIM_EXCEPTION with
   the library's text; one that exceeds a limit is refused. Any thread. */
enum llama_shim_status llama_shim_regex_new(
    const char * pattern,
    struct llama_shim_regex ** regex,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Searches `text` for the first match, as the loader does with a tensor's name.
   `begin` and `end` receive the match's byte offsets, and may be NULL. Any thread: a
   pattern can be searched for by many at once. */
enum llama_shim_status llama_shim_regex_search(
    const struct llama_shim_regex * regex,
    const char * text,
    bool * matched,
    size_t * begin,
    size_t * end,
    char ** error) LLAMA_SHIM_NOEXCEPT;

/* Frees a pattern; NULL is fine. */
void llama_shim_regex_free(struct llama_shim_regex * regex) LLAMA_SHIM_NOEXCEPT;

/* ---- fitting a model to memory --------------------------------------------------- */

/* How a fit ended. */
enum llama_shim_fit_result {
    LLAMA_SHIM_FIT_SUCCESS  = 0, /* the parameters are projected to fit */
    LLAMA_SHIM_FIT_TOO_BIG  = 1, /* no way was found to make them fit */
    LLAMA_SHIM_FIT_ERROR    = 2, /* for example, there is no such model */
};

/* llama.cpp's own `--fit`: adapts `mparams` and `cparams` to the memory that is free, by
   loading the model without its weights, many times over. Only values that are at their
   default are changed, the context size only if it is 0; it may have been changed even if
   the result is not success. `n_gpu_layers` 0 is refused.

   `tensor_split` has `n_tensor_split` floats, at least llama_max_devices(), and
   `overrides` has `n_overrides` entries, at least llama_max_tensor_buft_overrides().
   Both must outlive the use of `mparams`, which points into them afterwards. The patterns
   written there are static. `margins` has `n_margins` sizes in bytes to leave free
   per device, at least one; the last of them stands for all further devices. Messages
   below `log_level` are demoted to debug messages.

   FIT_SUCCESS is LLAMA_SHIM_OK, the other results are LLAMA_SHIM_FAILED. Loading and
   context creation elsewhere wait until this ends. The global log callback is not
   touched, unlike with llama.cpp's function alone. Needs llama.cpp's sources at build
   time. Any thread. */
enum llama_shim_status llama_shim_fit_params(
    const char * path,
    struct llama_model_params * mparams,
    struct llama_context_params * cparams,
    float * tensor_split,
    size_t n_tensor_split,
    struct llama_model_tensor_buft_override * overrides,
    size_t n_overrides,
    const size_t * margins,
    size_t n_margins,
    uint32_t n_ctx_min,
    enum ggml_log_level log_level,
    enum llama_shim_fit_result * result,
    char ** error) LLAMA_SHIM_NOEXCEPT;

#ifdef __cplusplus
}
#endif

#endif /* LLAMA_SHIM_H */
