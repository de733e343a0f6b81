//! Reading the environment so that Cargo reruns the build script exactly when a
//! variable that was read changes, or a file that was watched.

use std::env;
use std::path::{Path, PathBuf};

/// A variable's value, watched; empty counts as unset.
pub fn text(name: &str) -> Option<String> {
    println!("cargo::rerun-if-env-changed={name}");
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// A variable that names a path, watched; empty counts as unset.
pub fn path(name: &str) -> Option<PathBuf> {
    println!("cargo::rerun-if-env-changed={name}");
    env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

/// Reruns the build script when `file` changes.
pub fn watch(file: &Path) {
    println!("cargo::rerun-if-changed={}", file.display());
}

/// The first file called `program` in the folders of `PATH`.
pub fn find_program(program: &str) -> Option<PathBuf> {
    let file = format!("{program}{}", env::consts::EXE_SUFFIX);
    env::split_paths(&env::var_os("PATH")?)
        .map(|folder| folder.join(&file))
        .find(|path| path.is_file())
}
