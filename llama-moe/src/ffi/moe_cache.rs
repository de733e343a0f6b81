//! llama.cpp's cache of experts, read from the inside of a context.

use std::ptr;

use llama_sys as sys;

use super::call::{Failure, guarded};
use super::context::ContextHandle;
use super::device::DeviceHandle;

/// Groups and statistics of a cache.
#[derive(Clone, Debug)]
pub(crate) struct MoeCacheRecord {
    /// Micro-batches of up to 8 tokens, of 9 to 32, and experts that larger ones copied.
    pub(crate) stats: sys::llama_shim_moe_cache_stats,
    pub(crate) groups: Vec<MoeCacheGroupRecord>,
}

/// Layers that share their slots.
#[derive(Clone, Debug)]
pub(crate) struct MoeCacheGroupRecord {
    pub(crate) device: Option<DeviceHandle>,
    pub(crate) layers: Vec<u32>,
    pub(crate) n_expert: u32,
    pub(crate) n_slots: u32,
}

impl ContextHandle {
    /// The cache of experts; `None` for a context without one.
    pub(crate) fn moe_cache(&mut self) -> Result<Option<MoeCacheRecord>, Failure> {
        let mut cache = ptr::null_mut();
        guarded(|error| {
            // SAFETY: a live context, used by this thread alone; an out-parameter of this frame.
            unsafe { sys::llama_shim_moe_cache_new(self.as_ptr(), &mut cache, error) }
        })?;
        if cache.is_null() {
            return Ok(None);
        }
        let cache = Facts(cache);
        let none = sys::llama_shim_moe_cache_counts {
            hits: 0,
            misses: 0,
            bytes: 0,
        };
        let mut stats = sys::llama_shim_moe_cache_stats {
            up_to_8: none,
            up_to_32: none,
            copied: none,
        };
        // SAFETY: live facts and an out-parameter of this frame.
        unsafe { sys::llama_shim_moe_cache_get_stats(cache.0, &mut stats) };
        // SAFETY: live facts.
        let n_groups = unsafe { sys::llama_shim_moe_cache_n_groups(cache.0) };
        let groups = (0..n_groups).map(|index| group(&cache, index));
        Ok(Some(MoeCacheRecord {
            stats,
            groups: groups.collect::<Result<_, _>>()?,
        }))
    }
}

fn group(cache: &Facts, index: usize) -> Result<MoeCacheGroupRecord, Failure> {
    let mut group = sys::llama_shim_moe_cache_group {
        dev: ptr::null_mut(),
        layers: ptr::null(),
        n_layers: 0,
        n_expert: 0,
        n_slots: 0,
    };
    guarded(|error| {
        // SAFETY: live facts; an index out of range is refused.
        unsafe { sys::llama_shim_moe_cache_get_group(cache.0, index, &mut group, error) }
    })?;
    let number = |n: i32| u32::try_from(n).unwrap_or(0);
    let layers = (0..group.n_layers).map(|index| {
        // SAFETY: the facts own `n_layers` numbers, and are alive.
        number(unsafe { *group.layers.add(index) })
    });
    Ok(MoeCacheGroupRecord {
        layers: layers.collect(),
        device: DeviceHandle::new(group.dev),
        n_expert: number(group.n_expert),
        n_slots: number(group.n_slots),
    })
}

struct Facts(*mut sys::llama_shim_moe_cache);

impl Drop for Facts {
    fn drop(&mut self) {
        // SAFETY: owned, freed once.
        unsafe { sys::llama_shim_moe_cache_free(self.0) }
    }
}
