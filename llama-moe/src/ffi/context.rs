//! A context.

use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use llama_sys as sys;

use super::batch::BatchArrays;
use super::call::{Failure, guarded};
use super::device::DeviceHandle;
use super::eval::{self, EvalHook};
use super::lora::LoraHandle;
use super::model::ModelHandle;
use super::text;
use super::threadpool::ThreadPool;
use crate::error::FailureKind;

/// The fields of `llama_context_params` that are plain values, and how its threads wait.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ContextSettings {
    pub(crate) n_ctx: u32,
    pub(crate) n_batch: u32,
    pub(crate) n_ubatch: u32,
    pub(crate) n_seq_max: u32,
    pub(crate) n_rs_seq: u32,
    pub(crate) n_outputs_max: u32,
    pub(crate) n_outputs_max_per_seq: u32,
    pub(crate) n_threads: i32,
    pub(crate) n_threads_batch: i32,
    /// A field of `ggml_threadpool_params`.
    pub(crate) poll: u32,
    pub(crate) rope_scaling_type: sys::llama_rope_scaling_type,
    pub(crate) pooling_type: sys::llama_pooling_type,
    pub(crate) attention_type: sys::llama_attention_type,
    pub(crate) flash_attn_type: sys::llama_flash_attn_type,
    pub(crate) rope_freq_base: f32,
    pub(crate) rope_freq_scale: f32,
    pub(crate) yarn_ext_factor: f32,
    pub(crate) yarn_attn_factor: f32,
    pub(crate) yarn_beta_fast: f32,
    pub(crate) yarn_beta_slow: f32,
    pub(crate) yarn_orig_ctx: u32,
    pub(crate) type_k: sys::ggml_type,
    pub(crate) type_v: sys::ggml_type,
    pub(crate) moe_cache_size: usize,
    pub(crate) embeddings: bool,
    pub(crate) offload_kqv: bool,
    pub(crate) no_perf: bool,
    pub(crate) op_offload: bool,
    pub(crate) swa_full: bool,
    pub(crate) kv_unified: bool,
}

impl Default for ContextSettings {
    /// What `llama_context_default_params` returns.
    fn default() -> Self {
        // SAFETY: no arguments, returns a plain struct.
        let raw = unsafe { sys::llama_context_default_params() };
        Self {
            n_ctx: raw.n_ctx,
            n_batch: raw.n_batch,
            n_ubatch: raw.n_ubatch,
            n_seq_max: raw.n_seq_max,
            n_rs_seq: raw.n_rs_seq,
            n_outputs_max: raw.n_outputs_max,
            n_outputs_max_per_seq: raw.n_outputs_max_per_seq,
            n_threads: raw.n_threads,
            n_threads_batch: raw.n_threads_batch,
            poll: 0,
            rope_scaling_type: raw.rope_scaling_type,
            pooling_type: raw.pooling_type,
            attention_type: raw.attention_type,
            flash_attn_type: raw.flash_attn_type,
            rope_freq_base: raw.rope_freq_base,
            rope_freq_scale: raw.rope_freq_scale,
            yarn_ext_factor: raw.yarn_ext_factor,
            yarn_attn_factor: raw.yarn_attn_factor,
            yarn_beta_fast: raw.yarn_beta_fast,
            yarn_beta_slow: raw.yarn_beta_slow,
            yarn_orig_ctx: raw.yarn_orig_ctx,
            type_k: raw.type_k,
            type_v: raw.type_v,
            moe_cache_size: raw.moe_cache_size,
            embeddings: raw.embeddings,
            offload_kqv: raw.offload_kqv,
            no_perf: raw.no_perf,
            op_offload: raw.op_offload,
            swa_full: raw.swa_full,
            kv_unified: raw.kv_unified,
        }
    }
}

/// A context, freed on drop. Whoever holds it holds its model too, and drops it first.
pub(crate) struct ContextHandle {
    context: NonNull<sys::llama_context>,
    /// llama.cpp keeps pointers to these two for as long as the context lives.
    _abort: Option<Arc<AtomicBool>>,
    eval: Option<Arc<EvalHook>>,
    threads: Threads,
    poll: u32,
}

/// What a context computes on.
enum Threads {
    /// ggml's own, which it starts and ends for each part of a graph.
    Unpooled,
    /// The last pool is in use. llama.cpp's backend touches the one before when it first uses
    /// another, so they all stay; each is at least twice as large as the one before.
    Pooled(Vec<ThreadPool>),
}

// SAFETY: llama.cpp's context is not tied to the thread that made it. It is used by one
// thread at a time, since everything that changes it takes `&mut self`; the getters that
// take `&self` only read what creation has set, and the type is not `Sync`.
unsafe impl Send for ContextHandle {}

/// A whole number that llama.cpp tells of a context.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ContextNumber {
    Ctx,
    CtxSeq,
    Batch,
    Ubatch,
    SeqMax,
}

/// What a batch is put through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    Decode,
    Encode,
}

/// How a computation ended without a result.
#[derive(Debug)]
pub(crate) struct ComputeFailure {
    /// llama.cpp's code; 0 if it did not come so far.
    pub(crate) code: i32,
    pub(crate) failure: Failure,
}

/// `llama_perf_context_data`; times in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PerfNumbers {
    pub(crate) load_ms: f64,
    pub(crate) prompt_eval_ms: f64,
    pub(crate) eval_ms: f64,
    pub(crate) n_prompt_eval: i32,
    pub(crate) n_eval: i32,
    pub(crate) n_reused: i32,
}

/// What a context and its model take of one kind of memory, in bytes.
#[derive(Clone, Debug)]
pub(crate) struct MemoryRecord {
    pub(crate) buffer: String,
    pub(crate) device: Option<DeviceHandle>,
    pub(crate) is_host: bool,
    pub(crate) model: u64,
    /// All of it, the cache of experts included.
    pub(crate) context: u64,
    pub(crate) moe_cache: u64,
    pub(crate) compute: u64,
}

/// A range of positions, the end excluded; negative for "from the start" and "to the
/// end".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RawRange {
    pub(crate) start: i32,
    pub(crate) end: i32,
}

/// Called by the threads that compute, between the nodes of a graph.
unsafe extern "C" fn on_abort_check(data: *mut c_void) -> bool {
    // SAFETY: `data` is the flag that the context holds in an `Arc`, so it lives longer than
    // any computation of the context.
    let flag = unsafe { &*data.cast::<AtomicBool>() };
    flag.load(Ordering::Relaxed)
}

impl ContextHandle {
    pub(crate) fn new(
        model: &ModelHandle,
        settings: &ContextSettings,
        abort: Option<Arc<AtomicBool>>,
        eval: Option<Arc<EvalHook>>,
    ) -> Result<Self, Failure> {
        // SAFETY: no arguments, returns a plain struct.
        let mut params = unsafe { sys::llama_context_default_params() };
        params.n_ctx = settings.n_ctx;
        params.n_batch = settings.n_batch;
        params.n_ubatch = settings.n_ubatch;
        params.n_seq_max = settings.n_seq_max;
        params.n_rs_seq = settings.n_rs_seq;
        params.n_outputs_max = settings.n_outputs_max;
        params.n_outputs_max_per_seq = settings.n_outputs_max_per_seq;
        params.n_threads = settings.n_threads;
        params.n_threads_batch = settings.n_threads_batch;
        params.rope_scaling_type = settings.rope_scaling_type;
        params.pooling_type = settings.pooling_type;
        params.attention_type = settings.attention_type;
        params.flash_attn_type = settings.flash_attn_type;
        params.rope_freq_base = settings.rope_freq_base;
        params.rope_freq_scale = settings.rope_freq_scale;
        params.yarn_ext_factor = settings.yarn_ext_factor;
        params.yarn_attn_factor = settings.yarn_attn_factor;
        params.yarn_beta_fast = settings.yarn_beta_fast;
        params.yarn_beta_slow = settings.yarn_beta_slow;
        params.yarn_orig_ctx = settings.yarn_orig_ctx;
        params.type_k = settings.type_k;
        params.type_v = settings.type_v;
        params.moe_cache_size = settings.moe_cache_size;
        params.embeddings = settings.embeddings;
        params.offload_kqv = settings.offload_kqv;
        params.no_perf = settings.no_perf;
        params.op_offload = settings.op_offload;
        params.swa_full = settings.swa_full;
        params.kv_unified = settings.kv_unified;
        if let Some(flag) = &abort {
            params.abort_callback = Some(on_abort_check);
            params.abort_callback_data = Arc::as_ptr(flag).cast_mut().cast();
        }
        if let Some(hook) = &eval {
            params.cb_eval = Some(eval::on_node);
            params.cb_eval_user_data = Arc::as_ptr(hook).cast_mut().cast();
        }

        let mut context = ptr::null_mut();
        guarded(|error| {
            // SAFETY: a live model; the callbacks' data are kept alive by the handle made
            // here, or, if there is none, are not used any more.
            unsafe { sys::llama_shim_init_from_model(model.as_ptr(), &params, &mut context, error) }
        })?;
        let context = NonNull::new(context).ok_or_else(|| Failure {
            kind: FailureKind::Failed,
            reason: "no context was returned".to_owned(),
        })?;
        Ok(Self {
            context,
            _abort: abort,
            eval,
            threads: Threads::Pooled(Vec::new()),
            poll: settings.poll,
        })
    }

    pub(super) fn as_ptr(&self) -> *mut sys::llama_context {
        self.context.as_ptr()
    }

    fn model(&self) -> *const sys::llama_model {
        // SAFETY: a live context; its model lives longer.
        unsafe { sys::llama_get_model(self.as_ptr()) }
    }

    pub(crate) fn number(&self, which: ContextNumber) -> u32 {
        let context = self.as_ptr();
        // SAFETY: a live context; each getter only reads what creation has set.
        unsafe {
            match which {
                ContextNumber::Ctx => sys::llama_n_ctx(context),
                ContextNumber::CtxSeq => sys::llama_n_ctx_seq(context),
                ContextNumber::Batch => sys::llama_n_batch(context),
                ContextNumber::Ubatch => sys::llama_n_ubatch(context),
                ContextNumber::SeqMax => sys::llama_n_seq_max(context),
            }
        }
    }

    pub(crate) fn pooling_type(&self) -> sys::llama_pooling_type {
        // SAFETY: a live context.
        unsafe { sys::llama_pooling_type(self.as_ptr()) }
    }

    /// Whether there is a memory: encoders have none.
    pub(crate) fn has_memory(&self) -> bool {
        // SAFETY: a live context.
        !unsafe { sys::llama_get_memory(self.as_ptr()) }.is_null()
    }

    /// Whether positions can be moved, as far as the kind of memory goes.
    pub(crate) fn can_shift(&self) -> bool {
        if !self.has_memory() {
            return false;
        }
        // SAFETY: a live context.
        let memory = unsafe { sys::llama_get_memory(self.as_ptr()) };
        // SAFETY: just seen not to be NULL; it lives as long as the context.
        unsafe { sys::llama_memory_can_shift(memory) }
    }

    pub(crate) fn causal_attn(&self) -> bool {
        // SAFETY: a live context.
        unsafe { sys::llama_get_causal_attn(self.as_ptr()) }
    }

    pub(crate) fn set_causal_attn(&mut self, causal: bool) {
        // SAFETY: a live context, used by this thread alone.
        unsafe { sys::llama_set_causal_attn(self.as_ptr(), causal) }
    }

    pub(crate) fn set_embeddings(&mut self, embeddings: bool) {
        // SAFETY: a live context, used by this thread alone.
        unsafe { sys::llama_set_embeddings(self.as_ptr(), embeddings) }
    }

    /// The caller has checked that both numbers are positive and not too large.
    pub(crate) fn set_n_threads(&mut self, n_threads: i32, n_threads_batch: i32) {
        // SAFETY: a live context, used by this thread alone.
        unsafe { sys::llama_set_n_threads(self.as_ptr(), n_threads, n_threads_batch) }
    }

    /// Threads for single tokens and for batches.
    pub(crate) fn n_threads(&self) -> (i32, i32) {
        // SAFETY: a live context, of which this only reads.
        let single = unsafe { sys::llama_n_threads(self.as_ptr()) };
        // SAFETY: as above.
        let batch = unsafe { sys::llama_n_threads_batch(self.as_ptr()) };
        (single, batch)
    }

    pub(crate) fn synchronize(&mut self) -> Result<(), Failure> {
        guarded(|error| {
            // SAFETY: a live context, used by this thread alone.
            unsafe { sys::llama_shim_synchronize(self.as_ptr(), error) }
        })
    }

    /// Sees to it that there is a pool of as many threads as are computed with. Contexts that
    /// never compute, such as those that only tell their size, have none.
    fn attach_threads(&mut self) -> Result<(), Failure> {
        let (single, batch) = self.n_threads();
        let context = self.as_ptr();
        let Threads::Pooled(pools) = &mut self.threads else {
            return Ok(());
        };
        let before = pools.last().map_or(0, ThreadPool::n_threads);
        let n_threads = single.max(batch);
        if n_threads <= before {
            return Ok(());
        }
        let n_threads = n_threads
            .max(before * 2)
            .min(sys::GGML_MAX_N_THREADS as i32);
        // SAFETY: a live context, used by this thread alone, which is attached to a larger pool
        // before it computes with more threads, and is freed before the pools.
        match unsafe { ThreadPool::attach(context, n_threads, self.poll) } {
            Ok(pool) => pools.push(pool),
            Err(failure) if failure.kind == FailureKind::Unsupported => {
                self.threads = Threads::Unpooled;
            }
            Err(failure) => return Err(failure),
        }
        Ok(())
    }

    /// Computes a batch that is not empty and whose tokens, sequences and embedding width
    /// have been checked against the model and the context.
    pub(crate) fn compute(
        &mut self,
        pass: Pass,
        batch: &BatchArrays,
        all_outputs: bool,
    ) -> Result<(), ComputeFailure> {
        self.attach_threads()
            .map_err(|failure| ComputeFailure { code: 0, failure })?;
        // SAFETY: a live model.
        let rope = unsafe { sys::llama_model_rope_type(self.model()) };
        let sections = match rope as sys::llama_rope_type {
            sys::LLAMA_ROPE_TYPE_MROPE | sys::LLAMA_ROPE_TYPE_IMROPE => 4,
            _ => 1,
        };
        let mut code = 0;
        batch
            .lend(sections, all_outputs, |raw| {
                guarded(|error| match pass {
                    // SAFETY: a live context, used by this thread alone; arrays of the lengths
                    // that llama.cpp expects, as `BatchArrays` sees to.
                    Pass::Decode => unsafe {
                        sys::llama_shim_decode(self.as_ptr(), raw, &mut code, error)
                    },
                    // SAFETY: as above.
                    Pass::Encode => unsafe {
                        sys::llama_shim_encode(self.as_ptr(), raw, &mut code, error)
                    },
                })
            })
            .map_err(|failure| ComputeFailure { code, failure })
    }

    /// What a panic in the eval callback said, once.
    pub(crate) fn take_panic(&mut self) -> Option<String> {
        self.eval.as_ref().and_then(|hook| hook.take_panic())
    }

    /// The logits of the entry at `index` of the last batch: `n_vocab` of them, the size of
    /// the model's vocabulary.
    pub(crate) fn logits(&mut self, index: i32) -> Option<&[f32]> {
        // SAFETY: a live context, used by this thread alone; an index without logits is
        // answered with NULL.
        let logits = unsafe { sys::llama_get_logits_ith(self.as_ptr(), index) };
        // SAFETY: a live model.
        let vocab = unsafe { sys::llama_model_get_vocab(self.model()) };
        // SAFETY: a live vocabulary.
        let n_vocab = unsafe { sys::llama_vocab_n_tokens(vocab) };
        self.floats(logits, n_vocab)
    }

    /// The embedding of the entry at `index` of the last batch.
    pub(crate) fn embeddings(&mut self, index: i32) -> Option<&[f32]> {
        // SAFETY: a live context, used by this thread alone; an index without an embedding is
        // answered with NULL.
        let embedding = unsafe { sys::llama_get_embeddings_ith(self.as_ptr(), index) };
        // SAFETY: a live model.
        let width = unsafe { sys::llama_model_n_embd_out(self.model()) };
        self.floats(embedding, width)
    }

    /// The pooled embedding of a sequence of the last batch, or its scores if the context
    /// ranks.
    pub(crate) fn sequence_embedding(&mut self, seq_id: i32) -> Option<&[f32]> {
        // SAFETY: a live context, used by this thread alone; a sequence without an embedding
        // is answered with NULL.
        let embedding = unsafe { sys::llama_get_embeddings_seq(self.as_ptr(), seq_id) };
        let width = if self.pooling_type() == sys::LLAMA_POOLING_TYPE_RANK {
            // SAFETY: a live model.
            unsafe { sys::llama_model_n_cls_out(self.model()) as i32 }
        } else {
            // SAFETY: a live model.
            unsafe { sys::llama_model_n_embd_out(self.model()) }
        };
        self.floats(embedding, width)
    }

    /// An output of the context as a slice. It borrows the context mutably, so that no
    /// call can change or free the buffer meanwhile.
    fn floats(&mut self, data: *const f32, n: i32) -> Option<&[f32]> {
        let n = usize::try_from(n).ok()?;
        if data.is_null() {
            return None;
        }
        // SAFETY: llama.cpp's getters have waited for the computation and returned a row of `n`
        // floats, the number that the model states for this kind of output.
        Some(unsafe { std::slice::from_raw_parts(data, n) })
    }

    pub(crate) fn perf(&self) -> PerfNumbers {
        // SAFETY: a live context, of which this only reads.
        let data = unsafe { sys::llama_perf_context(self.as_ptr()) };
        PerfNumbers {
            load_ms: data.t_load_ms,
            prompt_eval_ms: data.t_p_eval_ms,
            eval_ms: data.t_eval_ms,
            n_prompt_eval: data.n_p_eval,
            n_eval: data.n_eval,
            n_reused: data.n_reused,
        }
    }

    pub(crate) fn reset_perf(&mut self) {
        // SAFETY: a live context, used by this thread alone.
        unsafe { sys::llama_perf_context_reset(self.as_ptr()) }
    }

    /// Replaces the adapters in use. They must stay alive until they are replaced, or the
    /// context is gone.
    pub(crate) fn set_loras(&mut self, adapters: &[(&LoraHandle, f32)]) -> Result<(), Failure> {
        let pointers: Vec<_> = adapters.iter().map(|(lora, _)| lora.as_ptr()).collect();
        let scales: Vec<f32> = adapters.iter().map(|&(_, scale)| scale).collect();
        guarded(|error| {
            // SAFETY: a live context, used by this thread alone; two arrays of one length;
            // adapters that the caller keeps alive.
            unsafe {
                sys::llama_shim_set_adapters_lora(
                    self.as_ptr(),
                    pointers.as_ptr(),
                    pointers.len(),
                    scales.as_ptr(),
                    error,
                )
            }
        })
    }

    /// Sets the control vector: `n_embd` floats for each layer from 1 on, used in the layers
    /// `first` to `last`. `None` turns it off.
    pub(crate) fn set_control_vector(
        &mut self,
        data: Option<&[f32]>,
        n_embd: i32,
        first: i32,
        last: i32,
    ) -> Result<(), Failure> {
        let (pointer, len) = data.map_or((ptr::null(), 0), |data| (data.as_ptr(), data.len()));
        guarded(|error| {
            // SAFETY: a live context, used by this thread alone; an array given with its
            // length, of which llama.cpp copies.
            unsafe {
                sys::llama_shim_set_adapter_cvec(
                    self.as_ptr(),
                    pointer,
                    len,
                    n_embd,
                    first,
                    last,
                    error,
                )
            }
        })
    }

    pub(crate) fn clear(&mut self) -> Result<(), Failure> {
        guarded(|error| {
            // SAFETY: a live context, used by this thread alone; without a memory the call is
            // refused.
            unsafe { sys::llama_shim_seq_clear(self.as_ptr(), true, error) }
        })
    }

    /// Removes a range of a sequence, of all if `seq_id` is -1.
    pub(crate) fn seq_rm(&mut self, seq_id: i32, range: RawRange) -> Result<bool, Failure> {
        let mut removed = false;
        guarded(|error| {
            // SAFETY: as in `clear`; a sequence that does not exist is refused.
            unsafe {
                sys::llama_shim_seq_rm(
                    self.as_ptr(),
                    seq_id,
                    range.start,
                    range.end,
                    &mut removed,
                    error,
                )
            }
        })?;
        Ok(removed)
    }

    pub(crate) fn seq_cp(&mut self, from: i32, to: i32, range: RawRange) -> Result<(), Failure> {
        guarded(|error| {
            // SAFETY: as in `seq_rm`.
            unsafe {
                sys::llama_shim_seq_cp(self.as_ptr(), from, to, range.start, range.end, error)
            }
        })
    }

    pub(crate) fn seq_add(
        &mut self,
        seq_id: i32,
        range: RawRange,
        delta: i32,
    ) -> Result<(), Failure> {
        guarded(|error| {
            // SAFETY: as in `seq_rm`; the caller has checked that no position overflows.
            unsafe {
                sys::llama_shim_seq_add(self.as_ptr(), seq_id, range.start, range.end, delta, error)
            }
        })
    }

    pub(crate) fn seq_div(
        &mut self,
        seq_id: i32,
        range: RawRange,
        divisor: i32,
    ) -> Result<(), Failure> {
        guarded(|error| {
            // SAFETY: as in `seq_rm`; a divisor below 1 is refused.
            unsafe {
                sys::llama_shim_seq_div(
                    self.as_ptr(),
                    seq_id,
                    range.start,
                    range.end,
                    divisor,
                    error,
                )
            }
        })
    }

    /// The lowest and the highest position of a sequence, -1 if it is empty.
    pub(crate) fn seq_pos(&self, seq_id: i32) -> Result<(i32, i32), Failure> {
        let (mut min, mut max) = (-1, -1);
        guarded(|error| {
            // SAFETY: as in `seq_rm`; this only reads.
            unsafe { sys::llama_shim_seq_pos(self.as_ptr(), seq_id, &mut min, &mut max, error) }
        })?;
        Ok((min, max))
    }

    /// The state of the context, or of one sequence.
    pub(crate) fn state(&mut self, seq_id: Option<i32>) -> Result<Vec<u8>, Failure> {
        let mut data = vec![0; self.state_size(seq_id)?];
        let mut size = 0;
        let (place, capacity) = (data.as_mut_ptr(), data.len());
        guarded(|error| match seq_id {
            // SAFETY: a live context, used by this thread alone; a buffer given with its
            // size.
            None => unsafe {
                sys::llama_shim_state_get_data(self.as_ptr(), place, capacity, &mut size, error)
            },
            // SAFETY: as above; a sequence that does not exist is refused.
            Some(seq_id) => unsafe {
                sys::llama_shim_state_seq_get_data(
                    self.as_ptr(),
                    seq_id,
                    sys::LLAMA_STATE_SEQ_FLAGS_NONE,
                    place,
                    capacity,
                    &mut size,
                    error,
                )
            },
        })?;
        data.truncate(size);
        Ok(data)
    }

    /// The bytes that [`state`](Self::state) needs now.
    pub(crate) fn state_size(&mut self, seq_id: Option<i32>) -> Result<usize, Failure> {
        let mut size = 0;
        guarded(|error| match seq_id {
            // SAFETY: a live context, used by this thread alone.
            None => unsafe { sys::llama_shim_state_get_size(self.as_ptr(), &mut size, error) },
            // SAFETY: as above; a sequence that does not exist is refused.
            Some(seq_id) => unsafe {
                sys::llama_shim_state_seq_get_size(
                    self.as_ptr(),
                    seq_id,
                    sys::LLAMA_STATE_SEQ_FLAGS_NONE,
                    &mut size,
                    error,
                )
            },
        })?;
        Ok(size)
    }

    /// Restores what [`state`](Self::state) gave; returns how many of the bytes were used.
    /// The caller has checked that they came from there.
    pub(crate) fn set_state(&mut self, seq_id: Option<i32>, data: &[u8]) -> Result<usize, Failure> {
        let mut size = 0;
        guarded(|error| match seq_id {
            // SAFETY: a live context, used by this thread alone; bytes given with their
            // number, beyond which llama.cpp does not read.
            None => unsafe {
                sys::llama_shim_state_set_data(
                    self.as_ptr(),
                    data.as_ptr(),
                    data.len(),
                    &mut size,
                    error,
                )
            },
            // SAFETY: as above; a sequence that does not exist is refused.
            Some(seq_id) => unsafe {
                sys::llama_shim_state_seq_set_data(
                    self.as_ptr(),
                    seq_id,
                    sys::LLAMA_STATE_SEQ_FLAGS_NONE,
                    data.as_ptr(),
                    data.len(),
                    &mut size,
                    error,
                )
            },
        })?;
        Ok(size)
    }

    /// What the context and its model take of each kind of memory.
    pub(crate) fn memory_breakdown(&mut self) -> Result<Vec<MemoryRecord>, Failure> {
        let mut list = ptr::null_mut();
        guarded(|error| {
            // SAFETY: a live context, used by this thread alone.
            unsafe { sys::llama_shim_memory_new(self.as_ptr(), &mut list, error) }
        })?;
        let list = MemoryList(list);
        // SAFETY: the list just made.
        let count = unsafe { sys::llama_shim_memory_count(list.0) };
        (0..count)
            .map(|index| memory_record(&list, index))
            .collect()
    }
}

impl Drop for ContextHandle {
    fn drop(&mut self) {
        // SAFETY: owned, freed once. The model, the adapters and the callbacks' data are still
        // alive: their holders are dropped after this.
        let _ = guarded(|error| unsafe { sys::llama_shim_free(self.as_ptr(), error) });
    }
}

struct MemoryList(*mut sys::llama_shim_memory);

impl Drop for MemoryList {
    fn drop(&mut self) {
        // SAFETY: owned, freed once.
        unsafe { sys::llama_shim_memory_free(self.0) }
    }
}

fn memory_record(list: &MemoryList, index: usize) -> Result<MemoryRecord, Failure> {
    // SAFETY: zero is a valid value of this plain struct, which the call fills.
    let mut entry = unsafe { std::mem::zeroed::<sys::llama_shim_memory_entry>() };
    guarded(|error| {
        // SAFETY: a live list; an index out of range is refused.
        unsafe { sys::llama_shim_memory_get(list.0, index, &mut entry, error) }
    })?;
    Ok(MemoryRecord {
        buffer: text::owned(entry.buft_name),
        device: DeviceHandle::new(entry.dev),
        is_host: entry.is_host,
        model: entry.model,
        context: entry.context,
        moe_cache: entry.moe_cache,
        compute: entry.compute,
    })
}
