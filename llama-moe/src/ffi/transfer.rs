//! Copies from system memory to a device, to take the time of.

use std::ptr::{self, NonNull};

use llama_sys as sys;

use super::call::{Failure, guarded};
use super::device::DeviceHandle;
use crate::error::FailureKind;

/// A piece of system memory, and one as large of a device. Of a device of another machine, one
/// thread may use it while nobody else uses that machine's devices.
#[derive(Debug)]
pub(crate) struct TransferHandle(NonNull<sys::llama_shim_transfer>);

impl TransferHandle {
    /// Allocates both. Page-locked memory is the device's own.
    pub(crate) fn new(
        device: DeviceHandle,
        page_locked: bool,
        size: usize,
    ) -> Result<Self, Failure> {
        let mut transfer = ptr::null_mut();
        guarded(|error| {
            // SAFETY: a live device and an out-parameter of this frame; a size out of range is
            // refused.
            unsafe {
                sys::llama_shim_transfer_new(
                    device.as_ptr(),
                    page_locked,
                    size,
                    &mut transfer,
                    error,
                )
            }
        })?;
        NonNull::new(transfer).map(Self).ok_or_else(|| Failure {
            kind: FailureKind::Failed,
            reason: "no transfer was returned".to_owned(),
        })
    }

    /// Copies all of it to the device, and waits until it is there.
    pub(crate) fn run(&mut self) -> Result<(), Failure> {
        guarded(|error| {
            // SAFETY: a live transfer that `&mut self` keeps others from.
            unsafe { sys::llama_shim_transfer_run(self.0.as_ptr(), error) }
        })
    }
}

impl Drop for TransferHandle {
    fn drop(&mut self) {
        // SAFETY: owned by this handle alone, freed once.
        unsafe { sys::llama_shim_transfer_free(self.0.as_ptr()) }
    }
}
