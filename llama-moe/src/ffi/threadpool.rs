//! Threads that a context computes on.

use std::ptr::{self, NonNull};

use llama_sys as sys;

use super::call::{Failure, guarded};
use crate::error::FailureKind;

/// Threads that stay from graph to graph, ended on drop. Whoever holds them drops their context
/// first.
pub(super) struct ThreadPool {
    pool: NonNull<sys::llama_shim_threadpool>,
    n_threads: i32,
}

impl ThreadPool {
    /// Makes threads, on which the context computes from now on.
    ///
    /// # Safety
    /// The context is alive, used by this thread alone, and is never set to compute with more
    /// threads than these; it ends before what is returned.
    pub(super) unsafe fn attach(
        context: *mut sys::llama_context,
        n_threads: i32,
        poll: u32,
    ) -> Result<Self, Failure> {
        let mut pool = ptr::null_mut();
        guarded(|error| {
            // SAFETY: a live context, as the caller says, and an out-parameter of this frame;
            // numbers out of range are refused.
            unsafe { sys::llama_shim_threadpool_attach(context, n_threads, poll, &mut pool, error) }
        })?;
        let pool = NonNull::new(pool).ok_or_else(|| Failure {
            kind: FailureKind::Failed,
            reason: "no threads were returned".to_owned(),
        })?;
        Ok(Self { pool, n_threads })
    }

    pub(super) fn n_threads(&self) -> i32 {
        self.n_threads
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        // SAFETY: owned, freed once; the context that used it is gone.
        unsafe { sys::llama_shim_threadpool_free(self.pool.as_ptr()) }
    }
}
