//! The pin is written in four places; they must say the same.

use std::fs;
use std::path::Path;

#[path = "../build/pin.rs"]
mod pin;

fn read(file: &str) -> Option<String> {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).ok()
}

/// The repository's `vendor/`, which a packaged crate does not have beside it.
fn vendor(file: &str) -> Option<String> {
    read(&format!("../vendor/{file}"))
}

#[test]
fn build_script_and_documentation_agree() {
    assert_eq!(llama_sys::LLAMA_CPP_VERSION, pin::LLAMA_CPP);
    let front = format!("//! llama.cpp {} (ggml {})", pin::LLAMA_CPP, pin::GGML);
    assert!(
        read("src/lib.rs").expect("src/lib.rs").contains(&front),
        "front page: {front}"
    );
}

#[test]
fn manifest_and_lock_name_the_same_package() {
    let (Some(manifest), Some(lock)) = (vendor("Cargo.toml"), vendor("Cargo.lock")) else {
        return;
    };
    assert!(manifest.contains(&format!("\nversion = \"{}\"\n", pin::LLAMA_CPP)));
    assert!(manifest.contains(&format!("\nggml = \"{}\"\n", pin::GGML)));
    assert!(manifest.contains(&format!("\npackage = \"{}\"\n", pin::PACKAGE)));

    let (_, dependency) = manifest
        .split_once(&format!("\n{} = {{ version = \"=", pin::PACKAGE))
        .expect("the manifest pins the package exactly");
    let version = dependency.split('"').next().expect("a version");
    let locked = format!("name = \"{}\"\nversion = \"{version}\"\n", pin::PACKAGE);
    let (_, rest) = lock
        .split_once(&locked)
        .expect("the lock holds that version");
    let checksum = rest
        .lines()
        .find_map(|line| line.strip_prefix("checksum = \""))
        .and_then(|rest| rest.strip_suffix('"'))
        .expect("the lock holds a checksum");
    assert_eq!(checksum.len(), 64);

    let readme = vendor("README.md").expect("vendor/README.md");
    for fact in [pin::LLAMA_CPP, pin::GGML, pin::PACKAGE, version, checksum] {
        assert!(
            readme.contains(fact),
            "vendor/README.md does not say {fact}"
        );
    }
}
