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
#[cfg(feature = "system")]
mod system;
mod toolkit;

use fail::{Failure, fail, stop};
use features::{Features, Target};

fn main() {
    // docs.rs has neither network nor patience: the committed bindings suffice.
    println!("cargo::rerun-if-env-changed=DOCS_RS");
    if env::var_os("DOCS_RS").is_some() {
        return;
    }
    if let Err(failure) = run() {
        stop(&failure);
    }
}

fn run() -> Result<(), Failure> {
    let manifest_dir = folder("CARGO_MANIFEST_DIR")?;
    let out_dir = folder("OUT_DIR")?;
    let features = Features::read();
    let target = Target::read();

    #[cfg(feature = "system")]
    if features.system {
        return system::build(&manifest_dir, &features, &target, &out_dir);
    }

    cmake::check()?;
    let toolkits = toolkit::find(&features, &target, &manifest_dir)?;
    let source = source::resolve(&manifest_dir)?;

    // The shim compiles while CMake configures, which keeps one core busy at most.
    let shim_files = shim::files(&manifest_dir)?;
    let (compiled, shim) = thread::scope(|scope| {
        let shim = scope.spawn(|| {
            let headers = shim::Headers::Sources(&source.dir);
            shim::compile(&shim_files, &headers, &features, &out_dir)
        });
        let compiled = cmake::build(&source, &features, &target, &toolkits, &out_dir);
        (compiled, shim.join())
    });
    let cache = compiled?;
    shim.unwrap_or_else(|_| fail("the compilation of the C++ shim panicked, see above"))?;

    shim::link(&out_dir);
    link::llama(&features, &target, &toolkits, &cache, &out_dir.join("lib"))?;
    let mut includes = vec![out_dir.join("include"), manifest_dir.join("shim")];
    #[cfg(feature = "bindgen")]
    generate_bindings(&bindings::includes(&source.dir, &manifest_dir), &features, &out_dir)?;
    if features.dynamic_backends {
        // Where ggml's modules are; `llama_sys::BACKEND_DIR` for the program to load from.
        println!("cargo::rustc-env=LLAMA_SYS_BACKEND_DIR={}", out_dir.join("bin").display());
    }
    publish(&features, &out_dir, &mut includes, &out_dir.join("lib"))
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
    Ok(())
}

/// `DEP_LLAMA_*` for the build scripts of crates that compile C++ against this.
fn publish(
    features: &Features,
    root: &Path,
    includes: &mut [PathBuf],
    lib_dir: &Path,
) -> Result<(), Failure> {
    let include = env::join_paths(includes.iter())
        .map_err(|error| Failure(format!("the target directory cannot be a path list: {error}")))?;
    println!("cargo::metadata=root={}", root.display());
    println!("cargo::metadata=include={}", include.to_string_lossy());
    println!("cargo::metadata=libdir={}", lib_dir.display());
    println!("cargo::metadata=version={}", pin::LLAMA_CPP);
    println!("cargo::metadata=features={}", features.names());
    Ok(())
}

fn folder(variable: &str) -> Result<PathBuf, Failure> {
    match env::var_os(variable) {
        Some(value) => Ok(PathBuf::from(value)),
        None => fail(format!("{variable} is not set: this is a build script, run by Cargo")),
    }
}
