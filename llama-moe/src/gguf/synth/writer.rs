//! GGUF files, version 3, written from beginning to end.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::tensors::Tensor;
use super::types::TensorType;
use super::weights::Draw;
use crate::error::{Error, Result};
use crate::gguf::Value;

/// The data of every tensor begin at a multiple of this, GGUF's default.
const ALIGNMENT: u64 = 32;

/// What a file is made of.
pub(super) struct Contents {
    /// The header, up to where the data begin.
    header: Vec<u8>,
    tensors: Vec<Tensor>,
    /// Bytes of the data, padding included.
    data: u64,
}

impl Contents {
    /// Lays out a file. `None` if it would be longer than a file can be.
    pub(super) fn new(metadata: &[(String, Value)], tensors: Vec<Tensor>) -> Option<Self> {
        let mut header = b"GGUF".to_vec();
        header.extend(3u32.to_le_bytes());
        header.extend((tensors.len() as u64).to_le_bytes());
        header.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata {
            put_text(&mut header, key);
            header.extend(type_id(value).to_le_bytes());
            put_value(&mut header, value);
        }
        let mut data = 0u64;
        for tensor in &tensors {
            put_text(&mut header, &tensor.name);
            header.extend((tensor.shape.len() as u32).to_le_bytes());
            header.extend(tensor.shape.iter().flat_map(|extent| extent.to_le_bytes()));
            header.extend(tensor.type_id.to_le_bytes());
            header.extend(data.to_le_bytes());
            data = data
                .checked_add(tensor.bytes)?
                .checked_next_multiple_of(ALIGNMENT)?;
        }
        let begin = header.len().next_multiple_of(ALIGNMENT as usize);
        header.resize(begin, 0);
        i64::try_from(data.checked_add(begin as u64)?).ok()?;
        Some(Self {
            header,
            tensors,
            data,
        })
    }

    /// Bytes of the file.
    pub(super) fn len(&self) -> u64 {
        self.header.len() as u64 + self.data
    }

    /// Writes a file that has a hole where the weights would be.
    pub(super) fn write_sparse(&self, path: &Path) -> Result<()> {
        NewFile::create(path)?.complete(|file| {
            file.write_all(&self.header)?;
            file.set_len(self.len())
        })
    }

    /// Writes a file with random weights, telling how many bytes are written now and then.
    pub(super) fn write(
        &self,
        path: &Path,
        draw: Draw,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        NewFile::create(path)?.complete(|file| {
            let mut file = BufWriter::new(file);
            file.write_all(&self.header)?;
            let mut written = self.header.len() as u64;
            for tensor in &self.tensors {
                let kind = TensorType::from_id(tensor.type_id).ok_or_else(|| {
                    io::Error::other(format!("{}: weights of an unknown type", tensor.name))
                })?;
                draw.write(tensor, kind, &mut |bytes| {
                    file.write_all(bytes)?;
                    written += bytes.len() as u64;
                    progress(written);
                    Ok(())
                })?;
                let padding = written.next_multiple_of(ALIGNMENT) - written;
                file.write_all(&[0; ALIGNMENT as usize][..padding as usize])?;
                written += padding;
            }
            file.flush()
        })
    }
}

/// A file that did not exist before, and does not afterwards unless it is complete.
struct NewFile {
    file: File,
    path: PathBuf,
    complete: bool,
}

impl NewFile {
    fn create(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).open(path);
        Ok(Self {
            file: file.map_err(|source| Error::File {
                path: path.to_owned(),
                source,
            })?,
            path: path.to_owned(),
            complete: false,
        })
    }

    fn complete(mut self, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
        write(&mut self.file).map_err(|source| Error::File {
            path: self.path.clone(),
            source,
        })?;
        self.complete = true;
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.complete {
            // What cannot be removed stays: there is nobody to tell.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// GGUF's number of a value's type.
fn type_id(value: &Value) -> u32 {
    match value {
        Value::U8(_) => 0,
        Value::I8(_) => 1,
        Value::U16(_) => 2,
        Value::I16(_) => 3,
        Value::U32(_) => 4,
        Value::I32(_) => 5,
        Value::F32(_) => 6,
        Value::Bool(_) => 7,
        Value::Text(_) => 8,
        Value::Array(_) => 9,
        Value::U64(_) => 10,
        Value::I64(_) => 11,
        Value::F64(_) => 12,
    }
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(number) => out.push(*number),
        Value::I8(number) => out.extend(number.to_le_bytes()),
        Value::U16(number) => out.extend(number.to_le_bytes()),
        Value::I16(number) => out.extend(number.to_le_bytes()),
        Value::U32(number) => out.extend(number.to_le_bytes()),
        Value::I32(number) => out.extend(number.to_le_bytes()),
        Value::F32(number) => out.extend(number.to_le_bytes()),
        Value::Bool(value) => out.push((*value).into()),
        Value::Text(text) => put_text(out, text),
        Value::U64(number) => out.extend(number.to_le_bytes()),
        Value::I64(number) => out.extend(number.to_le_bytes()),
        Value::F64(number) => out.extend(number.to_le_bytes()),
        Value::Array(values) => {
            // An empty array does not know its type any more; most often it was of texts.
            let kind = values.first().map_or(8, type_id);
            out.extend(kind.to_le_bytes());
            out.extend((values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| put_value(out, value));
        }
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_completed_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        let full = |file: &mut File| {
            file.write_all(b"GGUF")?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        };
        let error = NewFile::create(&path).unwrap().complete(full).unwrap_err();
        assert!(matches!(error, Error::File { .. }), "{error:?}");
        assert!(!path.exists());

        let fine = |file: &mut File| file.write_all(b"GGUF");
        NewFile::create(&path).unwrap().complete(fine).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"GGUF");
        assert!(NewFile::create(&path).is_err());
        assert!(path.exists());
    }

    #[test]
    fn more_than_a_file_can_hold_is_not_laid_out() {
        let tensor = |bytes| Tensor {
            name: "a".to_owned(),
            shape: vec![bytes],
            type_id: 24,
            bytes,
        };
        assert!(Contents::new(&[], vec![tensor(1 << 40)]).is_some());
        for bytes in [1 << 63, u64::MAX, u64::MAX - 8] {
            assert!(Contents::new(&[], vec![tensor(bytes)]).is_none());
        }
        assert!(Contents::new(&[], vec![tensor(1 << 62), tensor(1 << 62)]).is_none());
    }
}
