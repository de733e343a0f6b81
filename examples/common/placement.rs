//! Where a model's tensors are, for scripts and as a picture.

use std::fs;
use std::path::Path;

use llama_moe::gguf::Header;
use llama_moe::{Error, FailureKind, Model, Picture};
use serde::Serialize;

use crate::Result;

/// Where a model's tensors are, in numbers.
#[derive(Clone, Debug, Serialize)]
pub struct PlacementReport {
    /// How the file was read: `none`, `mmap`.
    pub load_mode: String,
    /// One entry for each buffer type.
    pub memory: Vec<MemoryReport>,
    /// One entry for each rule, in order.
    pub rules: Vec<RuleReport>,
    /// Names of tensors that are elsewhere than a rule asked for.
    pub misplaced: Vec<String>,
}

/// The tensors in one kind of memory.
#[derive(Clone, Debug, Serialize)]
pub struct MemoryReport {
    /// The buffer type: `CPU`, `CUDA0`.
    pub buffer: String,
    /// Whether it is system memory.
    pub is_host: bool,
    /// How many tensors there are.
    pub n_tensors: usize,
    /// Their bytes together.
    pub bytes: u64,
}

/// What one rule took.
#[derive(Clone, Debug, Serialize)]
pub struct RuleReport {
    /// The rule, in words.
    pub rule: String,
    /// The names of the tensors.
    pub tensors: Vec<String>,
    /// Their bytes together.
    pub bytes: u64,
    /// The buffer types they are in.
    pub buffers: Vec<String>,
}

impl PlacementReport {
    /// The report; nothing where an installed llama.cpp (feature `system`) does not tell.
    ///
    /// # Errors
    /// If llama.cpp's table of tensors cannot be read.
    pub fn of(model: &Model) -> Result<Option<Self>> {
        let placement = match model.placement() {
            Ok(placement) => placement,
            Err(Error::Llama {
                kind: FailureKind::Unsupported,
                ..
            }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let rules = placement.rules().iter().enumerate().map(|(index, rule)| {
            let mut report = RuleReport {
                rule: rule.clone(),
                tensors: Vec::new(),
                bytes: 0,
                buffers: Vec::new(),
            };
            for tensor in placement.moved_by(index) {
                report.tensors.push(tensor.name.clone());
                report.bytes += tensor.bytes;
                if !report.buffers.contains(&tensor.buffer) {
                    report.buffers.push(tensor.buffer.clone());
                }
            }
            report
        });
        let memory = placement.sums().into_iter().map(|sum| MemoryReport {
            buffer: sum.buffer,
            is_host: sum.is_host,
            n_tensors: sum.n_tensors,
            bytes: sum.bytes,
        });
        Ok(Some(Self {
            load_mode: placement.load_mode().to_string(),
            memory: memory.collect(),
            rules: rules.collect(),
            misplaced: placement
                .misplaced()
                .map(|tensor| tensor.name.clone())
                .collect(),
        }))
    }
}

/// Writes a picture as SVG.
///
/// # Errors
/// If the file cannot be written.
pub fn write_svg(picture: &Picture, path: &Path) -> Result<()> {
    fs::write(path, picture.svg()).map_err(|error| format!("{}: {error}", path.display()).into())
}

/// Writes a picture of where a loaded model's tensors are, and a cache of experts of `cache_size`
/// bytes; 0 for none.
///
/// # Errors
/// If the model's file or llama.cpp's table of tensors cannot be read, if experts cannot be cached
/// as asked, or the picture's file cannot be written.
pub fn write_placement_svg(model: &Model, cache_size: u64, path: &Path) -> Result<()> {
    let header = Header::read(model.path())?;
    let picture = Picture::of_placement(&model.placement()?, &header);
    let picture = match cache_size {
        0 => picture,
        size => picture.with_moe_cache(&model.moe_cache(size)?),
    };
    write_svg(&picture, path)
}
