//! The engine's thread.

use std::sync::Arc;

use super::params::Settings;
use super::shared::Shared;
use crate::context::Context;
use crate::error::Result;

/// What the engine's thread works with.
pub(super) struct Worker {
    shared: Arc<Shared>,
}

impl Worker {
    pub(super) fn new(
        shared: Arc<Shared>,
        _settings: Settings,
        _context: Option<Context>,
    ) -> Result<Self> {
        Ok(Self { shared })
    }

    pub(super) fn run(self) {
        drop(self.shared.inbox.empty());
    }
}
