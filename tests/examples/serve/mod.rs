//! `serve`, asked over HTTP.

mod answers;
mod errors;
#[cfg(all(unix, feature = "rpc"))]
mod expert_cache;
mod faults;
mod http;
mod load;
mod options;
mod routes;
mod server;
mod soak;
mod tools;

/// A question that the bundled model answers with several dozen tokens.
const QUESTION: &str = "How do I keep the experts on the CPU?";
