//! The files of a model.

use std::path::{Path, PathBuf};

/// The file or files that a model is loaded from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ModelSource {
    /// One file; where it is the first of several (`…-00001-of-0000N.gguf`), the others
    /// are found by their names.
    File(PathBuf),
    /// Several files in their order, whatever their names.
    Splits(Vec<PathBuf>),
}

impl ModelSource {
    /// The first file.
    #[must_use]
    pub fn first(&self) -> &Path {
        match self {
            Self::File(path) => path,
            Self::Splits(paths) => paths.first().map_or(Path::new(""), PathBuf::as_path),
        }
    }
}

impl From<&Path> for ModelSource {
    fn from(path: &Path) -> Self {
        Self::File(path.to_owned())
    }
}

impl From<PathBuf> for ModelSource {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

impl From<&PathBuf> for ModelSource {
    fn from(path: &PathBuf) -> Self {
        Self::File(path.clone())
    }
}

impl From<&str> for ModelSource {
    fn from(path: &str) -> Self {
        Self::File(path.into())
    }
}

impl From<String> for ModelSource {
    fn from(path: String) -> Self {
        Self::File(path.into())
    }
}

impl From<&String> for ModelSource {
    fn from(path: &String) -> Self {
        Self::File(path.into())
    }
}

impl From<&[PathBuf]> for ModelSource {
    fn from(paths: &[PathBuf]) -> Self {
        Self::Splits(paths.to_vec())
    }
}

impl From<&Vec<PathBuf>> for ModelSource {
    fn from(paths: &Vec<PathBuf>) -> Self {
        Self::Splits(paths.clone())
    }
}

impl From<Vec<PathBuf>> for ModelSource {
    fn from(paths: Vec<PathBuf>) -> Self {
        Self::Splits(paths)
    }
}
