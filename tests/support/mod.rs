//! What the tests share.
#![allow(dead_code)] // Every test binary uses its own part.

pub mod decode;
pub mod gguf;
pub mod layouts;
pub mod others;
pub mod peculiar;
pub mod raw;
pub mod sparse;
#[cfg(feature = "rpc")]
pub mod worker;

use std::path::PathBuf;

use layouts::Layout;
use llama_moe::{Backend, Model, ModelParams};

/// A model file of this layout, in a folder that lives as long as the returned guard.
pub fn file(layout: Layout) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let path = dir.path().join("model.gguf");
    layout.write(&path);
    (dir, path)
}

/// A model of this layout, loaded.
pub fn load(layout: Layout, params: ModelParams) -> llama_moe::Result<Model> {
    let (_dir, path) = file(layout);
    Model::load(&backend(), &path, params)
}

pub fn backend() -> Backend {
    Backend::init().expect("llama.cpp")
}

/// Parameters that keep a model on the CPU, whatever devices there are.
pub fn on_cpu() -> ModelParams {
    ModelParams::default().with_devices([])
}
