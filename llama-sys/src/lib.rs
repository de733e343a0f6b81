//! llama.cpp 0.8.0 (ggml 0.28.0): its C API, raw, built from pinned sources, and
//! a C++ shim that no exception leaves.
//!
//! This is the bottom layer of `llama-moe`, which is
//! the crate for programs. Everything here is `unsafe` and named as in C: look a
//! function up in llama.cpp's own headers. `llama_shim_*` functions are ours
//! (`shim/llama_shim.h` documents each): guarded versions of the calls that can
//! throw, which return a status and the exception's text, and what llama.cpp
//! knows but its C API does not tell (where every tensor of a model lives, the
//! memory of a context per buffer type, what the loader's regex matches).
//!
//! ```
//! // The devices of this build and machine; one of them is the CPU.
//! // SAFETY: the registry is initialised on first use and lives as long as the
//! // process; indices below the count are valid.
//! let names: Vec<String> = unsafe {
//!     (0..llama_sys::ggml_backend_dev_count())
//!         .map(|i| llama_sys::ggml_backend_dev_name(llama_sys::ggml_backend_dev_get(i)))
//!         .map(|name| std::ffi::CStr::from_ptr(name).to_string_lossy().into_owned())
//!         .collect()
//! };
//! assert!(names.iter().any(|name| name == "CPU"));
//! ```
//!
//! # Features
//!
//! None is on by default: that is llama.cpp on the CPU, linked statically, with
//! `-march=native` where it is not cross-compiled, and without Metal on Apple. All are
//! additive, but for `cuda` beside `hip`, which need `dynamic-backends` to be kept
//! apart.
//!
//! | feature | needs | steered by |
//! |---|---|---|
//! | `cuda` | CUDA toolkit 11.8 or later (nvcc, cuBLAS), at run time the driver | `CUDA_PATH`, `CUDA_HOME`, `CUDAToolkit_ROOT`, `CUDACXX`, `CMAKE_CUDA_ARCHITECTURES` (without it: this machine's GPU, or a list of common ones where none is visible), `GGML_CUDA_*` |
//! | `cuda-no-vmm` | as `cuda`; needs no libcuda to link | |
//! | `vulkan` | Vulkan headers 1.3.272, glslc, SPIRV-Headers, the loader | `VULKAN_SDK`, `Vulkan_INCLUDE_DIR`, `Vulkan_GLSLC_EXECUTABLE`, `CMAKE_PREFIX_PATH`, `GGML_VULKAN_*` |
//! | `metal` | an Apple target and Xcode's tools | `GGML_METAL_*` |
//! | `hip` | ROCm 6.1 or later | `ROCM_PATH`, `CMAKE_HIP_ARCHITECTURES`, `GGML_HIP_*` |
//! | `opencl` | OpenCL headers and loader, Python 3 | `OPENCL_ROOT`, `GGML_OPENCL_*` |
//! | `rpc` | nothing (libibverbs is used if present) | `GGML_RPC_RDMA` |
//! | `blas` | a BLAS with cblas.h | `GGML_BLAS_VENDOR`, `BLAS_ROOT` |
//! | `openmp` | the compiler's OpenMP runtime | |
//! | `dynamic-link` | nothing; the shared libraries are in `DEP_LLAMA_LIBDIR` | |
//! | `dynamic-backends` | as `dynamic-link`; backends are modules in [`BACKEND_DIR`] | `GGML_CPU_ALL_VARIANTS` |
//! | `system` | an installed llama.cpp 0.8.0 that pkg-config finds; placement and memory breakdown then report themselves as unsupported | `PKG_CONFIG_PATH` |
//! | `static-stdcxx` | a static libstdc++ | `CXXSTDLIB` |
//! | `portable` | nothing; no `-march=native` (on x86-64: AVX2, unless `GGML_AVX2=OFF` and its kin say otherwise) | `GGML_AVX2`, `GGML_AVX512`, … |
//! | `bindgen` | libclang; generates the declarations at build time | `LIBCLANG_PATH` |
//!
//! For every build: `LLAMA_CPP_DIR` names a checkout of your own (of the pinned
//! version), `CMAKE` the program, `CMAKE_GENERATOR` the generator (Ninja is taken
//! when present), `CC`, `CXX`, `CFLAGS`, `CXXFLAGS` the compilers, `CMAKE_*` and
//! `GGML_*` variables that are options of llama.cpp are passed on. llama.cpp is
//! always compiled as `Release` with `NDEBUG`, whatever Cargo's profile;
//! `CMAKE_BUILD_TYPE=RelWithDebInfo` adds debug symbols. ccache or sccache is used
//! when present (`GGML_CCACHE=OFF` to leave it). `LLAMA_SYS_CONFIGURE_ONLY=1` stops after
//! CMake's configuration: enough for a gate to see that a toolkit is found, nothing can
//! be linked.
//!
//! The CMake tree is in `llama-cpp/` of Cargo's target directory, shared by profiles
//! and features: switching a backend on compiles that backend alone.
//!
//! A program runs with the toolkits' shared libraries where the system's loader finds
//! them. For CUDA from `./setup --cuda` that is `.toolchain/cuda/lib`, to be named in
//! `LD_LIBRARY_PATH`.
//!
//! # For crates that compile C++ against this
//!
//! A build script of a crate that depends on this one gets `DEP_LLAMA_ROOT`,
//! `DEP_LLAMA_INCLUDE` (a path list: llama.cpp's public headers and the shim's),
//! `DEP_LLAMA_LIBDIR`, `DEP_LLAMA_VERSION` and `DEP_LLAMA_FEATURES`.
//!
//! # One ggml per program
//!
//! Another crate that links a ggml of its own (whisper.cpp, stable-diffusion.cpp)
//! defines the same symbols: link one of the two dynamically (`dynamic-link`), or
//! both against one installed ggml (`system`).
#![no_std]

// Generated code: names and shapes are C's, and C's headers are its documentation.
#[allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    clippy::all,
    unsafe_op_in_unsafe_fn
)]
mod bindings {
    #[cfg(not(llama_sys_generated))]
    include!("bindings.rs");
    #[cfg(llama_sys_generated)]
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

#[cfg(feature = "rpc")]
#[allow(
    missing_docs,
    non_camel_case_types,
    non_upper_case_globals,
    clippy::all
)]
mod bindings_rpc {
    #[cfg(not(llama_sys_generated))]
    include!("bindings_rpc.rs");
    #[cfg(llama_sys_generated)]
    include!(concat!(env!("OUT_DIR"), "/bindings_rpc.rs"));
}

pub use bindings::*;
#[cfg(feature = "rpc")]
pub use bindings_rpc::*;

/// The pinned version of llama.cpp, whose headers the declarations are made from;
/// `llama_version()` is what the linked library says of itself.
pub const LLAMA_CPP_VERSION: &str = "0.8.0";

/// With the feature `dynamic-backends`: the folder of ggml's backend modules of
/// this build, for `ggml_backend_load_all_from_path`. A program that is moved to
/// another machine takes the folder along and names it itself.
pub const BACKEND_DIR: Option<&str> = option_env!("LLAMA_SYS_BACKEND_DIR");
