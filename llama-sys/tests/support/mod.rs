//! What the tests share: guarded calls as `Result`s, small real models.
#![allow(dead_code)] // Every test binary uses its own part.

pub mod gguf;
pub mod weights;

use std::ffi::{CStr, c_char};
use std::path::{Path, PathBuf};
use std::ptr;

use llama_sys as sys;
use sys::llama_shim_status;

/// What a guarded call reported instead of success.
#[derive(Debug)]
pub struct Failure {
    pub status: llama_shim_status,
    pub text: String,
}

/// Makes a guarded call; `call` is given the error out-parameter.
pub fn guarded(call: impl FnOnce(*mut *mut c_char) -> llama_shim_status) -> Result<(), Failure> {
    let mut error: *mut c_char = ptr::null_mut();
    let status = call(&mut error);
    if status == sys::LLAMA_SHIM_OK {
        assert!(error.is_null(), "text without a failure");
        return Ok(());
    }
    assert!(!error.is_null(), "status {status} without a text");
    // SAFETY: the shim hands out a NUL-terminated string of ours to free.
    let text = unsafe {
        let text = CStr::from_ptr(error).to_string_lossy().into_owned();
        sys::llama_shim_string_free(error);
        text
    };
    Err(Failure { status, text })
}

/// A string that llama.cpp owns.
pub fn text(pointer: *const c_char) -> String {
    assert!(!pointer.is_null());
    // SAFETY: llama.cpp's names are NUL-terminated and live as long as what they name.
    unsafe { CStr::from_ptr(pointer) }
        .to_string_lossy()
        .into_owned()
}

/// A loaded model, freed on drop.
pub struct Model(pub *mut sys::llama_model);

impl Model {
    pub fn load(path: &Path, params: &sys::llama_model_params) -> Result<Self, Failure> {
        init();
        let path = gguf::c_string(path.to_str().expect("a UTF-8 path"));
        let mut model = ptr::null_mut();
        guarded(|error| {
            // SAFETY: a NUL-terminated path, params of llama.cpp's own defaults, and
            // out-parameters of this frame.
            unsafe {
                sys::llama_shim_model_load_from_file(path.as_ptr(), params, &mut model, error)
            }
        })?;
        assert!(!model.is_null());
        Ok(Self(model))
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: owned; every context of it is dropped before, as declared later.
        unsafe { sys::llama_model_free(self.0) }
    }
}

/// A context, freed on drop.
pub struct Context(pub *mut sys::llama_context);

impl Context {
    pub fn new(model: &Model, params: &sys::llama_context_params) -> Result<Self, Failure> {
        let mut context = ptr::null_mut();
        guarded(|error| {
            // SAFETY: a live model, params of llama.cpp's own defaults.
            unsafe { sys::llama_shim_init_from_model(model.0, params, &mut context, error) }
        })?;
        assert!(!context.is_null());
        Ok(Self(context))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: owned.
        unsafe { sys::llama_free(self.0) }
    }
}

/// llama.cpp's own defaults, with everything offloaded that can be.
pub fn model_params() -> sys::llama_model_params {
    // SAFETY: a plain function of no arguments.
    let mut params = unsafe { sys::llama_model_default_params() };
    params.n_gpu_layers = 99;
    params
}

/// llama.cpp's own defaults for a small context.
pub fn context_params() -> sys::llama_context_params {
    // SAFETY: as above.
    let mut params = unsafe { sys::llama_context_default_params() };
    params.n_ctx = 256;
    params.n_threads = 2;
    params.n_threads_batch = 2;
    params
}

/// The test MoE model, in a folder that lives as long as the returned guard.
pub fn moe_model() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let path = dir.path().join("moe.gguf");
    gguf::write_moe(&path);
    (dir, path)
}

/// Quiet, and with the backends loaded where they are modules (`dynamic-backends`).
pub fn init() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        // llama.cpp leaves Vulkan's CPU drivers out unless the device is named; the first
        // one is the GPU where there is one.
        if cfg!(feature = "vulkan") && std::env::var_os("GGML_VK_VISIBLE_DEVICES").is_none() {
            // SAFETY: every test begins here, before anything of llama.cpp reads the
            // environment, and the others wait.
            unsafe { std::env::set_var("GGML_VK_VISIBLE_DEVICES", "0") }
        }
        // SAFETY: no sink is a valid sink.
        unsafe { sys::llama_shim_log_set(None, ptr::null_mut()) }
        if let Some(dir) = sys::BACKEND_DIR {
            let dir = gguf::c_string(dir);
            // SAFETY: a NUL-terminated path; the registry is unsynchronised, hence Once.
            unsafe { sys::ggml_backend_load_all_from_path(dir.as_ptr()) }
        }
    });
}

pub fn cpu_device() -> sys::ggml_backend_dev_t {
    init();
    // SAFETY: a plain look-up in the registry.
    let device = unsafe { sys::ggml_backend_dev_by_type(sys::GGML_BACKEND_DEVICE_TYPE_CPU) };
    assert!(!device.is_null());
    device
}

/// One tensor of `llama_shim_placement_*`.
#[derive(Debug)]
pub struct Tensor {
    pub name: String,
    pub kind: i32,
    pub shape: Vec<i64>,
    pub bytes: u64,
    /// Empty where the tensor has no buffer.
    pub buffer: String,
    pub device: String,
    pub is_host: bool,
    pub duplicate: bool,
}

pub fn placement(model: &Model) -> Vec<Tensor> {
    let mut list = ptr::null_mut();
    // SAFETY: a live model; the list is freed after its entries were copied.
    unsafe {
        guarded(|error| sys::llama_shim_placement_new(model.0, &mut list, error))
            .expect("a placement");
        let tensors = (0..sys::llama_shim_placement_count(list))
            .map(|index| {
                let mut tensor = std::mem::zeroed::<sys::llama_shim_tensor>();
                guarded(|error| sys::llama_shim_placement_get(list, index, &mut tensor, error))
                    .expect("an entry below the count");
                Tensor {
                    name: text(tensor.name),
                    kind: tensor.type_,
                    shape: tensor.ne[..tensor.n_dims as usize].to_vec(),
                    bytes: tensor.bytes,
                    buffer: optional(tensor.buft_name),
                    device: optional(tensor.dev_name),
                    is_host: tensor.is_host,
                    duplicate: tensor.duplicate,
                }
            })
            .collect();
        sys::llama_shim_placement_free(list);
        tensors
    }
}

/// One entry of `llama_shim_memory_*`, in bytes.
#[derive(Debug)]
pub struct Memory {
    pub buffer: String,
    pub device: String,
    pub model: u64,
    pub context: u64,
    pub compute: u64,
}

pub fn memory(context: &Context) -> Vec<Memory> {
    let mut list = ptr::null_mut();
    // SAFETY: a live context; the list is freed after its entries were copied.
    unsafe {
        guarded(|error| sys::llama_shim_memory_new(context.0, &mut list, error))
            .expect("a breakdown");
        let entries = (0..sys::llama_shim_memory_count(list))
            .map(|index| {
                let mut entry = std::mem::zeroed::<sys::llama_shim_memory_entry>();
                guarded(|error| sys::llama_shim_memory_get(list, index, &mut entry, error))
                    .expect("an entry below the count");
                Memory {
                    buffer: text(entry.buft_name),
                    device: optional(entry.dev_name),
                    model: entry.model,
                    context: entry.context,
                    compute: entry.compute,
                }
            })
            .collect();
        sys::llama_shim_memory_free(list);
        entries
    }
}

fn optional(pointer: *const c_char) -> String {
    if pointer.is_null() {
        String::new()
    } else {
        text(pointer)
    }
}

pub fn tokenize(model: &Model, text: &str) -> Vec<sys::llama_token> {
    let mut tokens = vec![0; text.len() + 2];
    let mut n_tokens = 0;
    guarded(|error| {
        // SAFETY: text and tokens are slices of this frame, given with their lengths.
        unsafe {
            sys::llama_shim_tokenize(
                sys::llama_model_get_vocab(model.0),
                text.as_ptr().cast(),
                text.len() as i32,
                tokens.as_mut_ptr(),
                tokens.len() as i32,
                true,
                false,
                &mut n_tokens,
                error,
            )
        }
    })
    .expect("tokens");
    tokens.truncate(n_tokens as usize);
    tokens
}

pub fn detokenize(model: &Model, tokens: &[sys::llama_token]) -> String {
    let mut bytes = vec![0u8; 16 * tokens.len() + 1];
    let mut length = 0;
    guarded(|error| {
        // SAFETY: tokens and bytes are slices of this frame, given with their lengths.
        unsafe {
            sys::llama_shim_detokenize(
                sys::llama_model_get_vocab(model.0),
                tokens.as_ptr(),
                tokens.len() as i32,
                bytes.as_mut_ptr().cast(),
                bytes.len() as i32,
                true,
                false,
                &mut length,
                error,
            )
        }
    })
    .expect("a text");
    bytes.truncate(length as usize);
    String::from_utf8(bytes).expect("UTF-8")
}

/// Decodes `tokens` as one batch of sequence 0 and picks the likeliest next token.
pub fn greedy(context: &Context, tokens: &[sys::llama_token]) -> sys::llama_token {
    let mut tokens = tokens.to_vec();
    let mut result = 0;
    let mut token = -1;
    // SAFETY: the batch points into `tokens`, which outlives the call; the sampler is
    // freed at the end.
    unsafe {
        let batch = sys::llama_batch_get_one(tokens.as_mut_ptr(), tokens.len() as i32);
        guarded(|error| sys::llama_shim_decode(context.0, &batch, &mut result, error))
            .expect("a decoded batch");
        let sampler = sys::llama_sampler_init_greedy();
        guarded(|error| sys::llama_shim_sampler_sample(sampler, context.0, -1, &mut token, error))
            .expect("a token");
        sys::llama_sampler_free(sampler);
    }
    token
}

pub fn save_state(context: &Context) -> Vec<u8> {
    let mut size = 0;
    // SAFETY: a live context and a buffer of the size it asks for.
    unsafe {
        guarded(|error| sys::llama_shim_state_get_size(context.0, &mut size, error))
            .expect("a size");
        let mut state = vec![0; size];
        let mut written = 0;
        guarded(|error| {
            sys::llama_shim_state_get_data(
                context.0,
                state.as_mut_ptr(),
                state.len(),
                &mut written,
                error,
            )
        })
        .expect("a state");
        state.truncate(written);
        state
    }
}

pub fn restore_state(context: &Context, state: &[u8]) {
    let mut read = 0;
    guarded(|error| {
        // SAFETY: a live context and a slice given with its length.
        unsafe {
            sys::llama_shim_state_set_data(context.0, state.as_ptr(), state.len(), &mut read, error)
        }
    })
    .expect("a restored state");
    assert_eq!(read, state.len());
}
