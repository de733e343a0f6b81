//! Where the loader would put the weights of a model, worked out by the shim before a load.

use std::collections::BTreeMap;
use std::ptr;

use llama_sys as sys;

use super::{Failure, Tensor, gguf, guarded, text};

/// The places of a list: `fetch` is given where to put them, how many there is room for, and
/// where to say how many there are.
fn places(
    fetch: impl Fn(*mut sys::llama_shim_weight_place, usize, *mut usize) -> Result<(), Failure>,
) -> Vec<sys::llama_shim_weight_place> {
    let mut n = usize::MAX;
    fetch(ptr::null_mut(), 0, &mut n).expect("a list");
    let empty = sys::llama_shim_weight_place {
        dev: ptr::null_mut(),
        buft: ptr::null_mut(),
    };
    let mut list = vec![empty; n];
    let mut again = 0;
    fetch(list.as_mut_ptr(), n, &mut again).expect("the same list");
    assert_eq!(again, n);
    list
}

pub fn cpu_places(
    devices: &[sys::ggml_backend_dev_t],
    no_host: bool,
    use_extra_bufts: bool,
) -> Vec<sys::llama_shim_weight_place> {
    places(|list, capacity, n| {
        guarded(|error| {
            // SAFETY: live devices, and room for as many places as is said.
            unsafe {
                sys::llama_shim_weight_places_cpu(
                    devices.as_ptr(),
                    devices.len(),
                    no_host,
                    use_extra_bufts,
                    list,
                    capacity,
                    n,
                    error,
                )
            }
        })
    })
}

pub fn device_places(device: sys::ggml_backend_dev_t) -> Vec<sys::llama_shim_weight_place> {
    places(|list, capacity, n| {
        guarded(|error| {
            // SAFETY: as above.
            unsafe {
                sys::llama_shim_weight_places_device(
                    device,
                    false,
                    ptr::null(),
                    list,
                    capacity,
                    n,
                    error,
                )
            }
        })
    })
}

pub fn find(arch: &str, name: &str) -> Result<sys::llama_shim_weight_use, Failure> {
    let (arch, name) = (gguf::c_string(arch), gguf::c_string(name));
    // SAFETY: zero is a valid value of the plain struct; the call fills it.
    let mut found = unsafe { std::mem::zeroed() };
    // SAFETY: NUL-terminated names and out-parameters of this frame.
    guarded(|error| unsafe {
        sys::llama_shim_weight_find(arch.as_ptr(), name.as_ptr(), &mut found, error)
    })?;
    Ok(found)
}

pub fn size(
    buft: sys::ggml_backend_buffer_type_t,
    kind: sys::ggml_type,
    ne: [i64; 4],
) -> Result<usize, Failure> {
    let mut size = usize::MAX;
    // SAFETY: a buffer type or NULL, four extents.
    guarded(|error| unsafe {
        sys::llama_shim_weight_size(buft, kind, ne.as_ptr(), &mut size, error)
    })
    .inspect_err(|_| assert_eq!(size, 0))?;
    Ok(size)
}

pub fn supported(
    place: sys::llama_shim_weight_place,
    op: sys::ggml_op,
    kind: sys::ggml_type,
    ne: [i64; 4],
    hparams: &sys::llama_shim_weight_hparams,
) -> Result<bool, Failure> {
    let mut supported = true;
    // SAFETY: a place from a list or one of NULLs, four extents.
    guarded(|error| unsafe {
        sys::llama_shim_weight_supported(
            place.dev,
            place.buft,
            op,
            kind,
            ne.as_ptr(),
            hparams,
            &mut supported,
            error,
        )
    })
    .inspect_err(|_| assert!(!supported))?;
    Ok(supported)
}

/// The test models' hyper-parameters.
pub fn hparams() -> sys::llama_shim_weight_hparams {
    sys::llama_shim_weight_hparams {
        n_expert_used: 2,
        n_embd_head: 32,
        n_head: 2,
        n_embd_inp: 64,
        ssm_d_state: 16,
        ssm_d_inner: 64,
        ssm_n_group: 0,
    }
}

/// Compares what a loaded qwen3moe says of its tensors, in which no override has a part, with
/// what is told without it. `device` has every layer but the first. Returns the bytes
/// per buffer type.
pub fn check(
    tensors: &[Tensor],
    device: Option<sys::ggml_backend_dev_t>,
    use_extra_bufts: bool,
) -> BTreeMap<String, u64> {
    let cpu = cpu_places(device.as_slice(), false, use_extra_bufts);
    let mut layers = device.map_or_else(Vec::new, device_places);
    layers.extend(&cpu);
    let mut sums = BTreeMap::new();
    for tensor in tensors {
        let found = find("qwen3moe", &tensor.name).expect("internals");
        let list = match found.layer {
            sys::LLAMA_SHIM_WEIGHT_INPUT => &cpu,
            sys::LLAMA_SHIM_WEIGHT_REPEATING | sys::LLAMA_SHIM_WEIGHT_OUTPUT => &layers,
            layer => panic!("layer {layer} of {}", tensor.name),
        };
        let mut ne = [1; 4];
        ne[..tensor.shape.len()].copy_from_slice(&tensor.shape);
        let kind = tensor.kind as sys::ggml_type;
        let place = list
            .iter()
            .find(|&&place| supported(place, found.op, kind, ne, &hparams()).expect("an answer"))
            .expect("a place");
        // SAFETY: a buffer type of a list.
        let buffer = text(unsafe { sys::ggml_backend_buft_name(place.buft) });
        assert_eq!(buffer, tensor.buffer, "{}", tensor.name);
        let size = size(place.buft, kind, ne).expect("a size") as u64;
        assert!(size >= tensor.bytes, "{}", tensor.name);
        *sums.entry(buffer).or_default() += size;
    }
    sums
}
