//! A trace as JSON.

use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::RoutingError;
use super::trace::{MicroBatch, RoutedLayer, RoutingTrace};
use crate::error::Result;

/// The version of the form.
const VERSION: u32 = 1;

/// The form as it is read: nothing in it is checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    version: u32,
    model: String,
    n_expert: u32,
    n_expert_used: u32,
    layers: Vec<RoutedLayer>,
    micro_batches: Vec<MicroBatch>,
}

/// Only the version, which says whether the rest can be read.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

impl RoutingTrace {
    /// The trace as JSON.
    ///
    /// | key | value |
    /// |---|---|
    /// | `version` | 1 |
    /// | `model` | the model, in llama.cpp's words |
    /// | `n_expert`, `n_expert_used` | experts per layer, and the most that a token uses |
    /// | `layers` | one object for each MoE layer: `layer`, `n_expert_used` |
    /// | `micro_batches` | one object for each: `phase` (`prefill`, `decode`), `n_tokens` (one number per layer), `experts` (layer after layer, token after token) |
    ///
    /// # Errors
    /// [`RoutingError::Json`] if memory does not suffice.
    pub fn to_json(&self) -> Result<String> {
        Ok(serde_json::to_string(self).map_err(unreadable)?)
    }

    /// Reads a trace, and checks that all numbers fit each other.
    ///
    /// # Errors
    /// [`RoutingError`] that names what is wrong.
    pub fn from_json(json: &str) -> Result<Self> {
        let Versioned { version } = serde_json::from_str(json).map_err(unreadable)?;
        if version != VERSION {
            return Err(other_version(version).into());
        }
        let unchecked: Unchecked = serde_json::from_str(json).map_err(unreadable)?;
        Ok(Self::try_from(unchecked)?)
    }
}

fn unreadable(error: serde_json::Error) -> RoutingError {
    RoutingError::Json {
        reason: error.to_string(),
    }
}

fn other_version(version: u32) -> RoutingError {
    RoutingError::Version {
        version,
        supported: VERSION,
    }
}

impl TryFrom<Unchecked> for RoutingTrace {
    type Error = RoutingError;

    fn try_from(unchecked: Unchecked) -> Result<Self, RoutingError> {
        if unchecked.version != VERSION {
            return Err(other_version(unchecked.version));
        }
        let trace = Self {
            model: unchecked.model,
            n_expert: unchecked.n_expert,
            n_expert_used: unchecked.n_expert_used,
            layers: unchecked.layers,
            micro_batches: unchecked.micro_batches,
        };
        trace.check()?;
        Ok(trace)
    }
}

impl Serialize for RoutingTrace {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut form = serializer.serialize_struct("RoutingTrace", 6)?;
        form.serialize_field("version", &VERSION)?;
        form.serialize_field("model", &self.model)?;
        form.serialize_field("n_expert", &self.n_expert)?;
        form.serialize_field("n_expert_used", &self.n_expert_used)?;
        form.serialize_field("layers", &self.layers)?;
        form.serialize_field("micro_batches", &self.micro_batches)?;
        form.end()
    }
}

impl<'de> Deserialize<'de> for RoutingTrace {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let unchecked = Unchecked::deserialize(from)?;
        Self::try_from(unchecked).map_err(serde::de::Error::custom)
    }
}
