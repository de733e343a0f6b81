//! How fast system memory gets to a device.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::backend::Device;
use crate::error::{Error, FailureKind, Result};
use crate::ffi::TransferHandle;

/// Bytes of one copy: 64 MiB, so that a copy takes far longer than it takes to start one.
const SIZE: usize = 64 << 20;
/// How long copies are made, and how many at least.
const TIME: Duration = Duration::from_millis(200);
const COPIES: usize = 3;

/// How many bytes per second get from system memory to a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TransferRate {
    /// The device's name.
    pub device: String,
    /// Bytes per second from memory that the system may move.
    pub pageable: f64,
    /// Bytes per second from page-locked memory, as the device's driver allocates it. `None`
    /// for a device without such memory, and where none can be had.
    pub page_locked: Option<f64>,
}

/// Measures how fast system memory gets to each of these devices: the best of the copies of
/// 64 MiB that are made in a fifth of a second, three at least, after one that does not count.
/// Takes as much memory of the device meanwhile, and of the system.
///
/// Copies are made one after the other, as llama.cpp makes them for the experts that it brings to
/// a GPU; one is over when all of it is there. To a device of another machine they go over the
/// network. Its worker is not for two threads at once: nothing else may use it meanwhile.
///
/// Rests on `ggml_backend_tensor_set_async` and `ggml_backend_synchronize`.
///
/// # Errors
/// [`Error::DeviceGone`](crate::Error::DeviceGone) for a worker that is gone before the
/// copies, and [`Error::Llama`](crate::Error::Llama) where the device or its memory cannot be
/// had, with [`FailureKind::OutOfMemory`](crate::FailureKind::OutOfMemory) where there is too
/// little.
pub fn transfer_rates(devices: &[Device]) -> Result<Vec<TransferRate>> {
    devices.iter().copied().map(rate_of).collect()
}

fn rate_of(device: Device) -> Result<TransferRate> {
    let pageable = bytes_per_second(device, false)?;
    let page_locked = match device.host_buffer_type_name() {
        None => None,
        Some(_) => match bytes_per_second(device, true) {
            // The system locks no more, or the driver was told not to.
            Err(Error::Llama {
                kind: FailureKind::OutOfMemory,
                ..
            }) => None,
            rate => Some(rate?),
        },
    };
    Ok(TransferRate {
        device: device.name(),
        pageable,
        page_locked,
    })
}

fn bytes_per_second(device: Device, page_locked: bool) -> Result<f64> {
    device.check_present()?;
    let mut transfer = TransferHandle::new(device.handle(), page_locked, SIZE)
        .map_err(|failure| failure.of("ggml_backend_alloc_buffer"))?;
    let mut copy = || {
        let start = Instant::now();
        let copied = transfer.run();
        copied.map_err(|failure| failure.of("ggml_backend_tensor_set_async"))?;
        Ok::<_, Error>(start.elapsed())
    };
    // Drivers allocate what they copy with when they first do.
    copy()?;
    let start = Instant::now();
    let (mut best, mut n_copies) = (copy()?, 1);
    while n_copies < COPIES || start.elapsed() < TIME {
        best = best.min(copy()?);
        n_copies += 1;
    }
    // A clock that does not move says nothing.
    let best = best.max(Duration::from_nanos(1));
    Ok(SIZE as f64 / best.as_secs_f64())
}
