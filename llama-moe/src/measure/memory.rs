//! Device memory and what kind of memory weights are in.
//!
//! The free-memory delta is what a device's driver has given away, to everybody. llama.cpp's
//! breakdown is what it asked for itself. The first has all of the second, and beside it what
//! the driver and the libraries keep: workspaces, captured graphs, pools, rounding.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::MeasureError;
use crate::backend::{Device, DeviceMemory};
use crate::context::{Context, MemoryEntry};
use crate::error::Result;
use crate::placement::{MemoryKind, Placement};

/// More often would keep a driver busy with questions.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);

/// How a device's free memory changed while it was watched.
///
/// Other programs that use the device count too. Memory that a driver takes for itself when it is
/// first asked (CUDA's context) is gone before the first reading, and no part of the change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeviceUse {
    /// The device's name.
    pub device: String,
    /// Bytes there are; 0 if the device did not say so at the beginning and at the end, as one
    /// whose worker is gone.
    pub total: u64,
    /// Bytes that were free when the watch began.
    pub free_before: u64,
    /// Bytes that were free when it ended.
    pub free_after: u64,
    /// The fewest bytes that a reading found free. `None` for a device that was not read in
    /// between: one of another machine, whose connection serves one thread.
    pub free_least: Option<u64>,
    /// How many readings there were, the first and the last among them.
    pub n_readings: u64,
}

impl DeviceUse {
    /// Whether the device tells what is free. llama.cpp's CPU says that all of its memory always
    /// is, and so does a worker on one; others that do not know say that there is none.
    #[must_use]
    pub fn is_told(&self) -> bool {
        let least = self.free_least.unwrap_or(self.total);
        let freest = self.free_before.min(self.free_after).min(least);
        self.total > 0 && freest < self.total
    }

    /// Bytes that were taken from the beginning to the end of the watch, negative where some
    /// were given back. `None` where the device does not tell.
    #[must_use]
    pub fn taken(&self) -> Option<i64> {
        self.is_told().then(|| self.since_before(self.free_after))
    }

    /// The most bytes that were taken at once, as far as readings found it: what came and went
    /// between two of them is missed. `None` where the device does not tell or was not read
    /// in between.
    #[must_use]
    pub fn peak(&self) -> Option<i64> {
        let least = self.free_least.filter(|_| self.is_told())?;
        Some(self.since_before(least))
    }

    fn since_before(&self, free: u64) -> i64 {
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        signed(self.free_before) - signed(free)
    }
}

/// Reads devices' free memory, over and over, until it is finished.
///
/// Rests on `ggml_backend_dev_memory` (`cudaMemGetInfo` on CUDA).
#[derive(Debug)]
#[must_use = "dropped, it tells nothing"]
pub struct DeviceWatch {
    devices: Vec<(Device, DeviceMemory)>,
    stop: Option<Sender<()>>,
    /// Returns one value for each device.
    reader: Option<JoinHandle<Vec<Readings>>>,
}

/// What was read of a device while it was watched.
#[derive(Clone, Copy, Debug, Default)]
struct Readings {
    n: u64,
    free_least: Option<u64>,
}

impl Readings {
    fn add(&mut self, memory: DeviceMemory) {
        self.n += 1;
        if memory.total > 0 {
            let least = self.free_least.unwrap_or(u64::MAX);
            self.free_least = Some(least.min(memory.free));
        }
    }
}

impl DeviceWatch {
    /// Reads the free memory of these devices now, and every `interval` from now on, on a
    /// thread of its own. An interval below one millisecond counts as one.
    ///
    /// Devices of other machines (RPC) are read now and at the end alone: llama.cpp's connection
    /// to a worker is not for two threads at once.
    ///
    /// # Errors
    /// [`MeasureError::NoThread`].
    pub fn start(devices: &[Device], interval: Duration) -> Result<Self, MeasureError> {
        let interval = interval.max(SHORTEST_INTERVAL);
        let (stop, stopped) = mpsc::channel();
        let read: Vec<Option<Device>> = devices
            .iter()
            .map(|device| (device.backend_name() != "RPC").then_some(*device))
            .collect();
        let devices = devices.iter().map(|device| (*device, device.memory()));
        let devices = devices.collect();
        let reader = move || {
            let mut readings = vec![Readings::default(); read.len()];
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                for (device, readings) in read.iter().zip(&mut readings) {
                    if let Some(device) = device {
                        readings.add(device.memory());
                    }
                }
            }
            readings
        };
        let thread = thread::Builder::new().name("device memory".to_owned());
        let reader = thread
            .spawn(reader)
            .map_err(|error| MeasureError::NoThread {
                reason: error.to_string(),
            })?;
        Ok(Self {
            devices,
            stop: Some(stop),
            reader: Some(reader),
        })
    }

    /// Reads once more, and tells what became of each device, in the order in which they were
    /// given.
    #[must_use]
    pub fn finish(mut self) -> Vec<DeviceUse> {
        let mut readings = self.stop_reading();
        readings.resize(self.devices.len(), Readings::default());
        self.devices
            .iter()
            .zip(readings)
            .map(|((device, before), mut readings)| {
                let after = device.memory();
                if device.backend_name() != "RPC" {
                    readings.add(*before);
                    readings.add(after);
                } else {
                    readings.n += 2;
                }
                DeviceUse {
                    device: device.name(),
                    total: before.total.min(after.total),
                    free_before: before.free,
                    free_after: after.free,
                    free_least: readings.free_least,
                    n_readings: readings.n,
                }
            })
            .collect()
    }

    /// The reader ends when its channel does.
    fn stop_reading(&mut self) -> Vec<Readings> {
        self.stop = None;
        let readings = self.reader.take().map(JoinHandle::join);
        readings.and_then(thread::Result::ok).unwrap_or_default()
    }
}

impl Drop for DeviceWatch {
    fn drop(&mut self) {
        self.stop_reading();
    }
}

/// What a context and its model take of one buffer type, in bytes, as llama.cpp counts it:
/// a [`MemoryEntry`] by the name of its device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MemorySplit {
    /// The buffer type's name: `CPU`, `CUDA0`, `CUDA_Host`.
    pub buffer: String,
    /// The name of the device that it belongs to; `None` for the CPU's plain memory.
    pub device: Option<String>,
    /// Whether it is system memory; repacked weights are.
    pub is_host: bool,
    /// The model's weights. A mapped file counts from its first to its last weight that is used
    /// in place.
    pub model: u64,
    /// The context's memory: the KV cache.
    pub context: u64,
    /// The cache of experts; on the CPU the tables that say where each expert is. 0 in files that
    /// are older than such caches.
    #[serde(default)]
    pub moe_cache: u64,
    /// Buffers for computing.
    pub compute: u64,
}

impl MemorySplit {
    /// All of it, in bytes.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.model
            .saturating_add(self.context)
            .saturating_add(self.moe_cache)
            .saturating_add(self.compute)
    }
}

impl From<&MemoryEntry> for MemorySplit {
    fn from(entry: &MemoryEntry) -> Self {
        Self {
            buffer: entry.buffer.clone(),
            device: entry.device.map(|device| device.name()),
            is_host: entry.is_host,
            model: entry.model,
            context: entry.context,
            moe_cache: entry.moe_cache,
            compute: entry.compute,
        }
    }
}

/// What a context and its model take of each buffer type, as llama.cpp counts it.
///
/// Rests on `llama_get_memory_breakdown`, through the shim.
///
/// # Errors
/// As [`Context::memory_breakdown`].
pub fn breakdown(context: &mut Context) -> Result<Vec<MemorySplit>> {
    let entries = context.memory_breakdown()?;
    Ok(entries.iter().map(MemorySplit::from).collect())
}

/// The weights in one kind of memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct KindUse {
    /// The kind: a device's own, page-locked, pageable, mapped or repacked.
    pub kind: MemoryKind,
    /// How many tensors are in it.
    pub n_tensors: usize,
    /// Their bytes together.
    pub bytes: u64,
}

/// A loaded model's weights by the kind of memory that they are in, for those kinds that
/// have some.
#[must_use]
pub fn memory_kinds(placement: &Placement) -> Vec<KindUse> {
    let mut kinds: Vec<KindUse> = Vec::new();
    for tensor in placement.tensors() {
        let index = kinds.iter().position(|known| known.kind == tensor.memory);
        let index = index.unwrap_or_else(|| {
            kinds.push(KindUse {
                kind: tensor.memory,
                n_tensors: 0,
                bytes: 0,
            });
            kinds.len() - 1
        });
        kinds[index].n_tensors += 1;
        kinds[index].bytes = kinds[index].bytes.saturating_add(tensor.bytes);
    }
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_a_device(free_least: Option<u64>) -> DeviceUse {
        DeviceUse {
            device: "GPU0".to_owned(),
            total: 1000,
            free_before: 900,
            free_after: 950,
            free_least,
            n_readings: 3,
        }
    }

    #[test]
    fn what_is_given_back_is_negative_and_a_peak_takes_readings() {
        let device = of_a_device(Some(200));
        assert_eq!((device.taken(), device.peak()), (Some(-50), Some(700)));
        let remote = of_a_device(None);
        assert_eq!((remote.taken(), remote.peak()), (Some(-50), None));
    }

    #[test]
    fn a_device_that_says_all_is_free_tells_nothing() {
        let mut device = of_a_device(Some(1000));
        (device.free_before, device.free_after) = (1000, 1000);
        assert_eq!((device.taken(), device.peak()), (None, None));
        device.total = 0;
        assert!(!device.is_told());
    }
}
