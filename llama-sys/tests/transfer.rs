//! Copies from system memory to a device.

use std::ptr;

use llama_sys as sys;

mod support;

fn new(
    device: sys::ggml_backend_dev_t,
    page_locked: bool,
    size: usize,
) -> Result<*mut sys::llama_shim_transfer, support::Failure> {
    let mut transfer = ptr::dangling_mut();
    let outcome = support::guarded(|error| {
        // SAFETY: a device or NULL, which is refused; an out-parameter of this frame.
        unsafe { sys::llama_shim_transfer_new(device, page_locked, size, &mut transfer, error) }
    });
    match outcome {
        Ok(()) => Ok(transfer),
        Err(failure) => {
            assert!(transfer.is_null());
            Err(failure)
        }
    }
}

#[test]
fn memory_of_any_size_is_copied() {
    support::init();
    for size in [1, 4097, 1 << 20] {
        let transfer = new(support::cpu_device(), false, size).expect("a transfer");
        for _ in 0..2 {
            support::guarded(|error| {
                // SAFETY: a live transfer, in use by nobody else.
                unsafe { sys::llama_shim_transfer_run(transfer, error) }
            })
            .expect("a copy");
        }
        // SAFETY: made above, freed once.
        unsafe { sys::llama_shim_transfer_free(transfer) }
    }
}

#[test]
fn what_cannot_be_copied_is_refused() {
    support::init();
    let cpu = support::cpu_device();
    let most = sys::LLAMA_SHIM_TRANSFER_MAX_SIZE as usize;
    for (device, page_locked, size, status) in [
        (ptr::null_mut(), false, 1, sys::LLAMA_SHIM_INVALID_ARGUMENT),
        (cpu, false, 0, sys::LLAMA_SHIM_INVALID_ARGUMENT),
        (cpu, false, most + 1, sys::LLAMA_SHIM_INVALID_ARGUMENT),
        (cpu, false, usize::MAX, sys::LLAMA_SHIM_INVALID_ARGUMENT),
        (cpu, true, 1, sys::LLAMA_SHIM_UNSUPPORTED),
    ] {
        let failure = new(device, page_locked, size).expect_err("a refusal");
        assert_eq!(failure.status, status, "{}", failure.text);
    }
    let failure = support::guarded(|error| {
        // SAFETY: NULL is refused.
        unsafe { sys::llama_shim_transfer_run(ptr::null_mut(), error) }
    });
    assert_eq!(
        failure.expect_err("a refusal").status,
        sys::LLAMA_SHIM_INVALID_ARGUMENT
    );
    // SAFETY: NULL is fine.
    unsafe { sys::llama_shim_transfer_free(ptr::null_mut()) }
}
