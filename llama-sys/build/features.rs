//! The Cargo features of this build and the target they are for.

use std::env;

/// Every feature that changes what is compiled or linked, as Cargo set them.
/// Read from the environment rather than by `cfg!`, as are the target's
/// properties: a build script is itself compiled for the host.
pub struct Features {
    pub cuda: bool,
    pub cuda_no_vmm: bool,
    pub vulkan: bool,
    pub metal: bool,
    pub hip: bool,
    pub opencl: bool,
    pub rpc: bool,
    pub blas: bool,
    pub openmp: bool,
    pub dynamic_link: bool,
    pub dynamic_backends: bool,
    pub system: bool,
    pub static_stdcxx: bool,
    pub portable: bool,
}

impl Features {
    pub fn read() -> Self {
        let on = |name: &str| env::var_os(format!("CARGO_FEATURE_{name}")).is_some();
        Self {
            cuda: on("CUDA"),
            cuda_no_vmm: on("CUDA_NO_VMM"),
            vulkan: on("VULKAN"),
            metal: on("METAL"),
            hip: on("HIP"),
            opencl: on("OPENCL"),
            rpc: on("RPC"),
            blas: on("BLAS"),
            openmp: on("OPENMP"),
            dynamic_link: on("DYNAMIC_LINK"),
            dynamic_backends: on("DYNAMIC_BACKENDS"),
            system: on("SYSTEM"),
            static_stdcxx: on("STATIC_STDCXX"),
            portable: on("PORTABLE"),
        }
    }

    /// The backends besides the CPU's: llama.cpp's CMake option, its library, on or off.
    pub fn backends(&self) -> [(&'static str, &'static str, bool); 7] {
        [
            ("GGML_CUDA", "ggml-cuda", self.cuda),
            ("GGML_VULKAN", "ggml-vulkan", self.vulkan),
            ("GGML_METAL", "ggml-metal", self.metal),
            ("GGML_HIP", "ggml-hip", self.hip),
            ("GGML_OPENCL", "ggml-opencl", self.opencl),
            ("GGML_RPC", "ggml-rpc", self.rpc),
            ("GGML_BLAS", "ggml-blas", self.blas),
        ]
    }

    /// The names of the enabled features, for `DEP_LLAMA_FEATURES`.
    pub fn names(&self) -> String {
        [
            ("cuda", self.cuda),
            ("cuda-no-vmm", self.cuda_no_vmm),
            ("vulkan", self.vulkan),
            ("metal", self.metal),
            ("hip", self.hip),
            ("opencl", self.opencl),
            ("rpc", self.rpc),
            ("blas", self.blas),
            ("openmp", self.openmp),
            ("dynamic-link", self.dynamic_link),
            ("dynamic-backends", self.dynamic_backends),
            ("system", self.system),
            ("static-stdcxx", self.static_stdcxx),
            ("portable", self.portable),
        ]
        .into_iter()
        .filter_map(|(name, on)| on.then_some(name))
        .collect::<Vec<_>>()
        .join(",")
    }
}

/// The platform that is compiled for.
pub struct Target {
    pub triple: String,
    host: String,
    pub os: String,
    pub env: String,
}

impl Target {
    pub fn read() -> Self {
        let get = |name: &str| env::var(name).unwrap_or_default();
        Self {
            triple: get("TARGET"),
            host: get("HOST"),
            os: get("CARGO_CFG_TARGET_OS"),
            env: get("CARGO_CFG_TARGET_ENV"),
        }
    }

    pub fn is_host(&self) -> bool {
        self.triple == self.host
    }

    pub fn is_apple(&self) -> bool {
        matches!(self.os.as_str(), "macos" | "ios" | "tvos" | "visionos")
    }

    pub fn is_msvc(&self) -> bool {
        self.env == "msvc"
    }
}
