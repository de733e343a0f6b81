//! The toolkits that backends need: found before CMake starts, so that a missing
//! one is one sentence rather than a page of CMake's.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use crate::environment;
use crate::fail::{Failure, fail};
use crate::features::{Features, Target};

/// The oldest Vulkan headers that ggml-vulkan compiles against: the first with
/// VK_EXT_layer_settings, which it uses without asking. `./setup` knows it, too.
const VULKAN_HEADERS: (u32, u32, u32) = (1, 3, 272);

/// What the enabled backends add to the CMake run and to the link line.
#[derive(Default)]
pub struct Toolkits {
    pub defines: Vec<(String, String)>,
    pub library_dirs: Vec<PathBuf>,
}

impl Toolkits {
    fn define(&mut self, name: &str, value: &Path) {
        self.defines
            .push((name.to_owned(), value.display().to_string()));
    }
}

/// Looks for every toolkit that `features` ask for.
pub fn find(
    features: &Features,
    target: &Target,
    manifest_dir: &Path,
) -> Result<Toolkits, Failure> {
    if features.cuda && features.hip && !features.dynamic_backends {
        return fail(
            "the features `cuda` and `hip` define the same symbols: choose one, or add \
             `dynamic-backends`, which keeps them apart",
        );
    }
    let mut found = Toolkits::default();
    // Where `./setup --cuda` and `./setup --vulkan` unpack what the system lacks.
    let local = manifest_dir
        .parent()
        .unwrap_or(manifest_dir)
        .join(".toolchain");
    if features.cuda {
        cuda(&mut found, features, target, &local.join("cuda"))?;
    }
    if features.vulkan {
        vulkan(&mut found, target, &local.join("vulkan"))?;
    }
    if features.metal && !target.is_apple() {
        return fail(format!(
            "the feature `metal` needs an Apple target, this one is {}: use `vulkan` or `cuda` here",
            target.triple
        ));
    }
    if features.hip {
        hip(&mut found)?;
    }
    if features.opencl {
        opencl(&mut found, target)?;
    }
    if features.blas {
        blas(target)?;
    }
    Ok(found)
}

fn cuda(
    found: &mut Toolkits,
    features: &Features,
    target: &Target,
    local: &Path,
) -> Result<(), Failure> {
    if target.is_apple() {
        return fail("the feature `cuda` cannot be built for Apple targets: use `metal`");
    }
    let exe = |root: &Path| {
        root.join("bin")
            .join(format!("nvcc{}", env::consts::EXE_SUFFIX))
    };
    let named = ["CUDACXX", "CMAKE_CUDA_COMPILER"]
        .into_iter()
        .find_map(environment::path)
        .map(program);
    let roots = ["CUDA_PATH", "CUDA_HOME", "CUDAToolkit_ROOT"];
    let nvcc = named
        .or_else(|| {
            roots
                .into_iter()
                .filter_map(environment::path)
                .map(|root| exe(&root))
                .next()
        })
        .or_else(|| environment::find_program("nvcc"))
        .or_else(|| Some(exe(Path::new("/usr/local/cuda"))).filter(|path| path.is_file()))
        .or_else(|| Some(exe(local)).filter(|path| path.is_file()));
    let Some(nvcc) = nvcc.filter(|path| path.is_file()) else {
        return fail(
            "the feature `cuda` needs NVIDIA's nvcc: install the CUDA toolkit (`./setup --cuda` in \
             the repository does), or set CUDA_PATH to its folder or CUDACXX to nvcc",
        );
    };
    // nvcc may be a link into the toolkit, as /usr/bin/nvcc is on some systems.
    let real = fs::canonicalize(&nvcc).unwrap_or_else(|_| nvcc.clone());
    found.define("CMAKE_CUDA_COMPILER", &nvcc);
    if let Some(root) = real.parent().and_then(Path::parent) {
        found.define("CUDAToolkit_ROOT", root);
        for folder in [
            "lib64",
            "lib",
            "lib/x64",
            "targets/x86_64-linux/lib",
            "lib64/stubs",
        ] {
            let dir = root.join(folder);
            if dir.is_dir() {
                found.library_dirs.push(dir);
            }
        }
    }
    if !features.cuda_no_vmm && target.os == "linux" && !has_driver_library(found) {
        return fail(
            "the feature `cuda` links the driver's libcuda.so, and neither the CUDA toolkit \
             (lib64/stubs) nor this system has one: add the feature `cuda-no-vmm`, which does \
             without it, or install the toolkit's stubs (package cuda-driver-dev) or the driver",
        );
    }
    if environment::text("CMAKE_CUDA_ARCHITECTURES").is_none() && !nvidia_gpu_visible() {
        // llama.cpp would ask for the GPU of this machine ("native"), and there is none.
        let list = "75-virtual;80-virtual;86-real;89-real;90-virtual";
        println!(
            "cargo::warning=no NVIDIA GPU is visible here: building CUDA code for {list}; set \
             CMAKE_CUDA_ARCHITECTURES (for example 90-real) to build for one GPU, in a fraction \
             of the time"
        );
        found
            .defines
            .push(("CMAKE_CUDA_ARCHITECTURES".to_owned(), list.to_owned()));
    }
    Ok(())
}

/// Whether there is a libcuda.so to link: of the toolkit, or of a driver.
fn has_driver_library(found: &Toolkits) -> bool {
    let system = multiarch()
        .into_iter()
        .chain(["/usr/lib64", "/usr/lib", "/usr/lib/wsl/lib"].map(PathBuf::from));
    let mut folders = found.library_dirs.iter().cloned().chain(system);
    folders.any(|folder| {
        ["", "stubs"]
            .iter()
            .any(|stubs| folder.join(stubs).join("libcuda.so").is_file())
    })
}

/// Debian's library folders of one architecture each.
fn multiarch() -> Vec<PathBuf> {
    let entries = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().contains("-linux-gnu"))
        .collect()
}

/// A program that a variable names: by its path, or by a name to be found in `PATH`.
fn program(named: PathBuf) -> PathBuf {
    match named.to_str() {
        Some(name) if named.components().count() == 1 => {
            environment::find_program(name).unwrap_or(named)
        }
        _ => named,
    }
}

fn nvidia_gpu_visible() -> bool {
    Path::new("/dev/nvidia0").exists()
        || Path::new("/dev/dxg").exists()
        || (cfg!(windows) && environment::find_program("nvidia-smi").is_some())
}

fn vulkan(found: &mut Toolkits, target: &Target, local: &Path) -> Result<(), Failure> {
    let sdk = environment::path("VULKAN_SDK");
    let glslc = environment::path("Vulkan_GLSLC_EXECUTABLE")
        .map(program)
        .or_else(|| {
            let name = format!("glslc{}", env::consts::EXE_SUFFIX);
            ["bin", "Bin"].iter().find_map(|bin| {
                Some(sdk.as_ref()?.join(bin).join(&name)).filter(|path| path.is_file())
            })
        })
        .or_else(|| environment::find_program("glslc"));
    let Some(glslc) = glslc.filter(|path| path.is_file()) else {
        return fail(
            "the feature `vulkan` needs the shader compiler glslc: install it (package glslc, \
             shaderc or the Vulkan SDK; `./setup --vulkan` in the repository does), or set \
             VULKAN_SDK or Vulkan_GLSLC_EXECUTABLE",
        );
    };
    found.define("Vulkan_GLSLC_EXECUTABLE", &glslc);

    let mut prefixes: Vec<PathBuf> = Vec::new();
    prefixes.extend(sdk.clone());
    if local.is_dir() {
        prefixes.push(local.to_owned());
    }
    for system in ["/usr/local", "/usr", "/opt/homebrew"] {
        prefixes.push(PathBuf::from(system));
    }
    let explicit = environment::path("Vulkan_INCLUDE_DIR");
    let include = explicit.or_else(|| {
        prefixes
            .iter()
            .flat_map(|prefix| [prefix.join("include"), prefix.join("Include")])
            .find(|include| include.join("vulkan/vulkan_core.h").is_file())
    });
    let Some(include) = include else {
        return fail(
            "the feature `vulkan` needs the Vulkan headers: install them (package libvulkan-dev or \
             vulkan-headers; `./setup --vulkan` in the repository does), or set VULKAN_SDK or \
             Vulkan_INCLUDE_DIR",
        );
    };
    let version = vulkan_version(&include.join("vulkan/vulkan_core.h"));
    if version < VULKAN_HEADERS {
        let (major, minor, patch) = VULKAN_HEADERS;
        return fail(format!(
            "the Vulkan headers in {} are {}.{}.{}, too old for llama.cpp, which needs \
             {major}.{minor}.{patch}: install newer ones (`./setup --vulkan` in the repository \
             does) and point VULKAN_SDK or Vulkan_INCLUDE_DIR at them",
            include.display(),
            version.0,
            version.1,
            version.2
        ));
    }
    found.define("Vulkan_INCLUDE_DIR", &include);
    spirv_headers(prefixes, &glslc)?;
    if local.is_dir() {
        found.define("CMAKE_PREFIX_PATH", local);
    }
    if let Some(sdk) = sdk {
        found.library_dirs.extend(
            ["lib", "Lib"]
                .iter()
                .map(|lib| sdk.join(lib))
                .filter(|folder| folder.is_dir()),
        );
    }
    if target.is_apple() {
        println!("llama-sys: Vulkan on Apple runs on MoltenVK; `metal` is the native backend");
    }
    Ok(())
}

/// Looks for SPIRV-Headers where CMake does: below the prefixes of Vulkan, those of
/// CMAKE_PREFIX_PATH, and the one that holds glslc.
fn spirv_headers(mut prefixes: Vec<PathBuf>, glslc: &Path) -> Result<(), Failure> {
    const CONFIG: &str = "cmake/SPIRV-Headers/SPIRV-HeadersConfig.cmake";
    if let Some(list) = environment::path("CMAKE_PREFIX_PATH") {
        prefixes.extend(env::split_paths(&list));
    }
    prefixes.extend(glslc.parent().and_then(Path::parent).map(Path::to_path_buf));
    let installed = prefixes.iter().any(|prefix| {
        ["share", "lib", "lib64"]
            .iter()
            .any(|folder| prefix.join(folder).join(CONFIG).is_file())
    });
    if installed {
        return Ok(());
    }
    fail(
        "the feature `vulkan` needs SPIRV-Headers: install them (package spirv-headers or \
         spirv-headers-devel; `./setup --vulkan` in the repository does), or set VULKAN_SDK or \
         CMAKE_PREFIX_PATH to where they are",
    )
}

/// `VK_API_VERSION` of a `vulkan_core.h`, zeros when it cannot be read.
fn vulkan_version(header: &Path) -> (u32, u32, u32) {
    environment::watch(header);
    let text = fs::read_to_string(header).unwrap_or_default();
    let patch = text
        .lines()
        .find_map(|line| line.strip_prefix("#define VK_HEADER_VERSION "))
        .and_then(|value| value.trim().parse().ok())
        .unwrap_or(0);
    // #define VK_HEADER_VERSION_COMPLETE VK_MAKE_API_VERSION(0, 1, 4, VK_HEADER_VERSION)
    let complete: Vec<u32> = text
        .lines()
        .find(|line| line.starts_with("#define VK_HEADER_VERSION_COMPLETE"))
        .and_then(|line| line.split_once('('))
        .map(|(_, arguments)| {
            arguments
                .split(',')
                .map_while(|part| part.trim().parse().ok())
                .collect()
        })
        .unwrap_or_default();
    match complete.as_slice() {
        [_variant, major, minor] => (*major, *minor, patch),
        _ => (0, 0, patch),
    }
}

fn hip(found: &mut Toolkits) -> Result<(), Failure> {
    // llama.cpp's own order; its CMake files read the same variable.
    let roots = environment::path("ROCM_PATH")
        .into_iter()
        .chain([PathBuf::from("/opt/rocm"), PathBuf::from("/usr")]);
    let root = roots.into_iter().find(|root| root.is_dir());
    let libraries: Vec<PathBuf> = root
        .iter()
        .flat_map(|root| ["lib", "lib64", "lib/x86_64-linux-gnu"].map(|folder| root.join(folder)))
        .filter(|folder| folder.is_dir())
        .collect();
    if libraries
        .iter()
        .any(|folder| folder.join("cmake/hip").is_dir())
    {
        found.library_dirs.extend(libraries);
        return Ok(());
    }
    fail(
        "the feature `hip` needs AMD's ROCm 6.1 or later with hip, hipBLAS and rocBLAS: install \
         it, or set ROCM_PATH to its folder",
    )
}

fn opencl(found: &mut Toolkits, target: &Target) -> Result<(), Failure> {
    if environment::find_program("python3").is_none()
        && environment::find_program("python").is_none()
    {
        return fail("the feature `opencl` needs Python 3 to embed its kernels: install python3");
    }
    let root = environment::path("OPENCL_ROOT");
    if let Some(root) = &root {
        // CMake before 3.27 reads only this spelling.
        found.define("OpenCL_ROOT", root);
    }
    let prefixes = root
        .into_iter()
        .chain([PathBuf::from("/usr"), PathBuf::from("/usr/local")]);
    let installed = |prefix: PathBuf| prefix.join("include/CL/cl.h").is_file();
    if target.os != "linux" || prefixes.into_iter().any(installed) {
        return Ok(());
    }
    fail(
        "the feature `opencl` needs the OpenCL headers and loader: install opencl-headers and \
         ocl-icd-opencl-dev (or your system's names of them), or set OPENCL_ROOT to the folder \
         above include/CL",
    )
}

fn blas(target: &Target) -> Result<(), Failure> {
    let chosen = ["BLAS_ROOT", "MKLROOT", "GGML_BLAS_VENDOR"]
        .into_iter()
        .filter(|name| environment::text(name).is_some())
        .count();
    let mut folders = ["/usr/lib64", "/usr/lib", "/usr/local/lib"]
        .map(PathBuf::from)
        .to_vec();
    folders.extend(multiarch());
    let known = ["libblas.so", "libopenblas.so", "libflexiblas.so"];
    let installed = folders
        .iter()
        .any(|folder| known.iter().any(|file| folder.join(file).is_file()));
    if target.os != "linux" || chosen > 0 || installed {
        return Ok(());
    }
    fail(
        "the feature `blas` needs a BLAS with its cblas.h: install libopenblas-dev (openblas-devel, \
         openblas), or name one by GGML_BLAS_VENDOR or BLAS_ROOT",
    )
}
