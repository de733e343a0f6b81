//! Which experts a model's tokens take, and how well a cache of experts would serve them.
//!
//! ```no_run
//! use llama_moe::measure::routing::{OneDevice, Phase, RoutingTrace};
//! use llama_moe::{Backend, ContextParams, Model, ModelParams};
//!
//! let backend = Backend::init()?;
//! let params = ModelParams::default().with_cpu_moe_all();
//! let model = Model::load(&backend, "gpt-oss-20b.gguf", params)?;
//! let text = model.vocab().tokenize("Why is the sky blue?", true, false)?;
//! let params = ContextParams::default().with_n_ctx(1024);
//! let trace = RoutingTrace::record(&model, params, &text, 256)?;
//!
//! for layer in trace.analysis(Some(Phase::Decode)).layers {
//!     println!("layer {}: {:?} of the experts come again", layer.layer, layer.overlap);
//! }
//! let curve = trace.hit_rate_curve_on(&OneDevice::new(&model)?, 25)?;
//! for point in &curve.points {
//!     println!("{} bytes: {:?} hits", point.bytes, point.hit_rate);
//! }
//! std::fs::write("hit-rate.svg", curve.svg()).expect("a writable folder");
//! # Ok::<(), llama_moe::Error>(())
//! ```
//!
//! [`Planner::with_routing`](crate::Planner::with_routing) takes a trace to choose between a cache
//! and resident experts.
//!
//! A [`RoutingTrace`] is a record of one run: [`RoutingTrace::record`] makes it from tokens, a
//! [`RoutingRecorder`] from whatever a context computes. From it follow, without the model:
//!
//! - [`analysis`](RoutingTrace::analysis): how unevenly each layer uses its experts, and how soon
//!   they come back;
//! - [`replay`](RoutingTrace::replay): hits, misses and uploads of llama.cpp's cache of experts, for
//!   any number of slots, to the last hit;
//! - [`hit_rate_curve`](RoutingTrace::hit_rate_curve): the hit rate for every size, and its
//!   [picture](HitRateCurve::svg).
//!
//! # What a hit rate says
//!
//! A cache gains where its hit rate is well above the share of experts that the same bytes keep
//! resident. Even routing has equal shares, and then resident experts are at least as fast. The
//! trace says nothing about seconds: measure those with the cache switched on.
//!
//! Routing depends on the text. Record one that is like those the model will see.

mod analysis;
mod curve;
mod error;
mod hit_rates;
mod json;
mod one_device;
mod picture;
mod record;
mod recorder;
mod replay;
mod reuse;
mod slru;
mod trace;

pub use analysis::{LayerAnalysis, Reuse, RoutingAnalysis, TopShare};
pub use curve::{HitRateCurve, HitRatePoint};
pub use error::RoutingError;
pub use one_device::OneDevice;
pub use recorder::RoutingRecorder;
pub use replay::{CacheGroup, ReplayStats};
pub use trace::{LayerRouting, MicroBatchRouting, Phase, RoutedLayer, RoutingTrace};
