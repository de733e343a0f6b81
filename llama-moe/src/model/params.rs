//! How a model is loaded.

use std::fmt;
use std::ops::RangeBounds;

use crate::backend::{Backend, Device, DeviceType};
use crate::error::{Error, Result};
use crate::ffi::{self, KvValue, ModelSettings, sys};
use crate::placement::{DevicesInUse, LoweredOverrides, Pattern, Target, TensorOverrides};

/// A context uses at most this many devices, the CPU among them: ggml's scheduler aborts
/// with more.
const MAX_DEVICES: usize = 15;

/// How a model is loaded (`llama_model_params`).
///
/// Everything is at llama.cpp's own default, as `llama_model_default_params` returns it,
/// unless set; [`with_load_mode`](Self::with_load_mode) has the one exception.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelParams {
    settings: ModelSettings,
    load_mode: Option<LoadMode>,
    devices: Option<Vec<Device>>,
    overrides: TensorOverrides,
    tensor_split: Vec<f32>,
    kv_overrides: Vec<(String, KvValue)>,
}

/// How weights are spread over several devices (`enum llama_split_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SplitMode {
    /// All on one device, the one that [`ModelParams::with_main_gpu`] names.
    None,
    /// Whole layers, with their part of the KV cache.
    Layer,
    /// Rows of each tensor, where the backend can.
    Row,
    /// Each tensor across all devices. No rule can name a device then.
    Tensor,
}

/// How a model's file is read (`enum llama_load_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LoadMode {
    /// llama.cpp chooses: mapped, unless a device cannot use that.
    Auto,
    /// Read into buffers. Weights in system memory are page-locked where a device has such
    /// memory, or repacked for the CPU.
    None,
    /// Mapped into memory. Weights in system memory stay in the file's pages.
    Mmap,
    /// As `None`, kept from being swapped out.
    Mlock,
    /// As `Mmap`, kept from being swapped out.
    MmapMlock,
    /// Read into buffers past the system's file cache, where it can be done.
    DirectIo,
}

/// Whether rows of very large tensors are read from the file when they are needed
/// (`enum llama_lazy_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LazyMode {
    /// Never.
    Off,
    /// For tensors that the architecture marks and that are larger than 4 GiB.
    Auto,
    /// For all tensors that the architecture marks.
    On,
}

/// A value that replaces one of the model's metadata
/// (`llama_model_kv_override`).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum KvOverride {
    /// A whole number.
    Int(i64),
    /// A real number.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// A text of at most 127 bytes.
    Text(String),
}

/// Where tensors live: shortcuts for [`TensorOverrides`], which documents them. Rules are
/// tried in the order in which they are added here.
impl ModelParams {
    /// All routed experts to system memory.
    #[must_use]
    #[doc(alias = "--cpu-moe")]
    pub fn with_cpu_moe_all(self) -> Self {
        self.map_overrides(TensorOverrides::with_cpu_moe_all)
    }

    /// The routed experts of the first `n` blocks to system memory, counted as
    /// llama.cpp's `--n-cpu-moe` does: see [`TensorOverrides::with_n_cpu_moe`].
    #[must_use]
    #[doc(alias = "--n-cpu-moe")]
    pub fn with_n_cpu_moe(self, n: u32) -> Self {
        self.map_overrides(|rules| rules.with_n_cpu_moe(n))
    }

    /// The routed experts of these blocks to system memory.
    #[must_use]
    pub fn with_cpu_moe_layers(self, blocks: impl RangeBounds<u32>) -> Self {
        self.map_overrides(|rules| rules.with_cpu_moe_layers(blocks))
    }

    /// The routed experts of the first `n` MoE layers to system memory.
    #[must_use]
    pub fn with_cpu_moe_first(self, n: u32) -> Self {
        self.map_overrides(|rules| rules.with_cpu_moe_first(n))
    }

    /// The routed experts of the last `n` MoE layers to system memory.
    #[must_use]
    pub fn with_cpu_moe_last(self, n: u32) -> Self {
        self.map_overrides(|rules| rules.with_cpu_moe_last(n))
    }

    /// The routed experts of these blocks to a device of your choice.
    #[must_use]
    pub fn with_moe_layers_on(
        self,
        blocks: impl RangeBounds<u32>,
        target: impl Into<Target>,
    ) -> Self {
        self.map_overrides(|rules| rules.with_moe_layers_on(blocks, target))
    }

    /// The feed-forward tensors of the first `n` blocks of a dense model to system
    /// memory.
    #[must_use]
    #[doc(alias = "--n-cpu-ffn")]
    pub fn with_cpu_ffn(self, n: u32) -> Self {
        self.map_overrides(|rules| rules.with_cpu_ffn(n))
    }

    /// The tensors that a pattern finds to `target`.
    #[must_use]
    #[doc(alias = "--override-tensor")]
    pub fn with_override(self, pattern: Pattern, target: impl Into<Target>) -> Self {
        self.map_overrides(|rules| rules.with_override(pattern, target))
    }

    /// Rules in the syntax of llama.cpp's `-ot`: see
    /// [`TensorOverrides::with_override_str`].
    ///
    /// # Errors
    /// [`OverrideError::Syntax`](crate::OverrideError::Syntax) and
    /// [`PatternError`](crate::PatternError).
    #[doc(alias = "--override-tensor")]
    pub fn with_override_str(mut self, rules: &str) -> Result<Self> {
        self.overrides = self.overrides.with_override_str(rules)?;
        Ok(self)
    }

    /// Accepts rules that match no tensor.
    #[must_use]
    pub fn allow_unmatched_overrides(self) -> Self {
        self.map_overrides(TensorOverrides::allow_unmatched)
    }

    /// Replaces all rules.
    #[must_use]
    pub fn with_overrides(mut self, overrides: TensorOverrides) -> Self {
        self.overrides = overrides;
        self
    }

    /// The rules so far.
    #[must_use]
    pub fn overrides(&self) -> &TensorOverrides {
        &self.overrides
    }

    fn map_overrides(mut self, add: impl FnOnce(TensorOverrides) -> TensorOverrides) -> Self {
        self.overrides = add(self.overrides);
        self
    }
}

/// Everything else.
impl ModelParams {
    /// How many layers go to devices, counted from the last; one more than the model has
    /// takes the output layer along, so a large number means all. Rules come before
    /// this. Default: all.
    #[must_use]
    #[doc(alias = "--n-gpu-layers")]
    #[doc(alias = "-ngl")]
    pub fn with_n_gpu_layers(mut self, n: u32) -> Self {
        self.settings.n_gpu_layers = i32::try_from(n).unwrap_or(i32::MAX);
        self
    }

    /// All layers to devices (llama.cpp's default).
    #[must_use]
    pub fn with_all_gpu_layers(mut self) -> Self {
        self.settings.n_gpu_layers = -1;
        self
    }

    /// The devices to use, in this order; an empty list keeps everything on the CPU.
    /// Default: every GPU and every RPC device; of a GPU that two backends can run, the first
    /// one's.
    #[must_use]
    #[doc(alias = "--device")]
    pub fn with_devices(mut self, devices: impl IntoIterator<Item = Device>) -> Self {
        self.devices = Some(devices.into_iter().collect());
        self
    }

    /// How weights are spread over several devices.
    #[must_use]
    #[doc(alias = "--split-mode")]
    pub fn with_split_mode(mut self, mode: SplitMode) -> Self {
        self.settings.split_mode = match mode {
            SplitMode::None => sys::LLAMA_SPLIT_MODE_NONE,
            SplitMode::Layer => sys::LLAMA_SPLIT_MODE_LAYER,
            SplitMode::Row => sys::LLAMA_SPLIT_MODE_ROW,
            SplitMode::Tensor => sys::LLAMA_SPLIT_MODE_TENSOR,
        };
        self
    }

    /// The index, among the devices used, of the one that [`SplitMode::None`] puts
    /// everything on.
    #[must_use]
    #[doc(alias = "--main-gpu")]
    pub fn with_main_gpu(mut self, index: u32) -> Self {
        self.settings.main_gpu = i32::try_from(index).unwrap_or(i32::MAX);
        self
    }

    /// The parts of the model for each device, in proportion: `[3.0, 1.0]`. Default: by
    /// free memory. llama.cpp does not consider rules here: rebalance when they empty one
    /// device more than another.
    #[must_use]
    #[doc(alias = "--tensor-split")]
    pub fn with_tensor_split(mut self, parts: impl Into<Vec<f32>>) -> Self {
        self.tensor_split = parts.into();
        self
    }

    /// How the file is read.
    ///
    /// Without this, llama.cpp's default ([`LoadMode::Auto`]: mapped) holds, with one
    /// exception: rules that move weights to the CPU next to a GPU read the file into
    /// buffers ([`LoadMode::None`]), if these weights fit the system's free memory. Only then are
    /// they page-locked or repacked, which mapped weights never are.
    /// [`Model::load_mode`](crate::Model::load_mode) tells which it was.
    #[must_use]
    #[doc(alias = "--load-mode")]
    pub fn with_load_mode(mut self, mode: LoadMode) -> Self {
        self.load_mode = Some(mode);
        self
    }

    /// Whether rows of very large tensors are read from the file when they are needed.
    #[must_use]
    pub fn with_lazy_mode(mut self, mode: LazyMode) -> Self {
        self.settings.lazy_mode = match mode {
            LazyMode::Off => sys::LLAMA_LAZY_MODE_OFF,
            LazyMode::Auto => sys::LLAMA_LAZY_MODE_AUTO,
            LazyMode::On => sys::LLAMA_LAZY_MODE_ON,
        };
        self
    }

    /// Replaces one entry of the model's metadata, or adds it: for hyper-parameters that a file
    /// has wrong. The type has to be the file's; llama.cpp warns in its log of another one, and
    /// keeps the file's value. The first of several values for a key holds. What all else hangs
    /// on cannot be replaced: `general.architecture`, `tokenizer.ggml.model`, `split.*`,
    /// `*.rope.dimension_count` and `*.embedding_length_out`.
    ///
    /// Such a value is as good as one in the file: see
    /// [what can still end the process](crate#what-can-still-end-the-process).
    #[must_use]
    #[doc(alias = "--override-kv")]
    pub fn with_kv_override(mut self, key: impl Into<String>, value: KvOverride) -> Self {
        let value = match value {
            KvOverride::Int(number) => KvValue::Int(number),
            KvOverride::Float(number) => KvValue::Float(number),
            KvOverride::Bool(flag) => KvValue::Bool(flag),
            KvOverride::Text(text) => KvValue::Text(text),
        };
        self.kv_overrides.push((key.into(), value));
        self
    }

    /// Loads the vocabulary only: for tokenizing.
    #[must_use]
    pub fn with_vocab_only(mut self, vocab_only: bool) -> Self {
        self.settings.vocab_only = vocab_only;
        self
    }

    /// Checks the weights for values that are no numbers.
    #[must_use]
    #[doc(alias = "--check-tensors")]
    pub fn with_check_tensors(mut self, check_tensors: bool) -> Self {
        self.settings.check_tensors = check_tensors;
        self
    }

    /// Repacks weights for the CPU's kernels where that is possible (llama.cpp's
    /// default).
    #[must_use]
    #[doc(alias = "--no-repack")]
    pub fn with_extra_buffer_types(mut self, use_extra_bufts: bool) -> Self {
        self.settings.use_extra_bufts = use_extra_bufts;
        self
    }

    /// Keeps weights in system memory in a form that a cache of experts can copy to a device: not
    /// repacked for the CPU. Needed wherever a context of the model has
    /// [`with_moe_cache_size`](crate::ContextParams::with_moe_cache_size); experts that are not
    /// in the cache are then computed with the CPU's plain kernels.
    ///
    /// The same as `with_extra_buffer_types(false)`.
    #[must_use]
    pub fn for_moe_cache(self) -> Self {
        self.with_extra_buffer_types(false)
    }

    /// Keeps weights in system memory out of page-locked buffers, so that they can be repacked:
    /// often faster decode by the CPU, slower prefill by the GPU.
    #[must_use]
    #[doc(alias = "--no-host")]
    pub fn with_no_host(mut self, no_host: bool) -> Self {
        self.settings.no_host = no_host;
        self
    }

    /// Loads no weights and allocates nothing: to measure what a context would need. Reads
    /// the file's header only, so the load mode is [`LoadMode::None`] then. Such a model
    /// computes nothing.
    #[must_use]
    pub fn with_no_alloc(mut self, no_alloc: bool) -> Self {
        self.settings.no_alloc = no_alloc;
        self
    }

    /// Loads the blocks for multi-token prediction, which are left out by default.
    #[must_use]
    pub fn with_mtp(mut self, load_mtp: bool) -> Self {
        self.settings.load_mtp = load_mtp;
        self
    }

    pub(crate) fn settings(&self) -> &ModelSettings {
        &self.settings
    }

    pub(crate) fn devices(&self) -> Option<&[Device]> {
        self.devices.as_deref()
    }

    pub(crate) fn tensor_split(&self) -> &[f32] {
        &self.tensor_split
    }

    pub(crate) fn kv_overrides(&self) -> &[(String, KvValue)] {
        &self.kv_overrides
    }

    pub(crate) fn is_no_alloc(&self) -> bool {
        self.settings.no_alloc
    }

    pub(crate) fn is_vocab_only(&self) -> bool {
        self.settings.vocab_only
    }

    /// As llama.cpp has it: negative for all.
    pub(crate) fn n_gpu_layers(&self) -> i32 {
        self.settings.n_gpu_layers
    }

    /// The number of layers on devices, if one was set.
    pub(crate) fn fixed_n_gpu_layers(&self) -> Option<u32> {
        u32::try_from(self.settings.n_gpu_layers).ok()
    }

    /// The load mode, if one was set.
    pub(crate) fn fixed_load_mode(&self) -> Option<LoadMode> {
        self.load_mode
    }

    /// `no_host` and `use_extra_bufts`: what system memory weights can be in.
    pub(crate) fn host_choices(&self) -> (bool, bool) {
        (self.settings.no_host, self.settings.use_extra_bufts)
    }

    /// Whether tensors are cut across devices.
    pub(crate) fn cuts_tensors(&self) -> bool {
        let mode = self.settings.split_mode;
        mode == sys::LLAMA_SPLIT_MODE_ROW || mode == sys::LLAMA_SPLIT_MODE_TENSOR
    }

    pub(crate) fn loads_mtp(&self) -> bool {
        self.settings.load_mtp
    }

    /// Whether everything is on one device.
    pub(crate) fn uses_one_device(&self) -> bool {
        self.settings.split_mode == sys::LLAMA_SPLIT_MODE_NONE
    }

    /// Whether these parameters say something of certain devices.
    pub(crate) fn chooses_devices(&self) -> bool {
        self.devices.is_some() || !self.tensor_split.is_empty() || self.uses_one_device()
    }

    /// The same for some of the devices that these parameters use, in their order.
    pub(crate) fn on_devices(&self, backend: &Backend, devices: Vec<Device>) -> Result<Self> {
        let mut params = self.clone();
        if !self.tensor_split.is_empty() {
            let in_use = self.devices_in_use(backend)?.devices;
            let part = |device: &Device| {
                let index = in_use.iter().position(|used| used == device)?;
                self.tensor_split.get(index).copied()
            };
            params.tensor_split = match devices.as_slice() {
                [] | [_] => Vec::new(),
                several => several.iter().map(|d| part(d).unwrap_or(0.0)).collect(),
            };
        }
        if self.uses_one_device() {
            params.settings.main_gpu = 0;
        }
        params.devices = Some(devices);
        Ok(params)
    }

    /// The options of llama.cpp's programs for what decides where weights are, apart from
    /// devices, layers and rules.
    pub(crate) fn command_options(&self) -> Vec<String> {
        let (settings, default) = (&self.settings, ModelSettings::default());
        let mut options = Vec::new();
        if settings.no_host {
            options.push("--no-host".to_owned());
        }
        if !settings.use_extra_bufts {
            options.push("--no-repack".to_owned());
        }
        if settings.lazy_mode != default.lazy_mode {
            let mode = match settings.lazy_mode {
                sys::LLAMA_LAZY_MODE_OFF => "off",
                sys::LLAMA_LAZY_MODE_ON => "on",
                _ => "auto",
            };
            options.push(format!("-lzm {mode}"));
        }
        options
    }

    /// The value of an equal `--override-kv` option: fields between commas, quoted as in CSV.
    pub(crate) fn replaced_metadata(&self) -> Option<String> {
        let fields = self.kv_overrides.iter().map(|(key, value)| {
            let field = match value {
                KvValue::Int(number) => format!("{key}=int:{number}"),
                KvValue::Float(number) => format!("{key}=float:{number}"),
                KvValue::Bool(flag) => format!("{key}=bool:{flag}"),
                KvValue::Text(text) => format!("{key}=str:{text}"),
            };
            if field.contains([',', '"']) {
                format!("\"{}\"", field.replace('"', "\"\""))
            } else {
                field
            }
        });
        let fields: Vec<String> = fields.collect();
        (!fields.is_empty()).then(|| fields.join(","))
    }

    /// The devices that llama.cpp will use, checked.
    pub(crate) fn devices_in_use(&self, backend: &Backend) -> Result<DevicesInUse> {
        let known = backend.devices();
        let mut devices = match &self.devices {
            Some(devices) => {
                check_devices(devices)?;
                devices.clone()
            }
            None => default_devices(&known),
        };
        for device in &devices {
            device.check_present()?;
        }
        self.check_tensor_split(devices.len())?;
        if devices.len() > MAX_DEVICES {
            return Err(Error::Parameter {
                parameter: "with_devices",
                value: format!("{} devices", devices.len()),
                reason: format!("llama.cpp computes on {MAX_DEVICES} at most; name those to use"),
            });
        }
        if self.uses_one_device() {
            let main = usize::try_from(self.settings.main_gpu).unwrap_or(usize::MAX);
            match devices.get(main) {
                Some(&device) => devices = vec![device],
                None if devices.is_empty() => {}
                None => {
                    return Err(Error::Parameter {
                        parameter: "with_main_gpu",
                        value: self.settings.main_gpu.to_string(),
                        reason: format!(
                            "the model is given {} devices, counted from 0",
                            devices.len()
                        ),
                    });
                }
            }
        }
        Ok(DevicesInUse {
            cpu: backend.cpu()?,
            devices,
            merged: self.settings.split_mode == sys::LLAMA_SPLIT_MODE_TENSOR,
            known,
        })
    }

    /// Refuses to replace what llama.cpp only asserts on when it uses it.
    pub(crate) fn check_kv_overrides(&self) -> Result<()> {
        let fixed = |key: &str| {
            matches!(key, "general.architecture" | "tokenizer.ggml.model")
                || key.starts_with("split.")
                || key.ends_with(".rope.dimension_count")
                || key.ends_with(".embedding_length_out")
        };
        match self.kv_overrides.iter().find(|(key, _)| fixed(key)) {
            None => Ok(()),
            Some((key, _)) => Err(Error::Parameter {
                parameter: "with_kv_override",
                value: key.clone(),
                reason: "the file's other contents hang on this; change the file".to_owned(),
            }),
        }
    }

    pub(crate) fn check_tensor_split(&self, n_devices: usize) -> Result<()> {
        let refuse = |reason: String| {
            Err(Error::Parameter {
                parameter: "with_tensor_split",
                value: format!("{:?}", self.tensor_split),
                reason,
            })
        };
        if self.tensor_split.len() > ffi::max_devices() {
            return refuse(format!("there are at most {} parts", ffi::max_devices()));
        }
        if self
            .tensor_split
            .iter()
            .any(|part| !part.is_finite() || *part < 0.0)
        {
            return refuse("a part is a finite number, 0 or more".to_owned());
        }
        if self.tensor_split.is_empty() {
            return Ok(());
        }
        // Without a device there is nothing to split. Of several, llama.cpp ignores parts for
        // those it does not have.
        let n_used = match n_devices {
            0 => self.tensor_split.len(),
            n => n,
        };
        if self
            .tensor_split
            .iter()
            .skip(n_used)
            .any(|part| *part > 0.0)
        {
            return refuse(format!("the model is given {n_used} devices"));
        }
        let sum: f32 = self.tensor_split.iter().sum();
        if sum <= 0.0 {
            return refuse("all parts are 0".to_owned());
        }
        if !sum.is_finite() {
            return refuse("the parts' sum is too large for a 32-bit float".to_owned());
        }
        Ok(())
    }

    /// The load mode that was set, or the one for these rules.
    /// Bytes above which tensors stay in the file that can; `None` if none does.
    pub(crate) fn stay_in_file_above(&self, in_use: &DevicesInUse) -> Option<u64> {
        const AUTO: u64 = 4 << 30;
        let all_map = || {
            in_use
                .devices
                .iter()
                .all(|d| d.handle().caps().mmap_support)
        };
        match self.settings.lazy_mode {
            _ if !ffi::supports_mmap() => None,
            sys::LLAMA_LAZY_MODE_ON => Some(0),
            sys::LLAMA_LAZY_MODE_AUTO if all_map() => Some(AUTO),
            _ => None,
        }
    }

    pub(crate) fn choose_load_mode(
        &self,
        overrides: &LoweredOverrides,
        in_use: &DevicesInUse,
    ) -> sys::llama_load_mode {
        let mode = self.load_mode.unwrap_or_else(|| {
            let to_cpu = overrides.bytes_to_cpu();
            let next_to_device = to_cpu > 0 && !in_use.devices.is_empty();
            if self.settings.no_alloc || (next_to_device && to_cpu < in_use.cpu.memory().free) {
                LoadMode::None
            } else {
                LoadMode::Auto
            }
        });
        mode.to_raw()
    }
}

/// llama.cpp's own choice: all RPC devices and GPUs, one that two backends can run for the
/// first of them; where there is no other GPU, the first backend's integrated ones.
fn default_devices(known: &[Device]) -> Vec<Device> {
    let (rpc, local): (Vec<Device>, Vec<Device>) = known
        .iter()
        .filter(|device| device.device_type().is_gpu())
        .partition(|device| device.backend_name() == "RPC");
    let of_type = |kind| {
        local
            .iter()
            .copied()
            .filter(move |d: &Device| d.device_type() == kind)
    };
    let mut gpus: Vec<Device> = Vec::new();
    for device in of_type(DeviceType::Gpu) {
        let id = device.handle().hardware_id();
        let seen = |other: &Device| id.is_some() && other.handle().hardware_id() == id;
        if !gpus.iter().any(seen) {
            gpus.push(device);
        }
    }
    if gpus.is_empty() {
        gpus = of_type(DeviceType::IntegratedGpu).collect();
        let first = gpus.first().map(Device::backend_name);
        gpus.retain(|device| Some(device.backend_name()) == first);
    }
    rpc.into_iter().chain(gpus).collect()
}

fn check_devices(devices: &[Device]) -> Result<()> {
    for (index, device) in devices.iter().enumerate() {
        let reason = if !device.device_type().is_gpu() {
            "it is no GPU; the CPU and what helps it are always used: leave them out, or give an \
             empty list for the CPU alone"
        } else if devices[..index].contains(device) {
            "it is named twice"
        } else {
            continue;
        };
        return Err(Error::Parameter {
            parameter: "with_devices",
            value: device.name(),
            reason: reason.to_owned(),
        });
    }
    Ok(())
}

impl LoadMode {
    pub(crate) fn to_raw(self) -> sys::llama_load_mode {
        match self {
            Self::Auto => sys::LLAMA_LOAD_MODE_AUTO,
            Self::None => sys::LLAMA_LOAD_MODE_NONE,
            Self::Mmap => sys::LLAMA_LOAD_MODE_MMAP,
            Self::Mlock => sys::LLAMA_LOAD_MODE_MLOCK,
            Self::MmapMlock => sys::LLAMA_LOAD_MODE_MMAP_MLOCK,
            Self::DirectIo => sys::LLAMA_LOAD_MODE_DIRECT_IO,
        }
    }

    pub(crate) fn from_raw(mode: sys::llama_load_mode) -> Self {
        match mode {
            sys::LLAMA_LOAD_MODE_NONE => Self::None,
            sys::LLAMA_LOAD_MODE_MMAP => Self::Mmap,
            sys::LLAMA_LOAD_MODE_MLOCK => Self::Mlock,
            sys::LLAMA_LOAD_MODE_MMAP_MLOCK => Self::MmapMlock,
            sys::LLAMA_LOAD_MODE_DIRECT_IO => Self::DirectIo,
            _ => Self::Auto,
        }
    }
}

/// As llama.cpp's options name it: `mmap`, `none`.
impl fmt::Display for LoadMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::None => "none",
            Self::Mmap => "mmap",
            Self::Mlock => "mlock",
            Self::MmapMlock => "mmap+mlock",
            Self::DirectIo => "dio",
        })
    }
}

/// As it is printed.
#[cfg(feature = "serde")]
impl serde::Serialize for LoadMode {
    fn serialize<S>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error>
    where
        S: serde::Serializer,
    {
        serializer.collect_str(self)
    }
}
