//! Where the tensors of a loaded model are.

use std::ptr;

use llama_sys as sys;

use super::call::guarded;
use super::device::{BufferType, DeviceHandle};
use super::model::ModelHandle;
use super::text;
use super::weights::WeightShape;
use crate::error::Result;

/// One tensor of a loaded model.
#[derive(Clone, Debug)]
pub(crate) struct TensorRecord {
    pub(crate) name: String,
    /// ggml's name of the element type: "q4_K", "f32".
    pub(crate) kind: String,
    pub(crate) shape: Vec<u64>,
    type_id: sys::ggml_type,
    pub(crate) bytes: u64,
    /// `None` if the tensor was not allocated.
    pub(crate) buffer: Option<BufferType>,
    /// "CPU_Mapped" for weights used in place in a mapped file, else the buffer type's
    /// name; empty without a buffer.
    pub(crate) buffer_name: String,
    pub(crate) device: Option<DeviceHandle>,
    pub(crate) is_host: bool,
    /// The model uses a tensor of the same name before this one.
    pub(crate) duplicate: bool,
}

impl TensorRecord {
    pub(crate) fn weight_shape(&self) -> WeightShape {
        WeightShape::new(self.type_id, &self.shape)
    }
}

pub(crate) fn placement(model: &ModelHandle) -> Result<Vec<TensorRecord>> {
    let mut list = ptr::null_mut();
    guarded(|error| {
        // SAFETY: a live model, out-parameters of this frame.
        unsafe { sys::llama_shim_placement_new(model.as_ptr(), &mut list, error) }
    })
    .map_err(|failure| failure.of("llama_shim_placement_new"))?;
    let list = List(list);
    // SAFETY: the list just made.
    let count = unsafe { sys::llama_shim_placement_count(list.0) };
    (0..count).map(|index| record(&list, index)).collect()
}

fn record(list: &List, index: usize) -> Result<TensorRecord> {
    // SAFETY: zero is a valid value of this plain struct, which the call fills.
    let mut tensor = unsafe { std::mem::zeroed::<sys::llama_shim_tensor>() };
    guarded(|error| {
        // SAFETY: a live list; an index out of range is refused.
        unsafe { sys::llama_shim_placement_get(list.0, index, &mut tensor, error) }
    })
    .map_err(|failure| failure.of("llama_shim_placement_get"))?;
    let n_dims = usize::try_from(tensor.n_dims).unwrap_or(0);
    // SAFETY: the type of a tensor of a loaded model, which ggml has a name for.
    let kind = unsafe { sys::ggml_type_name(tensor.type_ as sys::ggml_type) };
    Ok(TensorRecord {
        name: text::owned(tensor.name),
        kind: text::owned(kind),
        shape: tensor
            .ne
            .iter()
            .take(n_dims)
            .map(|&n| u64::try_from(n).unwrap_or(0))
            .collect(),
        type_id: tensor.type_ as sys::ggml_type,
        bytes: tensor.bytes,
        buffer: BufferType::new(tensor.buft),
        buffer_name: text::owned(tensor.buft_name),
        device: DeviceHandle::new(tensor.dev),
        is_host: tensor.is_host,
        duplicate: tensor.duplicate,
    })
}

struct List(*mut sys::llama_shim_placement);

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: owned, freed once.
        unsafe { sys::llama_shim_placement_free(self.0) }
    }
}
