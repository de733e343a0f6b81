//! The header of a model, over all of its files.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::check::CriticalKeys;
use crate::error::{Error, Result};
use crate::ffi::{GgufHeader, GgufKind, GgufValue};

/// A model's tensors and the few numbers that rules need.
#[derive(Clone, Debug)]
pub(crate) struct ModelHeader {
    tensors: Vec<(String, u64)>,
    pub(super) block_count: u32,
    /// Blocks at the end that predict further tokens (MTP).
    pub(super) nextn_blocks: u32,
    pub(super) critical: CriticalKeys,
}

impl ModelHeader {
    /// Reads the header of the model at `path`; where that is the first of several
    /// files, the headers of all.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let first = read_file(path)?;
        // llama.cpp's loader reads 16 bits, and refuses a number of another type.
        let n_files = number(&first, "split.count").unwrap_or(1);
        let n_files = u16::try_from(n_files).map_err(|_| Error::Load {
            path: path.to_owned(),
            reason: format!("split.count = {n_files}: at most {} are possible", u16::MAX),
        })?;
        let rest = split_paths(path, n_files)?;
        Self::join(first, &rest)
    }

    /// Reads the headers of a model's files, given in their order.
    pub(crate) fn read_splits(paths: &[PathBuf]) -> Result<Self> {
        let (first, rest) = paths.split_first().ok_or_else(|| Error::Parameter {
            parameter: "split files",
            value: "[]".to_owned(),
            reason: "a model has at least one file".to_owned(),
        })?;
        Self::join(read_file(first)?, rest)
    }

    fn join(first: GgufHeader, rest: &[PathBuf]) -> Result<Self> {
        let mut tensors = first.tensors();
        for path in rest {
            let file = read_file(path)?;
            if file.kind("split.no") != Some(GgufKind::U16) {
                return Err(Error::Load {
                    path: path.clone(),
                    reason: "split.no is missing or no 16-bit number: this is no part of a model"
                        .to_owned(),
                });
            }
            tensors.extend(file.tensors());
        }
        let architecture = match first.value("general.architecture") {
            Some(GgufValue::Text(architecture)) => architecture,
            _ => String::new(),
        };
        let count = |key| {
            let count = number(&first, &format!("{architecture}.{key}")).unwrap_or(0);
            u32::try_from(count).unwrap_or(u32::MAX)
        };
        Ok(Self {
            tensors,
            block_count: count("block_count"),
            nextn_blocks: count("nextn_predict_layers"),
            critical: CriticalKeys::read(&first, architecture),
        })
    }

    /// Names and bytes, in the file's order.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = (&str, u64)> {
        self.tensors
            .iter()
            .map(|(name, bytes)| (name.as_str(), *bytes))
    }

    /// Blocks that are loaded, with those for multi-token prediction or without.
    pub(crate) fn n_blocks(&self, with_mtp: bool) -> u32 {
        if with_mtp {
            self.block_count
        } else {
            self.block_count.saturating_sub(self.nextn_blocks)
        }
    }

    /// The blocks that have routed experts, ascending.
    pub(crate) fn moe_blocks(&self) -> Vec<u32> {
        let blocks: BTreeSet<u32> = self
            .tensors()
            .filter(|(name, _)| is_routed_expert(name))
            .filter_map(|(name, _)| Self::block_of(name))
            .collect();
        blocks.into_iter().collect()
    }

    /// Whether positions are looked up in a table, which ends where the training did.
    pub(crate) fn has_learned_positions(&self) -> bool {
        self.tensors()
            .any(|(name, _)| name == "position_embd.weight")
    }

    /// The block that a tensor belongs to, by its name.
    pub(crate) fn block_of(tensor: &str) -> Option<u32> {
        tensor.strip_prefix("blk.")?.split('.').next()?.parse().ok()
    }
}

/// Whether a tensor belongs to a routed expert, by its name.
fn is_routed_expert(tensor: &str) -> bool {
    tensor.split('.').any(|part| {
        part.strip_prefix("ffn_")
            .and_then(|part| part.strip_suffix("exps"))
            .is_some_and(|part| {
                let part = part.strip_suffix("ch").unwrap_or(part);
                matches!(part, "up_" | "down_" | "gate_" | "gate_up_")
            })
    })
}

fn number(header: &GgufHeader, key: &str) -> Option<u64> {
    match header.value(key) {
        Some(GgufValue::Unsigned(numbers)) if numbers.len() == 1 => numbers.first().copied(),
        _ => None,
    }
}

/// Whether there is a file that can be read.
fn check_readable(path: &Path) -> Result<()> {
    let unreadable = |source| Error::File {
        path: path.to_owned(),
        source,
    };
    if fs::metadata(path).map_err(unreadable)?.is_dir() {
        return Err(unreadable(io::Error::from(io::ErrorKind::IsADirectory)));
    }
    File::open(path).map(drop).map_err(unreadable)
}

/// Reads one file's header, telling a file that cannot be read from one that is no GGUF.
pub(super) fn read_file(path: &Path) -> Result<GgufHeader> {
    check_readable(path)?;
    GgufHeader::read(path)?.map_err(|failure| Error::Load {
        path: path.to_owned(),
        reason: failure.reason,
    })
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
    fn routed_experts_are_told_from_their_neighbours() {
        for name in [
            "blk.0.ffn_up_exps.weight",
            "blk.0.ffn_gate_up_exps.weight",
            "blk.0.ffn_down_chexps.weight",
            "blk.0.ffn_gate_exps.bias",
        ] {
            assert!(is_routed_expert(name), "{name}");
        }
        for name in [
            "blk.0.ffn_up.weight",
            "blk.0.ffn_up_shexp.weight",
            "blk.0.ffn_gate_inp.weight",
            "blk.0.ffn_norm_exps.weight",
            "blk.0.exp_probs_b.bias",
        ] {
            assert!(!is_routed_expert(name), "{name}");
        }
    }

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
