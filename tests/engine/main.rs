//! The engine on real models: what streams say, who is computed when, what is reused, and
//! what happens when something fails or ends.

#[path = "../support/mod.rs"]
mod support;

mod answers;
mod batching;
mod bundled;
mod draft;
mod embeddings;
mod endings;
mod executors;
#[cfg(feature = "rpc")]
mod expert_cache;
mod faults;
mod prefixes;
mod property;
mod refusals;
mod rig;
#[cfg(feature = "llguidance")]
mod schemas;
mod soak;

#[test]
#[cfg(feature = "rpc")]
fn worker_process() {
    support::worker::serve_if_asked();
}
