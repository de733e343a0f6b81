//! The crate's one error type.

use std::io;
use std::path::PathBuf;

use crate::chat::ChatError;
use crate::context::{
    BatchError, ContextError, ControlVectorError, DecodeError, MemoryError, OutputError, StateError,
};
#[cfg(feature = "engine")]
use crate::engine::EngineError;
#[cfg(feature = "measure")]
use crate::measure::MeasureError;
#[cfg(feature = "measure")]
use crate::measure::quality::QualityError;
#[cfg(feature = "measure")]
use crate::measure::routing::RoutingError;
use crate::model::{LoraError, VocabError};
use crate::placement::{MoeCacheError, OverrideError, PatternError, PlanError, VerifyError};
use crate::sampler::SamplerError;

/// The result of this crate's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, with which value, and what to do about it.
///
/// Errors of llama.cpp arrive as [`Error::Llama`] or [`Error::Load`]: `reason` is the
/// text of the C++ exception or what llama.cpp logged during the failed call.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// llama.cpp, or the guard in front of it, refused or failed a call.
    #[error("{call}: {reason} ({kind})")]
    Llama {
        /// The function of llama.cpp's C API that this is about.
        call: &'static str,
        /// How the call ended.
        kind: FailureKind,
        /// llama.cpp's own words.
        reason: String,
    },

    /// A model file could not be loaded.
    #[error("cannot load the model '{}': {reason}", path.display())]
    Load {
        /// The file that was asked for.
        path: PathBuf,
        /// llama.cpp's own words.
        reason: String,
    },

    /// Loading was stopped by the progress callback.
    #[error("loading '{}' was cancelled", path.display())]
    LoadCancelled {
        /// The file that was asked for.
        path: PathBuf,
    },

    /// A file could not be opened, read or written.
    #[error("'{}': {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },

    /// A text that is passed to C contains a NUL character.
    #[error("the {what} has a NUL character at byte {position}: {text:?}")]
    Nul {
        /// What the text is: "path", "metadata key".
        what: &'static str,
        /// The text.
        text: String,
        /// Byte offset of the NUL.
        position: usize,
    },

    /// A parameter has a value that cannot work.
    #[error("{parameter} = {value}: {reason}")]
    Parameter {
        /// The parameter's name, as the method that sets it.
        parameter: &'static str,
        /// The value it was given.
        value: String,
        /// Why it cannot work, and what can.
        reason: String,
    },

    /// No device, or no buffer type, has this name.
    #[error("there is no device '{name}'; there are: {}", available.join(", "))]
    UnknownDevice {
        /// The name that was asked for.
        name: String,
        /// The names that exist.
        available: Vec<String>,
    },

    /// The worker process that lends a device is gone.
    #[error(
        "the device {device} is gone: nobody answers at {endpoint} ({source}); start the worker \
         again, or leave the device out"
    )]
    DeviceGone {
        /// The device.
        device: String,
        /// Where the worker was.
        endpoint: String,
        /// The operating system's reason.
        source: io::Error,
    },

    /// A pattern for tensor names is not usable.
    #[error(transparent)]
    Pattern(#[from] PatternError),

    /// A rule for where tensors live cannot be applied to this model.
    #[error(transparent)]
    Override(#[from] OverrideError),

    /// Nothing fits a budget, or the budget cannot be.
    #[error(transparent)]
    Plan(#[from] PlanError),

    /// A loaded model is not where it was said to be.
    #[error(transparent)]
    Verify(#[from] VerifyError),

    /// A chat cannot go on, or a prompt cannot be made.
    #[error(transparent)]
    Chat(#[from] ChatError),

    /// Text and tokens do not go together.
    #[error(transparent)]
    Vocab(#[from] VocabError),

    /// A sampler cannot be made, or cannot choose a token.
    #[error(transparent)]
    Sampler(#[from] SamplerError),

    /// A context cannot be made or used.
    #[error(transparent)]
    Context(#[from] ContextError),

    /// Experts cannot be cached on a device.
    #[error(transparent)]
    MoeCache(#[from] MoeCacheError),

    /// A batch cannot be built or does not suit the context.
    #[error(transparent)]
    Batch(#[from] BatchError),

    /// A batch was not computed.
    #[error(transparent)]
    Decode(#[from] DecodeError),

    /// An output cannot be read.
    #[error(transparent)]
    Output(#[from] OutputError),

    /// A memory cannot do what was asked.
    #[error(transparent)]
    Memory(#[from] MemoryError),

    /// A state cannot be saved or restored.
    #[error(transparent)]
    State(#[from] StateError),

    /// A LoRA adapter cannot be loaded or used.
    #[error(transparent)]
    Lora(#[from] LoraError),

    /// A control vector does not fit the model.
    #[error(transparent)]
    ControlVector(#[from] ControlVectorError),

    /// An engine does not take a request, or does not finish it.
    #[cfg(feature = "engine")]
    #[error(transparent)]
    Engine(#[from] EngineError),

    /// The quality of a variant cannot be measured.
    #[cfg(feature = "measure")]
    #[error(transparent)]
    Quality(#[from] QualityError),

    /// Something cannot be measured, or was measured wrongly.
    #[cfg(feature = "measure")]
    #[error(transparent)]
    Measure(#[from] MeasureError),

    /// Routing cannot be recorded, read or replayed.
    #[cfg(feature = "measure")]
    #[error(transparent)]
    Routing(#[from] RoutingError),

    /// A Rust callback panicked while llama.cpp was calling it.
    #[error("the {callback} panicked: {message}")]
    CallbackPanicked {
        /// Which callback: "progress callback", "eval callback".
        callback: &'static str,
        /// The panic's message.
        message: String,
    },
}

/// How a guarded call of llama.cpp ended (`enum llama_shim_status`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureKind {
    /// llama.cpp reported a failure.
    Failed,
    /// llama.cpp threw a C++ exception.
    Exception,
    /// There was not enough memory.
    OutOfMemory,
    /// The arguments were refused before llama.cpp saw them.
    InvalidArgument,
    /// This build does not have what the call needs.
    Unsupported,
}

impl std::fmt::Display for FailureKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Failed => "failed",
            Self::Exception => "C++ exception",
            Self::OutOfMemory => "out of memory",
            Self::InvalidArgument => "invalid argument",
            Self::Unsupported => "not supported by this build",
        })
    }
}
