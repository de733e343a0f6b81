//! A loaded model.

use std::ffi::{CString, c_char, c_void};
use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};

use llama_sys as sys;

use super::call::{Failure, guarded};
use super::device::DeviceHandle;
use super::global::max_devices;
use super::overrides::RawOverrides;
use super::{panic, text};
use crate::error::{Error, Result};

/// A model, freed on drop.
#[derive(Debug)]
pub(crate) struct ModelHandle(NonNull<sys::llama_model>);

// SAFETY: llama.cpp's model is not tied to the thread that loaded it.
unsafe impl Send for ModelHandle {}
// SAFETY: the getters read what loading has set. What writes to a model (creating a
// context, loading and freeing adapters) takes turns inside the shim.
unsafe impl Sync for ModelHandle {}

/// The fields of `llama_model_params` that are plain values.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ModelSettings {
    pub(crate) n_gpu_layers: i32,
    pub(crate) split_mode: sys::llama_split_mode,
    pub(crate) load_mode: sys::llama_load_mode,
    pub(crate) lazy_mode: sys::llama_lazy_mode,
    pub(crate) main_gpu: i32,
    pub(crate) vocab_only: bool,
    pub(crate) check_tensors: bool,
    pub(crate) use_extra_bufts: bool,
    pub(crate) no_host: bool,
    pub(crate) no_alloc: bool,
    pub(crate) load_mtp: bool,
}

impl Default for ModelSettings {
    /// What `llama_model_default_params` returns.
    fn default() -> Self {
        // SAFETY: no arguments, returns a plain struct.
        let raw = unsafe { sys::llama_model_default_params() };
        Self {
            n_gpu_layers: raw.n_gpu_layers,
            split_mode: raw.split_mode,
            load_mode: raw.load_mode,
            lazy_mode: raw.lazy_mode,
            main_gpu: raw.main_gpu,
            vocab_only: raw.vocab_only,
            check_tensors: raw.check_tensors,
            use_extra_bufts: raw.use_extra_bufts,
            no_host: raw.no_host,
            no_alloc: raw.no_alloc,
            load_mtp: raw.load_mtp,
        }
    }
}

/// One replaced entry of a model's metadata.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum KvValue {
    Int(i64),
    Float(f64),
    Bool(bool),
    Text(String),
}

/// Longest key, and longest text, of a replaced entry, in bytes.
pub(crate) const KV_MAX: usize = 127;

/// The files of a model.
#[derive(Clone, Copy)]
pub(crate) enum LoadSource<'a> {
    File(&'a Path),
    Splits(&'a [PathBuf]),
}

/// What a load needs; everything is only used during the call.
pub(crate) struct LoadRequest<'a> {
    pub(crate) source: LoadSource<'a>,
    pub(crate) settings: &'a ModelSettings,
    /// `None`: all devices.
    pub(crate) devices: Option<&'a [DeviceHandle]>,
    pub(crate) overrides: &'a RawOverrides<'a>,
    /// At most [`max_devices`] parts; empty: by free memory.
    pub(crate) tensor_split: &'a [f32],
    pub(crate) kv_overrides: &'a [(String, KvValue)],
}

/// How a load ended without a model.
pub(crate) enum LoadFailure {
    Failed(Failure),
    /// The progress callback asked for it.
    Cancelled,
    /// The progress callback panicked.
    Panicked(String),
}

/// What the progress callback's C side finds behind its pointer.
struct Progress<'a> {
    callback: &'a mut dyn FnMut(f32) -> bool,
    stopped: bool,
    panic: Option<String>,
}

unsafe extern "C" fn on_progress(share: f32, data: *mut c_void) -> bool {
    // SAFETY: `data` is the `Progress` of the load that is under way, which lends it to
    // llama.cpp and does not touch it until the call returns; llama.cpp calls from the
    // loading thread alone.
    let progress = unsafe { &mut *data.cast::<Progress<'_>>() };
    let callback = &mut progress.callback;
    let go_on = panic::catch(&mut progress.panic, || callback(share)).unwrap_or(false);
    progress.stopped |= !go_on;
    go_on
}

impl ModelHandle {
    /// Loads a model. `progress` is told the share that is loaded, and returns whether to
    /// go on.
    pub(crate) fn load(
        request: &LoadRequest<'_>,
        progress: Option<&mut dyn FnMut(f32) -> bool>,
    ) -> Result<Result<Self, LoadFailure>> {
        let paths = match request.source {
            LoadSource::File(path) => vec![text::c_path(path)?],
            LoadSource::Splits(paths) => paths
                .iter()
                .map(|path| text::c_path(path))
                .collect::<Result<_>>()?,
        };
        let path_pointers: Vec<*const c_char> = paths.iter().map(|path| path.as_ptr()).collect();
        let mut devices: Option<Vec<_>> = request.devices.map(|devices| {
            let listed = devices.iter().map(|device| device.as_ptr());
            listed.chain([ptr::null_mut()]).collect()
        });
        // llama.cpp reads the whole length whatever the number of devices.
        let mut tensor_split = request.tensor_split.to_vec();
        if !tensor_split.is_empty() {
            tensor_split.resize(max_devices().max(tensor_split.len()), 0.0);
        }
        let kv_overrides = raw_kv_overrides(request.kv_overrides)?;
        let mut progress = progress.map(|callback| Progress {
            callback,
            stopped: false,
            panic: None,
        });

        // SAFETY: no arguments, returns a plain struct.
        let mut params = unsafe { sys::llama_model_default_params() };
        let settings = request.settings;
        params.n_gpu_layers = settings.n_gpu_layers;
        params.split_mode = settings.split_mode;
        params.load_mode = settings.load_mode;
        params.lazy_mode = settings.lazy_mode;
        params.main_gpu = settings.main_gpu;
        params.vocab_only = settings.vocab_only;
        params.check_tensors = settings.check_tensors;
        params.use_extra_bufts = settings.use_extra_bufts;
        params.no_host = settings.no_host;
        params.no_alloc = settings.no_alloc;
        params.load_mtp = settings.load_mtp;
        params.tensor_buft_overrides = request.overrides.as_ptr();
        if let Some(devices) = &mut devices {
            params.devices = devices.as_mut_ptr();
        }
        if !tensor_split.is_empty() {
            params.tensor_split = tensor_split.as_ptr();
        }
        if !request.kv_overrides.is_empty() {
            params.kv_overrides = kv_overrides.as_ptr();
        }
        if let Some(progress) = &mut progress {
            params.progress_callback = Some(on_progress);
            params.progress_callback_user_data = ptr::from_mut(progress).cast();
        }

        let mut model = ptr::null_mut();
        let loaded = guarded(|error| match request.source {
            // SAFETY: a NUL-terminated path. Every array that `params` points to is a local
            // of this function or borrowed by `request`, ended as llama.cpp expects, and
            // needed by llama.cpp only until this call returns.
            LoadSource::File(_) => unsafe {
                sys::llama_shim_model_load_from_file(path_pointers[0], &params, &mut model, error)
            },
            // SAFETY: as above, with an array of paths of the length given.
            LoadSource::Splits(_) => unsafe {
                sys::llama_shim_model_load_from_splits(
                    path_pointers.as_ptr(),
                    path_pointers.len(),
                    &params,
                    &mut model,
                    error,
                )
            },
        });
        let model = NonNull::new(model).map(Self);
        if let Some(message) = progress.as_mut().and_then(|progress| progress.panic.take()) {
            return Ok(Err(LoadFailure::Panicked(message)));
        }
        Ok(match (loaded, model) {
            (Ok(()), Some(model)) => Ok(model),
            (Err(_), _) if progress.is_some_and(|progress| progress.stopped) => {
                Err(LoadFailure::Cancelled)
            }
            (Err(failure), _) => Err(LoadFailure::Failed(failure)),
            (Ok(()), None) => Err(LoadFailure::Failed(Failure {
                kind: crate::error::FailureKind::Failed,
                reason: "no model was returned".to_owned(),
            })),
        })
    }

    pub(super) fn as_ptr(&self) -> *mut sys::llama_model {
        self.0.as_ptr()
    }

    /// The model's vocabulary; it lives as long as the model.
    pub(super) fn vocab(&self) -> *const sys::llama_vocab {
        // SAFETY: a live model.
        unsafe { sys::llama_model_get_vocab(self.as_ptr()) }
    }

    /// A whole number that llama.cpp tells of the model.
    pub(crate) fn number(&self, which: ModelNumber) -> i64 {
        let model = self.as_ptr();
        // llama.cpp looks at the first layer for these, and aborts where only the vocabulary
        // was loaded.
        let of_first_layer = matches!(which, ModelNumber::Head | ModelNumber::HeadKv);
        if of_first_layer && self.n_blocks() == 0 {
            return 0;
        }
        // SAFETY: a live model; each getter only reads what loading has set.
        unsafe {
            match which {
                ModelNumber::CtxTrain => i64::from(sys::llama_model_n_ctx_train(model)),
                ModelNumber::Embd => i64::from(sys::llama_model_n_embd(model)),
                ModelNumber::EmbdInp => i64::from(sys::llama_model_n_embd_inp(model)),
                ModelNumber::EmbdOut => i64::from(sys::llama_model_n_embd_out(model)),
                ModelNumber::Layer => i64::from(sys::llama_model_n_layer(model)),
                ModelNumber::LayerNextn => i64::from(sys::llama_model_n_layer_nextn(model)),
                ModelNumber::Head => i64::from(sys::llama_model_n_head(model)),
                ModelNumber::HeadKv => i64::from(sys::llama_model_n_head_kv(model)),
                ModelNumber::Swa => i64::from(sys::llama_model_n_swa(model)),
                ModelNumber::ClsOut => i64::from(sys::llama_model_n_cls_out(model)),
                ModelNumber::DecoderStartToken => {
                    i64::from(sys::llama_model_decoder_start_token(model))
                }
                ModelNumber::Vocab => i64::from(sys::llama_vocab_n_tokens(self.vocab())),
                ModelNumber::RopeType => i64::from(sys::llama_model_rope_type(model)),
            }
        }
    }

    /// All layers, those for multi-token prediction among them.
    fn n_blocks(&self) -> i64 {
        self.number(ModelNumber::Layer) + self.number(ModelNumber::LayerNextn)
    }

    /// The number of experts per layer, 0 for a dense model.
    pub(crate) fn n_expert(&self) -> Result<u32> {
        let mut n_expert = 0;
        guarded(|error| {
            // SAFETY: a live model, out-parameters of this frame.
            unsafe { sys::llama_shim_model_n_expert(self.as_ptr(), &mut n_expert, error) }
        })
        .map_err(|failure| failure.of("llama_model_n_expert"))?;
        Ok(u32::try_from(n_expert).unwrap_or(0))
    }

    /// The most experts that a token uses in any layer, 0 for a dense model.
    pub(crate) fn n_expert_used(&self) -> Result<u32> {
        let mut n_expert_used = 0;
        guarded(|error| {
            // SAFETY: a live model, out-parameters of this frame.
            unsafe { sys::llama_shim_model_n_expert_used(self.as_ptr(), &mut n_expert_used, error) }
        })
        .map_err(|failure| failure.of("llama_shim_model_n_expert_used"))?;
        Ok(u32::try_from(n_expert_used).unwrap_or(0))
    }

    /// The device that a layer is assigned to: the CPU's for one that is not offloaded.
    pub(crate) fn layer_device(&self, layer: u32) -> Result<Option<DeviceHandle>> {
        let layer = i32::try_from(layer).unwrap_or(i32::MAX);
        let mut device = ptr::null_mut();
        guarded(|error| {
            // SAFETY: a live model, out-parameters of this frame; other layers are refused.
            unsafe { sys::llama_shim_model_layer_device(self.as_ptr(), layer, &mut device, error) }
        })
        .map_err(|failure| failure.of("llama_shim_model_layer_device"))?;
        Ok(DeviceHandle::new(device))
    }

    /// Bytes of all tensors.
    pub(crate) fn size(&self) -> u64 {
        // SAFETY: a live model.
        unsafe { sys::llama_model_size(self.as_ptr()) }
    }

    pub(crate) fn n_params(&self) -> u64 {
        // SAFETY: a live model.
        unsafe { sys::llama_model_n_params(self.as_ptr()) }
    }

    pub(crate) fn rope_freq_scale_train(&self) -> f32 {
        // SAFETY: a live model.
        unsafe { sys::llama_model_rope_freq_scale_train(self.as_ptr()) }
    }

    pub(crate) fn has(&self, which: ModelTrait) -> bool {
        let model = self.as_ptr();
        // SAFETY: a live model; each getter only reads what loading has set.
        unsafe {
            match which {
                ModelTrait::Encoder => sys::llama_model_has_encoder(model),
                ModelTrait::Decoder => sys::llama_model_has_decoder(model),
                ModelTrait::Recurrent => sys::llama_model_is_recurrent(model),
                ModelTrait::Hybrid => sys::llama_model_is_hybrid(model),
                ModelTrait::Diffusion => sys::llama_model_is_diffusion(model),
            }
        }
    }

    pub(crate) fn description(&self) -> String {
        written(|buffer, size| {
            // SAFETY: a live model and a buffer given with its size.
            unsafe { sys::llama_model_desc(self.as_ptr(), buffer, size) }
        })
        .unwrap_or_default()
    }

    pub(crate) fn meta_count(&self) -> i32 {
        // SAFETY: a live model.
        unsafe { sys::llama_model_meta_count(self.as_ptr()) }
    }

    /// Key and value of the entry with this index.
    pub(crate) fn meta_pair(&self, index: i32) -> Option<(String, String)> {
        let key = written(|buffer, size| {
            // SAFETY: a live model and a buffer given with its size; an index out of range
            // is answered with -1.
            unsafe { sys::llama_model_meta_key_by_index(self.as_ptr(), index, buffer, size) }
        })?;
        let value = written(|buffer, size| {
            // SAFETY: as above.
            unsafe { sys::llama_model_meta_val_str_by_index(self.as_ptr(), index, buffer, size) }
        })?;
        Some((key, value))
    }

    pub(crate) fn meta(&self, key: &str) -> Option<String> {
        let key = CString::new(key).ok()?;
        written(|buffer, size| {
            // SAFETY: a live model, a NUL-terminated key, a buffer given with its size; an
            // unknown key is answered with -1.
            unsafe { sys::llama_model_meta_val_str(self.as_ptr(), key.as_ptr(), buffer, size) }
        })
    }

    /// The chat template called `name`, or the model's default one.
    pub(crate) fn chat_template(&self, name: Option<&str>) -> Option<String> {
        let name = name.map(CString::new).transpose().ok()?;
        let name = name.as_ref().map_or(ptr::null(), |name| name.as_ptr());
        // SAFETY: a live model and NULL or a NUL-terminated name; the text is copied while
        // both live.
        text::optional(unsafe { sys::llama_model_chat_template(self.as_ptr(), name) })
    }

    /// The label of a classifier's output.
    pub(crate) fn cls_label(&self, index: u32) -> Option<String> {
        // SAFETY: a live model; an index out of range is answered with NULL.
        text::optional(unsafe { sys::llama_model_cls_label(self.as_ptr(), index) })
    }

    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let path = text::c_path(path)?;
        guarded(|error| {
            // SAFETY: a live model and a NUL-terminated path.
            unsafe { sys::llama_shim_model_save_to_file(self.as_ptr(), path.as_ptr(), error) }
        })
        .map_err(|failure| failure.of("llama_model_save_to_file"))
    }
}

impl Drop for ModelHandle {
    fn drop(&mut self) {
        // SAFETY: owned, freed once. Contexts, adapters and samplers that need the model
        // hold it, so none is left.
        let _ = guarded(|error| unsafe { sys::llama_shim_model_free(self.as_ptr(), error) });
    }
}

/// See [`ModelHandle::number`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum ModelNumber {
    CtxTrain,
    Embd,
    EmbdInp,
    EmbdOut,
    Layer,
    LayerNextn,
    Head,
    HeadKv,
    Swa,
    ClsOut,
    DecoderStartToken,
    Vocab,
    RopeType,
}

/// See [`ModelHandle::has`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum ModelTrait {
    Encoder,
    Decoder,
    Recurrent,
    Hybrid,
    Diffusion,
}

/// Calls a function of the `snprintf` family, again with a larger buffer if the first
/// was too small. `None` for a negative answer.
pub(super) fn written(call: impl Fn(*mut c_char, usize) -> i32) -> Option<String> {
    let mut buffer = vec![0u8; 256];
    let mut length = usize::try_from(call(buffer.as_mut_ptr().cast(), buffer.len())).ok()?;
    if length >= buffer.len() {
        buffer.resize(length + 1, 0);
        length = usize::try_from(call(buffer.as_mut_ptr().cast(), buffer.len())).ok()?;
    }
    buffer.truncate(length.min(buffer.len()));
    Some(String::from_utf8_lossy(&buffer).into_owned())
}

/// The array of replaced metadata, ended by an empty key.
fn raw_kv_overrides(pairs: &[(String, KvValue)]) -> Result<Vec<sys::llama_model_kv_override>> {
    let mut raw = Vec::with_capacity(pairs.len() + 1);
    for (key, value) in pairs {
        // SAFETY: zero is a valid value of this plain struct.
        let mut entry = unsafe { std::mem::zeroed::<sys::llama_model_kv_override>() };
        if key.is_empty() {
            return Err(Error::Parameter {
                parameter: "with_kv_override",
                value: "\"\"".to_owned(),
                reason: "a key is not empty: llama.cpp's list ends with the empty key".to_owned(),
            });
        }
        fixed_text("metadata key", key, &mut entry.key)?;
        match value {
            KvValue::Int(number) => {
                entry.tag = sys::LLAMA_KV_OVERRIDE_TYPE_INT;
                entry.__bindgen_anon_1.val_i64 = *number;
            }
            KvValue::Float(number) => {
                entry.tag = sys::LLAMA_KV_OVERRIDE_TYPE_FLOAT;
                entry.__bindgen_anon_1.val_f64 = *number;
            }
            KvValue::Bool(flag) => {
                entry.tag = sys::LLAMA_KV_OVERRIDE_TYPE_BOOL;
                entry.__bindgen_anon_1.val_bool = *flag;
            }
            KvValue::Text(text) => {
                entry.tag = sys::LLAMA_KV_OVERRIDE_TYPE_STR;
                let mut value = [0; KV_MAX + 1];
                fixed_text("metadata value", text, &mut value)?;
                entry.__bindgen_anon_1.val_str = value;
            }
        }
        raw.push(entry);
    }
    // SAFETY: as above; a key of zeros is the empty key.
    raw.push(unsafe { std::mem::zeroed() });
    Ok(raw)
}

/// Copies `text` and a NUL into an array of zeros.
fn fixed_text(what: &'static str, text: &str, to: &mut [c_char; KV_MAX + 1]) -> Result<()> {
    let bytes = text::c_string(what, text)?;
    let bytes = bytes.as_bytes();
    if bytes.len() > KV_MAX {
        return Err(Error::Parameter {
            parameter: what,
            value: text.to_owned(),
            reason: format!("it is {} bytes long; llama.cpp takes {KV_MAX}", bytes.len()),
        });
    }
    for (to, from) in to.iter_mut().zip(bytes) {
        *to = *from as c_char;
    }
    Ok(())
}
