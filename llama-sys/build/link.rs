//! What rustc is told to link, in the order a single-pass linker needs.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cmake::Cache;
use crate::environment;
use crate::fail::{Failure, fail};
use crate::features::{Features, Target};
use crate::toolkit::Toolkits;

/// Links the libraries installed in `lib_dir`, then what they need themselves.
pub fn llama(
    features: &Features,
    target: &Target,
    toolkits: &Toolkits,
    cache: &Cache,
    lib_dir: &Path,
) -> Result<(), Failure> {
    search(lib_dir);
    // `-bundle`: the archives (60 MB with CUDA) are read once by the final link
    // instead of being copied into the rlib on every change of this crate.
    let kind = if features.dynamic_link {
        "dylib"
    } else {
        "static:-bundle"
    };
    for library in libraries(features) {
        println!("cargo::rustc-link-lib={kind}={library}");
    }
    if !features.dynamic_link {
        for dir in &toolkits.library_dirs {
            search(dir);
        }
        backend_dependencies(features, target, cache);
    }
    platform_dependencies(target);
    stdcxx(features, target)
}

/// llama.cpp's libraries of a build, users before what they use.
fn libraries(features: &Features) -> Vec<&'static str> {
    let mut libraries = vec!["llama", "ggml"];
    // With dynamic-backends they are modules that ggml opens at run time.
    if !features.dynamic_backends {
        let enabled = features.backends().into_iter().filter(|(_, _, on)| *on);
        libraries.extend(enabled.map(|(_, library, _)| library));
        libraries.push("ggml-cpu");
    }
    libraries.push("ggml-base");
    libraries
}

fn backend_dependencies(features: &Features, target: &Target, cache: &Cache) {
    if features.cuda {
        let runtime: &[&str] = if target.is_msvc() {
            &["dylib=cudart", "dylib=cublas", "dylib=cublasLt"]
        } else {
            &[
                "static:-bundle=cudart_static",
                "dylib=cublas",
                "dylib=cublasLt",
                "dylib=rt",
            ]
        };
        for library in runtime {
            println!("cargo::rustc-link-lib={library}");
        }
        if !features.cuda_no_vmm {
            println!("cargo::rustc-link-lib=dylib=cuda");
        }
        link_file(cache.path("NCCL_LIBRARY"));
    }
    if features.hip {
        for library in ["amdhip64", "hipblas", "rocblas"] {
            println!("cargo::rustc-link-lib=dylib={library}");
        }
    }
    if features.vulkan && !link_file(cache.path("Vulkan_LIBRARY")) {
        println!("cargo::rustc-link-lib=dylib=vulkan");
    }
    if features.opencl && !link_file(cache.path("OpenCL_LIBRARY")) {
        println!("cargo::rustc-link-lib=dylib=OpenCL");
    }
    if features.rpc {
        // Set only where libibverbs is installed: llama.cpp then compiles RDMA in.
        link_file(cache.path("RDMA_LIB"));
    }
    if features.blas {
        for file in cache.paths(|name| name.starts_with("BLAS_") && name.ends_with("_LIBRARY")) {
            link_file(Some(file));
        }
    }
    if features.openmp {
        let found =
            cache.paths(|name| name.starts_with("OpenMP_") && name.ends_with("omp_LIBRARY"));
        for file in found {
            link_file(Some(file));
        }
    }
    if features.metal {
        for framework in ["Foundation", "Metal", "MetalKit"] {
            println!("cargo::rustc-link-lib=framework={framework}");
        }
        clang_runtime(target);
    }
}

/// Objective-C's `@available` calls clang's runtime, which rustc leaves out of the link
/// line; Rust's own library has these symbols only since 1.91.
fn clang_runtime(target: &Target) {
    let name = match target.os.as_str() {
        "macos" => "clang_rt.osx",
        "visionos" => "clang_rt.xros",
        other => &format!("clang_rt.{other}"),
    };
    // Relative to the compiler's resource folder.
    if let Some(dir) = archive_dir(&format!("lib/darwin/lib{name}.a")) {
        search(&dir);
        println!("cargo::rustc-link-lib=static:-bundle={name}");
    }
}

fn platform_dependencies(target: &Target) {
    let libraries: &[&str] = match target.os.as_str() {
        // The registry, for the CPU's name; sockets, for the RPC probe of the shim.
        "windows" => &["advapi32", "ws2_32"],
        // Threads are part of the C library there.
        "android" => &["m", "dl"],
        "linux" => &["m", "dl", "pthread"],
        _ if target.is_apple() => {
            println!("cargo::rustc-link-lib=framework=Accelerate");
            return;
        }
        // The BSDs have dlopen in the C library.
        _ => &["m", "pthread"],
    };
    for library in libraries {
        println!("cargo::rustc-link-lib=dylib={library}");
    }
}

/// The C++ standard library: the compiler's own choice for the target, or the
/// static libstdc++ with the feature `static-stdcxx`.
pub fn stdcxx(features: &Features, target: &Target) -> Result<(), Failure> {
    if target.is_msvc() {
        return Ok(());
    }
    let named = environment::text("CXXSTDLIB");
    if features.static_stdcxx {
        let name = named.unwrap_or_else(|| "stdc++".to_owned());
        let Some(dir) = archive_dir(&format!("lib{name}.a")) else {
            return fail(format!(
                "the feature `static-stdcxx` needs lib{name}.a and the C++ compiler does not know \
                 where it is: install the static libstdc++ (part of g++ on most systems), or name \
                 another library by CXXSTDLIB"
            ));
        };
        search(&dir);
        println!("cargo::rustc-link-lib=static:-bundle={name}");
        return Ok(());
    }
    let default = match target.os.as_str() {
        "freebsd" | "openbsd" => "c++",
        "android" => "c++_shared",
        _ if target.is_apple() => "c++",
        _ => "stdc++",
    };
    println!(
        "cargo::rustc-link-lib=dylib={}",
        named.as_deref().unwrap_or(default)
    );
    Ok(())
}

/// The folder where the C++ compiler keeps `archive`.
fn archive_dir(archive: &str) -> Option<PathBuf> {
    let compiler = cc::Build::new()
        .cpp(true)
        .cargo_metadata(false)
        .try_get_compiler()
        .ok()?;
    let output = Command::new(compiler.path())
        .args(compiler.args())
        .arg(format!("-print-file-name={archive}"))
        .output()
        .ok()?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    // An archive it does not know is echoed without a folder.
    path.is_absolute()
        .then(|| path.parent().map(Path::to_owned))?
}

/// Links a library that CMake found by its full path; says whether there was one.
fn link_file(file: Option<PathBuf>) -> bool {
    let Some(file) = file else { return false };
    let (Some(dir), Some(stem)) = (file.parent(), file.file_stem().and_then(|s| s.to_str())) else {
        return false;
    };
    let name = stem.strip_prefix("lib").unwrap_or(stem);
    let name = name.split(".so").next().unwrap_or(name);
    let kind = match file.extension().and_then(|e| e.to_str()) {
        Some("a") => "static:-bundle",
        _ => "dylib",
    };
    search(dir);
    println!("cargo::rustc-link-lib={kind}={name}");
    true
}

pub fn search(dir: &Path) {
    println!("cargo::rustc-link-search=native={}", dir.display());
}
