//! The committed declarations are what bindgen makes of the pinned headers.
//!
//! Skipped where libclang is missing. `LLAMA_SYS_UPDATE_BINDINGS=1` writes them
//! anew instead of comparing.
#![cfg(not(feature = "system"))]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

#[path = "../build/bindings.rs"]
mod bindings;

use bindings::Part;

#[test]
fn committed_declarations_are_current() {
    if !bindings::has_libclang() {
        eprintln!("skipped: libclang is not installed");
        return;
    }
    let manifest_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let includes: Vec<PathBuf> = env::split_paths(env!("LLAMA_SYS_INCLUDE")).collect();
    for (part, file) in [(Part::Core, "bindings.rs"), (Part::Rpc, "bindings_rpc.rs")] {
        let fresh = bindings::generate(part, &includes).expect("bindgen reads the headers");
        let path = manifest_dir.join("src").join(file);
        if env::var_os("LLAMA_SYS_UPDATE_BINDINGS").is_some() {
            fs::write(&path, fresh).expect("the source folder is writable");
            continue;
        }
        let committed = fs::read_to_string(&path).expect("committed declarations");
        assert!(
            committed == fresh,
            "src/{file} is not what bindgen makes of the headers; if the pin or the shim \
             changed, run this test with LLAMA_SYS_UPDATE_BINDINGS=1 and read the diff"
        );
    }
}
