//! Reading the environment so that Cargo reruns the build script exactly when a
//! variable that was read changes, or a file that was watched.

use std::env;
use std::path::{Path, PathBuf};

use crate::fail::{Failure, stop};
use crate::features::Target;

/// A variable's value, watched; empty counts as unset.
pub fn text(name: &str) -> Option<String> {
    let value = path(name)?.into_os_string().into_string();
    Some(value.unwrap_or_else(|value| {
        stop(&Failure(format!(
            "the variable {name} is not valid UTF-8 ({}): change or unset it",
            value.display()
        )))
    }))
}

/// A variable that names a path, watched; empty counts as unset.
pub fn path(name: &str) -> Option<PathBuf> {
    println!("cargo::rerun-if-env-changed={name}");
    env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

/// The value of `name` for the target that is compiled for, as the crates `cc` and
/// `cmake` look it up: a name that ends in the triple comes first.
pub fn for_target(name: &str, target: &Target) -> Option<String> {
    // All are watched: one that is set later may come before the one in use.
    let values = names_for_target(name, target).map(|name| text(&name));
    values.into_iter().flatten().next()
}

/// Reruns the build script when what `name` says for the target changes.
pub fn watch_for_target(name: &str, target: &Target) {
    for name in names_for_target(name, target) {
        println!("cargo::rerun-if-env-changed={name}");
    }
}

fn names_for_target(name: &str, target: &Target) -> [String; 4] {
    let kind = if target.is_host() { "HOST" } else { "TARGET" };
    [
        format!("{name}_{}", target.triple),
        format!("{name}_{}", target.triple.replace('-', "_")),
        format!("{kind}_{name}"),
        name.to_owned(),
    ]
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
