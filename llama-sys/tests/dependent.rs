//! What crates that compile C++ against this one are told, and that Cargo's profiles
//! share one compilation of llama.cpp.
//!
//! Only of the plain build: the point is what a dependent is told, not how the
//! library was compiled, and each variant would compile llama.cpp again.
#![cfg(not(any(
    feature = "blas",
    feature = "cuda",
    feature = "dynamic-link",
    feature = "hip",
    feature = "metal",
    feature = "opencl",
    feature = "openmp",
    feature = "portable",
    feature = "system",
    feature = "vulkan",
)))]

use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn a_dependent_crate_compiles_cpp_against_it() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let write = |file: &str, text: &str| {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a scratch folder");
        fs::write(path, text).expect("a scratch file");
    };
    // A literal string of TOML, so that backslashes of Windows stay as they are.
    let manifest = format!(
        "[package]\nname = \"dependent\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\
         [dependencies]\nllama-sys = {{ path = '{}' }}\n\
         [build-dependencies]\ncc = \"1.2\"\n[workspace]\n",
        env!("CARGO_MANIFEST_DIR")
    );
    write("Cargo.toml", &manifest);
    write(
        "build.rs",
        r#"
fn main() {
    let get = |name: &str| std::env::var(format!("DEP_LLAMA_{name}")).expect(name);
    assert_eq!(get("VERSION"), "0.8.0");
    assert_eq!(get("FEATURES"), "");
    let root = std::path::PathBuf::from(get("ROOT"));
    assert_eq!(root.join("lib"), std::path::PathBuf::from(get("LIBDIR")));
    assert!(root.join("lib").read_dir().expect("LIBDIR").count() > 0);
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").file("count.cpp");
    build.includes(std::env::split_paths(&get("INCLUDE")));
    build.compile("count");
}
"#,
    );
    write(
        "count.cpp",
        "#include \"llama.h\"\n#include \"llama_shim.h\"\n\
         extern \"C\" int count_devices() {\n    return static_cast<int>(ggml_backend_dev_count());\n}\n",
    );
    write(
        "src/main.rs",
        "use llama_sys as _;\nunsafe extern \"C\" { safe fn count_devices() -> i32; }\n\
         fn main() { println!(\"{} devices\", count_devices()); }\n",
    );
    // The same target folder: there the CMake tree has everything compiled already, for
    // every profile.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .expect("the target folder");
    let trees = || {
        let folder = Path::new(env!("LLAMA_SYS_CMAKE_TREE")).join("../..");
        let entries = fs::read_dir(folder).expect("the folder of the CMake trees");
        entries.count()
    };
    let trees_before = trees();
    let output = Command::new(env!("CARGO"))
        .args(["run", "--release", "--quiet", "--offline"])
        .arg("--target-dir")
        .arg(target)
        .current_dir(dir.path())
        .output()
        .expect("cargo runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("1 devices"),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(
        trees(),
        trees_before,
        "the release profile compiled llama.cpp in a CMake tree of its own"
    );
}
