//! llama.cpp's built-in chat templates.

use std::ffi::{CString, c_char};
use std::ptr;

use llama_sys as sys;

use super::call::guarded;
use super::text;
use crate::error::Result;

/// The names of the templates.
pub(crate) fn chat_builtin_names() -> Vec<String> {
    // SAFETY: with length 0 nothing is written; the number of names is returned.
    let n = unsafe { sys::llama_chat_builtin_templates(ptr::null_mut(), 0) };
    let mut names: Vec<*const c_char> = vec![ptr::null(); usize::try_from(n).unwrap_or(0)];
    // SAFETY: writes at most as many pointers as there is room for. The texts are static.
    unsafe { sys::llama_chat_builtin_templates(names.as_mut_ptr(), names.len()) };
    names.into_iter().filter_map(text::optional).collect()
}

/// The prompt that the template `name` makes of pairs of role and content.
pub(crate) fn chat_apply_builtin(
    name: &str,
    messages: &[(&str, &str)],
    add_assistant: bool,
) -> Result<String> {
    let name = text::c_string("template's name", name)?;
    let owned: Vec<(CString, CString)> = messages
        .iter()
        .map(|(role, content)| {
            Ok((
                text::c_string("role of a message", role)?,
                text::c_string("content of a message", content)?,
            ))
        })
        .collect::<Result<_>>()?;
    let raw: Vec<sys::llama_chat_message> = owned
        .iter()
        .map(|(role, content)| sys::llama_chat_message {
            role: role.as_ptr(),
            content: content.as_ptr(),
        })
        .collect();
    let mut buffer: Vec<u8> = Vec::new();
    loop {
        let capacity = i32::try_from(buffer.len()).unwrap_or(i32::MAX);
        let mut length = 0;
        guarded(|error| {
            // SAFETY: a NUL-terminated name; `raw.len()` messages, whose texts are in
            // `owned`; a buffer of the length given, of which no more is written;
            // out-parameters of this frame.
            unsafe {
                sys::llama_shim_chat_apply_template(
                    name.as_ptr(),
                    raw.as_ptr(),
                    raw.len(),
                    add_assistant,
                    buffer.as_mut_ptr().cast::<c_char>(),
                    capacity,
                    &mut length,
                    error,
                )
            }
        })
        .map_err(|failure| failure.of("llama_chat_apply_template"))?;
        let length = usize::try_from(length).unwrap_or(0);
        if length <= buffer.len() {
            buffer.truncate(length);
            return Ok(String::from_utf8_lossy(&buffer).into_owned());
        }
        buffer = vec![0; length];
    }
}
