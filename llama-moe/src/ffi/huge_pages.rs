//! The pages that a model's weights lie on.

use llama_sys as sys;

use super::call::guarded;
use super::model::ModelHandle;
use crate::error::Result;

/// Moves weights to huge pages, and says how much of them.
pub(crate) fn use_huge_pages(model: &ModelHandle) -> Result<sys::llama_shim_huge_pages> {
    // SAFETY: zero is a valid value of this plain struct, which the call fills.
    let mut result = unsafe { std::mem::zeroed::<sys::llama_shim_huge_pages>() };
    guarded(|error| {
        // SAFETY: a live model, borrowed during the call so that its buffers stay; out-parameters
        // of this frame. What the buffers hold does not change.
        unsafe { sys::llama_shim_model_use_huge_pages(model.as_ptr(), &mut result, error) }
    })
    .map_err(|failure| failure.of("llama_shim_model_use_huge_pages"))?;
    Ok(result)
}
