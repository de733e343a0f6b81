//! The header of a model, over all of its files.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::moe::MoeShape;
use super::tensor::{Role, TensorInfo, block_of, is_routed_expert};
use super::value::Value;
use crate::error::{Error, Result};
use crate::ffi::GgufHeader;
use crate::model::ModelSource;

/// The header of a model, over all of its files.
///
/// Cheap to clone. Metadata are read when they are asked for.
///
/// Rests on `gguf_init_from_file`.
#[derive(Clone, Debug)]
pub struct Header {
    files: Arc<Files>,
    architecture: Arc<str>,
    block_count: u32,
    /// Blocks at the end that predict further tokens (MTP).
    nextn_blocks: u32,
}

#[derive(Debug)]
struct Files {
    /// Of the first file, which has the metadata.
    first: GgufHeader,
    paths: Vec<PathBuf>,
    tensors: Vec<TensorInfo>,
}

impl Header {
    /// Reads the header of a model: a path, or the paths of its split files. Where a path is
    /// the first of several files, all are read.
    ///
    /// # Errors
    /// [`Error::File`] if a file cannot be read or is none: a folder, a pipe, a device.
    /// [`Error::Load`] if it is no GGUF, is damaged or cut short, claims more than a model can
    /// have, or is no part of the model.
    pub fn read(source: impl Into<ModelSource>) -> Result<Self> {
        match source.into() {
            ModelSource::File(path) => {
                let first = read_file(&path)?;
                let rest = split_paths(&path, n_files(&first, &path)?)?;
                Self::join(first, path, rest)
            }
            ModelSource::Splits(paths) => {
                let mut paths = paths.into_iter();
                let path = paths.next().ok_or_else(|| Error::Parameter {
                    parameter: "split files",
                    value: "[]".to_owned(),
                    reason: "a model has at least one file".to_owned(),
                })?;
                let (first, rest) = (read_file(&path)?, paths.collect::<Vec<_>>());
                let (n, given) = (n_files(&first, &path)?, rest.len() + 1);
                if usize::from(n) != given {
                    return Err(damaged(
                        &path,
                        format!("it is the first of {n} files, but {given} are given"),
                    ));
                }
                Self::join(first, path, rest)
            }
        }
    }

    fn join(first: GgufHeader, path: PathBuf, rest: Vec<PathBuf>) -> Result<Self> {
        let architecture = match first.value("general.architecture") {
            Some(Value::Text(architecture)) => architecture,
            _ => String::new(),
        };
        let count = |key| {
            let count = number(&first, &format!("{architecture}.{key}"))?;
            Some(u32::try_from(count).unwrap_or(u32::MAX))
        };
        let block_count = count("block_count");
        let nextn_blocks = count("nextn_predict_layers").unwrap_or(0);
        let n_layer = block_count.map_or(u32::MAX, |n| n.saturating_sub(nextn_blocks));

        let mut tensors = tensors_of(&first, 0, &path, n_layer)?;
        if !rest.is_empty() {
            check_split(&first, &path, 0)?;
        }
        for (index, path) in (1..).zip(&rest) {
            let file = read_file(path)?;
            check_split(&file, path, index)?;
            tensors.extend(tensors_of(&file, index, path, n_layer)?);
        }
        let mut names = HashSet::with_capacity(tensors.len());
        if let Some(twice) = tensors.iter().find(|tensor| !names.insert(&tensor.name)) {
            let path = if twice.file == 0 {
                &path
            } else {
                &rest[twice.file - 1]
            };
            return Err(damaged(
                path,
                format!("the tensor {} is there twice", twice.name),
            ));
        }
        if !rest.is_empty()
            && let Some(expected) = number(&first, "split.tensors.count")
            && expected != tensors.len() as u64
        {
            return Err(damaged(
                &path,
                format!(
                    "split.tensors.count = {expected}, but the files have {} tensors together",
                    tensors.len()
                ),
            ));
        }
        let mut paths = rest;
        paths.insert(0, path);
        Ok(Self {
            files: Arc::new(Files {
                first,
                paths,
                tensors,
            }),
            architecture: architecture.into(),
            block_count: block_count.unwrap_or(0),
            nextn_blocks,
        })
    }

    /// The model's files, in their order.
    #[must_use]
    pub fn paths(&self) -> &[PathBuf] {
        &self.files.paths
    }

    /// The architecture, by llama.cpp's name for it: `qwen3moe`, `gpt-oss`. Empty if the file
    /// has none.
    #[must_use]
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// The tensors in the files' order.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.files.tensors
    }

    /// The tensor with this name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors().iter().find(|tensor| tensor.name == name)
    }

    /// The value of a metadata key.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<Value> {
        self.files.first.value(key)
    }

    /// The metadata's keys, in the file's order.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        self.files.first.keys()
    }

    /// All metadata, in the file's order. The vocabulary is among it: hundreds of thousands
    /// of values.
    pub fn metadata(&self) -> impl Iterator<Item = (String, Value)> {
        self.files.first.pairs()
    }

    /// How many values a metadata key has, which for the vocabulary is quicker than to
    /// read them: 1 if it is no array.
    #[must_use]
    pub fn n_values(&self, key: &str) -> Option<usize> {
        self.files.first.n_values(key)
    }

    /// The blocks of the file (`block_count`), those that predict further tokens included.
    #[must_use]
    pub fn n_blocks(&self) -> u32 {
        self.block_count
    }

    /// The blocks at the end that predict further tokens (MTP), which are not loaded unless
    /// [`ModelParams::with_mtp`](crate::ModelParams::with_mtp) asks for them.
    #[must_use]
    pub fn n_mtp_blocks(&self) -> u32 {
        self.nextn_blocks
    }

    /// A text that says what the model is: `general.name`, or its file's name.
    #[must_use]
    pub fn name(&self) -> String {
        match self.value("general.name") {
            Some(Value::Text(name)) if !name.is_empty() => name,
            _ => {
                let file = self.paths().first().and_then(|path| path.file_stem());
                file.unwrap_or_default().to_string_lossy().into_owned()
            }
        }
    }

    /// What the experts amount to; `None` for a dense model.
    #[must_use]
    pub fn moe(&self) -> Option<MoeShape> {
        MoeShape::of(self)
    }

    /// Bytes of all tensors.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let bytes = self.tensors().iter().map(|tensor| tensor.bytes);
        bytes.fold(0, u64::saturating_add)
    }

    /// The largest of the numbers of a hyper-parameter, named without the architecture.
    pub(crate) fn hyper_parameter(&self, key: &str) -> Option<u64> {
        let key = format!("{}.{key}", self.architecture);
        self.gguf().whole_numbers(&key).max()
    }

    pub(super) fn gguf(&self) -> &GgufHeader {
        &self.files.first
    }

    /// Counts blocks as a load does that replaces these entries.
    pub(super) fn set_blocks(&mut self, block_count: u32, nextn_blocks: u32) {
        (self.block_count, self.nextn_blocks) = (block_count, nextn_blocks);
    }

    /// Blocks that are loaded, with those for multi-token prediction or without.
    pub(crate) fn n_blocks_loaded(&self, with_mtp: bool) -> u32 {
        if with_mtp {
            self.block_count
        } else {
            self.block_count.saturating_sub(self.nextn_blocks)
        }
    }

    /// Whether the tensors of a block are loaded, or those outside of blocks.
    pub(crate) fn is_loaded(&self, block: Option<u32>, with_mtp: bool) -> bool {
        let Some(block) = block else {
            return true;
        };
        let of_head = block.checked_sub(self.block_count);
        block < self.n_blocks_loaded(with_mtp) || of_head.is_some_and(|n| n < self.n_head_blocks())
    }

    /// Blocks of a draft's head, after those of the model: its layers, and what it makes its
    /// features with.
    fn n_head_blocks(&self) -> u32 {
        if self.architecture() != "dflash" {
            return 0;
        }
        match number(self.gguf(), "lilicorr.num_layers") {
            None | Some(0) => 0,
            Some(n) => u32::try_from(n).unwrap_or(u32::MAX).saturating_add(1),
        }
    }

    /// Whether the loader can leave a tensor in the file, and read rows of it when they are needed.
    pub(crate) fn can_stay_in_file(&self, tensor: &TensorInfo) -> bool {
        tensor.name == "per_layer_token_embd.weight"
            && matches!(self.architecture(), "deepseek41" | "gemma4" | "qwen4exp")
    }

    /// Whether a block turns its positions by the factors that blocks share. In some
    /// architectures only attention to the whole context does.
    pub(crate) fn has_rope_factors(&self, block: u32) -> bool {
        let of_block = |key: &str| {
            let key = format!("{}.attention.{key}", self.architecture);
            self.gguf().whole_numbers(&key).nth(block as usize)
        };
        let has_window = || of_block("sliding_window_pattern").unwrap_or(0) != 0;
        match self.architecture() {
            "gemma4" | "gemma4-assistant" => !has_window(),
            "lfm3" => !has_window() && of_block("head_count_kv") != Some(0),
            _ => true,
        }
    }

    /// The blocks that have routed experts, ascending.
    pub(crate) fn expert_blocks(&self) -> Vec<u32> {
        self.blocks_where(|tensor| is_routed_expert(&tensor.name))
    }

    /// Those of them that are not for multi-token prediction.
    pub(super) fn moe_layers(&self) -> Vec<u32> {
        self.blocks_where(|tensor| tensor.role == Role::RoutedExpert)
    }

    fn blocks_where(&self, wanted: impl Fn(&TensorInfo) -> bool) -> Vec<u32> {
        let tensors = self.tensors().iter().filter(|tensor| wanted(tensor));
        let blocks: BTreeSet<u32> = tensors.filter_map(|tensor| tensor.block).collect();
        blocks.into_iter().collect()
    }

    /// The tokens of the vocabulary; `None` without one.
    pub(crate) fn n_tokens(&self) -> Option<usize> {
        let n = self.gguf().n_texts("tokenizer.ggml.tokens")?;
        (n > 0).then_some(n)
    }

    /// Whether positions are looked up in a table, which ends where the training did.
    pub(crate) fn has_learned_positions(&self) -> bool {
        self.tensor("position_embd.weight").is_some()
    }
}

/// The tensors of one file, whose data must lie within it.
fn tensors_of(
    header: &GgufHeader,
    file: usize,
    path: &Path,
    n_layer: u32,
) -> Result<Vec<TensorInfo>> {
    let n_bytes = fs::metadata(path)
        .map_err(|source| Error::File {
            path: path.to_owned(),
            source,
        })?
        .len();
    let mut tensors = Vec::with_capacity(header.n_tensors());
    for record in header.tensors() {
        let name = record
            .name
            .map_err(|name| damaged(path, format!("the tensor name {name:?} is no UTF-8")))?;
        if record.shape.contains(&0) {
            let shape = record.shape;
            return Err(damaged(path, format!("{name} has no elements: {shape:?}")));
        }
        let end = record.offset.checked_add(record.bytes);
        if end.is_none_or(|end| end > n_bytes) {
            let end = end.map_or("2^64 or later".to_owned(), |end| end.to_string());
            return Err(damaged(
                path,
                format!(
                    "the file has {n_bytes} bytes, but the data of {name} ends at byte {end}: it \
                     is incomplete or damaged"
                ),
            ));
        }
        tensors.push(TensorInfo {
            role: Role::of(&name, n_layer),
            block: block_of(&name),
            name,
            kind: record.kind,
            shape: record.shape,
            bytes: record.bytes,
            file,
            offset: record.offset,
            type_id: record.type_id,
        });
    }
    Ok(tensors)
}

fn number(header: &GgufHeader, key: &str) -> Option<u64> {
    header.value(key).as_ref().and_then(Value::as_u64)
}

fn damaged(path: &Path, reason: String) -> Error {
    Error::Load {
        path: path.to_owned(),
        reason,
    }
}

/// Reads one file's header, telling a file that cannot be read from one that is no GGUF.
pub(super) fn read_file(path: &Path) -> Result<GgufHeader> {
    let unreadable = |source| Error::File {
        path: path.to_owned(),
        source,
    };
    // Before it is opened: a pipe would wait there for somebody who writes.
    check_is_file(&fs::metadata(path).map_err(unreadable)?).map_err(unreadable)?;
    let file = File::open(path).map_err(unreadable)?;
    check_is_file(&file.metadata().map_err(unreadable)?).map_err(unreadable)?;
    GgufHeader::read(file).map_err(|failure| damaged(path, failure.reason))
}

fn check_is_file(metadata: &Metadata) -> io::Result<()> {
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !metadata.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a pipe or a device; a model is read at several places at once, which needs a file",
        ));
    }
    Ok(())
}

/// How many files the model has, as its first one says.
fn n_files(first: &GgufHeader, path: &Path) -> Result<u16> {
    match first.value("split.count") {
        // llama.cpp counts a 0 as 1.
        Some(Value::U16(n)) => Ok(n.max(1)),
        None => Ok(1),
        // llama.cpp reads 16 bits only.
        Some(other) => Err(damaged(
            path,
            format!("split.count is no 16-bit number, but {}", other.type_name()),
        )),
    }
}

/// Whether a file is the model's part with this index.
fn check_split(file: &GgufHeader, path: &Path, index: usize) -> Result<()> {
    let reason = match file.value("split.no") {
        Some(Value::U16(number)) if usize::from(number) == index => return Ok(()),
        Some(Value::U16(number)) => {
            format!("split.no = {number}, but it is given as the file with index {index}")
        }
        None => "split.no is missing: this is no part of a model".to_owned(),
        Some(other) => format!("split.no is no 16-bit number, but {}", other.type_name()),
    };
    Err(damaged(path, reason))
}

/// The files after the first, whose name ends in "-00001-of-0000N.gguf".
fn split_paths(first: &Path, n_files: u16) -> Result<Vec<PathBuf>> {
    if n_files <= 1 {
        return Ok(Vec::new());
    }
    let name = first.file_name().and_then(|name| name.to_str());
    let prefix = name
        .and_then(|name| name.strip_suffix(&format!("-00001-of-{n_files:05}.gguf")))
        .ok_or_else(|| Error::Load {
            path: first.to_owned(),
            reason: format!(
                "it is one of {n_files} files of a model; name the first, \
                 whose name ends in -00001-of-{n_files:05}.gguf"
            ),
        })?;
    Ok((2..=n_files)
        .map(|file| first.with_file_name(format!("{prefix}-{file:05}-of-{n_files:05}.gguf")))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_files_are_named_after_the_first() {
        let paths = split_paths(Path::new("a/m-00001-of-00003.gguf"), 3).unwrap();
        assert_eq!(
            paths,
            [
                Path::new("a/m-00002-of-00003.gguf"),
                Path::new("a/m-00003-of-00003.gguf")
            ]
        );
        assert!(split_paths(Path::new("a/m-00002-of-00003.gguf"), 3).is_err());
        assert!(split_paths(Path::new("a/m.gguf"), 1).unwrap().is_empty());
    }
}
