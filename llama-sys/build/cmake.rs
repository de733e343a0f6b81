//! Configures and compiles llama.cpp with CMake, and installs it into `OUT_DIR`.
//!
//! Cargo gives every feature set and profile an `OUT_DIR` of its own. If the
//! CMake tree lived there too, turning one feature on would compile all of
//! llama.cpp again. So the tree lives beside the profiles, keyed by what CMake
//! cannot change in place (compilers, source folder, static or shared, the
//! variables passed through), and backends are switched on and off within it: a
//! new feature compiles that backend alone, and debug, release, clippy and tests
//! share one compilation. What a build links is then installed into its own
//! `OUT_DIR`, which no later build touches.

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::environment;
use crate::fail::{Failure, fail};
use crate::features::{Features, Target};
use crate::source::Source;
use crate::toolkit::Toolkits;

/// CMake variables that are taken from the environment under their own name.
/// Variables that CMake reads from the environment by itself are not in the list.
const PASSED_THROUGH: &[&str] = &[
    "CMAKE_BUILD_TYPE",
    "CMAKE_C_COMPILER",
    "CMAKE_C_COMPILER_LAUNCHER",
    "CMAKE_C_FLAGS",
    "CMAKE_CUDA_ARCHITECTURES",
    "CMAKE_CUDA_COMPILER",
    "CMAKE_CUDA_COMPILER_LAUNCHER",
    "CMAKE_CUDA_FLAGS",
    "CMAKE_CUDA_HOST_COMPILER",
    "CMAKE_CXX_COMPILER",
    "CMAKE_CXX_COMPILER_LAUNCHER",
    "CMAKE_CXX_FLAGS",
    "CMAKE_EXE_LINKER_FLAGS",
    "CMAKE_HIP_ARCHITECTURES",
    "CMAKE_HIP_COMPILER",
    "CMAKE_HIP_FLAGS",
    "CMAKE_MODULE_LINKER_FLAGS",
    "CMAKE_OSX_ARCHITECTURES",
    "CMAKE_OSX_DEPLOYMENT_TARGET",
    "CMAKE_OSX_SYSROOT",
    "CMAKE_SHARED_LINKER_FLAGS",
    "CMAKE_SYSROOT",
    "CMAKE_TOOLCHAIN_FILE",
];

/// Build types that define NDEBUG. Without it llama.cpp's asserts on internal
/// states come alive and abort, and its kernels run many times slower.
const BUILD_TYPES: &[&str] = &["Release", "RelWithDebInfo", "MinSizeRel"];

/// Options that Cargo features steer; a variable of that name would make what is
/// compiled and what is linked disagree.
const STEERED_BY_FEATURES: &[(&str, &str)] = &[
    ("BUILD_SHARED_LIBS", "dynamic-link"),
    ("GGML_BACKEND_DL", "dynamic-backends"),
    ("GGML_BLAS", "blas"),
    ("GGML_CUDA", "cuda"),
    ("GGML_CUDA_NO_VMM", "cuda-no-vmm"),
    ("GGML_HIP", "hip"),
    ("GGML_METAL", "metal"),
    ("GGML_NATIVE", "portable"),
    ("GGML_OPENCL", "opencl"),
    ("GGML_OPENMP", "openmp"),
    ("GGML_RPC", "rpc"),
    ("GGML_VULKAN", "vulkan"),
];

/// Options that would build or leave out libraries without the link line knowing, or
/// install them elsewhere.
const NOT_LINKED: &[&str] = &[
    "GGML_BACKEND_DIR",
    "GGML_BIN_INSTALL_DIR",
    "GGML_CPU",
    "GGML_ET",
    "GGML_HEXAGON",
    "GGML_HIP_RCCL",
    "GGML_INCLUDE_INSTALL_DIR",
    "GGML_LIB_INSTALL_DIR",
    "GGML_MUSA",
    "GGML_OPENVINO",
    "GGML_STATIC",
    "GGML_SYCL",
    "GGML_VIRTGPU",
    "GGML_VIRTGPU_BACKEND",
    "GGML_WEBGPU",
    "GGML_ZDNN",
    "GGML_ZENDNN",
    "LLAMA_BIN_INSTALL_DIR",
    "LLAMA_INCLUDE_INSTALL_DIR",
    "LLAMA_LIB_INSTALL_DIR",
    "LLAMA_USE_SYSTEM_GGML",
];

/// Compiles llama.cpp and installs it: afterwards `out_dir/lib` and
/// `out_dir/include` hold what this feature set links.
pub fn build(
    source: &Source,
    features: &Features,
    target: &Target,
    toolkits: &Toolkits,
    manifest_dir: &Path,
    out_dir: &Path,
) -> Result<Cache, Failure> {
    let mut config = cmake::Config::new(&source.dir);
    let passed = passed_through(source, target)?;
    let build_type = passed
        .iter()
        .find(|(name, _)| name == "CMAKE_BUILD_TYPE")
        .map_or("Release", |(_, value)| value);
    config.profile(build_type);
    if compiler(false)?
        .args()
        .iter()
        .any(|flag| flag == ALIGN_FUNCTIONS)
    {
        config.cflag(ALIGN_FUNCTIONS).cxxflag(ALIGN_FUNCTIONS);
    }

    let generator = generator(target);
    if let Some(generator) = &generator {
        config.generator(generator);
    }
    for (name, value) in &passed {
        config.define(name, value);
    }
    for (name, value) in &toolkits.defines {
        config.define(name, value);
    }
    define_options(&mut config, features, target);
    let narrow = manifest_dir.join("build/narrow.cmake");
    environment::watch(&narrow);
    config.define("CMAKE_PROJECT_llama.cpp_INCLUDE", &narrow);

    let key = tree_key(source, features, target, &passed, generator.as_deref())?;
    let tree = tree(out_dir).join(format!("{key:016x}"));
    fs::create_dir_all(&tree)
        .map_err(|error| Failure(format!("cannot create {}: {error}", tree.display())))?;
    // Two Cargo runs with different profiles hold different locks of Cargo's own.
    let lock_path = tree.join("lock");
    let lock = File::create(&lock_path)
        .and_then(|file| file.lock().map(|()| file))
        .map_err(|error| Failure(format!("cannot lock {}: {error}", lock_path.display())))?;

    println!("llama-sys: CMake tree {}", tree.display());
    forget_other_cuda(&tree.join("build"), toolkits);
    config
        .out_dir(&tree)
        .define("CMAKE_INSTALL_PREFIX", out_dir)
        .define("CMAKE_INSTALL_LIBDIR", "lib")
        // Keeps the sources' own git look-ups from finding a repository that merely
        // contains them: its commits would change the build's defines.
        .env(
            "GIT_CEILING_DIRECTORIES",
            source.dir.parent().unwrap_or(&source.dir),
        );
    let configure_only = environment::text("LLAMA_SYS_CONFIGURE_ONLY").is_some();
    config.build_target(match (configure_only, features.dynamic_backends) {
        // For gates that cannot afford a toolkit's whole build: every generator has a
        // target that only lists the others.
        (true, _) => "help",
        // What libllama links; "all" would add libraries for llama.cpp's own programs.
        (false, false) => "llama",
        // Modules are nobody's dependency.
        (false, true) if target.is_msvc() => "ALL_BUILD",
        (false, true) => "all",
    });
    config.build();
    if !configure_only {
        install(target, &tree.join("build"), build_type)?;
    }
    let cache = Cache::read(tree.join("build"));
    drop(lock);
    Ok(cache)
}

/// What cannot be changed in a tree: each combination has one of its own.
fn tree_key(
    source: &Source,
    features: &Features,
    target: &Target,
    passed: &[(String, String)],
    generator: Option<&str>,
) -> Result<u64, Failure> {
    let mut key = DefaultHasher::new();
    (&source.dir, &target.triple, passed, generator).hash(&mut key);
    (
        features.dynamic_link,
        features.dynamic_backends,
        features.portable,
    )
        .hash(&mut key);
    // Set by packagers: llama.cpp then leaves -march=native out by itself.
    let reproducible = environment::text("SOURCE_DATE_EPOCH").is_some();
    reproducible.hash(&mut key);
    for cpp in [false, true] {
        let compiler = compiler(cpp)?;
        (compiler.path(), compiler.args()).hash(&mut key);
    }
    Ok(key.finish())
}

/// Copies libraries, modules and headers to the prefix that was configured.
fn install(target: &Target, build_dir: &Path, build_type: &str) -> Result<(), Failure> {
    let status = Command::new(program(target))
        .arg("--install")
        .arg(build_dir)
        .args(["--config", build_type])
        .status();
    match status {
        Ok(status) if status.success() => Ok(()),
        _ => fail(format!(
            "CMake cannot install from {}, see its message above",
            build_dir.display()
        )),
    }
}

/// The CMake to run: the `cmake` crate's choice, which reads the same variables.
fn program(target: &Target) -> PathBuf {
    environment::for_target("CMAKE", target).map_or_else(|| PathBuf::from("cmake"), PathBuf::from)
}

/// What CMake found: the path entries of its cache.
pub struct Cache {
    /// The CMake tree.
    pub build_dir: PathBuf,
    entries: Vec<(String, PathBuf)>,
}

impl Cache {
    fn read(build_dir: PathBuf) -> Self {
        let text = fs::read_to_string(build_dir.join("CMakeCache.txt")).unwrap_or_default();
        let entries = text.lines().filter_map(|line| {
            let (name, rest) = line.split_once(':')?;
            let (_kind, value) = rest.split_once('=')?;
            let path = PathBuf::from(value);
            path.is_file().then(|| (name.to_owned(), path))
        });
        let entries = entries.collect();
        Self { build_dir, entries }
    }

    /// The file that the variable `name` holds, unless it was not found.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.entries
            .iter()
            .find(|(entry, _)| entry == name)
            .map(|(_, path)| path.clone())
    }

    /// The files of every variable whose name satisfies `wanted`.
    pub fn paths(&self, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
        self.entries
            .iter()
            .filter(|(entry, _)| wanted(entry))
            .map(|(_, path)| path.clone())
            .collect()
    }
}

/// A compiler is the one thing that CMake does not change in place: given another
/// nvcc it would start over and lose every option of this run. Without its cache it
/// starts over with them; objects whose command is the same are kept.
fn forget_other_cuda(build_dir: &Path, toolkits: &Toolkits) {
    const COMPILER: &str = "CMAKE_CUDA_COMPILER";
    let known = Cache::read(build_dir.to_owned()).path(COMPILER);
    let wanted = toolkits.defines.iter().find(|(name, _)| name == COMPILER);
    if let (Some(known), Some((_, wanted))) = (known, wanted)
        && known != Path::new(wanted)
    {
        // What cannot be removed, CMake will say itself.
        let _ = fs::remove_file(build_dir.join("CMakeCache.txt"));
        let _ = fs::remove_dir_all(build_dir.join("CMakeFiles"));
    }
}

/// Every option that a feature steers is given either way, since the tree
/// remembers what an earlier feature set said.
fn define_options(config: &mut cmake::Config, features: &Features, target: &Target) {
    let on_off = |on: bool| if on { "ON" } else { "OFF" };
    for option in [
        "LLAMA_BUILD_APP",
        "LLAMA_BUILD_COMMON",
        "LLAMA_BUILD_EXAMPLES",
        "LLAMA_BUILD_SERVER",
        "LLAMA_BUILD_TESTS",
        "LLAMA_BUILD_TOOLS",
    ] {
        config.define(option, "OFF");
    }
    for (option, _, on) in features.backends() {
        config.define(option, on_off(on));
    }
    config
        .define("BUILD_SHARED_LIBS", on_off(features.dynamic_link))
        .define("CMAKE_POSITION_INDEPENDENT_CODE", "ON")
        .define("GGML_BACKEND_DL", on_off(features.dynamic_backends))
        .define("GGML_CUDA_NO_VMM", on_off(features.cuda_no_vmm))
        .define("GGML_METAL_EMBED_LIBRARY", on_off(features.metal))
        .define("GGML_OPENMP", on_off(features.openmp));
    if features.portable || features.dynamic_backends {
        config.define("GGML_NATIVE", "OFF");
    }
    if features.dynamic_link && !target.is_apple() && target.os != "windows" {
        // The installed libraries find each other wherever the folder is moved.
        config.define("CMAKE_INSTALL_RPATH", "$ORIGIN");
    } else if features.dynamic_link && target.is_apple() {
        config.define("CMAKE_INSTALL_RPATH", "@loader_path");
    }
}

/// The one that is asked for; else Ninja when it is there: it starts the long files
/// first and reports less.
fn generator(target: &Target) -> Option<String> {
    environment::for_target("CMAKE_GENERATOR", target).or_else(|| {
        let ninja = environment::find_program("ninja").is_some();
        (ninja && !target.is_msvc()).then(|| "Ninja".to_owned())
    })
}

/// The variables of the environment that are CMake variables or options of
/// llama.cpp. `GGML_*` names that are no option (ggml reads some at run time) are
/// left alone.
fn passed_through(source: &Source, target: &Target) -> Result<Vec<(String, String)>, Failure> {
    for (name, feature) in STEERED_BY_FEATURES {
        if let Some(value) = environment::text(name) {
            return fail(format!(
                "{name}={value} is set in the environment, but the Cargo feature `{feature}` \
                 steers it: unset {name} and choose the feature instead"
            ));
        }
    }
    for name in NOT_LINKED {
        if let Some(value) = environment::text(name) {
            return fail(format!(
                "{name}={value} is set in the environment, but this crate cannot link what it \
                 builds: unset {name}, or build llama.cpp with it yourself and use the feature \
                 `system`"
            ));
        }
    }
    let mut names: Vec<String> = PASSED_THROUGH
        .iter()
        .map(|name| (*name).to_owned())
        .collect();
    for file in ["ggml/CMakeLists.txt", "CMakeLists.txt"] {
        let path = source.dir.join(file);
        let text = fs::read_to_string(&path)
            .map_err(|error| Failure(format!("cannot read {}: {error}", path.display())))?;
        names.extend(text.lines().filter_map(option_name));
    }
    names.retain(|name| {
        STEERED_BY_FEATURES
            .iter()
            .all(|(steered, _)| steered != name)
    });
    names.sort_unstable();
    names.dedup();
    let value = |name: &str| match name {
        // Set by what drives cross builds for one target alone (cargo-ndk).
        "CMAKE_TOOLCHAIN_FILE" => environment::for_target(name, target),
        _ => environment::text(name),
    };
    let passed: Vec<_> = names
        .into_iter()
        .filter_map(|name| value(&name).map(|value| (name, value)))
        .collect();

    for (name, value) in &passed {
        if name == "CMAKE_BUILD_TYPE" && !BUILD_TYPES.contains(&value.as_str()) {
            return fail(format!(
                "CMAKE_BUILD_TYPE={value} would build llama.cpp without NDEBUG (slow, and \
                 aborting on internal asserts): use one of {}, or unset it for Release",
                BUILD_TYPES.join(", ")
            ));
        }
    }
    // Read by CMake or the compiler wrappers themselves: only watched.
    for name in ["CMAKE_PREFIX_PATH", "CC", "CXX", "CFLAGS", "CXXFLAGS"] {
        environment::watch_for_target(name, target);
    }
    Ok(passed)
}

/// The name that a line of CMake declares as an option or a cached variable.
fn option_name(line: &str) -> Option<String> {
    let line = line.trim_start();
    let rest = if let Some(rest) = line.strip_prefix("option") {
        rest
    } else if line.contains(" CACHE ") {
        line.strip_prefix("set")?
    } else {
        return None;
    };
    let name: String = rest
        .trim_start()
        .strip_prefix('(')?
        .chars()
        .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
        .collect();
    (name.starts_with("GGML_") || name.starts_with("LLAMA_")).then_some(name)
}

/// Without it a function begins at any multiple of 16, which one the size of all that is linked
/// before it decides: the same kernels were a tenth slower in one program than in another. Lines of
/// the cache have 64 bytes.
const ALIGN_FUNCTIONS: &str = "-falign-functions=64";

/// The compiler and its flags, without those that follow Cargo's profile: llama.cpp is
/// compiled alike for all of them.
fn compiler(cpp: bool) -> Result<cc::Tool, Failure> {
    cc::Build::new()
        .cpp(cpp)
        .opt_level(0)
        .debug(false)
        .cargo_metadata(false)
        .flag_if_supported(ALIGN_FUNCTIONS)
        .try_get_compiler()
        .map_err(|error| {
            Failure(format!(
                "no {} compiler: install one (`./setup` in the repository does) or set {}: {error}",
                if cpp { "C++" } else { "C" },
                if cpp { "CXX" } else { "CC" },
            ))
        })
}

/// `<target>/llama-cpp`, beside the profile folders; inside `OUT_DIR` where
/// Cargo's layout is not the known one.
fn tree(out_dir: &Path) -> PathBuf {
    out_dir
        .ancestors()
        .find(|folder| folder.file_name().is_some_and(|name| name == "build"))
        .and_then(|build| build.parent()?.parent())
        .unwrap_or(out_dir)
        .join("llama-cpp")
}

/// Stops before CMake would, when there is no CMake or one too old.
pub fn check(target: &Target) -> Result<(), Failure> {
    let program = program(target);
    let output = Command::new(&program).arg("--version").output();
    let text = match output {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).into_owned()
        }
        _ => {
            return fail(format!(
                "CMake is needed to build llama.cpp and `{}` does not run: install cmake \
                 (`./setup` in the repository does), or name it by the variable CMAKE",
                program.display()
            ));
        }
    };
    let version: Vec<u32> = text
        .split_whitespace()
        .nth(2)
        .unwrap_or_default()
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|part| part.parse().ok())
        .collect();
    if version.as_slice() < [3, 19].as_slice() {
        return fail(format!(
            "{} is too old: llama.cpp needs CMake 3.19 or later",
            text.lines().next().unwrap_or("this CMake")
        ));
    }
    if env::var_os("NUM_JOBS").is_none() {
        println!("llama-sys: NUM_JOBS is not set, CMake chooses the number of jobs");
    }
    Ok(())
}
