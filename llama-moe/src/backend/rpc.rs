//! Other machines' memory, through llama.cpp's RPC backend.
//!
//! The protocol has no authentication and no encryption: private networks only. A worker
//! that goes away while a model uses it ends this process: llama.cpp aborts then.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use super::registry::write_registry;
use super::{Backend, Device, settle_numa};
use crate::error::{Error, Result};
use crate::ffi;

/// A worker process to be used: where it is, and how long to wait for it.
///
/// `RpcServer::from("192.168.1.7:50052")` waits up to five seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpcServer {
    endpoint: String,
    timeout: Duration,
}

impl<T: Into<String>> From<T> for RpcServer {
    fn from(endpoint: T) -> Self {
        Self {
            endpoint: endpoint.into(),
            timeout: Duration::from_secs(5),
        }
    }
}

impl RpcServer {
    /// How long to wait for an answer: 1 ms to about 24 days.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// This process as a worker: it lends devices to a client on another machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpcWorker {
    endpoint: String,
    cache: Option<PathBuf>,
    n_threads: usize,
    devices: Vec<Device>,
}

impl RpcWorker {
    /// A worker that listens at `endpoint`, `host:port` with an IPv4 address of this
    /// machine (`0.0.0.0` for all), and lends the GPUs, or the CPU where there is none.
    pub fn new(endpoint: impl Into<String>) -> Self {
        Self {
            endpoint: endpoint.into(),
            cache: None,
            n_threads: std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            devices: Vec::new(),
        }
    }

    /// A folder to keep large tensors in, so that they are sent once only.
    #[must_use]
    pub fn with_cache(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cache = Some(folder.into());
        self
    }

    /// CPU threads to compute with; without it, all there are.
    #[must_use]
    pub fn with_n_threads(mut self, n_threads: usize) -> Self {
        self.n_threads = n_threads.max(1);
        self
    }

    /// Adds a device to lend.
    #[must_use]
    pub fn with_device(mut self, device: Device) -> Self {
        self.devices.push(device);
        self
    }
}

impl Backend {
    /// Adds the devices of a worker process, usually on another machine, and returns them;
    /// they are named `RPC0`, `RPC1` and so on. The same server again gives the same
    /// devices.
    ///
    /// Waits for loads and for contexts that are being made, since they look at the devices.
    ///
    /// Rests on `ggml_backend_rpc_add_server`.
    ///
    /// # Errors
    /// [`Error::Llama`] if nobody answers, or not with llama.cpp's protocol;
    /// [`Error::Parameter`] for a timeout out of range, and in a progress callback or a
    /// subscriber to the log, where waiting would never end.
    #[doc(alias = "--rpc")]
    pub fn add_rpc_server(&self, server: impl Into<RpcServer>) -> Result<Vec<Device>> {
        let RpcServer { endpoint, timeout } = server.into();
        let timeout_ms = i32::try_from(timeout.as_millis())
            .ok()
            .filter(|&timeout| timeout > 0)
            .ok_or_else(|| Error::Parameter {
                parameter: "with_timeout",
                value: format!("{timeout:?}"),
                reason: format!("a timeout is 1 to {} ms", i32::MAX),
            })?;
        let Some(_registry) = write_registry() else {
            return Err(Error::Parameter {
                parameter: "add_rpc_server",
                value: endpoint,
                reason: "devices cannot be added from within a callback of a load or of the log, \
                         which has them in use; add them before"
                    .to_owned(),
            });
        };
        let devices = ffi::add_server(&endpoint, timeout_ms)?;
        Ok(devices.into_iter().map(Device::new).collect())
    }

    /// Lends this process's devices until the process ends, to one client after the
    /// other.
    ///
    /// Rests on `ggml_backend_rpc_start_server`.
    ///
    /// # Errors
    /// [`Error::Llama`], which is the only way to return: the address cannot be bound, or
    /// serving broke down.
    pub fn serve_rpc(&self, worker: RpcWorker) -> Result<std::convert::Infallible> {
        let mut devices = worker.devices;
        if devices.is_empty() {
            devices = self.gpus();
        }
        if devices.is_empty() {
            devices.push(self.cpu()?);
        }
        settle_numa();
        let handles: Vec<_> = devices.iter().map(|device| device.handle()).collect();
        ffi::serve(
            &worker.endpoint,
            worker.cache.as_deref(),
            worker.n_threads,
            &handles,
        )
    }
}
