//! Ending a computation from another thread.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Ends computations of the contexts it was given to, from any thread.
///
/// Given to a context by
/// [`ContextParams::with_abort_token`](crate::ContextParams::with_abort_token).
/// Once it is pulled, the decode that is under way ends with
/// [`DecodeError::Aborted`](crate::DecodeError::Aborted), and so does every later one
/// until [`reset`](Self::reset).
///
/// Only the CPU and Metal look at it, between the operations of a graph; what was sent
/// to another device is computed to its end.
///
/// Rests on `llama_context_params.abort_callback`.
///
/// ```
/// use llama_moe::AbortToken;
///
/// let token = AbortToken::new();
/// let other = token.clone();
/// std::thread::spawn(move || other.abort()).join().unwrap();
/// assert!(token.is_aborted());
/// token.reset();
/// assert!(!token.is_aborted());
/// ```
#[derive(Clone, Default)]
pub struct AbortToken(Arc<AtomicBool>);

impl AbortToken {
    /// A token that has not been pulled.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Pulls it: ends what is being computed, and keeps anything from being computed.
    pub fn abort(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Lets computations go on again.
    pub fn reset(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Whether it is pulled.
    #[must_use]
    pub fn is_aborted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}

impl fmt::Debug for AbortToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AbortToken")
            .field(&self.is_aborted())
            .finish()
    }
}
