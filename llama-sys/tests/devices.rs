//! What is linked, and which devices it sees.

use llama_sys as sys;

mod support;
use support::text;

/// Names and kinds of all devices.
fn devices() -> Vec<(String, sys::ggml_backend_dev_type)> {
    support::init();
    // SAFETY: indices below the count are valid, devices live as long as the process.
    unsafe {
        (0..sys::ggml_backend_dev_count())
            .map(|index| sys::ggml_backend_dev_get(index))
            .map(|dev| {
                (
                    text(sys::ggml_backend_dev_name(dev)),
                    sys::ggml_backend_dev_type(dev),
                )
            })
            .collect()
    }
}

#[test]
fn the_linked_library_is_the_pinned_one() {
    // SAFETY: a string literal.
    let version = text(unsafe { sys::llama_version() });
    let base = version.split('-').next().expect("a version");
    assert_eq!(base, sys::LLAMA_CPP_VERSION);
}

#[test]
fn there_is_one_cpu_device_with_memory() {
    let devices = devices();
    println!("devices: {devices:?}");
    let cpus = devices
        .iter()
        .filter(|(_, kind)| *kind == sys::GGML_BACKEND_DEVICE_TYPE_CPU);
    assert_eq!(cpus.count(), 1, "{devices:?}");
    let (mut free, mut total) = (0, 0);
    // SAFETY: the CPU device was just seen.
    unsafe {
        let cpu = sys::ggml_backend_dev_by_type(sys::GGML_BACKEND_DEVICE_TYPE_CPU);
        sys::ggml_backend_dev_memory(cpu, &mut free, &mut total);
    }
    assert!(total > 0 && free <= total, "free {free}, total {total}");
}

#[test]
#[cfg(feature = "vulkan")]
fn vulkan_has_a_device() {
    // On a machine without a GPU: Mesa's CPU driver.
    let devices = devices();
    assert!(
        devices.iter().any(|(name, _)| name.starts_with("Vulkan")),
        "{devices:?}"
    );
}
