//! LoRA adapters, as far as llama.cpp asserts on their metadata.

use std::path::Path;

use super::header::read_file;
use crate::error::Result;
use crate::ffi::GgufKind;

/// Finds a value of an adapter's file whose type llama.cpp's loader asserts on, and says
/// which: reading it there would end the process.
pub(crate) fn check_adapter(path: &Path) -> Result<Result<(), String>> {
    let header = read_file(path)?;
    let expected = [
        ("general.type", GgufKind::Text, "a text"),
        ("general.architecture", GgufKind::Text, "a text"),
        ("adapter.type", GgufKind::Text, "a text"),
        ("adapter.lora.alpha", GgufKind::F32, "a 32-bit float"),
    ];
    let wrong = expected
        .iter()
        .find(|(key, kind, _)| header.kind(key).is_some_and(|is| is != *kind));
    Ok(match wrong {
        Some((key, _, kind)) => Err(format!("{key} is not {kind}")),
        None => Ok(()),
    })
}
