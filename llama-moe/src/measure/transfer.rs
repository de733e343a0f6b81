//! How fast system memory gets to a device.

use serde::{Deserialize, Serialize};

/// How many bytes per second get from system memory to a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TransferRate {
    /// The device's name.
    pub device: String,
    /// Bytes per second from memory that the system may move.
    pub pageable: f64,
    /// Bytes per second from page-locked memory, as the device's driver allocates it. `None`
    /// for a device without such memory.
    pub page_locked: Option<f64>,
}
