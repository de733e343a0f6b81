//! Where llama.cpp's sources come from, and whether they are the pinned ones.
//!
//! The order: `LLAMA_CPP_DIR`, then `vendor/llama.cpp` beside this crate's
//! manifest (what `cargo package` ships), then the unpacked package that
//! `../vendor/Cargo.lock` pins, which Cargo itself is asked for. The sources are
//! only ever read: every build file lands in Cargo's target directory.

use std::collections::HashMap;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tinyjson::{JsonParseError, JsonValue};

use crate::environment;
use crate::fail::{Failure, fail};
use crate::pin;

/// The sources a build compiles.
pub struct Source {
    /// The folder with llama.cpp's top-level `CMakeLists.txt`.
    pub dir: PathBuf,
    /// Which of the three places it is, for the build log.
    pub origin: &'static str,
}

/// Finds the sources, checks their version and tells Cargo what to watch.
pub fn resolve(manifest_dir: &Path) -> Result<Source, Failure> {
    let source = locate(manifest_dir)?;
    check_version(&source)?;
    println!(
        "llama-sys: llama.cpp {} from {} ({})",
        pin::LLAMA_CPP,
        source.dir.display(),
        source.origin
    );
    Ok(source)
}

fn locate(manifest_dir: &Path) -> Result<Source, Failure> {
    if let Some(dir) = environment::path("LLAMA_CPP_DIR") {
        if !dir.join("CMakeLists.txt").is_file() || !dir.join("include/llama.h").is_file() {
            return fail(format!(
                "LLAMA_CPP_DIR={} is not a llama.cpp checkout (CMakeLists.txt or include/llama.h \
                 is missing): point it at the top folder of llama.cpp {}, or unset it to build \
                 the pinned package",
                dir.display(),
                pin::LLAMA_CPP
            ));
        }
        watch_tree(&dir);
        return Ok(Source {
            dir,
            origin: "LLAMA_CPP_DIR",
        });
    }

    let materialised = manifest_dir.join("vendor/llama.cpp");
    if materialised.join("CMakeLists.txt").is_file() {
        watch_tree(&materialised);
        return Ok(Source {
            dir: materialised,
            origin: "vendored in the package",
        });
    }

    let pin_dir = match manifest_dir.parent() {
        Some(root) if root.join("vendor/Cargo.lock").is_file() => root.join("vendor"),
        _ => {
            return fail(format!(
                "no llama.cpp sources: neither vendor/llama.cpp in {} nor the pin \
                 ../vendor/Cargo.lock exists; set LLAMA_CPP_DIR to a checkout of llama.cpp {}",
                manifest_dir.display(),
                pin::LLAMA_CPP
            ));
        }
    };
    // A registry package never changes once unpacked: the pin is all there is to watch.
    environment::watch(&pin_dir.join("Cargo.toml"));
    environment::watch(&pin_dir.join("Cargo.lock"));
    Ok(Source {
        dir: ask_cargo(&pin_dir)?,
        origin: "the package pinned in vendor/Cargo.lock",
    })
}

/// The `llama.cpp/` folder of the pinned package, downloaded by Cargo if need be.
fn ask_cargo(pin_dir: &Path) -> Result<PathBuf, Failure> {
    // Offline first: with everything unpacked no network is touched, even on a
    // machine whose registry index is stale.
    let metadata = match cargo_metadata(pin_dir, true) {
        Ok(metadata) => metadata,
        Err(_) => cargo_metadata(pin_dir, false).or_else(|reason| {
            fail(format!(
                "Cargo cannot provide the pinned package {} (llama.cpp {}): connect to the \
                 registry once (`cargo fetch --locked --manifest-path {}`), or set LLAMA_CPP_DIR \
                 to a checkout of llama.cpp {}. Cargo said: {reason}",
                pin::PACKAGE,
                pin::LLAMA_CPP,
                pin_dir.join("Cargo.toml").display(),
                pin::LLAMA_CPP
            ))
        })?,
    };
    let manifest = manifest_path(&metadata);
    let dir = manifest
        .and_then(|path| Path::new(path).parent())
        .map(|p| p.join("llama.cpp"));
    match dir {
        Some(dir) if dir.join("CMakeLists.txt").is_file() => Ok(dir),
        _ => fail(format!(
            "the package {} pinned in {} carries no llama.cpp folder: restore the pin \
             (see vendor/README.md) or set LLAMA_CPP_DIR",
            pin::PACKAGE,
            pin_dir.display()
        )),
    }
}

/// The manifest of the pinned package in what `cargo metadata` said.
fn manifest_path(metadata: &JsonValue) -> Option<&String> {
    let packages: &Vec<JsonValue> = metadata.get::<HashMap<_, _>>()?.get("packages")?.get()?;
    packages
        .iter()
        .filter_map(|package| package.get::<HashMap<_, _>>())
        .find(|package| {
            package.get("name").and_then(JsonValue::get) == Some(&pin::PACKAGE.to_owned())
        })?
        .get("manifest_path")?
        .get()
}

fn cargo_metadata(pin_dir: &Path, offline: bool) -> Result<JsonValue, String> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command
        .args(["metadata", "--format-version", "1", "--locked"])
        .arg("--manifest-path")
        .arg(pin_dir.join("Cargo.toml"))
        // So that the .cargo/config.toml files above the pin apply (mirrors, proxies).
        .current_dir(pin_dir);
    if let Ok(target) = env::var("TARGET") {
        // Saves fetching what only other platforms would compile.
        command.args(["--filter-platform", &target]);
    }
    if offline {
        command.arg("--offline");
    }
    let output = command.output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr)
            .trim()
            .replace('\n', " "));
    }
    String::from_utf8_lossy(&output.stdout)
        .parse()
        .map_err(|error: JsonParseError| error.to_string())
}

/// Compares the version in the sources' own CMake files with the pin: the
/// committed bindings and the shim are valid for that version alone.
fn check_version(source: &Source) -> Result<(), Failure> {
    for (file, prefix, expected) in [
        ("CMakeLists.txt", "LLAMA_VERSION", pin::LLAMA_CPP),
        ("ggml/CMakeLists.txt", "GGML_VERSION", pin::GGML),
    ] {
        let path = source.dir.join(file);
        let text = fs::read_to_string(&path)
            .map_err(|error| Failure(format!("cannot read {}: {error}", path.display())))?;
        let found = cmake_version(&text, prefix).unwrap_or_else(|| "unknown".to_owned());
        if found != expected {
            return fail(format!(
                "version mismatch: {} ({}) says {prefix} {found}, this llama-sys needs {expected}; \
                 check out that version, or unset LLAMA_CPP_DIR to build the pinned package",
                path.display(),
                source.origin
            ));
        }
    }
    Ok(())
}

/// Reads `set(<prefix>_MAJOR n)` and its kin.
fn cmake_version(text: &str, prefix: &str) -> Option<String> {
    let part = |name: &str| {
        let start = format!("set({prefix}_{name}");
        text.lines()
            .find_map(|line| line.trim().strip_prefix(&start)?.split(')').next())
            .map(|value| value.trim().to_owned())
    };
    Some(format!(
        "{}.{}.{}",
        part("MAJOR")?,
        part("MINOR")?,
        part("PATCH")?
    ))
}

/// Watches every file that a build reads, one by one: a folder's own entry would
/// also fire for files that no build reads.
fn watch_tree(dir: &Path) {
    environment::watch(&dir.join("CMakeLists.txt"));
    for part in ["cmake", "common", "ggml", "include", "src", "vendor"] {
        let mut pending = vec![dir.join(part)];
        while let Some(folder) = pending.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => pending.push(entry.path()),
                    Ok(_) => environment::watch(&entry.path()),
                    Err(_) => {}
                }
            }
        }
    }
}
