//! Where the loader would put a weight, and what it takes there, told before a load.

use std::ffi::{CString, c_char};
use std::ptr;

use llama_sys as sys;

use super::call::guarded;
use super::device::{BufferType, DeviceHandle};
use super::global::max_devices;
use crate::error::Result;

/// A buffer type, and the device that would compute with a weight in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WeightPlace {
    pub(crate) device: DeviceHandle,
    pub(crate) buffer: BufferType,
}

/// Which layers a weight belongs to, and so which list of places the loader tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WeightLayer {
    /// Always on the CPU.
    Input,
    /// On the device of its block; without a number in its name, on the first block's, or,
    /// as frequency factors are, on every block's.
    Repeating,
    /// On the device of the layer after the last.
    Output,
}

/// An operation that a weight is used for: `enum ggml_op`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WeightOp(sys::ggml_op);

impl WeightOp {
    /// What an output layer uses its weight for.
    pub(crate) const MUL_MAT: Self = Self(sys::GGML_OP_MUL_MAT);
}

/// What llama.cpp uses a weight for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WeightUse {
    pub(crate) layer: WeightLayer,
    /// `None`: the loader leaves it out.
    pub(crate) op: Option<WeightOp>,
    /// The number in the name.
    pub(crate) block: Option<u32>,
}

/// A weight's element type and extents, as a header has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WeightShape {
    pub(crate) kind: sys::ggml_type,
    pub(crate) ne: [i64; 4],
}

impl WeightShape {
    /// Missing dimensions have an extent of 1.
    pub(crate) fn new(kind: sys::ggml_type, shape: &[u64]) -> Self {
        let mut ne = [1; 4];
        for (to, from) in ne.iter_mut().zip(shape) {
            *to = i64::try_from(*from).unwrap_or(i64::MAX);
        }
        Self { kind, ne }
    }
}

/// What of a model's hyper-parameters the loader's test needs; 0 where it is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct WeightHparams {
    /// The most of any layer: MUL_MAT_ID, ADD_ID.
    pub(crate) n_expert_used: i64,
    /// Of V: ROPE.
    pub(crate) n_embd_head: i64,
    /// Of the first layer: ROPE.
    pub(crate) n_head: i64,
    /// IM2COL.
    pub(crate) n_embd_inp: i64,
    /// SSM_SCAN.
    pub(crate) ssm_d_state: i64,
    /// SSM_SCAN.
    pub(crate) ssm_d_inner: i64,
    /// SSM_SCAN; 0 counts as 1.
    pub(crate) ssm_n_group: i64,
}

/// The bytes that a weight takes in a buffer of this type, padded to its alignment: the
/// buffer of a loaded model has the sum of these. A worker process may be asked.
pub(crate) fn weight_size(buffer: BufferType, shape: WeightShape) -> Result<u64> {
    let mut size = 0;
    guarded(|error| {
        // SAFETY: a live buffer type and four extents; a type or extents that do not exist
        // are refused.
        unsafe {
            sys::llama_shim_weight_size(
                buffer.as_ptr(),
                shape.kind,
                shape.ne.as_ptr(),
                &mut size,
                error,
            )
        }
    })
    .map_err(|failure| failure.of("llama_shim_weight_size"))?;
    Ok(size as u64)
}

/// Whether the place's device can compute `op` with such a weight there, by the loader's own
/// test. Refuses, with an error, hyper-parameters that the operation needs and are not known.
pub(crate) fn weight_supported(
    place: WeightPlace,
    op: WeightOp,
    shape: WeightShape,
    hparams: &WeightHparams,
) -> Result<bool> {
    let hparams = sys::llama_shim_weight_hparams {
        n_expert_used: hparams.n_expert_used,
        n_embd_head: hparams.n_embd_head,
        n_head: hparams.n_head,
        n_embd_inp: hparams.n_embd_inp,
        ssm_d_state: hparams.ssm_d_state,
        ssm_d_inner: hparams.ssm_d_inner,
        ssm_n_group: hparams.ssm_n_group,
    };
    let mut supported = false;
    guarded(|error| {
        // SAFETY: a live device and buffer type, four extents; what does not fit together is
        // refused.
        unsafe {
            sys::llama_shim_weight_supported(
                place.device.as_ptr(),
                place.buffer.as_ptr(),
                op.0,
                shape.kind,
                shape.ne.as_ptr(),
                &hparams,
                &mut supported,
                error,
            )
        }
    })
    .map_err(|failure| failure.of("llama_shim_weight_supported"))?;
    Ok(supported)
}

/// The places that the loader tries for weights on the CPU, in its order. `devices` are the
/// model's. The caller holds the registry.
pub(crate) fn cpu_places(
    devices: &[DeviceHandle],
    no_host: bool,
    use_extra_bufts: bool,
) -> Result<Vec<WeightPlace>> {
    let devices: Vec<_> = devices.iter().map(|device| device.as_ptr()).collect();
    places(
        "llama_shim_weight_places_cpu",
        |list, capacity, n, error| {
            // SAFETY: live devices, given with their number; room for `capacity` places; the
            // caller keeps others from adding devices.
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
        },
    )
}

/// The places that the loader tries for weights of a layer on `device`, to which it appends
/// those of the CPU. `split_rows` is the tensor split, empty for the default one, if matrices
/// are split by rows (LLAMA_SPLIT_MODE_ROW), which few devices can. The caller holds the
/// registry.
pub(crate) fn device_places(
    device: DeviceHandle,
    split_rows: Option<&[f32]>,
) -> Result<Vec<WeightPlace>> {
    // The whole length is read, whatever the number of devices.
    let mut split = split_rows.unwrap_or_default().to_vec();
    if !split.is_empty() {
        split.resize(max_devices().max(split.len()), 0.0);
    }
    let split_pointer = if split.is_empty() {
        ptr::null()
    } else {
        split.as_ptr()
    };
    places(
        "llama_shim_weight_places_device",
        |list, capacity, n, error| {
            // SAFETY: a live device, no split or one of the length that is read, room for
            // `capacity` places; the caller keeps others from adding devices.
            unsafe {
                sys::llama_shim_weight_places_device(
                    device.as_ptr(),
                    split_rows.is_some(),
                    split_pointer,
                    list,
                    capacity,
                    n,
                    error,
                )
            }
        },
    )
}

/// What llama.cpp uses the weight with this name for, in a model of this architecture. `None`
/// for a name that its table does not have, and for text that C cannot be given.
pub(crate) fn weight_use(architecture: &str, name: &str) -> Result<Option<WeightUse>> {
    let (Ok(architecture), Ok(name)) = (CString::new(architecture), CString::new(name)) else {
        return Ok(None);
    };
    let mut found = sys::llama_shim_weight_use {
        layer: sys::LLAMA_SHIM_WEIGHT_UNKNOWN,
        op: sys::GGML_OP_NONE,
        block: -1,
    };
    guarded(|error| {
        // SAFETY: NUL-terminated texts and an out-parameter of this frame.
        unsafe {
            sys::llama_shim_weight_find(architecture.as_ptr(), name.as_ptr(), &mut found, error)
        }
    })
    .map_err(|failure| failure.of("llama_shim_weight_find"))?;
    let layer = match found.layer {
        sys::LLAMA_SHIM_WEIGHT_INPUT => WeightLayer::Input,
        sys::LLAMA_SHIM_WEIGHT_REPEATING => WeightLayer::Repeating,
        sys::LLAMA_SHIM_WEIGHT_OUTPUT => WeightLayer::Output,
        _ => return Ok(None),
    };
    Ok(Some(WeightUse {
        layer,
        op: (found.op != sys::GGML_OP_NONE).then_some(WeightOp(found.op)),
        block: u32::try_from(found.block).ok(),
    }))
}

/// The places of a list. `fetch` is given where to put them, how many there is room for, and
/// where to say how many there are.
fn places(
    call: &'static str,
    fetch: impl Fn(
        *mut sys::llama_shim_weight_place,
        usize,
        *mut usize,
        *mut *mut c_char,
    ) -> sys::llama_shim_status,
) -> Result<Vec<WeightPlace>> {
    let mut n = 0;
    guarded(|error| fetch(ptr::null_mut(), 0, &mut n, error))
        .map_err(|failure| failure.of(call))?;
    let nowhere = sys::llama_shim_weight_place {
        dev: ptr::null_mut(),
        buft: ptr::null_mut(),
    };
    let mut list = vec![nowhere; n];
    guarded(|error| fetch(list.as_mut_ptr(), list.len(), &mut n, error))
        .map_err(|failure| failure.of(call))?;
    Ok(list
        .into_iter()
        .filter_map(|place| {
            Some(WeightPlace {
                device: DeviceHandle::new(place.dev)?,
                buffer: BufferType::new(place.buft)?,
            })
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::super::{DeviceKind, devices, init};
    use super::*;

    const F32: sys::ggml_type = sys::GGML_TYPE_F32;

    #[test]
    fn the_cpu_takes_what_the_table_knows() -> Result<()> {
        init(llama_sys::BACKEND_DIR.map(std::path::Path::new))?;
        let shape = WeightShape {
            kind: F32,
            ne: [64, 96, 8, 1],
        };
        let hparams = WeightHparams {
            n_expert_used: 2,
            ..WeightHparams::default()
        };
        let places = cpu_places(&[], true, false)?;
        let place = *places.last().expect("the CPU's memory");
        assert_eq!(place.device.kind(), DeviceKind::Cpu);
        assert!(place.buffer.is_cpu());
        assert_eq!(weight_size(place.buffer, shape)?, 64 * 96 * 8 * 4);
        let found = weight_use("qwen3moe", "blk.3.ffn_up_exps.weight")?.expect("a known name");
        assert_eq!(found.layer, WeightLayer::Repeating);
        assert_eq!(found.block, Some(3));
        let op = found.op.expect("a weight that is used");
        assert!(weight_supported(place, op, shape, &hparams)?);
        assert!(weight_supported(place, op, shape, &WeightHparams::default()).is_err());
        for device in devices() {
            assert!(!device_places(device, None)?.is_empty());
        }
        assert!(device_places(place.device, Some(&[])).is_err());
        Ok(())
    }

    #[test]
    fn other_names_are_not_known() -> Result<()> {
        for name in ["", "blk.0.nothing.weight", "blk.0.attn_q\0.weight"] {
            assert_eq!(weight_use("qwen3moe", name)?, None, "{name:?}");
        }
        Ok(())
    }
}
