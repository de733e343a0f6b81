//! The feature `system`: links an installed llama.cpp that pkg-config knows.

use std::path::{Path, PathBuf};

use crate::fail::{Failure, fail};
use crate::features::{Features, Target};
use crate::{Linked, link, pin, shim};

/// Links the installed libllama, once its version is the pinned one.
pub fn build(
    manifest_dir: &Path,
    features: &Features,
    target: &Target,
    out_dir: &Path,
) -> Result<Linked, Failure> {
    let library = pkg_config::Config::new()
        .cargo_metadata(false)
        .env_metadata(true)
        .probe("llama")
        .map_err(|error| {
            Failure(format!(
                "the feature `system` needs an installed llama.cpp {} with its llama.pc: install it, \
                 add its folder to PKG_CONFIG_PATH, or build without `system`: {error}",
                pin::LLAMA_CPP
            ))
        })?;
    // Builds from a branch say "0.8.0-dev".
    let base = library.version.split('-').next().unwrap_or_default();
    if base != pin::LLAMA_CPP {
        return fail(format!(
            "the installed llama.cpp is {}, this llama-sys has the declarations of {}: install that \
             version, or build without `system`",
            library.version,
            pin::LLAMA_CPP
        ));
    }

    let files = shim::files(manifest_dir)?;
    shim::compile(
        manifest_dir,
        &files,
        &shim::Headers::Installed(&library.include_paths),
        features,
        out_dir,
    )?;
    shim::link(out_dir);
    for dir in &library.link_paths {
        link::search(dir);
    }
    // llama.pc does not name the CPU backend's library, which ggml-cpu.h declares.
    let mut libraries: Vec<String> = vec!["llama".to_owned()];
    libraries.extend(library.libs.iter().filter(|name| *name != "llama").cloned());
    let suffix = if target.is_apple() { "dylib" } else { "so" };
    let is_installed = |name: &str| {
        library
            .link_paths
            .iter()
            .any(|dir| dir.join(format!("lib{name}.{suffix}")).is_file())
    };
    for (_, backend, _) in features.backends().into_iter().filter(|(_, _, on)| *on) {
        if is_installed(backend) {
            libraries.push(backend.to_owned());
        }
    }
    if is_installed("ggml-cpu") {
        libraries.push("ggml-cpu".to_owned());
    }
    for name in &libraries {
        println!("cargo::rustc-link-lib=dylib={name}");
    }
    link::stdcxx(features, target)?;

    let mut includes: Vec<PathBuf> = library.include_paths.clone();
    includes.push(manifest_dir.join("shim"));
    let lib_dir = library
        .link_paths
        .first()
        .cloned()
        .unwrap_or_else(|| PathBuf::from("/usr/lib"));
    let root = lib_dir
        .parent()
        .map_or_else(|| lib_dir.clone(), Path::to_owned);
    Ok(Linked {
        root,
        includes,
        lib_dir,
    })
}
