//! What the build script refuses, and in which words: real `cargo build` runs
//! that stop before CMake starts.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs `cargo build` on this crate with `variables` set and returns what it
/// printed, which must be a failure.
fn refusal(features: &str, variables: &[(&str, &Path)]) -> String {
    refusal_in(Path::new(env!("CARGO_MANIFEST_DIR")), features, variables)
}

fn refusal_in(manifest_dir: &Path, features: &str, variables: &[(&str, &Path)]) -> String {
    let mut command = Command::new(env!("CARGO"));
    command
        .args(["build", "--offline", "--features", features])
        .arg("--manifest-path")
        .arg(manifest_dir.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(Path::new(env!("CARGO_TARGET_TMPDIR")).join("build-script"));
    // What the machine that runs the tests has set must not decide them.
    for name in [
        "CMAKE",
        "CMAKE_BUILD_TYPE",
        "CUDACXX",
        "CUDA_HOME",
        "CUDA_PATH",
        "DOCS_RS",
        "GGML_CUDA",
        "LLAMA_CPP_DIR",
        "VULKAN_SDK",
        "Vulkan_INCLUDE_DIR",
        "Vulkan_GLSLC_EXECUTABLE",
    ] {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied());
    let output = command.output().expect("cargo runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "the build went through:\n{text}");
    text
}

#[track_caller]
fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "not said: {part}\n{text}");
    }
}

fn scratch(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).expect("a scratch folder");
    dir
}

#[test]
fn a_wrong_llama_cpp_dir_is_named() {
    let empty = scratch("empty-checkout");
    let text = refusal("", &[("LLAMA_CPP_DIR", &empty)]);
    assert_says(
        &text,
        &["is not a llama.cpp checkout", "empty-checkout", "unset it"],
    );
}

#[test]
fn another_version_is_a_mismatch() {
    let dir = scratch("old-checkout");
    fs::create_dir_all(dir.join("include")).expect("include");
    fs::write(dir.join("include/llama.h"), "").expect("llama.h");
    fs::write(
        dir.join("CMakeLists.txt"),
        "set(LLAMA_VERSION_MAJOR 0)\nset(LLAMA_VERSION_MINOR 5)\nset(LLAMA_VERSION_PATCH 1)\n",
    )
    .expect("CMakeLists.txt");
    let text = refusal("", &[("LLAMA_CPP_DIR", &dir)]);
    assert_says(
        &text,
        &["version mismatch", "0.5.1", "needs 0.8.0", "old-checkout"],
    );
}

#[test]
fn a_package_that_cargo_cannot_get_says_what_to_do() {
    // A workspace of this crate alone whose pin names a version that no registry has.
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let Ok(root_manifest) = fs::read_to_string(crate_dir.join("../vendor/Cargo.toml")) else {
        return; // A packaged crate carries its sources: there is no pin to ask Cargo for.
    };
    if crate_dir.join("vendor/llama.cpp").is_dir() {
        return;
    }
    let root = scratch("unavailable");
    for folder in [
        "llama-sys/build",
        "llama-sys/src",
        "llama-sys/shim",
        "vendor",
    ] {
        let from = crate_dir.join("..").join(folder);
        let to = root.join(folder);
        fs::create_dir_all(&to).expect("a folder");
        for entry in fs::read_dir(&from)
            .expect("a folder of the repository")
            .flatten()
        {
            if entry.path().is_file() {
                fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
            }
        }
    }
    for file in ["Cargo.lock", "llama-sys/Cargo.toml"] {
        fs::copy(crate_dir.join("..").join(file), root.join(file)).expect("a copy");
    }
    let workspace =
        fs::read_to_string(crate_dir.join("../Cargo.toml")).expect("the workspace's manifest");
    let alone: String = workspace
        .lines()
        .map(|line| match line.split(" = ").next() {
            Some(name @ ("members" | "default-members")) => {
                format!("{name} = [\"llama-sys\"]\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    fs::write(root.join("Cargo.toml"), alone).expect("a manifest");
    fs::write(
        root.join("vendor/Cargo.toml"),
        root_manifest.replace("\"=0.", "\"=999."),
    )
    .expect("the broken pin");
    let text = refusal_in(&root.join("llama-sys"), "", &[]);
    assert_says(
        &text,
        &[
            "Cargo cannot provide the pinned package",
            "LLAMA_CPP_DIR",
            "cargo fetch",
        ],
    );
}

#[test]
fn a_missing_toolkit_is_one_sentence() {
    let nowhere = Path::new("/nonexistent/tool");
    let text = refusal("cuda", &[("CUDACXX", nowhere)]);
    assert_says(
        &text,
        &["needs NVIDIA's nvcc", "CUDA_PATH", "./setup --cuda"],
    );
    let text = refusal("vulkan", &[("Vulkan_GLSLC_EXECUTABLE", nowhere)]);
    assert_says(
        &text,
        &[
            "needs the shader compiler glslc",
            "VULKAN_SDK",
            "./setup --vulkan",
        ],
    );
    let text = refusal("", &[("CMAKE", nowhere)]);
    assert_says(&text, &["CMake is needed", "./setup"]);
}

#[test]
#[cfg(target_os = "linux")]
fn cuda_without_the_drivers_library_names_the_other_feature() {
    // With a driver there is nothing to refuse.
    let folders = ["x86_64-linux-gnu", "aarch64-linux-gnu", "wsl/lib", ""];
    let mut installed = folders
        .iter()
        .map(|folder| Path::new("/usr/lib").join(folder));
    if installed.any(|folder| folder.join("libcuda.so").is_file())
        || Path::new("/usr/lib64/libcuda.so").is_file()
    {
        return;
    }
    let toolkit = scratch("no-driver");
    fs::create_dir_all(toolkit.join("bin")).expect("a folder");
    fs::create_dir_all(toolkit.join("lib64")).expect("a folder");
    fs::write(toolkit.join("bin/nvcc"), "").expect("nvcc");
    let text = refusal("cuda", &[("CUDA_PATH", &toolkit)]);
    assert_says(&text, &["libcuda.so", "`cuda-no-vmm`", "cuda-driver-dev"]);
}

#[test]
fn old_vulkan_headers_are_told_by_version() {
    let dir = scratch("old-vulkan");
    fs::create_dir_all(dir.join("vulkan")).expect("a folder");
    fs::write(
        dir.join("vulkan/vulkan_core.h"),
        "#define VK_HEADER_VERSION 200\n\
         #define VK_HEADER_VERSION_COMPLETE VK_MAKE_API_VERSION(0, 1, 3, VK_HEADER_VERSION)\n",
    )
    .expect("vulkan_core.h");
    let glslc = dir.join("glslc");
    fs::write(&glslc, "").expect("glslc");
    let text = refusal(
        "vulkan",
        &[
            ("Vulkan_INCLUDE_DIR", &dir),
            ("Vulkan_GLSLC_EXECUTABLE", &glslc),
        ],
    );
    assert_says(&text, &["1.3.200", "too old", "./setup --vulkan"]);
}

#[test]
fn cuda_and_hip_exclude_each_other() {
    assert_says(
        &refusal("cuda,hip", &[]),
        &["`cuda` and `hip`", "dynamic-backends"],
    );
}

#[test]
#[cfg(not(target_vendor = "apple"))]
fn metal_needs_an_apple_target() {
    assert_says(&refusal("metal", &[]), &["`metal` needs an Apple target"]);
}

#[test]
fn variables_that_would_contradict_the_build_are_refused() {
    let text = refusal("", &[("CMAKE_BUILD_TYPE", Path::new("Debug"))]);
    assert_says(
        &text,
        &["CMAKE_BUILD_TYPE=Debug", "NDEBUG", "RelWithDebInfo"],
    );
    let text = refusal("", &[("GGML_CUDA", Path::new("ON"))]);
    assert_says(&text, &["GGML_CUDA=ON", "the Cargo feature `cuda`"]);
    let text = refusal("", &[("GGML_SYCL", Path::new("ON"))]);
    assert_says(&text, &["GGML_SYCL=ON", "cannot link", "`system`"]);
}
