//! SHA-256 of files, and a file that keeps what is known of them.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::MeasureError;
use crate::error::{Error, Result};

/// A file's SHA-256, as 64 lower-case hexadecimal digits. It is read piece by piece.
///
/// # Errors
/// [`Error::File`] if it cannot be read or is no regular file; [`MeasureError::Changed`] if it
/// was written to meanwhile.
pub fn sha256(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    Ok(hash(path)?.sha256)
}

/// The SHA-256 of files that were hashed before, kept in a file: a model of 60 GB takes a
/// minute.
///
/// A file counts as known as long as its path, its size and its time of modification are those
/// that it was hashed with. To find out whether one was changed with its time set back,
/// [`sha256`] reads it again.
///
/// ```
/// use llama_moe::measure::{HashCache, sha256};
///
/// let folder = tempfile::tempdir()?;
/// let model = folder.path().join("model.gguf");
/// std::fs::write(&model, "abc")?;
/// let mut known = HashCache::open(folder.path().join("hashes.json"))?;
/// assert_eq!(known.sha256(&model)?, sha256(&model)?); // read twice
/// assert_eq!(known.sha256(&model)?, sha256(&model)?); // read once
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct HashCache {
    path: PathBuf,
    /// By the files' full paths.
    known: BTreeMap<String, Hashed>,
}

/// What a file was when it was hashed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Hashed {
    bytes: u64,
    /// Nanoseconds since 1970. `None` where the system does not say; such a file is never known.
    modified: Option<u64>,
    sha256: String,
}

impl HashCache {
    /// The hashes that are kept in a file; none if there is no such file yet.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be read, [`MeasureError::HashCache`] if it is another file.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let known = match fs::read(&path) {
            Ok(text) => parse(&text).map_err(|reason| MeasureError::HashCache {
                path: path.clone(),
                reason,
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(source) => return Err(Error::File { path, source }),
        };
        Ok(Self { path, known })
    }

    /// A file's SHA-256: what is known of it, or worked out now and kept.
    ///
    /// # Errors
    /// As the function [`sha256`]; [`Error::File`] if the hash cannot be kept.
    pub fn sha256(&mut self, file: impl AsRef<Path>) -> Result<String> {
        let file = file.as_ref();
        let failed = |source| Error::File {
            path: file.to_owned(),
            source,
        };
        let full = fs::canonicalize(file).map_err(failed)?;
        let now = fs::metadata(&full).map_err(failed)?;
        // A path that is no Unicode cannot be written down.
        let name = full.to_str();
        if let Some(known) = name.and_then(|name| self.known.get(name))
            && known.modified.is_some()
            && (known.bytes, known.modified) == (now.len(), modified(&now))
        {
            return Ok(known.sha256.clone());
        }
        let hashed = hash(file)?;
        let sha256 = hashed.sha256.clone();
        if let Some(name) = name {
            self.known.insert(name.to_owned(), hashed);
            self.save()?;
        }
        Ok(sha256)
    }

    /// Whoever reads the file meanwhile sees the old one or the new one, whole.
    fn save(&self) -> Result<()> {
        let mut draft = self.path.clone().into_os_string();
        draft.push(format!(".{}", process::id()));
        let text = serde_json::to_vec_pretty(&self.known).map_err(io::Error::from);
        text.and_then(|text| fs::write(&draft, text))
            .and_then(|()| fs::rename(&draft, &self.path))
            .map_err(|source| Error::File {
                path: self.path.clone(),
                source,
            })
    }
}

fn parse(text: &[u8]) -> Result<BTreeMap<String, Hashed>, String> {
    let known: BTreeMap<String, Hashed> =
        serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let is_hash = |text: &str| {
        let mut digits = text.bytes();
        text.len() == 64 && digits.all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
    };
    match known.values().find(|hashed| !is_hash(&hashed.sha256)) {
        Some(hashed) => Err(format!("{:?} is no SHA-256", hashed.sha256)),
        None => Ok(known),
    }
}

fn hash(path: &Path) -> Result<Hashed> {
    const PIECE: usize = 1 << 20;

    let failed = |source| Error::File {
        path: path.to_owned(),
        source,
    };
    // Asked before it is opened, which would wait for the other end of a pipe.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        let reason = "not a regular file";
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, reason)));
    }
    let mut file = File::open(path).map_err(failed)?;
    let before = file.metadata().map_err(failed)?;
    let mut hasher = Sha256::new();
    let mut piece = vec![0; PIECE];
    let mut bytes = 0;
    loop {
        match file.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => {
                hasher.update(&piece[..n]);
                bytes += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    let after = file.metadata().map_err(failed)?;
    let modified = modified(&before);
    if bytes != before.len() || bytes != after.len() || modified != self::modified(&after) {
        let path = path.to_owned();
        return Err(MeasureError::Changed { path }.into());
    }
    let sha256 = hasher.finalize();
    Ok(Hashed {
        bytes,
        modified,
        sha256: sha256.iter().map(|byte| format!("{byte:02x}")).collect(),
    })
}

fn modified(metadata: &Metadata) -> Option<u64> {
    let since = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(since.as_nanos()).ok()
}
