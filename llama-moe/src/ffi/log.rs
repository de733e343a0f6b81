//! llama.cpp's log, as `tracing` events of the target `llama.cpp`.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_void};
use std::ptr;
use std::sync::Once;

use llama_sys as sys;

/// A line longer than this is given out in pieces.
const MAX_LINE: usize = 16 << 10;

thread_local! {
    /// llama.cpp logs fragments of lines, each thread its own.
    static LINE: RefCell<Line> = const { RefCell::new(Line { level: sys::GGML_LOG_LEVEL_NONE, text: String::new() }) };
}

struct Line {
    level: sys::ggml_log_level,
    text: String,
}

/// Sends the log to `tracing` from now on; without a subscriber it is silent. Only the first
/// call does anything.
pub(super) fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: `receive` does not unwind, and needs no data.
        unsafe { sys::llama_shim_log_set(Some(receive), ptr::null_mut()) }
    });
}

unsafe extern "C" fn receive(level: sys::ggml_log_level, text: *const c_char, _: *mut c_void) {
    if text.is_null() {
        return;
    }
    // SAFETY: the callback's contract: a NUL-terminated string, valid during the call.
    let text = unsafe { CStr::from_ptr(text) };
    // A subscriber's panic must not unwind into C++; there is nobody to tell it to.
    let _ = super::panic::catch(&mut None, || {
        // A thread that is ending has no line to add to, and a subscriber that calls
        // llama.cpp from within an event finds the line in use: its text is lost.
        let _ = LINE.try_with(|line| {
            if let Ok(mut line) = line.try_borrow_mut() {
                line.add(level, &text.to_string_lossy());
            }
        });
    });
}

impl Line {
    fn add(&mut self, level: sys::ggml_log_level, text: &str) {
        if level != sys::GGML_LOG_LEVEL_CONT {
            self.emit();
            self.level = level;
        }
        for piece in text.split_inclusive('\n') {
            self.text.push_str(piece);
            if piece.ends_with('\n') || self.text.len() > MAX_LINE {
                self.emit();
            }
        }
    }

    fn emit(&mut self) {
        let text = std::mem::take(&mut self.text);
        let text = text.trim_end();
        if text.is_empty() {
            return;
        }
        match self.level {
            sys::GGML_LOG_LEVEL_ERROR => tracing::error!(target: "llama.cpp", "{text}"),
            sys::GGML_LOG_LEVEL_WARN => tracing::warn!(target: "llama.cpp", "{text}"),
            sys::GGML_LOG_LEVEL_INFO => tracing::info!(target: "llama.cpp", "{text}"),
            _ => tracing::debug!(target: "llama.cpp", "{text}"),
        }
    }
}
