//! Turns at ggml's registry of devices, which is not synchronised: readers hold it shared,
//! whoever adds to it alone.

use std::cell::Cell;
use std::marker::PhantomData;
#[cfg(feature = "rpc")]
use std::sync::RwLockWriteGuard;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

static REGISTRY: RwLock<()> = RwLock::new(());

thread_local! {
    /// How often this thread holds the registry: a load does while its progress callback
    /// runs, and so does any call while a subscriber hears of its log.
    static HELD: Cell<usize> = const { Cell::new(0) };
}

/// The registry, held by one thread. Stays on that thread.
pub(crate) struct Held<L> {
    /// `None` where this thread holds the lock already: to wait for it again would be to
    /// wait for itself.
    _lock: Option<L>,
    on_this_thread: PhantomData<*const ()>,
}

impl<L> Held<L> {
    fn new(lock: impl FnOnce() -> L) -> Self {
        let first = HELD.get() == 0;
        let lock = first.then(lock);
        HELD.set(HELD.get() + 1);
        Self {
            _lock: lock,
            on_this_thread: PhantomData,
        }
    }
}

impl<L> Drop for Held<L> {
    fn drop(&mut self) {
        HELD.set(HELD.get() - 1);
    }
}

/// Held while the registry is read: by device lists, loads and context creation.
pub(crate) fn read_registry() -> Held<RwLockReadGuard<'static, ()>> {
    // The lock guards no data of ours, so a panic elsewhere has left nothing half done.
    Held::new(|| REGISTRY.read().unwrap_or_else(PoisonError::into_inner))
}

/// Held while devices are added. `None` where this thread is in the middle of a call that
/// reads them.
#[cfg(feature = "rpc")]
pub(super) fn write_registry() -> Option<Held<RwLockWriteGuard<'static, ()>>> {
    (HELD.get() == 0)
        .then(|| Held::new(|| REGISTRY.write().unwrap_or_else(PoisonError::into_inner)))
}
