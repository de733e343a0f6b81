//! Ctrl-C ends what is going on, not the program.

use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use llama_moe::AbortToken;

use crate::Result;

/// The exit code of a program that Ctrl-C ended, by the shells' convention.
const INTERRUPTED: i32 = 130;

/// Turns Ctrl-C into a pulled [`AbortToken`].
#[derive(Debug)]
pub struct Interrupt {
    token: AbortToken,
    busy: Arc<AtomicBool>,
}

impl Interrupt {
    /// Takes over Ctrl-C for the rest of the process. Outside of
    /// [`guard`](Self::guard), and when it comes a second time, it ends the program.
    ///
    /// # Errors
    /// If the signal cannot be taken over.
    pub fn new() -> Result<Self> {
        let token = AbortToken::new();
        let busy = Arc::new(AtomicBool::new(false));
        let (pull, is_busy) = (token.clone(), Arc::clone(&busy));
        ctrlc::set_handler(move || {
            if is_busy.swap(false, Ordering::SeqCst) {
                pull.abort();
            } else {
                process::exit(INTERRUPTED);
            }
        })?;
        Ok(Self { token, busy })
    }

    /// For the context whose computations Ctrl-C ends.
    #[must_use]
    pub fn token(&self) -> AbortToken {
        self.token.clone()
    }

    /// Runs `work` with Ctrl-C pulling the token.
    pub fn guard<T>(&self, work: impl FnOnce() -> T) -> T {
        // At the beginning: a pull that came when the last work had just ended is of no use.
        self.token.reset();
        self.busy.store(true, Ordering::SeqCst);
        let result = work();
        self.busy.store(false, Ordering::SeqCst);
        result
    }
}
