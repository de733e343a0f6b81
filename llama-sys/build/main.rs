//! The build of llama.cpp: sources, toolkits, CMake, shim, link line, bindings.

use std::env;
use std::path::{Path, PathBuf};
use std::thread;

#[cfg(feature = "bindgen")]
mod bindings;
mod cmake;
mod environment;
mod fail;
mod features;
mod link;
mod pin;
mod shim;
mod source;
mod system;
mod toolkit;

use fail::{Failure, fail, stop};
use features::{Features, Target};

fn main() {
    println!("cargo::rustc-check-cfg=cfg(llama_sys_generated)");
    // docs.rs has neither network nor patience: the committed bindings suffice.
    println!("cargo::rerun-if-env-changed=DOCS_RS");
    if env::var_os("DOCS_RS").is_some() {
        // Lints of the tests run in this mode, too, and name the variables.
        println!("cargo::rustc-env=LLAMA_SYS_INCLUDE=");
        println!("cargo::rustc-env=LLAMA_SYS_CMAKE_TREE=");
        return;
    }
    if let Err(failure) = run() {
        stop(&failure);
    }
}

/// Where a linked llama.cpp is, for bindings and for crates that build on this one.
struct Linked {
    root: PathBuf,
    /// llama.cpp's public headers and the shim's.
    includes: Vec<PathBuf>,
    lib_dir: PathBuf,
}

fn run() -> Result<(), Failure> {
    let manifest_dir = folder("CARGO_MANIFEST_DIR")?;
    let out_dir = folder("OUT_DIR")?;
    let features = Features::read();
    let target = Target::read();
    #[cfg(feature = "bindgen")]
    check_libclang()?;

    let linked = if features.system {
        system::build(&manifest_dir, &features, &target, &out_dir)?
    } else {
        vendored(&manifest_dir, &features, &target, &out_dir)?
    };
    #[cfg(feature = "bindgen")]
    generate_bindings(&linked.includes, &features, &out_dir)?;
    publish(&features, &linked)
}

/// Builds the pinned llama.cpp and links it.
fn vendored(
    manifest_dir: &Path,
    features: &Features,
    target: &Target,
    out_dir: &Path,
) -> Result<Linked, Failure> {
    cmake::check(target)?;
    let toolkits = toolkit::find(features, target, manifest_dir)?;
    let source = source::resolve(manifest_dir)?;

    // The shim compiles while CMake configures, which keeps one core busy at most.
    let shim_files = shim::files(manifest_dir)?;
    let (compiled, shim) = thread::scope(|scope| {
        let shim = scope.spawn(|| {
            let headers = shim::Headers::Sources(&source.dir);
            shim::compile(manifest_dir, &shim_files, &headers, features, out_dir)
        });
        let compiled = cmake::build(&source, features, target, &toolkits, manifest_dir, out_dir);
        (compiled, shim.join())
    });
    let cache = compiled?;
    shim.unwrap_or_else(|_| fail("the compilation of the C++ shim panicked, see above"))?;

    // For the tests that look at how every object was compiled, and how often.
    println!(
        "cargo::rustc-env=LLAMA_SYS_CMAKE_TREE={}",
        cache.build_dir.display()
    );
    let lib_dir = out_dir.join("lib");
    shim::link(out_dir);
    link::llama(features, target, &toolkits, &cache, &lib_dir)?;
    if features.dynamic_backends {
        // Where ggml's modules are; `llama_sys::BACKEND_DIR` for the program to load from.
        println!(
            "cargo::rustc-env=LLAMA_SYS_BACKEND_DIR={}",
            out_dir.join("bin").display()
        );
    }
    let includes = vec![out_dir.join("include"), manifest_dir.join("shim")];
    Ok(Linked {
        root: out_dir.to_owned(),
        includes,
        lib_dir,
    })
}

/// Before llama.cpp is compiled, which takes minutes.
#[cfg(feature = "bindgen")]
fn check_libclang() -> Result<(), Failure> {
    for variable in [
        "BINDGEN_EXTRA_CLANG_ARGS",
        "LIBCLANG_PATH",
        "LLVM_CONFIG_PATH",
    ] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    if bindings::has_libclang() {
        return Ok(());
    }
    fail(
        "the feature `bindgen` needs libclang: install it (package libclang-dev, clang-devel or \
         clang), set LIBCLANG_PATH to its folder, or build without `bindgen`: the declarations \
         are committed",
    )
}

#[cfg(feature = "bindgen")]
fn generate_bindings(
    includes: &[PathBuf],
    features: &Features,
    out_dir: &Path,
) -> Result<(), Failure> {
    let mut parts = vec![(bindings::Part::Core, "bindings.rs")];
    if features.rpc {
        parts.push((bindings::Part::Rpc, "bindings_rpc.rs"));
    }
    for (part, file) in parts {
        let text = bindings::generate(part, includes).map_err(|error| {
            Failure(format!("bindgen cannot read llama.cpp's headers: {error}"))
        })?;
        let path = out_dir.join(file);
        std::fs::write(&path, text)
            .map_err(|error| Failure(format!("cannot write {}: {error}", path.display())))?;
    }
    // The crate then includes these instead of the committed ones.
    println!("cargo::rustc-cfg=llama_sys_generated");
    Ok(())
}

/// `DEP_LLAMA_*` for the build scripts of crates that compile C++ against this.
fn publish(features: &Features, linked: &Linked) -> Result<(), Failure> {
    let include = env::join_paths(&linked.includes).map_err(|error| {
        Failure(format!(
            "the target directory cannot be a path list: {error}"
        ))
    })?;
    let include = include.to_string_lossy();
    // For the tests, which compile against the same headers.
    println!("cargo::rustc-env=LLAMA_SYS_INCLUDE={include}");
    println!("cargo::metadata=root={}", linked.root.display());
    println!("cargo::metadata=include={include}");
    println!("cargo::metadata=libdir={}", linked.lib_dir.display());
    println!("cargo::metadata=version={}", pin::LLAMA_CPP);
    println!("cargo::metadata=features={}", features.names());
    Ok(())
}

fn folder(variable: &str) -> Result<PathBuf, Failure> {
    match env::var_os(variable) {
        Some(value) => Ok(PathBuf::from(value)),
        None => fail(format!(
            "{variable} is not set: this is a build script, run by Cargo"
        )),
    }
}
