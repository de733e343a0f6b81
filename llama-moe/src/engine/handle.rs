//! The handle by which requests come to an engine.

use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle, ThreadId};

use super::embeddings::{EmbedRequest, Embeddings};
use super::error::EngineError;
use super::inbox::{Closing, Inbox};
use super::job;
use super::params::{EngineParams, Settings};
use super::request::Request;
use super::shared::Shared;
use super::stats::EngineStats;
use super::stream::Stream;
use super::worker::Worker;
use crate::chat::{ChatTemplate, Message, RenderOptions};
use crate::context::{AbortToken, Context, MemoryError};
use crate::error::{Error, Result};
use crate::model::{Model, Vocab};
use crate::placement::MoeCacheLayout;

/// Answers many requests at a time, on a thread of its own that owns a context.
///
/// A handle: clones are the same engine. When the last one is dropped, the engine
/// [stops](Self::stop).
#[derive(Clone)]
pub struct Engine(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    thread_id: ThreadId,
    template: OnceLock<ChatTemplate>,
}

impl Engine {
    /// Makes the context, and starts the thread that computes with it.
    ///
    /// # Errors
    /// [`Error::Parameter`](crate::Error::Parameter) for a parameter that cannot work;
    /// [`EngineError::EncoderDecoder`] for such a model; [`EngineError::DraftVocabulary`],
    /// [`EngineError::DraftEncodes`], [`EngineError::DraftNotTakenBack`] for a draft that does not
    /// suit the model, and [`EngineError::EncodesOnly`] for a model that a draft is of no use to;
    /// [`MoeCacheError::Draft`](crate::MoeCacheError::Draft) for a draft's context with a cache of
    /// experts;
    /// what [`Model::context`] returns; [`EngineError::Compute`] if the thread cannot be started.
    pub fn new(model: &Model, params: EngineParams) -> Result<Self> {
        let mut settings = params.settle(model)?;
        let abort = AbortToken::new();
        settings.context = settings.context.with_abort_token(abort.clone());
        let context = generating_context(model, &settings)?;
        let drafter = match (&settings.draft, &context) {
            (None, _) => None,
            (Some(_), None) => return Err(EngineError::EncodesOnly.into()),
            (Some(draft), Some(context)) => Some(draft.drafter(context, &abort)?),
        };
        let shared = Arc::new(Shared::new(
            model.clone(),
            Inbox::new(settings.queue),
            settings.slots,
            context
                .as_ref()
                .map(|context| n_ctx_per_request(context, &settings)),
            settings.embed_tokens as usize,
            context
                .as_ref()
                .and_then(|context| context.moe_cache().cloned()),
            abort,
        ));
        let template = OnceLock::new();
        if let Some(given) = params.template {
            // The lock is new, so it is empty.
            let _ = template.set(given);
        }
        let worker = Worker::new(Arc::clone(&shared), &settings, context, drafter);
        let thread = thread::Builder::new()
            .name("llama-moe engine".to_owned())
            .spawn(move || worker.run())
            .map_err(|error| EngineError::Compute {
                reason: format!("no thread for the engine: {error}"),
            })?;
        Ok(Self(Arc::new(Handle {
            shared,
            thread_id: thread.thread().id(),
            thread: Mutex::new(Some(thread)),
            template,
        })))
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.0.shared.model
    }

    /// Its vocabulary.
    #[must_use]
    pub fn vocab(&self) -> Vocab {
        self.model().vocab()
    }

    /// Answers that are generated at a time.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.0.shared.slots
    }

    /// Positions that an answer can have, its prompt included; `None` for a model that can
    /// only embed.
    #[must_use]
    pub fn n_ctx_per_request(&self) -> Option<usize> {
        self.0.shared.n_ctx_per_request
    }

    /// Tokens that a text to embed can have.
    #[must_use]
    pub fn embed_tokens(&self) -> usize {
        self.0.shared.embed_tokens
    }

    /// The layout of the cache of experts; `None` without a cache. [`EngineStats::moe_cache`] says
    /// what it did.
    #[must_use]
    pub fn moe_cache(&self) -> Option<&MoeCacheLayout> {
        self.0.shared.moe_cache.as_ref()
    }

    /// What it has done and does.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        self.0.shared.stats()
    }

    /// The template that [`chat`](Self::chat) uses, compiled when it is first asked for.
    ///
    /// # Errors
    /// As [`ChatTemplate::of`].
    pub fn template(&self) -> Result<&ChatTemplate> {
        if let Some(template) = self.0.template.get() {
            return Ok(template);
        }
        let template = ChatTemplate::of(self.model())?;
        Ok(self.0.template.get_or_init(|| template))
    }
}

/// Asking.
impl Engine {
    /// A request that asks for the next message of a conversation.
    ///
    /// # Errors
    /// As [`template`](Self::template) and [`Request::chat`].
    pub fn chat(&self, messages: &[Message], options: &RenderOptions) -> Result<Request> {
        Request::chat(self.template()?, &self.vocab(), messages, options)
    }

    /// Asks for answers. Returns at once.
    ///
    /// # Errors
    /// Everything that can be told before anything is computed: [`EngineError::QueueFull`],
    /// [`EngineError::Stopped`]; [`EngineError::EmptyPrompt`], [`EngineError::PromptTooLong`],
    /// [`EngineError::TooManyChoices`], [`EngineError::EncodesOnly`];
    /// [`VocabError`](crate::VocabError) for a token that does not exist,
    /// [`SamplerError`](crate::SamplerError) for a sampler, grammar or schema that cannot be,
    /// [`ChatError::EmptyStopString`](crate::ChatError::EmptyStopString),
    /// [`Error::Parameter`](crate::Error::Parameter) for a number that is 0,
    /// [`Error::CallbackPanicked`](crate::Error::CallbackPanicked) if the closure that makes the
    /// sampler panics.
    pub fn submit(&self, request: Request) -> Result<Stream> {
        let shared = &self.0.shared;
        let (job, events) = job::accept(request, shared)?;
        let pushed = shared.inbox.try_push(job);
        shared.count_if_refused(&pushed);
        pushed?;
        Ok(Stream::new(events))
    }

    /// As [`submit`](Self::submit), but waits while the queue is full. Those who wait come in in
    /// their order, and before those who submit later. One whose deadline passes meanwhile has a
    /// stream, which says so.
    ///
    /// # Errors
    /// As [`submit`](Self::submit), without [`EngineError::QueueFull`].
    pub fn submit_wait(&self, request: Request) -> Result<Stream> {
        let shared = &self.0.shared;
        let (job, events) = job::accept(request, shared)?;
        let entered = shared.inbox.push(job)?;
        entered.recv().ok_or(EngineError::Stopped)?;
        Ok(Stream::new(events))
    }

    /// As [`submit_wait`](Self::submit_wait), for an executor. A future that is dropped before it
    /// is done asks for nothing.
    ///
    /// The request is checked, and its samplers and grammars are made, on the thread that polls
    /// first. That takes longest for a JSON schema: the first one of an engine goes through the
    /// whole vocabulary.
    ///
    /// # Errors
    /// As [`submit_wait`](Self::submit_wait).
    pub async fn submit_async(&self, request: Request) -> Result<Stream> {
        let shared = &self.0.shared;
        let (job, events) = job::accept(request, shared)?;
        let entered = shared.inbox.push(job)?;
        let entered = poll_fn(|context| entered.poll_recv(context)).await;
        entered.ok_or(EngineError::Stopped)?;
        Ok(Stream::new(events))
    }

    /// Computes an embedding of each text. Texts are computed between the steps of answers,
    /// several of a request at a time if they are short. Up to 16 requests take turns, and more
    /// wait, as many as [`EngineParams::with_queue`] says.
    ///
    /// A context of its own is made for this when the first text comes: it pools, and has an
    /// output for every token.
    ///
    /// # Errors
    /// [`EngineError::EmptyText`], [`EngineError::TextTooLong`], [`EngineError::QueueFull`],
    /// [`EngineError::Stopped`]; [`VocabError`](crate::VocabError) for a token that does not
    /// exist.
    pub fn embed(&self, request: impl Into<EmbedRequest>) -> Result<Embeddings> {
        let shared = &self.0.shared;
        let (job, result) = job::accept_embed(request.into(), shared)?;
        let pushed = shared.inbox.push_embed(job);
        shared.count_if_refused(&pushed);
        pushed?;
        Ok(Embeddings::new(result))
    }
}

/// Ending.
impl Engine {
    /// Takes no more requests, and waits until those that it has are done.
    pub fn shutdown(&self) {
        self.0.shared.inbox.close(Closing::Drain);
        self.0.join();
    }

    /// Takes no more requests, ends those that it has with [`EngineError::Stopped`], and waits
    /// for the thread to end. Computations on the CPU are cut short.
    pub fn stop(&self) {
        self.0.stop();
    }

    /// Whether it takes no more requests.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.0.shared.inbox.closing().is_some()
    }
}

impl Handle {
    fn stop(&self) {
        self.shared.inbox.close(Closing::Stop);
        self.shared.abort.abort();
        self.join();
    }

    fn join(&self) {
        // A sampler that holds the engine may be dropped on the engine's own thread, which
        // ends by itself.
        if thread::current().id() == self.thread_id {
            return;
        }
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = thread.take() {
            // The thread catches panics, and has told of them.
            let _ = handle.join();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The context that answers are computed with; `None` for a model that only encodes.
fn generating_context(model: &Model, settings: &Settings) -> Result<Option<Context>> {
    let mut context = model.context(settings.context.clone())?;
    match context.memory().positions(0) {
        Ok(_) => Ok(Some(context)),
        Err(Error::Memory(MemoryError::None)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn n_ctx_per_request(context: &Context, settings: &Settings) -> usize {
    let learned = context.model().n_learned_positions().unwrap_or(u32::MAX);
    let limits = [context.n_ctx_seq(), settings.n_ctx_per_request, learned];
    limits.into_iter().min().unwrap_or(0) as usize
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("model", self.model())
            .field("slots", &self.slots())
            .field("n_ctx_per_request", &self.n_ctx_per_request())
            .field("is_stopped", &self.is_stopped())
            .finish()
    }
}
