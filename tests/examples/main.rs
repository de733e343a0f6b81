//! The example programs, run as a person or a script runs them.

#[path = "../support/mod.rs"]
mod support;

#[cfg(feature = "measure")]
mod ab;
mod bad_input;
mod bundled;
mod chat;
mod embed;
#[cfg(feature = "hf")]
mod hub;
#[cfg(feature = "hf")]
mod hub_server;
mod inspect;
mod plan;
mod programs;
#[cfg(feature = "rpc")]
mod rpc;
#[cfg(feature = "engine")]
mod serve;
mod simple;
mod synth;
#[cfg(feature = "measure")]
mod trace;
mod validation;
