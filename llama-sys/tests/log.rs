//! The log goes to one sink, which can be swapped at any time, and the reason of a
//! failure arrives whatever the sink does.

use std::ffi::{c_char, c_void};
use std::path::Path;
use std::ptr;
use std::sync::Mutex;
use std::thread;

use llama_sys as sys;

mod support;
use support::{Model, model_params, text};

static LINES: Mutex<Vec<(sys::ggml_log_level, String)>> = Mutex::new(Vec::new());

unsafe extern "C" fn collect(level: sys::ggml_log_level, line: *const c_char, _: *mut c_void) {
    if let Ok(mut lines) = LINES.lock() {
        lines.push((level, text(line)));
    }
}

fn failure_text(name: &str) -> String {
    match Model::load(Path::new(name), &model_params()) {
        Ok(_) => panic!("{name} loads"),
        Err(failure) => failure.text,
    }
}

// One test: the sink belongs to the process.
#[test]
fn the_sink_gets_every_line_and_each_thread_its_own_reason() {
    support::init();
    // SAFETY: a function that does not unwind and needs no data.
    unsafe { sys::llama_shim_log_set(Some(collect), ptr::null_mut()) }
    assert!(failure_text("no-such-a.gguf").contains("no-such-a.gguf"));
    let lines = std::mem::take(&mut *LINES.lock().expect("lines"));
    assert!(
        lines.iter().any(|(level, line)| {
            *level == sys::GGML_LOG_LEVEL_ERROR && line.contains("no-such-a.gguf")
        }),
        "{lines:?}"
    );

    // Reasons do not mix between threads that fail at the same time.
    thread::scope(|scope| {
        for name in ["no-such-b.gguf", "no-such-c.gguf", "no-such-d.gguf"] {
            scope.spawn(move || {
                for _ in 0..50 {
                    let text = failure_text(name);
                    assert!(text.contains(name), "{text}");
                    assert_eq!(text.matches("no-such-").count(), text.matches(name).count());
                }
            });
        }
        for _ in 0..200 {
            // SAFETY: as above; swapping is what is tested.
            unsafe {
                sys::llama_shim_log_set(None, ptr::null_mut());
                sys::llama_shim_log_set(Some(collect), ptr::null_mut());
            }
        }
    });

    // SAFETY: no sink is a valid sink.
    unsafe { sys::llama_shim_log_set(None, ptr::null_mut()) }
    LINES.lock().expect("lines").clear();
    assert!(failure_text("no-such-e.gguf").contains("no-such-e.gguf"));
    assert!(LINES.lock().expect("lines").is_empty());
}
