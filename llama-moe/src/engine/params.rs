//! How an engine works.

use super::draft::{self, DraftParams};
use super::embedder;
use super::error::EngineError;
use crate::chat::ChatTemplate;
use crate::context::{ContextParams, PoolingType};
use crate::error::{Error, Result};
use crate::model::Model;

/// Slots of an engine unless set.
const DEFAULT_SLOTS: u32 = 4;

/// Tokens per slot of a context that is not set, or what the model was trained with, if
/// that is less.
const DEFAULT_N_CTX_PER_SLOT: u32 = 4096;

/// Requests that may wait for each slot, unless set.
const DEFAULT_QUEUE_PER_SLOT: usize = 16;

/// Tokens of a text to embed, at most, unless set.
const DEFAULT_EMBED_TOKENS: u32 = 2048;

/// How an engine works.
///
/// ```
/// use llama_moe::ContextParams;
/// use llama_moe::engine::EngineParams;
///
/// let params = EngineParams::default()
///     .with_slots(8)
///     .with_context(ContextParams::default().with_n_ctx(32768))
///     .with_queue(100);
/// ```
#[derive(Debug, Default)]
#[must_use]
pub struct EngineParams {
    slots: Option<u32>,
    context: Option<ContextParams>,
    n_ctx_per_request: Option<u32>,
    queue: Option<usize>,
    prefill_chunk: Option<u32>,
    no_prefix_cache: bool,
    kept_apart: bool,
    pooling: Option<PoolingType>,
    embed_tokens: Option<u32>,
    draft: Option<DraftParams>,
    pub(super) template: Option<ChatTemplate>,
}

impl EngineParams {
    /// Answers that are generated at a time, 1 to llama.cpp's limit of 256; 4 unless set.
    #[doc(alias = "--parallel")]
    pub fn with_slots(mut self, n: u32) -> Self {
        self.slots = Some(n);
        self
    }

    /// The context. Its [`n_ctx`](ContextParams::with_n_ctx) positions are for all slots
    /// together. Unless set: the defaults, with 4096 positions for each slot, or
    /// fewer if the model was trained with fewer.
    ///
    /// The engine itself says how many sequences and outputs there are, whether they share a
    /// buffer, and which abort token the context looks at. A [cache of
    /// experts](ContextParams::with_moe_cache_size) is for answers alone: texts are embedded
    /// without one.
    pub fn with_context(mut self, context: ContextParams) -> Self {
        self.context = Some(context);
        self
    }

    /// Whether slots share one buffer, true unless set. Then one answer can have all positions
    /// of the context, prompts share what they begin with, and what is short is given to those
    /// who came first; but attention passes over the positions of all others too.
    ///
    /// With buffers of their own, each slot has an equal part of the positions, and a prompt
    /// that begins as another one takes a copy of that one's buffer, where both have 256 tokens
    /// in common or an eighth of a slot's positions: the buffer is copied as a whole. That is
    /// faster with many slots that are all busy. llama.cpp computes together what is in slots that
    /// follow one on the other, so that a prompt that waits between answers goes on by a token with
    /// each of theirs.
    #[doc(alias = "--kv-unified")]
    pub fn with_kv_unified(mut self, yes: bool) -> Self {
        self.kept_apart = !yes;
        self
    }

    /// Positions that one answer can have, its prompt included. Unless set, and at most: what
    /// the context has. Unless set, and the model was trained with fewer: those.
    pub fn with_n_ctx_per_request(mut self, n: u32) -> Self {
        self.n_ctx_per_request = Some(n);
        self
    }

    /// Requests that may wait for slots, at least 1; 16 for each slot unless set. One that comes
    /// while there is a slot for it does not wait, and does not count. As many requests to
    /// embed may wait besides.
    pub fn with_queue(mut self, n: usize) -> Self {
        self.queue = Some(n);
        self
    }

    /// Tokens of prompts that are computed in one step beside answers that are being
    /// generated, at least 1: the fewer, the more evenly these go on, and the longer a prompt
    /// takes. In turns it is for the prompt that came first and for the one with the fewest tokens
    /// left, and what that does not need for others. Unless set, as many as fit beside the answers'
    /// tokens into one micro-batch of the context ([`ContextParams::with_n_ubatch`]). Slots with
    /// buffers of their own can add a token each: see [`with_kv_unified`](Self::with_kv_unified).
    pub fn with_prefill_chunk(mut self, n_tokens: u32) -> Self {
        self.prefill_chunk = Some(n_tokens);
        self
    }

    /// Whether a prompt that begins as an earlier one is computed from where they differ, as
    /// far as the memory still holds the earlier one and can be cut there; true unless set.
    pub fn with_prefix_cache(mut self, yes: bool) -> Self {
        self.no_prefix_cache = !yes;
        self
    }

    /// How [`Engine::embed`](super::Engine::embed) makes one embedding of a text's tokens;
    /// the model's own way unless set, or the mean, if it has none.
    pub fn with_pooling_type(mut self, pooling: PoolingType) -> Self {
        self.pooling = Some(pooling);
        self
    }

    /// Tokens that a text to embed can have, at least 1: 2048 unless set, and never more than
    /// the model was trained with. Memory is set aside for so many when the first text is
    /// embedded.
    pub fn with_embed_tokens(mut self, n: u32) -> Self {
        self.embed_tokens = Some(n);
        self
    }

    /// A smaller model that guesses what comes next, see [the module](super#drafts). None unless
    /// set.
    #[doc(alias = "--model-draft")]
    pub fn with_draft(mut self, draft: DraftParams) -> Self {
        self.draft = Some(draft);
        self
    }

    /// How [`Engine::chat`](super::Engine::chat) makes a prompt of messages;
    /// [`ChatTemplate::of`] the model unless set.
    #[doc(alias = "--chat-template")]
    pub fn with_template(mut self, template: ChatTemplate) -> Self {
        self.template = Some(template);
        self
    }

    /// What an engine for this model works with.
    pub(super) fn settle(&self, model: &Model) -> Result<Settings> {
        if model.has_encoder() && model.has_decoder() {
            return Err(EngineError::EncoderDecoder.into());
        }
        let slots = self.slots.unwrap_or(DEFAULT_SLOTS);
        if slots == 0 {
            return Err(at_least_one("with_slots"));
        }
        let queue = match self.queue {
            Some(0) => return Err(at_least_one("with_queue")),
            Some(queue) => queue,
            None => DEFAULT_QUEUE_PER_SLOT.saturating_mul(slots as usize),
        };
        if self.prefill_chunk == Some(0) {
            return Err(at_least_one("with_prefill_chunk"));
        }
        if self.n_ctx_per_request == Some(0) {
            return Err(at_least_one("with_n_ctx_per_request"));
        }
        if self.embed_tokens == Some(0) {
            return Err(at_least_one("with_embed_tokens"));
        }
        let trained = match model.n_ctx_train() {
            0 => u32::MAX,
            trained => trained,
        };
        let embed_tokens = self.embed_tokens.unwrap_or(DEFAULT_EMBED_TOKENS);
        let embed_tokens = embed_tokens.min(trained);
        if embed_tokens > embedder::MAX_TOKENS {
            return Err(Error::Parameter {
                parameter: "with_embed_tokens",
                value: embed_tokens.to_string(),
                reason: format!("it is at most {}", embedder::MAX_TOKENS),
            });
        }
        if let Some(draft) = &self.draft {
            draft.check(model)?;
        }
        let n_drafted = self.draft.as_ref().map_or(0, |_| draft::STEP_TOKENS as u32);
        let context = self.context.clone().unwrap_or_else(|| {
            let per_slot = DEFAULT_N_CTX_PER_SLOT.min(trained);
            ContextParams::default().with_n_ctx(per_slot.saturating_mul(slots))
        });
        Ok(Settings {
            slots,
            queue,
            context: context
                .with_n_seq_max(slots)
                .with_n_outputs_max(slots.saturating_add(n_drafted))
                .with_kv_unified(!self.kept_apart)
                .with_embeddings(false),
            n_ctx_per_request: self.n_ctx_per_request.unwrap_or(trained),
            prefill_chunk: self.prefill_chunk,
            prefix_cache: !self.no_prefix_cache,
            kv_unified: !self.kept_apart,
            pooling: self.pooling,
            embed_tokens,
            draft: self.draft.clone(),
        })
    }
}

/// [`EngineParams`] with everything decided that can be before there is a context.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) slots: u32,
    pub(super) queue: usize,
    pub(super) context: ContextParams,
    pub(super) n_ctx_per_request: u32,
    pub(super) prefill_chunk: Option<u32>,
    pub(super) prefix_cache: bool,
    pub(super) kv_unified: bool,
    pub(super) pooling: Option<PoolingType>,
    pub(super) embed_tokens: u32,
    pub(super) draft: Option<DraftParams>,
}

fn at_least_one(parameter: &'static str) -> Error {
    Error::Parameter {
        parameter,
        value: "0".to_owned(),
        reason: "it is at least 1".to_owned(),
    }
}
