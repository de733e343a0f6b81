//! Samplers whose destructors may panic.

use crate::ffi::catch_panic;
use crate::sampler::Sampler;

/// A sampler, which can be code of others whose destructor panics.
pub(super) struct Guarded(Option<Sampler>);

impl Guarded {
    pub(super) fn new(sampler: Sampler) -> Self {
        Self(Some(sampler))
    }

    pub(super) fn get(&mut self) -> Option<&mut Sampler> {
        self.0.as_mut()
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let sampler = self.0.take();
        let mut panic = None;
        catch_panic(&mut panic, || drop(sampler));
        if let Some(message) = panic {
            tracing::error!("a sampler panicked while it was dropped: {message}");
        }
    }
}
