//! llama.cpp in this process: initialisation, devices, worker processes on other
//! machines.
//!
//! [`Backend`] is a token: whoever holds one knows that llama.cpp is initialised, once,
//! and that its log goes to [`tracing`] (target `llama.cpp`, silent without a subscriber).
//!
//! ```
//! use llama_moe::Backend;
//!
//! let backend = Backend::init()?;
//! for device in backend.devices() {
//!     let memory = device.memory();
//!     println!("{}: {}, {} MiB free", device.name(), device.description(), memory.free >> 20);
//! }
//! # Ok::<(), llama_moe::Error>(())
//! ```

mod device;
mod numa;
mod registry;
#[cfg(feature = "rpc")]
mod rpc;

use std::fs;
use std::path::Path;

use once_cell::sync::OnceCell;

pub use device::{Device, DeviceMemory, DeviceType};
pub use numa::NumaStrategy;
pub(crate) use numa::settle_numa;
pub(crate) use registry::read_registry;
#[cfg(feature = "rpc")]
pub use rpc::{RpcServer, RpcWorker};

use crate::error::{Error, Result};
use crate::ffi;

static INITIALISED: OnceCell<()> = OnceCell::new();

/// llama.cpp, initialised for this process.
///
/// A token without data, cheap to copy and to make again.
#[derive(Clone, Copy, Debug)]
pub struct Backend(());

impl Backend {
    /// Initialises llama.cpp on the first call; later calls only return the token.
    ///
    /// With the feature `dynamic-backends`, loads the backend modules of this build, from
    /// the folder they were built in; [`init_with_modules`](Self::init_with_modules) names
    /// another.
    ///
    /// Rests on `llama_backend_init`.
    ///
    /// # Errors
    /// If the modules' folder cannot be passed to C.
    pub fn init() -> Result<Self> {
        Self::init_from(llama_sys::BACKEND_DIR.map(Path::new))
    }

    /// As [`init`](Self::init), but loads backend modules (feature `dynamic-backends`)
    /// from `folder`, for a program that was moved away from where it was built. Has no
    /// effect if llama.cpp was initialised before.
    ///
    /// Rests on `ggml_backend_load_all_from_path`.
    ///
    /// # Errors
    /// [`Error::File`] if there is no such folder, of which llama.cpp would say nothing;
    /// [`Error::Nul`] if the path has a NUL.
    pub fn init_with_modules(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        fs::read_dir(folder).map_err(|source| Error::File {
            path: folder.to_owned(),
            source,
        })?;
        Self::init_from(Some(folder))
    }

    fn init_from(modules: Option<&Path>) -> Result<Self> {
        INITIALISED.get_or_try_init(|| ffi::init(modules))?;
        Ok(Self(()))
    }

    /// All devices, in llama.cpp's order: the CPU is one of them.
    ///
    /// Rests on `ggml_backend_dev_get`.
    #[must_use]
    pub fn devices(&self) -> Vec<Device> {
        let _registry = read_registry();
        ffi::devices().into_iter().map(Device::new).collect()
    }

    /// The device with this name, such as `CUDA0`, `Vulkan0`, `RPC0` or `CPU`; upper and
    /// lower case count as the same.
    ///
    /// # Errors
    /// [`Error::UnknownDevice`], with the names there are.
    #[doc(alias = "--device")]
    pub fn device(&self, name: &str) -> Result<Device> {
        let devices = self.devices();
        devices
            .iter()
            .find(|device| device.name().eq_ignore_ascii_case(name))
            .copied()
            .ok_or_else(|| Error::UnknownDevice {
                name: name.to_owned(),
                available: devices.iter().map(Device::name).collect(),
            })
    }

    /// The device that is the CPU with the system's memory.
    ///
    /// # Errors
    /// [`Error::UnknownDevice`] where no CPU backend is loaded (`dynamic-backends`
    /// without its modules).
    pub fn cpu(&self) -> Result<Device> {
        let devices = self.devices();
        devices
            .iter()
            .find(|device| device.device_type() == DeviceType::Cpu)
            .copied()
            .ok_or_else(|| Error::UnknownDevice {
                name: "CPU".to_owned(),
                available: devices.iter().map(Device::name).collect(),
            })
    }

    /// The devices that a model is offloaded to when none are named: every GPU, and every
    /// device of another machine.
    #[must_use]
    pub fn gpus(&self) -> Vec<Device> {
        let mut devices = self.devices();
        devices.retain(|device| device.device_type().is_gpu());
        devices
    }
}
