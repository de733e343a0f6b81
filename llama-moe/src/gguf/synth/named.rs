//! Models whose shape is known by name.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;

/// A published Mixture-of-Experts model, by its shape.
///
/// Parsed from, and shown as, the name that its files usually have: `qwen3-30b-a3b`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NamedShape {
    /// gpt-oss-20b: 24 layers, 32 experts, 4 used.
    GptOss20b,
    /// gpt-oss-120b: 36 layers, 128 experts, 4 used.
    GptOss120b,
    /// Qwen3-30B-A3B: 48 layers, 128 experts, 8 used.
    Qwen3_30bA3b,
    /// Qwen3-235B-A22B: 94 layers, 128 experts, 8 used.
    Qwen3_235bA22b,
    /// Phi-3.5-MoE: 32 layers, 16 experts, 2 used.
    Phi35Moe,
    /// DeepSeek-V2-Lite: 27 layers, the first one dense, 64 experts, 6 used, 2 shared.
    DeepSeekV2Lite,
    /// DeepSeek-V3 and R1: 61 layers, the first three dense, 256 experts, 8 used, 1 shared.
    DeepSeekV3,
    /// GLM-4.5-Air: 46 layers, the first one dense, 128 experts, 8 used, 1 shared, and a
    /// block that predicts further tokens.
    Glm45Air,
    /// Mixtral-8x7B: 32 layers, 8 experts, 2 used.
    Mixtral8x7b,
}

impl NamedShape {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::GptOss20b,
        Self::GptOss120b,
        Self::Qwen3_30bA3b,
        Self::Qwen3_235bA22b,
        Self::Phi35Moe,
        Self::DeepSeekV2Lite,
        Self::DeepSeekV3,
        Self::Glm45Air,
        Self::Mixtral8x7b,
    ];

    /// The name: `gpt-oss-20b`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::GptOss20b => "gpt-oss-20b",
            Self::GptOss120b => "gpt-oss-120b",
            Self::Qwen3_30bA3b => "qwen3-30b-a3b",
            Self::Qwen3_235bA22b => "qwen3-235b-a22b",
            Self::Phi35Moe => "phi-3.5-moe",
            Self::DeepSeekV2Lite => "deepseek-v2-lite",
            Self::DeepSeekV3 => "deepseek-v3",
            Self::Glm45Air => "glm-4.5-air",
            Self::Mixtral8x7b => "mixtral-8x7b",
        }
    }
}

impl fmt::Display for NamedShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for NamedShape {
    type Err = Error;

    /// # Errors
    /// [`Error::Parameter`] for another name; it says which there are.
    fn from_str(name: &str) -> Result<Self, Error> {
        let found = Self::ALL.into_iter().find(|shape| shape.name() == name);
        found.ok_or_else(|| Error::Parameter {
            parameter: "shape",
            value: format!("{name:?}"),
            reason: format!("there are: {}", Self::ALL.map(Self::name).join(", ")),
        })
    }
}
