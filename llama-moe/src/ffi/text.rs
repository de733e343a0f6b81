//! Texts across the boundary.

use std::ffi::{CStr, CString, c_char};
use std::path::Path;

use crate::error::{Error, Result};

/// A copy of a C string that `pointer` leads to; `None` for NULL. Every pointer that
/// comes here is one that llama.cpp or the shim just returned as a string. Bytes that
/// are not UTF-8 become U+FFFD.
pub(super) fn optional(pointer: *const c_char) -> Option<String> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: not NULL; llama.cpp's and the shim's strings are NUL-terminated and live
    // at least until the next call on the object they came from.
    let text = unsafe { CStr::from_ptr(pointer) };
    Some(text.to_string_lossy().into_owned())
}

/// As [`owned`]; what is no UTF-8 is an error, with U+FFFD in its place.
pub(super) fn checked(pointer: *const c_char) -> std::result::Result<String, String> {
    if pointer.is_null() {
        return Ok(String::new());
    }
    // SAFETY: as in `optional`.
    let text = unsafe { CStr::from_ptr(pointer) };
    match text.to_str() {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(text.to_string_lossy().into_owned()),
    }
}

/// As [`optional`], with an empty text for NULL.
pub(super) fn owned(pointer: *const c_char) -> String {
    optional(pointer).unwrap_or_default()
}

/// `text` for C; `what` says in the error what it is.
pub(crate) fn c_string(what: &'static str, text: &str) -> Result<CString> {
    CString::new(text).map_err(|error| Error::Nul {
        what,
        text: text.to_owned(),
        position: error.nul_position(),
    })
}

/// A path for C: the bytes as they are on Unix, UTF-8 elsewhere, as llama.cpp expects.
pub(crate) fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_encoded_bytes()).map_err(|error| Error::Nul {
        what: "path",
        text: path.display().to_string(),
        position: error.nul_position(),
    })
}
