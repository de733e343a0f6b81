//! ggml's devices and buffer types.

use std::ptr::NonNull;

use llama_sys as sys;

use super::text;

/// A device of ggml's registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct DeviceHandle(NonNull<sys::ggml_backend_device>);

// SAFETY: a device is an entry of ggml's registry, which only grows: it lives as long as
// the process, and what is asked of it here does not change it.
unsafe impl Send for DeviceHandle {}
// SAFETY: as above.
unsafe impl Sync for DeviceHandle {}

/// A buffer type: a kind of memory that tensors can be placed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct BufferType(NonNull<sys::ggml_backend_buffer_type>);

// SAFETY: buffer types are static objects of their backends, never changed or freed.
unsafe impl Send for BufferType {}
// SAFETY: as above.
unsafe impl Sync for BufferType {}

/// `enum ggml_backend_dev_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum DeviceKind {
    Cpu,
    Gpu,
    IntegratedGpu,
    Accelerator,
    Other,
}

/// The devices of the registry. The caller sees to it that nobody registers one
/// meanwhile, as the registry is not synchronised.
pub(crate) fn devices() -> Vec<DeviceHandle> {
    // SAFETY: a plain getter; the registry is initialised on first use.
    let count = unsafe { sys::ggml_backend_dev_count() };
    (0..count)
        .filter_map(|index| {
            // SAFETY: an index below the count just read, which does not shrink.
            let device = unsafe { sys::ggml_backend_dev_get(index) };
            DeviceHandle::new(device)
        })
        .collect()
}

impl DeviceHandle {
    pub(super) fn new(device: sys::ggml_backend_dev_t) -> Option<Self> {
        NonNull::new(device).map(Self)
    }

    pub(super) fn as_ptr(self) -> sys::ggml_backend_dev_t {
        self.0.as_ptr()
    }

    pub(crate) fn name(self) -> String {
        // SAFETY: a live device; the name is a string it owns.
        text::owned(unsafe { sys::ggml_backend_dev_name(self.as_ptr()) })
    }

    pub(crate) fn description(self) -> String {
        // SAFETY: as in `name`.
        text::owned(unsafe { sys::ggml_backend_dev_description(self.as_ptr()) })
    }

    /// The name of the backend that the device belongs to: "CPU", "CUDA", "RPC".
    pub(crate) fn backend_name(self) -> String {
        // SAFETY: a live device; its registry entry lives as long.
        let reg = unsafe { sys::ggml_backend_dev_backend_reg(self.as_ptr()) };
        if reg.is_null() {
            return String::new();
        }
        // SAFETY: just seen not to be NULL.
        text::owned(unsafe { sys::ggml_backend_reg_name(reg) })
    }

    pub(crate) fn kind(self) -> DeviceKind {
        // SAFETY: a live device.
        match unsafe { sys::ggml_backend_dev_type(self.as_ptr()) } {
            sys::GGML_BACKEND_DEVICE_TYPE_CPU => DeviceKind::Cpu,
            sys::GGML_BACKEND_DEVICE_TYPE_GPU => DeviceKind::Gpu,
            sys::GGML_BACKEND_DEVICE_TYPE_IGPU => DeviceKind::IntegratedGpu,
            sys::GGML_BACKEND_DEVICE_TYPE_ACCEL => DeviceKind::Accelerator,
            _ => DeviceKind::Other,
        }
    }

    /// Free and total bytes, as the device says now.
    pub(crate) fn memory(self) -> (u64, u64) {
        let (mut free, mut total) = (0, 0);
        // SAFETY: a live device and two out-parameters of this frame.
        unsafe { sys::ggml_backend_dev_memory(self.as_ptr(), &mut free, &mut total) }
        (free as u64, total as u64)
    }

    /// What tells one piece of hardware from another, whichever backend runs it: a PCI
    /// address. `None` if the device does not say.
    pub(crate) fn hardware_id(self) -> Option<String> {
        text::optional(self.props().device_id)
    }

    /// What the device can do.
    pub(crate) fn caps(self) -> sys::ggml_backend_dev_caps {
        self.props().caps
    }

    fn props(self) -> sys::ggml_backend_dev_props {
        // SAFETY: zero is a valid value of this plain struct, which the call fills.
        let mut props = unsafe { std::mem::zeroed::<sys::ggml_backend_dev_props>() };
        // SAFETY: a live device and an out-parameter of this frame.
        unsafe { sys::ggml_backend_dev_get_props(self.as_ptr(), &mut props) }
        props
    }

    /// Where the device's tensors are placed by default.
    pub(crate) fn buffer_type(self) -> Option<BufferType> {
        // SAFETY: a live device.
        BufferType::new(unsafe { sys::ggml_backend_dev_buffer_type(self.as_ptr()) })
    }

    /// Page-locked host memory that the device reads fast, where it has such.
    pub(crate) fn host_buffer_type(self) -> Option<BufferType> {
        // SAFETY: a live device.
        BufferType::new(unsafe { sys::ggml_backend_dev_host_buffer_type(self.as_ptr()) })
    }
}

impl BufferType {
    pub(super) fn new(buft: sys::ggml_backend_buffer_type_t) -> Option<Self> {
        NonNull::new(buft).map(Self)
    }

    pub(super) fn as_ptr(self) -> sys::ggml_backend_buffer_type_t {
        self.0.as_ptr()
    }

    pub(crate) fn name(self) -> String {
        // SAFETY: a live buffer type; the name is a string it owns.
        text::owned(unsafe { sys::ggml_backend_buft_name(self.as_ptr()) })
    }

    /// The device that it belongs to, where it says so.
    pub(crate) fn device(self) -> Option<DeviceHandle> {
        // SAFETY: a live buffer type.
        DeviceHandle::new(unsafe { sys::ggml_backend_buft_get_device(self.as_ptr()) })
    }

    /// Whether the CPU can address tensors that are in it.
    pub(crate) fn is_host(self) -> bool {
        // SAFETY: a live buffer type.
        unsafe { sys::ggml_backend_buft_is_host(self.as_ptr()) }
    }

    /// The multiple, in bytes, that tensors in it begin at.
    pub(crate) fn alignment(self) -> u64 {
        // SAFETY: a live buffer type.
        unsafe { sys::ggml_backend_buft_get_alignment(self.as_ptr()) as u64 }
    }

    /// Whether this is the plain system memory that an override to the CPU names.
    pub(crate) fn is_cpu(self) -> bool {
        // SAFETY: no arguments, returns a static object.
        self.as_ptr() == unsafe { sys::ggml_backend_cpu_buffer_type() }
    }
}
