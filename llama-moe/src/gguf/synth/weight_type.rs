//! One type for all matrices, in place of the usual mixture.

use std::fmt;
use std::str::FromStr;

use super::types::TensorType;
use crate::error::Error;

/// A type that all matrices of a shape can have: those that a quantisation would shrink. Vectors,
/// norms and routers stay in 32 bits.
///
/// Parsed from, and shown as, ggml's name of it: `q8_0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WeightType {
    /// 16 bits: what models are converted to before they are quantised.
    F16,
    /// 16 bits, with the range of 32.
    Bf16,
    /// 8.5 bits per weight.
    Q8_0,
    /// 5.5 bits per weight.
    Q5_0,
    /// 4.5 bits per weight.
    Q4_0,
}

impl WeightType {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::F16, Self::Bf16, Self::Q8_0, Self::Q5_0, Self::Q4_0];

    /// ggml's name of it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q5_0 => "q5_0",
            Self::Q4_0 => "q4_0",
        }
    }

    pub(super) fn tensor_type(self) -> TensorType {
        match self {
            Self::F16 => TensorType::F16,
            Self::Bf16 => TensorType::Bf16,
            Self::Q8_0 => TensorType::Q8_0,
            Self::Q5_0 => TensorType::Q5_0,
            Self::Q4_0 => TensorType::Q4_0,
        }
    }

    /// `llama_ftype`: what a file whose matrices are mostly of this type says of itself.
    pub(super) fn file_type(self) -> u32 {
        match self {
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q8_0 => 7,
            Self::Q5_0 => 8,
            Self::Bf16 => 32,
        }
    }
}

impl fmt::Display for WeightType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for WeightType {
    type Err = Error;

    /// # Errors
    /// [`Error::Parameter`] for another name; it says which there are.
    fn from_str(name: &str) -> Result<Self, Error> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| Error::Parameter {
            parameter: "type",
            value: format!("{name:?}"),
            reason: format!("there are: {}", Self::ALL.map(Self::name).join(", ")),
        })
    }
}
