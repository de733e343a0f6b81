//! llama.cpp's cache of experts on a device: what a size holds, before and after it is made.
//!
//! The cache is llama.cpp's (pull request 29887). It keeps recently used experts of layers whose
//! experts are in system memory in the memory of the layer's device.
//! [`ContextParams::with_moe_cache_size`](crate::ContextParams::with_moe_cache_size) sets it.
//!
//! ```
//! use llama_moe::{ContextParams, ModelParams};
//!
//! // Experts in system memory, in a form that can be copied to the device.
//! let model = ModelParams::default().with_cpu_moe_all().for_moe_cache();
//! // 2 GiB of the device's memory for the experts used most.
//! let context = ContextParams::default().with_moe_cache_size(2 << 30);
//! # let _ = (model, context);
//! ```
//!
//! # Which layers are cached
//!
//! A layer is cached if its device is a GPU and **all** of its routed experts are in plain system
//! memory. A rule that leaves one of them on the device, or weights that were repacked for the
//! CPU, leave the layer out: [`MoeCacheLayout::obstacles`] names them.
//!
//! Layers on one device whose experts have the same shapes and types form a [`MoeCacheGroup`] and
//! share its slots. One slot holds one expert. llama.cpp divides the size among the devices as it
//! divides the layers, and on each device among the groups in proportion to their experts' bytes.
//!
//! # Which micro-batches use it
//!
//! Micro-batches of at most 32 tokens whose experts fit the slots: those of decode, for one
//! sequence or for several. Larger ones are computed as without a cache.

mod error;
mod layers;
mod layout;

pub use error::{MoeCacheError, MoeCacheObstacle};
pub(crate) use layers::{CacheDevice, ExpertLayers, ExpertTensor, is_cached_part};
pub(crate) use layout::size_for_llama;
#[cfg(feature = "measure")]
pub(crate) use layout::smallest_size;
pub use layout::{MoeCacheGroup, MoeCacheLayout};
