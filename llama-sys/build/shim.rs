//! Compiles `shim/` into a static library of its own.

use std::fs;
use std::path::{Path, PathBuf};

use crate::environment;
use crate::fail::{Failure, fail};
use crate::features::Features;
use crate::link;

/// Where the shim's headers come from.
pub enum Headers<'a> {
    /// llama.cpp's sources: public headers and the internal ones.
    Sources(&'a Path),
    /// An installed llama.cpp: public headers only, so that placement, memory
    /// breakdown and fit report themselves as unsupported.
    Installed(&'a [PathBuf]),
}

/// The shim's C++ files; watches their folder, in which every file is read.
pub fn files(manifest_dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let folder = manifest_dir.join("shim");
    let entries = fs::read_dir(&folder)
        .map_err(|error| Failure(format!("cannot read {}: {error}", folder.display())))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    environment::watch(&folder);
    files.retain(|file| file.extension().is_some_and(|extension| extension == "cpp"));
    Ok(files)
}

/// Compiles the shim. Prints nothing for Cargo: it runs beside CMake, whose
/// output could split a line.
pub fn compile(
    manifest_dir: &Path,
    files: &[PathBuf],
    headers: &Headers<'_>,
    features: &Features,
    out_dir: &Path,
) -> Result<(), Failure> {
    // One file that includes all: llama.cpp's and std::regex's headers are most of the
    // work, and are read once.
    let all = out_dir.join("llama_shim.cpp");
    let text: String = files
        .iter()
        .map(|file| format!("#include \"{}\"\n", file.display()))
        .collect();
    fs::write(&all, text)
        .map_err(|error| Failure(format!("cannot write {}: {error}", all.display())))?;
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        // As with llama.cpp: a debug build of Rust code is no reason for a slow shim.
        // More than -O1 gains nothing, the work is done behind the calls it guards.
        .opt_level(1)
        .debug(false)
        .define("NDEBUG", None)
        .warnings(true)
        .extra_warnings(true)
        .cargo_metadata(false)
        // Linked by link(), after the choice between static and shared libstdc++.
        .cpp_link_stdlib(None)
        .out_dir(out_dir)
        .file(all)
        // Apart from the rest: it defines a class of llama.cpp's a second time.
        .file(manifest_dir.join("shim/moe_cache/inside.cpp"));
    match headers {
        Headers::Sources(dir) => {
            for include in ["include", "ggml/include", "src", "."] {
                system_include(&mut build, &dir.join(include));
            }
        }
        Headers::Installed(includes) => {
            build.define("LLAMA_SHIM_NO_INTERNALS", None);
            for include in *includes {
                system_include(&mut build, include);
            }
        }
    }
    if features.dynamic_link || features.system {
        build
            .define("LLAMA_SHARED", None)
            .define("GGML_SHARED", None);
    }

    match build.try_compile("llama_shim") {
        Ok(()) => Ok(()),
        Err(error) => fail(format!(
            "the C++ shim does not compile (C++17 is needed, and exactly the pinned llama.cpp): \
             {error}"
        )),
    }
}

/// Links the compiled shim; to be called before llama.cpp is linked.
pub fn link(out_dir: &Path) {
    link::search(out_dir);
    println!("cargo::rustc-link-lib=static:-bundle=llama_shim");
}

/// `-isystem`, so that warnings are those of the shim's own files.
fn system_include(build: &mut cc::Build, dir: &Path) {
    if build.get_compiler().is_like_msvc() {
        build.include(dir);
    } else {
        build.flag("-isystem").flag(dir);
    }
}
