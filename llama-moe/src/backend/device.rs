//! Devices: what computes, and whose memory tensors live in.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use std::{fmt, io};

use crate::error::{Error, Result};
use crate::ffi::{BufferType, DeviceHandle, DeviceKind};

/// Nobody there is told within a round trip. A worker that is busy with a client lets the next
/// ones wait, which is no sign of its end.
const PRESENCE_TIMEOUT: Duration = Duration::from_millis(50);

/// A device of this process: the CPU, a GPU, or a device of another machine (RPC).
///
/// Devices live as long as the process, so this is a small value to copy.
///
/// Rests on `ggml_backend_dev_t`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Device(DeviceHandle);

/// What kind of thing a device is (`enum ggml_backend_dev_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeviceType {
    /// The CPU, with the system's memory.
    Cpu,
    /// A GPU with memory of its own, or a device of another machine.
    Gpu,
    /// A GPU that shares the system's memory.
    IntegratedGpu,
    /// Something that helps the CPU and uses its memory, such as a BLAS or AMX.
    Accelerator,
    /// Something this version does not know.
    Other,
}

impl DeviceType {
    /// Whether models are offloaded to such devices.
    #[must_use]
    pub fn is_gpu(self) -> bool {
        matches!(self, Self::Gpu | Self::IntegratedGpu)
    }
}

/// A device's memory in bytes, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Bytes that nobody uses.
    pub free: u64,
    /// Bytes there are.
    pub total: u64,
}

impl Device {
    pub(crate) fn new(handle: DeviceHandle) -> Self {
        Self(handle)
    }

    /// The device that a buffer belongs to. Not the one that llama.cpp makes for a model whose
    /// tensors are cut across several: it is part of that model, and of no use without.
    pub(crate) fn of_buffer(handle: DeviceHandle) -> Option<Self> {
        let device = Self(handle);
        (device.device_type() != DeviceType::Other).then_some(device)
    }

    /// Whether a buffer is in system memory: one that the CPU can address, or one of this device
    /// where that is no GPU. Repacked weights are in system memory too, though ggml would not have
    /// others read them there.
    pub(crate) fn is_system_memory(device: Option<Self>, is_addressable: bool) -> bool {
        is_addressable || device.is_some_and(|device| !device.device_type().is_gpu())
    }

    pub(crate) fn handle(self) -> DeviceHandle {
        self.0
    }

    /// The short name that rules and options use: `CPU`, `CUDA0`, `Vulkan0`, `RPC0`.
    ///
    /// Rests on `ggml_backend_dev_name`.
    #[must_use]
    pub fn name(&self) -> String {
        self.0.name()
    }

    /// What the device says it is: "NVIDIA GeForce RTX 4090", "127.0.0.1:50052".
    ///
    /// Rests on `ggml_backend_dev_description`.
    #[must_use]
    pub fn description(&self) -> String {
        self.0.description()
    }

    /// The backend that runs it: `CPU`, `CUDA`, `Vulkan`, `Metal`, `RPC`.
    ///
    /// Rests on `ggml_backend_reg_name`.
    #[must_use]
    pub fn backend_name(&self) -> String {
        self.0.backend_name()
    }

    /// Rests on `ggml_backend_dev_type`.
    #[must_use]
    pub fn device_type(&self) -> DeviceType {
        match self.0.kind() {
            DeviceKind::Cpu => DeviceType::Cpu,
            DeviceKind::Gpu => DeviceType::Gpu,
            DeviceKind::IntegratedGpu => DeviceType::IntegratedGpu,
            DeviceKind::Accelerator => DeviceType::Accelerator,
            DeviceKind::Other => DeviceType::Other,
        }
    }

    /// Free and total memory now. Asks the device: over the network for RPC. Both are 0 where
    /// a device does not say, and for a worker process that is gone.
    ///
    /// Rests on `ggml_backend_dev_memory` (`cudaMemGetInfo` on CUDA).
    #[must_use]
    pub fn memory(&self) -> DeviceMemory {
        if self.check_present().is_err() {
            return DeviceMemory { free: 0, total: 0 };
        }
        let (free, total) = self.0.memory();
        DeviceMemory { free, total }
    }

    /// Finds out whether the worker process that lends this device is gone: llama.cpp would
    /// end this process over it. One that is busy, or slow to answer, counts as there.
    pub(crate) fn check_present(&self) -> Result<()> {
        if self.backend_name() != "RPC" {
            return Ok(());
        }
        let endpoint = self.description();
        let Ok(address) = endpoint.parse::<SocketAddr>() else {
            return Ok(());
        };
        match TcpStream::connect_timeout(&address, PRESENCE_TIMEOUT) {
            Err(source) if source.kind() != io::ErrorKind::TimedOut => Err(Error::DeviceGone {
                device: self.name(),
                endpoint,
                source,
            }),
            _ => Ok(()),
        }
    }

    /// The name of the memory that tensors on this device are placed in, `CUDA0` for
    /// the device `CUDA0`; llama.cpp's `-ot` uses it.
    ///
    /// Rests on `ggml_backend_dev_buffer_type`.
    #[must_use]
    pub fn buffer_type_name(&self) -> Option<String> {
        self.0.buffer_type().map(BufferType::name)
    }

    /// The name of the page-locked host memory that this device reads fast
    /// (`CUDA_Host`), where it has such memory.
    ///
    /// Rests on `ggml_backend_dev_host_buffer_type`.
    #[must_use]
    pub fn host_buffer_type_name(&self) -> Option<String> {
        self.0.host_buffer_type().map(BufferType::name)
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Device").field(&self.name()).finish()
    }
}

/// The device's name.
impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

/// Its name.
#[cfg(feature = "serde")]
impl serde::Serialize for Device {
    fn serialize<S>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error>
    where
        S: serde::Serializer,
    {
        serializer.collect_str(self)
    }
}
