//! Panics of Rust callbacks, kept from unwinding into C++.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};

/// Runs a callback for C++. A panic is caught and its message kept in `stash`, to be
/// returned as an error once the C++ call is over.
pub(crate) fn catch<T>(stash: &mut Option<String>, callback: impl FnOnce() -> T) -> Option<T> {
    // The callback's own state may be half changed after a panic: that is the callback
    // author's to know. Nothing of ours is.
    match panic::catch_unwind(AssertUnwindSafe(callback)) {
        Ok(value) => Some(value),
        Err(payload) => {
            stash.get_or_insert_with(|| message(payload.as_ref()));
            // A payload's own destructor may panic, and so may the payload of that, unless it
            // is one of the two that have none.
            if let Err(again) = panic::catch_unwind(AssertUnwindSafe(|| drop(payload)))
                && !(again.is::<&str>() || again.is::<String>())
            {
                std::mem::forget(again);
            }
            None
        }
    }
}

fn message(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}
