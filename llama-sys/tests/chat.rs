//! llama.cpp's built-in chat templates.

use std::ffi::CStr;
use std::ptr;

use llama_sys as sys;

mod support;
use support::{Failure, guarded};

/// The text and its full length, with a buffer of `capacity` bytes.
fn apply(
    template: Option<&CStr>,
    messages: &[sys::llama_chat_message],
    capacity: usize,
) -> Result<(String, usize), Failure> {
    let mut buffer = vec![0u8; capacity];
    let mut length = 0;
    guarded(|error| {
        // SAFETY: slices of this frame, given with their lengths.
        unsafe {
            sys::llama_shim_chat_apply_template(
                template.map_or(ptr::null(), CStr::as_ptr),
                messages.as_ptr(),
                messages.len(),
                true,
                buffer.as_mut_ptr().cast(),
                capacity as i32,
                &mut length,
                error,
            )
        }
    })?;
    let length = length as usize;
    buffer.truncate(length);
    Ok((String::from_utf8(buffer).expect("UTF-8"), length))
}

fn message(role: &'static CStr, content: &'static CStr) -> sys::llama_chat_message {
    sys::llama_chat_message {
        role: role.as_ptr(),
        content: content.as_ptr(),
    }
}

#[test]
fn a_template_formats_and_says_how_long() {
    let messages = [message(c"user", c"Which expert?")];
    let expected = "<|im_start|>user\nWhich expert?<|im_end|>\n<|im_start|>assistant\n";
    for template in [None, Some(c"chatml"), Some(c"{{ '<|im_start|>' }}")] {
        let (text, length) = apply(template, &messages, 256).expect("a text");
        assert_eq!(text, expected);
        assert_eq!(length, expected.len());
    }
    // Exactly full, too small, and empty.
    for capacity in [expected.len(), 10, 0] {
        let (text, length) = apply(None, &messages, capacity).expect("a length");
        assert_eq!(text, expected[..capacity]);
        assert_eq!(length, expected.len());
    }
    let (text, _) = apply(None, &[], 256).expect("a text");
    assert_eq!(text, "<|im_start|>assistant\n");
}

#[test]
fn unknown_templates_and_missing_texts_are_errors() {
    let failure = apply(Some(c"no-such-template"), &[], 0).expect_err("there is none");
    assert_eq!(failure.status, sys::LLAMA_SHIM_FAILED);
    assert!(failure.text.contains("template"), "{}", failure.text);

    let missing = sys::llama_chat_message {
        role: c"user".as_ptr(),
        content: ptr::null(),
    };
    let failure = apply(None, &[missing], 256).expect_err("a content is missing");
    assert_eq!(failure.status, sys::LLAMA_SHIM_INVALID_ARGUMENT);
}
