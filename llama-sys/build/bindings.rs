//! Generates the Rust declarations of llama.cpp's and the shim's C headers.
//!
//! The results are committed (`src/bindings.rs`, `src/bindings_rpc.rs`), so that
//! an ordinary build needs no libclang. The feature `bindgen` generates them anew
//! at build time, and `tests/bindings.rs` holds the committed ones against a
//! fresh run; both use this file.

use std::panic;
use std::path::PathBuf;

/// The headers behind `src/bindings.rs`.
const CORE: &str = "#include \"llama.h\"\n\
                    #include \"ggml.h\"\n\
                    #include \"ggml-backend.h\"\n\
                    #include \"ggml-cpu.h\"\n\
                    #include \"gguf.h\"\n\
                    #include \"llama_shim.h\"\n";

/// The headers behind `src/bindings_rpc.rs`.
const RPC: &str = "#include \"ggml-rpc.h\"\n\
                   #include \"llama_shim_rpc.h\"\n";

/// Which of the two files is generated.
#[derive(Clone, Copy)]
pub enum Part {
    Core,
    /// Declares only what the RPC headers add, on top of the core types.
    Rpc,
}

/// Whether libclang is there: bindgen loads it on first use, and panics where it is not.
pub fn has_libclang() -> bool {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| ())); // Who asks says it in one sentence.
    let found = panic::catch_unwind(bindgen::clang_version).is_ok();
    panic::set_hook(hook);
    found
}

/// The declarations as Rust text. `includes` are searched for the headers.
pub fn generate(part: Part, includes: &[PathBuf]) -> Result<String, bindgen::BindgenError> {
    let base = builder(includes);
    let builder = match part {
        Part::Core => base
            .header_contents("llama_sys.h", CORE)
            .allowlist_item("(llama|ggml|gguf|LLAMA|GGML|GGUF)_.*")
            // C's FILE is only ever passed through by pointer, and its fields
            // differ between C libraries.
            .blocklist_type("FILE|_IO_.*|__off.*")
            .raw_line("/// C's `FILE`, opaque: only pointers to it are passed.")
            .raw_line("#[repr(C)] pub struct FILE { _opaque: [u8; 0] }"),
        Part::Rpc => base
            .header_contents("llama_sys_rpc.h", RPC)
            .allowlist_item("RPC_.*|GGML_RPC_.*|ggml_backend_rpc_.*|ggml_backend_is_rpc")
            .allowlist_item("llama_shim_rpc_.*|LLAMA_SHIM_RPC_.*")
            .allowlist_recursively(false)
            .raw_line("use super::bindings::*;"),
    };
    builder.generate().map(|bindings| bindings.to_string())
}

fn builder(includes: &[PathBuf]) -> bindgen::Builder {
    bindgen::Builder::default()
        .clang_args(["-x", "c", "-std=c11"])
        .clang_args(includes.iter().map(|dir| format!("-I{}", dir.display())))
        .use_core()
        .generate_comments(false)
        .layout_tests(false)
        .prepend_enum_name(false)
        .derive_default(false)
        .sort_semantically(true)
        .formatter(bindgen::Formatter::Prettyplease)
}
