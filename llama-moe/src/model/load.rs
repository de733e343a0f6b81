//! Loading.

use std::ops::ControlFlow;

use super::params::{LoadMode, ModelParams};
use super::source::ModelSource;
use super::{Inner, Model};
use crate::backend::{Backend, read_registry, settle_numa};
use crate::error::{Error, Result};
use crate::ffi::{
    DeviceHandle, KV_MAX, KvValue, LoadFailure, LoadRequest, LoadSource, ModelHandle, ModelNumber,
};
use crate::gguf::{Header, Value};
use crate::placement::{LoweredOverrides, OverrideError, Placement};

impl Model {
    /// Loads a model: a path, or the paths of its split files.
    ///
    /// Blocks until the weights are in memory. One model is loaded at a time: a second
    /// load waits.
    ///
    /// Rests on `llama_model_load_from_file` and `llama_model_load_from_splits`.
    ///
    /// # Errors
    /// [`Error::File`] if a file cannot be read, [`Error::Load`] if it is no model that
    /// llama.cpp can load, [`Error::Override`] if a rule cannot be applied to it,
    /// [`Error::Parameter`] for a parameter that cannot work.
    pub fn load(
        backend: &Backend,
        source: impl Into<ModelSource>,
        params: ModelParams,
    ) -> Result<Self> {
        load(backend, source.into(), &params, None)
    }

    /// As [`load`](Self::load), telling the share that is loaded, from 0 to 1, now and
    /// then. The callback ends the load by returning [`ControlFlow::Break`].
    ///
    /// # Errors
    /// As `load`; [`Error::LoadCancelled`] if the callback ended it;
    /// [`Error::CallbackPanicked`] if it panicked.
    pub fn load_with_progress(
        backend: &Backend,
        source: impl Into<ModelSource>,
        params: ModelParams,
        mut progress: impl FnMut(f32) -> ControlFlow<()>,
    ) -> Result<Self> {
        let mut go_on = |share| progress(share).is_continue();
        load(backend, source.into(), &params, Some(&mut go_on))
    }
}

fn load(
    backend: &Backend,
    source: ModelSource,
    params: &ModelParams,
    progress: Option<&mut dyn FnMut(f32) -> bool>,
) -> Result<Model> {
    let header = checked_header(&source, params)?;
    load_checked(
        backend,
        &source,
        &header,
        params,
        params.kv_overrides(),
        progress,
    )
}

/// Loads a model without weights and, where that is possible, without its vocabulary, which
/// is most of such a load's work: to measure, and for nothing else. The load mode is
/// [`LoadMode::None`] whatever the parameters say.
///
/// # Errors
/// As [`Model::load`]; a mistake in the vocabulary is not found.
pub(crate) fn load_to_measure(
    backend: &Backend,
    header: &Header,
    params: &ModelParams,
) -> Result<Model> {
    params.check_kv_overrides()?;
    let source = match header.paths() {
        [path] => ModelSource::File(path.clone()),
        paths => ModelSource::Splits(paths.to_vec()),
    };
    let (checked, kv_overrides) = match without_vocab(header) {
        Some(mut replaced) => {
            // The first of several values for a key holds.
            replaced.extend_from_slice(params.kv_overrides());
            (header.check_hyper_parameters(&replaced), replaced)
        }
        None => {
            let replaced = params.kv_overrides().to_vec();
            (header.check(params.is_vocab_only(), &replaced), replaced)
        }
    };
    checked.map_err(|reason| Error::Load {
        path: source.first().to_owned(),
        reason,
    })?;
    let mut header = header.clone();
    header.replace(params.kv_overrides());
    let params = params
        .clone()
        .with_no_alloc(true)
        .with_load_mode(LoadMode::None);
    load_checked(backend, &source, &header, &params, &kv_overrides, None)
}

/// What has llama.cpp load no vocabulary, but count its tokens, on which shapes and buffers
/// depend. `None` where the file has none, or none that could be loaded.
fn without_vocab(header: &Header) -> Option<Vec<(String, KvValue)>> {
    const MODEL: &str = "tokenizer.ggml.model";
    let n_tokens = u32::try_from(header.n_tokens()?).ok()?;
    match header.value(MODEL)? {
        Value::Text(model) if model != "no_vocab" && model != "none" => {}
        _ => return None,
    }
    let size_key = format!("{}.vocab_size", header.architecture());
    if size_key.len() > KV_MAX {
        return None;
    }
    Some(vec![
        (MODEL.to_owned(), KvValue::Text("no_vocab".to_owned())),
        (size_key, KvValue::Int(n_tokens.into())),
    ])
}

/// Loads a model whose header has been checked. `kv_overrides` stand in for those of `params`.
fn load_checked(
    backend: &Backend,
    source: &ModelSource,
    header: &Header,
    params: &ModelParams,
    kv_overrides: &[(String, KvValue)],
    progress: Option<&mut dyn FnMut(f32) -> bool>,
) -> Result<Model> {
    let path = source.first().to_owned();
    let in_use = params.devices_in_use(backend)?;
    // A vocabulary has no tensors, so there is nothing that rules could match.
    let overrides = if params.is_vocab_only() {
        LoweredOverrides::default()
    } else {
        params
            .overrides()
            .lower_for(header, params.loads_mtp(), &in_use)?
    };
    let mut settings = params.settings().clone();
    settings.load_mode = params.choose_load_mode(&overrides, &in_use);

    let devices: Option<Vec<DeviceHandle>> = params
        .devices()
        .map(|devices| devices.iter().map(|device| device.handle()).collect());
    let raw = overrides.raw();
    settle_numa();
    let loaded = {
        let _registry = read_registry();
        let request = LoadRequest {
            source: match source {
                ModelSource::File(path) => LoadSource::File(path),
                ModelSource::Splits(paths) => LoadSource::Splits(paths),
            },
            settings: &settings,
            devices: devices.as_deref(),
            overrides: &raw,
            tensor_split: params.tensor_split(),
            kv_overrides,
        };
        ModelHandle::load(&request, progress)?
    };
    let handle = loaded.map_err(|failure| match failure {
        LoadFailure::Failed(failure) => Error::Load {
            path: path.clone(),
            reason: failure.reason,
        },
        LoadFailure::Cancelled => Error::LoadCancelled { path: path.clone() },
        LoadFailure::Panicked(message) => Error::CallbackPanicked {
            callback: "progress callback",
            message,
        },
    })?;
    drop(raw);
    let load_mode = LoadMode::from_raw(settings.load_mode);
    if !overrides.is_empty() {
        check(&handle, &overrides, load_mode, params)?;
    }
    Ok(Model(std::sync::Arc::new(Inner {
        n_ctx_train: u32::try_from(handle.number(ModelNumber::CtxTrain)).unwrap_or(0),
        learned_positions: header.has_learned_positions(),
        handle,
        path,
        overrides,
        load_mode,
        devices: in_use.devices.clone(),
        tensor_split: params.tensor_split().to_vec(),
        merged: in_use.merged,
        vocab_only: params.is_vocab_only(),
        no_alloc: params.settings().no_alloc,
    })))
}

/// The header of a model that llama.cpp's loader does not abort on, as far as is known, with
/// what the parameters replace in it.
pub(crate) fn checked_header(source: &ModelSource, params: &ModelParams) -> Result<Header> {
    params.check_kv_overrides()?;
    let mut header = Header::read(source.clone())?;
    header
        .check(params.is_vocab_only(), params.kv_overrides())
        .map_err(|reason| Error::Load {
            path: source.first().to_owned(),
            reason,
        })?;
    header.replace(params.kv_overrides());
    Ok(header)
}

/// The same for what looks at tensors only, and so can do without a look at the vocabulary.
/// What the loader finds first is found here: that there is a model at all.
pub(crate) fn checked_without_vocab(mut header: Header, params: &ModelParams) -> Result<Header> {
    params.check_kv_overrides()?;
    let refused = |header: &Header, reason| Error::Load {
        path: header.paths().first().cloned().unwrap_or_default(),
        reason,
    };
    header
        .check_hyper_parameters(params.kv_overrides())
        .map_err(|reason| refused(&header, reason))?;
    header.replace(params.kv_overrides());
    let architecture = header.architecture();
    let reason = if architecture == "clip" {
        "it is a projector, which goes with a model and is none itself".to_owned()
    } else if header.n_blocks() == 0 {
        format!("{architecture}.block_count is missing or no number: the file has no layers")
    } else {
        return Ok(header);
    };
    Err(refused(&header, reason))
}

/// Holds what was asked against what the loader has done. A rule that took nothing in
/// the end is an error here too, and a tensor that is elsewhere than asked is said in the log;
/// [`Model::placement`] lists it.
fn check(
    handle: &ModelHandle,
    overrides: &LoweredOverrides,
    load_mode: LoadMode,
    params: &ModelParams,
) -> Result<()> {
    let placement = match Placement::of(handle, overrides, load_mode) {
        Ok(placement) => placement,
        // An installed llama.cpp does not tell: the header's answer has to do.
        Err(Error::Llama {
            kind: crate::FailureKind::Unsupported,
            ..
        }) => return Ok(()),
        Err(error) => return Err(error),
    };
    for tensor in placement.misplaced() {
        tracing::warn!(
            tensor = tensor.name,
            asked = tensor.asked,
            got = tensor.buffer,
            "a tensor is not where a rule asked for it"
        );
    }
    if params.overrides().allows_unmatched() {
        return Ok(());
    }
    for (index, rule) in placement.rules().iter().enumerate() {
        if placement.moved_by(index).next().is_none() {
            return Err(OverrideError::Unmatched {
                rule: rule.clone(),
                n_tensors: placement.tensors().len(),
                hint: "; the file has such tensors, but llama.cpp does not load them".to_owned(),
            }
            .into());
        }
    }
    Ok(())
}
