//! Texts to embed, and embeddings that are being computed.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::channel::Receiver;
use super::error::EngineError;
use crate::error::Result;
use crate::model::Token;

/// Texts to embed, each of them as its tokens.
///
/// ```
/// use std::time::Duration;
/// use llama_moe::Token;
/// use llama_moe::engine::EmbedRequest;
///
/// let request = EmbedRequest::new(vec![vec![Token(1), Token(17)], vec![Token(1)]])
///     .with_deadline(Duration::from_secs(30));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct EmbedRequest {
    pub(super) texts: Vec<Vec<Token>>,
    pub(super) deadline: Option<Duration>,
}

impl EmbedRequest {
    /// Texts to embed.
    pub fn new(texts: Vec<Vec<Token>>) -> Self {
        Self {
            texts,
            deadline: None,
        }
    }

    /// How long the request may take, from when it is submitted, waiting included. If not all
    /// texts are embedded then, it ends with [`EngineError::Deadline`].
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }
}

impl From<Vec<Vec<Token>>> for EmbedRequest {
    fn from(texts: Vec<Vec<Token>>) -> Self {
        Self::new(texts)
    }
}

/// Embeddings that are being computed: [wait](Self::wait) for them, or await them.
///
/// One for each text, of [`Model::n_embd_out`](crate::Model::n_embd_out) floats, as the model
/// computes them, of any length. Dropping this cancels what is not computed yet.
#[must_use = "dropping this cancels the computation"]
pub struct Embeddings {
    result: Receiver<Result<Vec<Vec<f32>>>>,
}

impl Embeddings {
    pub(super) fn new(result: Receiver<Result<Vec<Vec<f32>>>>) -> Self {
        Self { result }
    }

    /// Waits for them.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] if the engine has; [`EngineError::Deadline`] if that has passed;
    /// [`EngineError::Compute`] if the computation fails; what
    /// [`Model::context`](crate::Model::context) returns, if there can be no context for
    /// embeddings.
    pub fn wait(self) -> Result<Vec<Vec<f32>>> {
        stopped_if_none(self.result.recv())
    }
}

impl Future for Embeddings {
    type Output = Result<Vec<Vec<f32>>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.result.poll_recv(context).map(stopped_if_none)
    }
}

fn stopped_if_none<T>(result: Option<Result<T>>) -> Result<T> {
    result.unwrap_or_else(|| Err(EngineError::Stopped.into()))
}

impl fmt::Debug for Embeddings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embeddings").finish_non_exhaustive()
    }
}
