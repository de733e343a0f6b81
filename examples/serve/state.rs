//! What the handlers share.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use common::{MoeCacheReport, PlacementReport, PlanReport};
use llama_moe::engine::{Engine, EngineError};
use llama_moe::{ChatTemplate, Error, Model, Vocab};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::BLOCKING;
use crate::openai::{ApiError, ApiResult};
use crate::tools::Format;

/// Seconds after which a client may try again while the model loads.
const LOADING_RETRY: u32 = 5;
/// The same where all slots and the queue are taken.
pub const BUSY_RETRY: u32 = 1;

/// Bytes that the bodies of all requests may have at a time, beside what each has anyhow; one of
/// any length that is allowed has room where there is no other.
const BODIES: usize = 256 << 20;

/// Work that runs on the threads for what takes longer.
static AT_WORK: Semaphore = Semaphore::const_new(BLOCKING);

/// The server: there from the start.
pub struct App {
    /// What a request may ask for.
    pub limits: Limits,
    /// Bytes that bodies may still have.
    pub bodies: Arc<Semaphore>,
    /// Keys of which a client has to show one; none: anybody may ask.
    pub api_keys: Vec<String>,
    /// The server's own name, if it may not be asked by that of another machine.
    pub local_name: Option<String>,
    /// When the server started.
    pub started: Instant,
    served: OnceLock<Arc<Served>>,
    /// How much of the model is loaded, in thousandths.
    loaded: AtomicU32,
    stopping: AtomicBool,
}

/// What a request may ask for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// Bytes of a body.
    pub max_body: usize,
    /// Tokens of an answer.
    pub max_tokens: Option<u32>,
    /// The time of a request.
    pub deadline: Option<Duration>,
    /// Requests that may wait.
    pub queue: usize,
    /// Whether requests can have grammars.
    pub grammars: bool,
}

/// The model that is served: there once it is loaded.
pub struct Served {
    /// The name it is asked for by.
    pub id: String,
    /// When it was loaded, in seconds since 1970.
    pub created: u64,
    pub model: Model,
    pub vocab: Vocab,
    /// Bytes of the longest token's text; none where that bounds nothing, since the vocabulary
    /// leaves out parts of a text.
    pub longest_piece: Option<usize>,
    pub engine: Engine,
    /// How conversations are written down; or why they are not.
    pub chat: Result<ChatForm, String>,
    pub placement: Option<PlacementReport>,
    /// The cache of experts; none without one.
    pub moe_cache: Option<MoeCacheReport>,
    pub plan: Option<PlanReport>,
    /// The picture of the placement, as SVG.
    pub picture: Option<String>,
}

/// How conversations are written down.
pub struct ChatForm {
    pub template: ChatTemplate,
    /// How tools are called.
    pub format: Option<Format>,
    /// Whether the template knows the role `developer`.
    pub has_developer: bool,
}

impl App {
    /// A server without a model.
    pub fn new(limits: Limits, api_keys: Vec<String>, local_name: Option<String>) -> Self {
        let bodies = BODIES.max(limits.max_body).min(Semaphore::MAX_PERMITS);
        Self {
            limits,
            bodies: Arc::new(Semaphore::new(bodies)),
            api_keys,
            local_name,
            started: Instant::now(),
            served: OnceLock::new(),
            loaded: AtomicU32::new(0),
            stopping: AtomicBool::new(false),
        }
    }

    /// The model, if it is loaded.
    pub fn served(&self) -> Option<&Arc<Served>> {
        self.served.get()
    }

    /// Answers from now on with this model.
    pub fn serve(&self, served: Served) {
        // There is one load, so nothing is there yet.
        let _ = self.served.set(Arc::new(served));
    }

    /// How much of the model is loaded, 0 to 1.
    pub fn loaded(&self) -> f32 {
        self.loaded.load(Ordering::Relaxed) as f32 / 1000.0
    }

    /// Takes how much of the model is loaded, and says whether to go on.
    pub fn set_loaded(&self, share: f32) -> ControlFlow<()> {
        self.loaded
            .store((share * 1000.0) as u32, Ordering::Relaxed);
        if self.stopping.load(Ordering::Relaxed) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    /// Ends a load that goes on.
    pub fn stop_loading(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }
}

impl Served {
    /// Refuses requests for another model. One that names none is for this.
    pub fn check_model(&self, asked: Option<&str>) -> ApiResult<()> {
        match asked {
            Some(asked) if asked != self.id => {
                let message = format!("there is no model '{asked}'; there is '{}'", self.id);
                let error = ApiError::new(StatusCode::NOT_FOUND, message);
                Err(error.with_param("model").with_code("model_not_found"))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a text that is too long by far, without the time it takes to tokenise it.
    pub fn check_length(&self, text: &str, most_tokens: usize) -> ApiResult<()> {
        let Some(longest) = self.longest_piece else {
            return Ok(());
        };
        let least_tokens = text.len() / longest.max(1);
        if least_tokens <= most_tokens {
            return Ok(());
        }
        let message = format!(
            "the text has more than {least_tokens} tokens, but there is room for {most_tokens}"
        );
        Err(ApiError::bad_request(message).with_code("context_length_exceeded"))
    }

    /// Tokens that a request has room for.
    pub fn n_ctx(&self) -> usize {
        // A model that can only embed is refused by its engine.
        self.engine.n_ctx_per_request().unwrap_or(usize::MAX)
    }

    /// How conversations are written down.
    pub fn chat(&self) -> ApiResult<&ChatForm> {
        self.chat
            .as_ref()
            .map_err(|error| ApiError::bad_request(error.as_str()))
    }
}

/// The model, for handlers that need it: until it is loaded, clients are asked to wait.
pub struct Ready(pub Arc<Served>);

impl FromRequestParts<Arc<App>> for Ready {
    type Rejection = ApiError;

    async fn from_request_parts(_: &mut Parts, app: &Arc<App>) -> ApiResult<Self> {
        app.served()
            .map(|served| Self(Arc::clone(served)))
            .ok_or_else(|| {
                ApiError::unavailable("the model is being loaded", LOADING_RETRY)
                    .with_code("model_loading")
            })
    }
}

/// Runs what takes longer than a handler should, such as tokenising a long text.
///
/// It waits for a thread here: in the runtime's queue, which has no limit, it would stay after the
/// client has left, and the body with it.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> ApiResult<T> + Send + 'static,
) -> ApiResult<T> {
    // Nobody closes it, so there is always a thread in the end.
    let thread = AT_WORK.acquire().await.ok();
    let work = move || {
        let result = work();
        drop(thread);
        result
    };
    match spawn_blocking(work).await {
        Ok(result) => result,
        // It panicked, and only this request ends.
        Err(error) => Err(ApiError::internal(error.to_string())),
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Engine(EngineError::QueueFull { .. }) => {
                Self::unavailable(message, BUSY_RETRY).with_code("queue_full")
            }
            // Answers that are late end without an error.
            Error::Engine(EngineError::Deadline) => {
                Self::unavailable(message, BUSY_RETRY).with_code("timeout")
            }
            Error::Engine(EngineError::Stopped) => {
                Self::unavailable("the server is shutting down", LOADING_RETRY)
            }
            Error::Engine(EngineError::PromptTooLong { .. }) => {
                Self::bad_request(message).with_code("context_length_exceeded")
            }
            Error::Engine(EngineError::TooManyChoices { .. }) => {
                Self::bad_request(message).with_param("n")
            }
            Error::Engine(EngineError::Compute { .. }) => Self::internal(message),
            // These say what is wrong with what was asked.
            Error::Engine(_)
            | Error::Chat(_)
            | Error::Vocab(_)
            | Error::Sampler(_)
            | Error::Nul { .. }
            | Error::Parameter { .. } => Self::bad_request(message),
            // The rest is of the model, the context or the machine.
            _ => Self::internal(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Mutex, mpsc};

    use axum::response::IntoResponse;
    use llama_moe::{ChatError, ContextError, MemoryError};
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn work_of_a_client_that_has_left_does_not_wait_for_a_thread() {
        let (end, ended) = mpsc::channel::<()>();
        let ended = Arc::new(Mutex::new(ended));
        let running = (0..BLOCKING).map(|_| {
            let ended = Arc::clone(&ended);
            tokio::spawn(blocking(move || {
                // Until nobody can say anything any more.
                let _ = ended.lock().map(|ended| ended.recv());
                Ok(())
            }))
        });
        let running: Vec<_> = running.collect();
        while AT_WORK.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        // What waits holds its body, and lets go of it with its client.
        let body = Arc::new(());
        let held = Arc::clone(&body);
        let waiting = blocking(move || {
            drop(held);
            Ok(())
        });
        let waiting = timeout(Duration::from_millis(50), waiting).await;
        assert!(waiting.is_err());
        assert_eq!(Arc::strong_count(&body), 1);
        drop(end);
        for work in running {
            assert_eq!(work.await.unwrap(), Ok(()));
        }
        assert_eq!(blocking(|| Ok(1)).await, Ok(1));
    }

    fn status(error: impl Into<Error>) -> StatusCode {
        ApiError::from(error.into()).into_response().status()
    }

    #[test]
    fn who_is_at_fault_is_told_by_the_status() {
        let compute = EngineError::Compute {
            reason: String::new(),
        };
        let file = Error::File {
            path: "lost".into(),
            source: io::ErrorKind::NotFound.into(),
        };
        let gone = Error::DeviceGone {
            device: "RPC0".to_owned(),
            endpoint: "127.0.0.1:1".to_owned(),
            source: io::ErrorKind::ConnectionRefused.into(),
        };
        let load = Error::Load {
            path: "lost".into(),
            reason: String::new(),
        };
        for status in [
            status(compute),
            status(file),
            status(gone),
            status(load),
            status(MemoryError::None),
            status(ContextError::VocabOnly),
        ] {
            assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        }
        for status in [
            status(EngineError::EmptyPrompt),
            status(EngineError::TooManyChoices { n: 2, slots: 1 }),
            status(ChatError::EmptyStopString),
        ] {
            assert_eq!(status, StatusCode::BAD_REQUEST);
        }
        for status in [
            status(EngineError::QueueFull { queue: 1 }),
            status(EngineError::Deadline),
            status(EngineError::Stopped),
        ] {
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        }
    }
}
