//! Which model, and where its tensors go.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::Args;
use llama_moe::{Backend, HugePages, LoadMode, Model, ModelParams, ModelSource};

use crate::progress::ShareBar;
use crate::{HubModel, Result};

/// The model that came with the repository: what the examples use when none is named.
#[must_use]
pub fn bundled_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("model/moe-guide-q8_0.gguf")
}

/// The model to load, and the rules for where its tensors live.
///
/// The names are llama.cpp's. Rules are tried in this order: `--override-tensor` as
/// given, then `--cpu-moe` or `--n-cpu-moe`; the first that finds a tensor takes it.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// A GGUF file; of a model in several files, the first [default: the small model that
    /// came with the repository]
    #[arg(short, long, value_name = "PATH", conflicts_with = "hf")]
    model: Option<PathBuf>,

    /// Download a model, once: OWNER/REPO:Q4_K_M
    ///
    /// Needs the feature `hf`. What follows the colon chooses among the repository's GGUF
    /// files by a part of their names; a repository with a single model needs none. Files
    /// are kept below ~/.cache/huggingface or $HF_HOME; $HF_ENDPOINT names another server.
    #[arg(long, value_name = "OWNER/REPO[:QUANT]")]
    hf: Option<HubModel>,

    /// Keep the routed experts of all layers in system memory
    #[arg(long, conflicts_with = "n_cpu_moe")]
    cpu_moe: bool,

    /// Keep the routed experts of the first N blocks in system memory
    #[arg(long, value_name = "N")]
    n_cpu_moe: Option<u32>,

    /// Place the tensors that a regular expression finds; may be repeated
    ///
    /// Tried before --cpu-moe and --n-cpu-moe. A comma of the expression is written "\,".
    #[arg(short, long, value_name = "REGEX=BUFFER,...")]
    override_tensor: Vec<String>,

    /// Layers on the GPUs, counted from the last [default: all]
    #[arg(long, visible_alias = "n-gpu-layers", value_name = "N")]
    gpu_layers: Option<u32>,

    /// GPUs to use, such as CUDA0,CUDA1, or "none" [default: all, and all RPC devices]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    device: Vec<String>,

    /// Read weights in system memory into huge pages: slower to load, faster to compute with
    ///
    /// Needs Linux 6.1. Said is how many of them the system had.
    #[arg(long)]
    huge_pages: bool,

    /// Workers whose devices are used too: examples/rpc_worker is one
    ///
    /// Needs the feature `rpc`. No authentication, no encryption: private networks only.
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',')]
    rpc: Vec<String>,
}

impl ModelArgs {
    /// The same with this file, if there is one.
    #[must_use]
    pub fn or_file(mut self, file: Option<PathBuf>) -> Self {
        self.model = file.or(self.model);
        self
    }

    /// Whether the model is the one that came with the repository.
    #[must_use]
    pub fn is_bundled(&self) -> bool {
        self.model.is_none() && self.hf.is_none()
    }

    /// The model's files, downloaded if that is needed.
    ///
    /// # Errors
    /// If a download fails, or there is no model by default.
    pub fn source(&self) -> Result<ModelSource> {
        match (&self.model, &self.hf) {
            (Some(path), _) => Ok(path.into()),
            (None, Some(model)) => Ok(model.fetch()?.into()),
            (None, None) => {
                let path = bundled_model();
                if path.exists() {
                    Ok(path.into())
                } else {
                    let path = path.display();
                    Err(format!("'{path}' is not there; name a model with --model").into())
                }
            }
        }
    }

    /// How to load it. Connects to the workers.
    ///
    /// # Errors
    /// For an unknown device, a worker that does not answer, a rule that is none.
    pub fn params(&self, backend: &Backend) -> Result<ModelParams> {
        add_rpc_servers(backend, &self.rpc)?;
        let mut params = ModelParams::default();
        for rules in &self.override_tensor {
            params = params
                .with_override_str(rules)
                .map_err(|error| format!("--override-tensor {rules}: {error}"))?;
        }
        if self.cpu_moe {
            params = params.with_cpu_moe_all();
        }
        if let Some(n) = self.n_cpu_moe {
            params = params.with_n_cpu_moe(n);
        }
        if let Some(n) = self.gpu_layers {
            params = params.with_n_gpu_layers(n);
        }
        if self.huge_pages {
            // The pages of a mapped file are the file cache's.
            params = params.with_load_mode(LoadMode::None);
        }
        self.on_devices(backend, params)
    }

    /// How to load another model beside it: on the same devices, without any rules.
    ///
    /// # Errors
    /// As [`params`](Self::params).
    pub fn params_beside(&self, backend: &Backend) -> Result<ModelParams> {
        add_rpc_servers(backend, &self.rpc)?;
        self.on_devices(backend, ModelParams::default())
    }

    fn on_devices(&self, backend: &Backend, params: ModelParams) -> Result<ModelParams> {
        if self.device.is_empty() {
            return Ok(params);
        }
        if self.device == ["none"] {
            return Ok(params.with_devices([]));
        }
        let devices = self.device.iter().map(|name| backend.device(name));
        Ok(params.with_devices(devices.collect::<Result<Vec<_>, _>>()?))
    }

    /// Loads it, with a progress bar.
    ///
    /// # Errors
    /// As the two above, and whatever [`Model::load`] finds.
    pub fn load(&self, backend: &Backend) -> Result<Model> {
        self.load_with(backend, self.params(backend)?)
    }

    /// Loads it with other parameters, with a progress bar.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_with(&self, backend: &Backend, params: ModelParams) -> Result<Model> {
        self.load_watched(backend, params, |_| ControlFlow::Continue(()))
    }

    /// Loads it with other parameters, with a progress bar, and with somebody else who is told
    /// how much is loaded, from 0 to 1, and may end it.
    ///
    /// # Errors
    /// As [`load`](Self::load), and if `watch` ends it.
    pub fn load_watched(
        &self,
        backend: &Backend,
        params: ModelParams,
        mut watch: impl FnMut(f32) -> ControlFlow<()>,
    ) -> Result<Model> {
        let source = self.source()?;
        let bar = ShareBar::new("loading");
        let model = Model::load_with_progress(backend, source, params, |share| {
            bar.set(share);
            watch(share)
        })?;
        drop(bar);
        if self.huge_pages {
            let pages = model.use_huge_pages();
            let pages = pages.map_err(|error| format!("--huge-pages: {error}"))?;
            // Nobody may be reading it.
            let _ = writeln!(io::stderr(), "{}", told(&pages));
        }
        Ok(model)
    }
}

/// What came of `--huge-pages`, in a line.
fn told(pages: &HugePages) -> String {
    let (huge, asked) = (pages.huge >> 20, pages.asked >> 20);
    let refusal = pages.refusal();
    let refusal = refusal.map(|error| format!("; the others were refused: {error}"));
    format!(
        "huge pages: {huge} of {asked} MiB of weights in system memory{}",
        refusal.unwrap_or_default()
    )
}

/// Connects to workers, whose devices are then used too.
///
/// # Errors
/// If one does not answer, and without the feature `rpc` if there is any.
#[cfg(feature = "rpc")]
pub fn add_rpc_servers(backend: &Backend, endpoints: &[String]) -> Result<()> {
    for endpoint in endpoints {
        backend
            .add_rpc_server(endpoint.as_str())
            .map_err(|error| format!("--rpc {endpoint}: {error}"))?;
    }
    Ok(())
}

/// Refuses workers: this is built without the feature `rpc`.
///
/// # Errors
/// If there is any.
#[cfg(not(feature = "rpc"))]
pub fn add_rpc_servers(_: &Backend, endpoints: &[String]) -> Result<()> {
    match endpoints.first() {
        None => Ok(()),
        Some(endpoint) => Err(format!(
            "--rpc {endpoint}: built without the feature `rpc`; add --features rpc to cargo's options"
        )
        .into()),
    }
}
