//! What is added to a model's weights: LoRA adapters and control vectors.

use std::ops::RangeInclusive;

use super::Context;
use crate::error::{FailureKind, Result};
use crate::model::{LoraAdapter, LoraError};

/// A control vector that does not fit the model.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ControlVectorError {
    /// It has the wrong number of elements.
    #[error(
        "the control vector has {len} elements, not {expected}: {n_embd} for each of the layers \
         from 1 to {last}"
    )]
    Length {
        /// Elements it has.
        len: usize,
        /// Elements it should have.
        expected: usize,
        /// The width of the model.
        n_embd: u32,
        /// The last layer.
        last: u32,
    },

    /// An element is no finite number.
    #[error("element {element} of the control vector is {value}")]
    NotFinite {
        /// The element's index.
        element: usize,
        /// Its value.
        value: f32,
    },

    /// The layers to use it in are not those of the model.
    #[error("the layers {first} to {end} are not among those from 1 to {last}")]
    Layers {
        /// The first layer asked for.
        first: u32,
        /// The last layer asked for.
        end: u32,
        /// The model's last layer.
        last: u32,
    },
}

/// LoRA adapters and control vectors.
impl Context {
    /// Uses these adapters, each with its scale, in place of those used so far; none for an
    /// empty list. What is in the memory was computed with the adapters of its time.
    ///
    /// Rests on `llama_set_adapters_lora`.
    ///
    /// # Errors
    /// [`LoraError`] for an adapter of another model, one that is given twice, or a scale
    /// that is no finite number; nothing has changed then.
    pub fn set_lora_adapters(&mut self, adapters: &[(LoraAdapter, f32)]) -> Result<()> {
        self.check_usable()?;
        for (index, (adapter, scale)) in adapters.iter().enumerate() {
            let path = || adapter.path().to_owned();
            if !adapter.model().is_same(&self.model) {
                return Err(LoraError::OtherModel { path: path() }.into());
            }
            if adapters[..index]
                .iter()
                .any(|(other, _)| other.is_same(adapter))
            {
                return Err(LoraError::Twice { path: path() }.into());
            }
            if !scale.is_finite() {
                let (path, scale) = (path(), *scale);
                return Err(LoraError::Scale { path, scale }.into());
            }
        }
        // What is being computed may still read the adapters that go.
        self.synchronize()?;
        // Held before llama.cpp is told, so that after any failure it has none that is gone.
        let n_before = self.adapters.len();
        self.adapters
            .extend(adapters.iter().map(|(adapter, _)| adapter.clone()));
        let handles: Vec<_> = adapters
            .iter()
            .map(|(adapter, scale)| (adapter.handle(), *scale))
            .collect();
        let set = self.handle.set_loras(&handles);
        self.watch(set, "llama_set_adapters_lora")?;
        self.adapters.drain(..n_before);
        Ok(())
    }

    /// The adapters in use.
    #[must_use]
    pub fn lora_adapters(&self) -> &[LoraAdapter] {
        &self.adapters
    }

    /// Adds a vector to the output of the layers `layers`:
    /// [`n_embd`](crate::Model::n_embd) floats for each layer from 1 to the last, one after the
    /// other. Layer 0 has none.
    ///
    /// Rests on `llama_set_adapter_cvec`.
    ///
    /// # Errors
    /// [`ControlVectorError`] if it does not fit the model.
    pub fn set_control_vector(&mut self, data: &[f32], layers: RangeInclusive<u32>) -> Result<()> {
        self.check_usable()?;
        let n_embd = self.model.n_embd();
        let last = self.model.n_layer().saturating_sub(1);
        let expected = n_embd as usize * last as usize;
        if data.len() != expected {
            let len = data.len();
            return Err(ControlVectorError::Length {
                len,
                expected,
                n_embd,
                last,
            }
            .into());
        }
        if let Some(element) = data.iter().position(|value| !value.is_finite()) {
            let value = data[element];
            return Err(ControlVectorError::NotFinite { element, value }.into());
        }
        let (first, end) = layers.into_inner();
        if first == 0 || first > end || end > last {
            return Err(ControlVectorError::Layers { first, end, last }.into());
        }
        self.control(Some(data), n_embd as i32, first as i32, end as i32)
    }

    /// Adds no vector any more.
    ///
    /// Rests on `llama_set_adapter_cvec`.
    ///
    /// # Errors
    /// [`Error::Llama`](crate::Error::Llama) if llama.cpp fails.
    pub fn clear_control_vector(&mut self) -> Result<()> {
        self.check_usable()?;
        self.control(None, 0, -1, -1)
    }

    fn control(&mut self, data: Option<&[f32]>, n_embd: i32, first: i32, last: i32) -> Result<()> {
        // The vector is overwritten in place.
        self.synchronize()?;
        let set = self.handle.set_control_vector(data, n_embd, first, last);
        if let Err(failure) = &set {
            // llama.cpp takes a vector whose allocation failed halfway for a whole one.
            self.poisoned |= failure.kind != FailureKind::InvalidArgument;
        }
        self.watch(set, "llama_set_adapter_cvec")
    }
}
