//! What an engine's handles and its thread share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::error::EngineError;
use super::inbox::Inbox;
use super::stats::EngineStats;
use crate::context::AbortToken;
use crate::model::Model;
use crate::placement::MoeCacheLayout;

/// What an engine's handles and its thread share.
pub(super) struct Shared {
    pub(super) model: Model,
    pub(super) inbox: Inbox,
    pub(super) slots: u32,
    /// Positions that an answer can have, its prompt included; `None` for a model that only
    /// encodes.
    pub(super) n_ctx_per_request: Option<usize>,
    /// Tokens that a text to embed can have.
    pub(super) embed_tokens: usize,
    /// The layout of the cache of experts; `None` without a cache.
    pub(super) moe_cache: Option<MoeCacheLayout>,
    /// Ends the step that is being computed.
    pub(super) abort: AbortToken,
    /// As the thread left them after its last step.
    stats: Mutex<EngineStats>,
    refused: AtomicU64,
    #[cfg(feature = "llguidance")]
    json_guide: std::sync::OnceLock<crate::sampler::JsonGuide>,
}

impl Shared {
    pub(super) fn new(
        model: Model,
        inbox: Inbox,
        slots: u32,
        n_ctx_per_request: Option<usize>,
        embed_tokens: usize,
        moe_cache: Option<MoeCacheLayout>,
        abort: AbortToken,
    ) -> Self {
        Self {
            model,
            inbox,
            slots,
            n_ctx_per_request,
            embed_tokens,
            moe_cache,
            abort,
            stats: Mutex::default(),
            refused: AtomicU64::new(0),
            #[cfg(feature = "llguidance")]
            json_guide: std::sync::OnceLock::new(),
        }
    }

    /// Counts a request, if the queue had no room for it.
    pub(super) fn count_if_refused(&self, pushed: &Result<(), EngineError>) {
        if matches!(pushed, Err(EngineError::QueueFull { .. })) {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn set_stats(&self, stats: &EngineStats) {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner) = *stats;
    }

    pub(super) fn stats(&self) -> EngineStats {
        let stats = *self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        EngineStats {
            requests_refused: self.refused.load(Ordering::Relaxed),
            requests_queued: self.inbox.len(),
            ..stats
        }
    }

    /// What JSON schemas are compiled with, made when the first one comes.
    #[cfg(feature = "llguidance")]
    pub(super) fn json_guide(&self) -> crate::Result<&crate::sampler::JsonGuide> {
        if let Some(guide) = self.json_guide.get() {
            return Ok(guide);
        }
        let guide = crate::sampler::JsonGuide::new(&self.model.vocab())?;
        Ok(self.json_guide.get_or_init(|| guide))
    }
}
