//! Lets programs built with the CUDA toolkit that `./setup --cuda` fetched find its libraries,
//! which no system's loader knows of. A toolkit of the system needs nothing of this.

use std::env;
use std::path::Path;

fn main() {
    let libraries = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.toolchain/cuda/lib");
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    // Where it is missing, and nothing else gives one, there is no build that could go stale.
    if let Ok(libraries) = libraries.canonicalize() {
        println!("cargo::rerun-if-changed={}", libraries.display());
        println!("cargo::rustc-link-arg=-Wl,-rpath,{}", libraries.display());
    }
}
