//! What the tests share.
#![allow(dead_code)] // Every test binary uses its own part.

pub mod gguf;
pub mod layouts;
