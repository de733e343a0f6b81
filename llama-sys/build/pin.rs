//! What is pinned. `tests/pin.rs` holds this against `vendor/Cargo.toml` and
//! `vendor/Cargo.lock`; the build holds the sources it found against this.

/// llama.cpp's version (`LLAMA_VERSION_*` in its `CMakeLists.txt`).
pub const LLAMA_CPP: &str = "0.8.0";
/// ggml's version (`GGML_VERSION_*` in `ggml/CMakeLists.txt`).
pub const GGML: &str = "0.28.0";
/// The package whose `llama.cpp/` folder holds the sources.
pub const PACKAGE: &str = "llama-cpp-sys-4";
