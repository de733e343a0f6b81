//! The file that keeps what the base said. Its format is told at [`record`](super::record).

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use super::{Chunks, QualityError};
use crate::error::{Error, Result};
use crate::model::Token;

const MAGIC: &[u8; 8] = b"moelogit";
const VERSION: u32 = 1;
const HEADER: u64 = 24;
const CHECKSUM: u64 = 8;

/// FNV-1a of 64 bits, of what passes through.
struct Checksum(u64);

impl Checksum {
    const START: Self = Self(0xcbf2_9ce4_8422_2325);

    fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// Writes such a file. If it is dropped before it is finished, no file is left.
pub(super) struct LogitsWriter {
    path: PathBuf,
    file: BufWriter<File>,
    checksum: Checksum,
    n_vocab: u32,
    row: Vec<u8>,
    finished: bool,
}

impl LogitsWriter {
    pub(super) fn create(path: &Path, chunks: &Chunks, n_vocab: u32) -> Result<Self> {
        let too_many = || Error::Parameter {
            parameter: "chunks",
            value: chunks.len().to_string(),
            reason: format!("there can be {} at most", u32::MAX),
        };
        let n_chunks = u32::try_from(chunks.len()).map_err(|_| too_many())?;
        let file = File::create(path).map_err(|source| file_error(path, source))?;
        let mut writer = Self {
            path: path.to_owned(),
            file: BufWriter::new(file),
            checksum: Checksum::START,
            n_vocab,
            row: Vec::with_capacity(n_vocab as usize * 4),
            finished: false,
        };
        writer.write(MAGIC)?;
        for number in [VERSION, chunks.n_ctx(), n_vocab, n_chunks] {
            writer.write(&number.to_le_bytes())?;
        }
        for token in chunks.tokens() {
            writer.write(&token.0.to_le_bytes())?;
        }
        Ok(writer)
    }

    pub(super) fn push(&mut self, logits: &[f32]) -> Result<()> {
        if logits.len() != self.n_vocab as usize {
            return Err(QualityError::Vocabulary {
                base: self.n_vocab as usize,
                variant: logits.len(),
            }
            .into());
        }
        let mut row = std::mem::take(&mut self.row);
        row.clear();
        row.extend(logits.iter().flat_map(|logit| logit.to_le_bytes()));
        let written = self.write(&row);
        self.row = row;
        written
    }

    pub(super) fn finish(mut self) -> Result<()> {
        let checksum = self.checksum.0;
        self.write(&checksum.to_le_bytes())?;
        let flushed = self.file.flush();
        flushed.map_err(|source| file_error(&self.path, source))?;
        self.finished = true;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.checksum.add(bytes);
        let written = self.file.write_all(bytes);
        written.map_err(|source| file_error(&self.path, source))
    }
}

impl Drop for LogitsWriter {
    fn drop(&mut self) {
        // A device, whose space ended, stays.
        let is_file = |metadata: fs::Metadata| metadata.is_file();
        if !self.finished && self.file.get_ref().metadata().is_ok_and(is_file) {
            // If this fails too, what is left is refused for its length.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Reads such a file, row by row.
pub(super) struct LogitsReader {
    path: PathBuf,
    file: BufReader<File>,
    checksum: Checksum,
    chunks: Chunks,
    n_vocab: u32,
    bytes: Vec<u8>,
    row: Vec<f32>,
}

impl LogitsReader {
    /// Opens a file, of which nothing is believed before its length agrees.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let metadata = fs::metadata(path).map_err(|source| file_error(path, source))?;
        // Opening a pipe could wait for ever.
        if !metadata.is_file() {
            return Err(refused(path, "it is no file".to_owned()));
        }
        let file = File::open(path).map_err(|source| file_error(path, source))?;
        let metadata = file.metadata().map_err(|source| file_error(path, source))?;
        let length = metadata.len();
        if length < HEADER {
            return Err(refused(path, format!("it has {length} bytes only")));
        }
        let mut file = BufReader::new(file);
        let mut checksum = Checksum::START;
        let mut header = [0; HEADER as usize];
        read(path, &mut file, &mut checksum, &mut header)?;
        let number = |index: usize| {
            let bytes = header.iter().skip(8 + 4 * index).take(4).rev();
            bytes.fold(0, |number, &byte| number << 8 | u32::from(byte))
        };
        let [version, n_ctx, n_vocab, n_chunks] = [0, 1, 2, 3].map(number);
        if !header.starts_with(MAGIC) {
            return Err(refused(path, "it begins otherwise".to_owned()));
        }
        if version != VERSION {
            let reason = format!("its version is {version}, not {VERSION}");
            return Err(refused(path, reason));
        }
        let sizes = format!("{n_chunks} chunks of {n_ctx} tokens with {n_vocab} logits each");
        let expected = expected_length(n_ctx, n_vocab, n_chunks);
        if expected != Some(length) {
            let reason = format!("it has {length} bytes, which are not {sizes}");
            return Err(refused(path, reason));
        }
        let mut bytes = vec![0; n_chunks as usize * n_ctx as usize * 4];
        read(path, &mut file, &mut checksum, &mut bytes)?;
        let tokens: Vec<Token> = words(&bytes).map(i32::from_le_bytes).map(Token).collect();
        let outside = |token: &&Token| u32::try_from(token.0).map_or(true, |id| id >= n_vocab);
        if let Some(token) = tokens.iter().find(outside) {
            let reason = format!("token {token} is not among its {n_vocab}");
            return Err(refused(path, reason));
        }
        let chunks = Chunks::from_tokens(n_ctx, tokens);
        let chunks = chunks.ok_or_else(|| refused(path, format!("there cannot be {sizes}")))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            checksum,
            chunks,
            n_vocab,
            bytes: vec![0; n_vocab as usize * 4],
            row: Vec::with_capacity(n_vocab as usize),
        })
    }

    pub(super) fn chunks(&self) -> &Chunks {
        &self.chunks
    }

    pub(super) fn n_vocab(&self) -> u32 {
        self.n_vocab
    }

    /// The next scored token's logits.
    pub(super) fn next_row(&mut self) -> Result<&[f32]> {
        let Self {
            path,
            file,
            checksum,
            bytes,
            row,
            ..
        } = self;
        read(path, file, checksum, bytes)?;
        row.clear();
        row.extend(words(bytes).map(f32::from_le_bytes));
        if let Some(logit) = row.iter().find(|logit| !logit.is_finite()) {
            return Err(refused(path, format!("one of its logits is {logit}")));
        }
        Ok(row)
    }

    /// After the last row: whether everything was as it had been written.
    pub(super) fn finish(mut self) -> Result<()> {
        let mut written = [0; CHECKSUM as usize];
        let read = self.file.read_exact(&mut written);
        read.map_err(|source| file_error(&self.path, source))?;
        if u64::from_le_bytes(written) != self.checksum.0 {
            let reason = "it has changed since it was written, its checksum says".to_owned();
            return Err(refused(&self.path, reason));
        }
        Ok(())
    }
}

/// Bytes of a file of these sizes, if they can be.
fn expected_length(n_ctx: u32, n_vocab: u32, n_chunks: u32) -> Option<u64> {
    let [n_ctx, n_vocab, n_chunks] = [n_ctx, n_vocab, n_chunks].map(u64::from);
    let rows = n_ctx.checked_sub(1 + n_ctx / 2)?;
    let words = rows.checked_mul(n_vocab)?.checked_add(n_ctx)?;
    let bytes = words.checked_mul(n_chunks)?.checked_mul(4)?;
    bytes.checked_add(HEADER + CHECKSUM)
}

fn words(bytes: &[u8]) -> impl Iterator<Item = [u8; 4]> {
    bytes.as_chunks().0.iter().copied()
}

fn read(path: &Path, file: &mut impl Read, checksum: &mut Checksum, to: &mut [u8]) -> Result<()> {
    let read = file.read_exact(to);
    read.map_err(|source| file_error(path, source))?;
    checksum.add(to);
    Ok(())
}

fn file_error(path: &Path, source: io::Error) -> Error {
    let path = path.to_owned();
    Error::File { path, source }
}

fn refused(path: &Path, reason: String) -> Error {
    let path = path.to_owned();
    QualityError::LogitsFile { path, reason }.into()
}
