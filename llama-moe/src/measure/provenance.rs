//! What a result was measured on.

use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::digest::{HashCache, sha256};
use super::machine::Machine;
use crate::backend::{Backend, Device, read_registry};
use crate::chat::strftime;
use crate::error::{Error, Result};
use crate::ffi;
use crate::gguf::{Header, Value};
use crate::model::ModelSource;

/// What begins the names of environment variables that change what llama.cpp and its libraries do.
const VARIABLES: [&str; 13] = [
    "GGML_",
    "LLAMA_",
    "CUDA_",
    "HIP_",
    "HSA_",
    "ROCR_",
    "VK_",
    "MTL_",
    "OMP_",
    "GOMP_",
    "KMP_",
    "OPENBLAS_",
    "MKL_",
];
/// What ends the names of those that hold a secret. Results are published.
const SECRETS: [&str; 4] = ["_KEY", "_TOKEN", "_SECRET", "_PASSWORD"];
/// The longest text of a model's metadata that is taken over, in bytes: chat templates and
/// licences are longer.
const LONGEST_TEXT: usize = 256;

/// What a result was measured on: enough to repeat it, and to tell whether another result is
/// of the same thing.
///
/// ```no_run
/// use llama_moe::Backend;
/// use llama_moe::measure::{HashCache, Provenance};
///
/// let backend = Backend::init()?;
/// let mut known = HashCache::open("hashes.json")?;
/// let provenance = Provenance::of(&backend, "gpt-oss-20b.gguf", Some(&mut known))?;
/// println!("{} on {}", provenance.model.files[0].sha256, provenance.machine.cpu);
/// # Ok::<(), llama_moe::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Provenance {
    /// When it was written down: UTC, by RFC 3339.
    pub date: String,
    /// The command that is running, with its arguments.
    pub command: Vec<String>,
    /// The model.
    pub model: ModelRecord,
    /// The files that the model was made from, where the caller gives some
    /// ([`FileRecord::of`]).
    pub sources: Vec<FileRecord>,
    /// This crate's version.
    pub crate_version: String,
    /// The commit of the source, where the caller gives it.
    pub commit: Option<String>,
    /// This crate's features that are switched on.
    pub features: Vec<String>,
    /// Whether this crate was compiled without optimisation; llama.cpp always is with it.
    pub debug_build: bool,
    /// The version of the llama.cpp that is linked.
    pub llama_cpp_version: String,
    /// How llama.cpp's backends are compiled, and what they use of the machine, as
    /// `llama_print_system_info` has it.
    pub llama_cpp_build: String,
    /// All devices, in llama.cpp's order.
    pub devices: Vec<DeviceRecord>,
    /// The machine.
    pub machine: Machine,
    /// Environment variables that begin with `GGML_`, `LLAMA_`, or what the GPUs' and the
    /// threads' libraries read: `CUDA_`, `HIP_`, `HSA_`, `ROCR_`, `VK_`, `MTL_`, `OMP_`, `GOMP_`,
    /// `KMP_`, `OPENBLAS_`, `MKL_`. One whose name ends as a secret's does has `(not shown)` for a value.
    pub environment: BTreeMap<String, String>,
}

/// A model, as its files have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ModelRecord {
    /// Its name: `general.name`, or its file's.
    pub name: String,
    /// llama.cpp's name of the architecture.
    pub architecture: String,
    /// Its files, in their order.
    pub files: Vec<FileRecord>,
    /// Elements of all tensors: the parameters.
    pub n_params: u64,
    /// Bytes of its tensors by element type: `q4_K`, `mxfp4`.
    pub bytes_by_type: BTreeMap<String, u64>,
    /// Its metadata, without the vocabulary, without lists and without texts of more than 256
    /// bytes.
    pub metadata: BTreeMap<String, String>,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FileRecord {
    /// Where it is, as it was named.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its SHA-256, as 64 lower-case hexadecimal digits.
    pub sha256: String,
}

/// A device of llama.cpp's, and its memory when it was written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeviceRecord {
    /// Its short name: `CUDA0`.
    pub name: String,
    /// What it says it is.
    pub description: String,
    /// The backend that runs it.
    pub backend: String,
    /// Whether models are offloaded to it.
    pub is_gpu: bool,
    /// Bytes of its memory; 0 where it does not say.
    pub total: u64,
    /// Bytes that nobody used; all of them on the CPU, which does not know.
    pub free: u64,
}

impl Provenance {
    /// What a result for this model is measured on, now and here. The hashes of the files are
    /// taken from `known` where it has them; `None` reads every file.
    ///
    /// # Errors
    /// What [`Header::read`], [`HashCache::sha256`] and [`Machine::this`] return.
    pub fn of(
        backend: &Backend,
        model: impl Into<ModelSource>,
        known: Option<&mut HashCache>,
    ) -> Result<Self> {
        let command = env::args_os().map(|argument| argument.to_string_lossy().into_owned());
        let build = {
            let _registry = read_registry();
            ffi::system_info()
        };
        Ok(Self {
            date: timestamp(),
            command: command.collect(),
            model: ModelRecord::of(&Header::read(model)?, known)?,
            sources: Vec::new(),
            crate_version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: None,
            features: features(),
            debug_build: cfg!(debug_assertions),
            llama_cpp_version: ffi::llama_version().to_owned(),
            llama_cpp_build: build.trim().to_owned(),
            devices: backend.devices().iter().map(DeviceRecord::of).collect(),
            machine: Machine::this(backend)?,
            environment: environment(env::vars_os().map(|(name, value)| {
                let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
                (text(name), text(value))
            })),
        })
    }

    /// The same, with the commit of the source that was compiled.
    #[must_use]
    pub fn with_commit(mut self, commit: impl Into<String>) -> Self {
        self.commit = Some(commit.into());
        self
    }

    /// The same, with the files that the model was made from.
    #[must_use]
    pub fn with_sources(mut self, sources: impl IntoIterator<Item = FileRecord>) -> Self {
        self.sources = sources.into_iter().collect();
        self
    }
}

impl ModelRecord {
    fn of(header: &Header, mut known: Option<&mut HashCache>) -> Result<Self> {
        let mut n_params: u64 = 0;
        let mut bytes_by_type: BTreeMap<String, u64> = BTreeMap::new();
        for tensor in header.tensors() {
            n_params = n_params.saturating_add(tensor.n_elements());
            let bytes = bytes_by_type.entry(tensor.kind.clone()).or_default();
            *bytes = bytes.saturating_add(tensor.bytes);
        }
        let files = header.paths().iter();
        let files = files.map(|path| FileRecord::of(path, known.as_deref_mut()));
        // By their keys: the vocabulary's values would all be read to be left out.
        let keys = header.keys().into_iter();
        let pairs = keys
            .filter(|key| !key.starts_with("tokenizer."))
            .filter_map(|key| Some((header.value(&key)?, key)));
        Ok(Self {
            name: header.name(),
            architecture: header.architecture().to_owned(),
            files: files.collect::<Result<_>>()?,
            n_params,
            bytes_by_type,
            metadata: pairs
                .filter(|(value, _)| is_short(value))
                .map(|(value, key)| (key, value.to_string()))
                .collect(),
        })
    }
}

fn is_short(value: &Value) -> bool {
    match value {
        Value::Array(_) => false,
        Value::Text(text) => text.len() <= LONGEST_TEXT,
        _ => true,
    }
}

impl FileRecord {
    /// A file as it is now. Its hash is taken from `known` where it has it; `None` reads the
    /// file.
    ///
    /// # Errors
    /// As [`HashCache::sha256`].
    pub fn of(path: impl Into<PathBuf>, known: Option<&mut HashCache>) -> Result<Self> {
        let path = path.into();
        let sha256 = match known {
            Some(known) => known.sha256(&path)?,
            None => sha256(&path)?,
        };
        match path.metadata() {
            Ok(metadata) => Ok(Self {
                bytes: metadata.len(),
                path,
                sha256,
            }),
            Err(source) => Err(Error::File { path, source }),
        }
    }
}

impl DeviceRecord {
    fn of(device: &Device) -> Self {
        let memory = device.memory();
        Self {
            name: device.name(),
            description: device.description(),
            backend: device.backend_name(),
            is_gpu: device.device_type().is_gpu(),
            total: memory.total,
            free: memory.free,
        }
    }
}

fn features() -> Vec<String> {
    macro_rules! switched_on {
        ($($name:literal),* $(,)?) => {
            [$(cfg!(feature = $name).then_some($name)),*]
        };
    }
    let features = switched_on![
        "blas",
        "cuda",
        "cuda-no-vmm",
        "dynamic-backends",
        "dynamic-link",
        "hip",
        "measure",
        "metal",
        "opencl",
        "openmp",
        "portable",
        "rpc",
        "serde",
        "static-stdcxx",
        "system",
        "vulkan",
    ];
    features.into_iter().flatten().map(str::to_owned).collect()
}

fn environment(variables: impl Iterator<Item = (String, String)>) -> BTreeMap<String, String> {
    variables
        .filter(|(name, _)| VARIABLES.iter().any(|start| name.starts_with(start)))
        .map(|(name, value)| {
            let is_secret = SECRETS.iter().any(|end| name.ends_with(end));
            let value = if is_secret {
                "(not shown)".to_owned()
            } else {
                value
            };
            (name, value)
        })
        .collect()
}

/// The time now, UTC by RFC 3339, as [`Provenance::date`] has it.
#[must_use]
pub fn timestamp() -> String {
    rfc3339(SystemTime::now())
}

fn rfc3339(time: SystemTime) -> String {
    // These directives are known, so there is no other case.
    strftime(time, "%FT%TZ").unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn dates_are_written_by_rfc_3339() {
        let time = UNIX_EPOCH + Duration::from_secs(1_735_689_599);
        assert_eq!(rfc3339(time), "2024-12-31T23:59:59Z");
    }

    #[test]
    fn variables_that_matter_are_kept_and_secrets_are_not() {
        let variables = [
            ("GGML_OP_OFFLOAD_MIN_BATCH", "32"),
            ("LLAMA_API_KEY", "abc"),
            ("LLAMA_ARG_HF_TOKEN", "abc"),
            ("OMP_NUM_THREADS", "2"),
            ("PATH", "/bin"),
        ];
        let owned = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let kept = environment(owned.into_iter());
        let kept: Vec<_> = kept.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(
            kept,
            [
                ("GGML_OP_OFFLOAD_MIN_BATCH", "32"),
                ("LLAMA_API_KEY", "(not shown)"),
                ("LLAMA_ARG_HF_TOKEN", "(not shown)"),
                ("OMP_NUM_THREADS", "2"),
            ]
        );
    }

    #[test]
    fn the_feature_that_this_is_part_of_is_named() {
        assert!(features().contains(&"measure".to_owned()));
    }
}
