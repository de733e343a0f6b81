//! How much memory a plan may use.

use super::error::PlanError;
use crate::backend::{Backend, Device};
use crate::error::{Error, Result};
use crate::model::ModelParams;

/// How much memory a model and its context may take: of each device, and of the system.
///
/// ```
/// use llama_moe::Budget;
///
/// // Two GPUs that are not at hand, and the system's memory beside them.
/// let budget = Budget::assumed([24 << 30, 12 << 30]).with_ram(64 << 30);
/// # let _ = budget;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    devices: Devices,
    ram: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Devices {
    /// What each has free, less this.
    Free(u64),
    Each(u64),
    Named(Vec<(Device, u64)>),
    Assumed(Vec<u64>),
}

/// A device and what may be used of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DeviceBudget {
    /// `None` for a device that is not at hand.
    pub(super) device: Option<Device>,
    pub(super) name: String,
    pub(super) bytes: u64,
}

impl Budget {
    /// What each device that the model uses has free now, less `margin` bytes. llama.cpp's own
    /// `--fit` leaves 1 GiB.
    #[must_use]
    pub fn free(margin: u64) -> Self {
        Self::new(Devices::Free(margin))
    }

    /// So many bytes of each device that the model uses.
    #[must_use]
    pub fn per_device(bytes: u64) -> Self {
        Self::new(Devices::Each(bytes))
    }

    /// So many bytes of each of these devices, and no others.
    #[must_use]
    pub fn devices(devices: impl IntoIterator<Item = (Device, u64)>) -> Self {
        Self::new(Devices::Named(devices.into_iter().collect()))
    }

    /// Devices that are not at hand, of so many bytes. What comes out is an estimate.
    #[must_use]
    pub fn assumed(devices: impl IntoIterator<Item = u64>) -> Self {
        Self::new(Devices::Assumed(devices.into_iter().collect()))
    }

    /// So many bytes of system memory. Without this it is what is free now; beside devices that
    /// are not at hand, as much as it takes.
    #[must_use]
    pub fn with_ram(mut self, bytes: u64) -> Self {
        self.ram = Some(bytes);
        self
    }

    fn new(devices: Devices) -> Self {
        Self { devices, ram: None }
    }

    pub(super) fn is_assumed(&self) -> bool {
        matches!(self.devices, Devices::Assumed(_))
    }

    pub(super) fn ram(&self, backend: &Backend) -> Result<Option<u64>> {
        match self.ram {
            None if self.is_assumed() => Ok(None),
            None => Ok(Some(backend.cpu()?.memory().free)),
            ram => Ok(ram),
        }
    }

    /// The devices, in the order in which the model uses them.
    pub(super) fn resolve(
        &self,
        backend: &Backend,
        params: &ModelParams,
    ) -> Result<Vec<DeviceBudget>> {
        let in_use = || -> Result<Vec<Device>> { Ok(params.devices_in_use(backend)?.devices) };
        let budgets: Vec<DeviceBudget> = match &self.devices {
            Devices::Free(margin) => {
                let devices = in_use()?.into_iter();
                devices
                    .map(|device| {
                        let free = device.memory().free;
                        DeviceBudget::of(device, free.saturating_sub(*margin))
                    })
                    .collect()
            }
            Devices::Each(bytes) => {
                let devices = in_use()?.into_iter();
                devices
                    .map(|device| DeviceBudget::of(device, *bytes))
                    .collect()
            }
            Devices::Named(named) => {
                let mut named = named.clone();
                if params.chooses_devices() {
                    let in_use = in_use()?;
                    let place = |device: &Device| in_use.iter().position(|used| used == device);
                    let other = named.iter().find(|(device, _)| place(device).is_none());
                    if let Some((device, _)) = other {
                        return Err(not_in_use(device.name()));
                    }
                    named.sort_by_key(|(device, _)| place(device));
                }
                named
                    .iter()
                    .map(|(device, bytes)| DeviceBudget::of(*device, *bytes))
                    .collect()
            }
            Devices::Assumed(sizes) => {
                let budgets = (0..)
                    .zip(sizes)
                    .map(|(index, bytes): (u32, _)| DeviceBudget {
                        device: None,
                        name: format!("GPU{index}"),
                        bytes: *bytes,
                    });
                budgets.collect()
            }
        };
        if self.is_assumed()
            && params.uses_one_device()
            && let [_, second, ..] = budgets.as_slice()
        {
            return Err(not_in_use(second.name.clone()));
        }
        for budget in &budgets {
            budget.check()?;
        }
        Ok(budgets)
    }
}

fn not_in_use(device: String) -> Error {
    PlanError::DeviceNotInUse { device }.into()
}

impl DeviceBudget {
    fn of(device: Device, bytes: u64) -> Self {
        Self {
            name: device.name(),
            device: Some(device),
            bytes,
        }
    }

    fn check(&self) -> Result<()> {
        if let Some(device) = self.device {
            device.check_present()?;
        }
        if self.bytes == 0 {
            return Err(PlanError::NoBudget {
                device: self.name.clone(),
            }
            .into());
        }
        let total = self.device.map_or(0, |device| device.memory().total);
        // A device that does not know its memory says 0.
        if total > 0 && self.bytes > total {
            return Err(PlanError::OverDevice {
                device: self.name.clone(),
                budget: self.bytes,
                total,
            }
            .into());
        }
        Ok(())
    }
}
