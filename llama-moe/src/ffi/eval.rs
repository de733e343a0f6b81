//! The callback that watches a graph being computed.

use std::ffi::{CStr, c_void};
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use llama_sys as sys;

use super::{panic, text};
use crate::context::{EvalCallback, EvalTensor};

/// A callback that contexts can share.
pub(crate) type SharedEval = Arc<Mutex<dyn EvalCallback>>;

/// What the C side finds behind its pointer; one for each context.
pub(crate) struct EvalHook {
    callback: SharedEval,
    panic: Mutex<Option<String>>,
}

impl EvalHook {
    pub(crate) fn new(callback: SharedEval) -> Self {
        Self {
            callback,
            panic: Mutex::new(None),
        }
    }

    /// The message of a panic, once.
    pub(crate) fn take_panic(&self) -> Option<String> {
        lock(&self.panic).take()
    }
}

/// Panics are caught before they reach a guard, so a poisoned lock only means that a
/// thread of the user's panicked while it used the callback.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `ggml_backend_sched_eval_callback`: first asks whether the data of a node is wanted,
/// then, for the nodes that are, comes again with the data.
pub(super) unsafe extern "C" fn on_node(
    tensor: *mut sys::ggml_tensor,
    ask: bool,
    data: *mut c_void,
) -> bool {
    // SAFETY: `data` is the hook that the context holds in an `Arc`, so it lives longer than
    // any computation of the context.
    let hook = unsafe { &*data.cast::<EvalHook>() };
    let mut panicked = lock(&hook.panic);
    if panicked.is_some() {
        // Nothing more is asked of a callback that has failed; the computation is left to
        // end by itself, because stopping it here would leave nodes out without a word.
        return !ask;
    }
    let mut callback = lock(&hook.callback);
    let answer = panic::catch(&mut panicked, || {
        let bytes = if ask { None } else { Some(contents(tensor)) };
        // SAFETY: a tensor of the graph that is being computed, which nobody changes during
        // this call.
        let raw = unsafe { &*tensor };
        let description = describe(raw);
        match bytes {
            None => callback.wants(&description),
            Some(bytes) => {
                callback.data(&description, &bytes);
                true
            }
        }
    });
    answer.unwrap_or(!ask)
}

fn describe(raw: &sys::ggml_tensor) -> EvalTensor<'_> {
    // SAFETY: the type of a tensor of a graph, which ggml has a name for.
    let kind = text::owned(unsafe { sys::ggml_type_name(raw.type_) });
    // SAFETY: a tensor of a graph.
    let op = text::owned(unsafe { sys::ggml_op_desc(raw) });
    // SAFETY: ggml ends a tensor's name with a NUL inside of its array.
    let name = unsafe { CStr::from_ptr(raw.name.as_ptr()) }.to_string_lossy();
    EvalTensor {
        name,
        op,
        kind,
        shape: raw.ne.map(|n| u64::try_from(n).unwrap_or(0)),
        strides: raw.nb.map(|n| n as u64),
    }
}

/// A copy of the tensor's bytes, from wherever they are.
fn contents(tensor: *mut sys::ggml_tensor) -> Vec<u8> {
    // SAFETY: a tensor of the graph that is being computed.
    let size = unsafe { sys::ggml_nbytes(tensor) };
    let mut bytes = vec![0; size];
    if size > 0 {
        // SAFETY: the scheduler has just computed this tensor and waited for it, so it has a
        // buffer; a destination of exactly the size asked for.
        unsafe {
            sys::ggml_backend_tensor_get(tensor, ptr::from_mut(&mut bytes[..]).cast(), 0, size)
        }
    }
    bytes
}
