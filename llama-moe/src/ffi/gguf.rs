//! GGUF headers, read by ggml's own reader.

use std::ffi::{CStr, CString, c_void};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::iter;
use std::ptr::{self, NonNull};

use llama_sys as sys;

use super::call::{Failure, guarded};
use super::{log, text};
use crate::error::FailureKind;
use crate::gguf::Value;

/// Bytes of a file that may be its header. A vocabulary of a quarter of a million tokens with
/// its merges takes 20 MiB. ggml's reader allocates up to eight times what it finds room for in
/// the file, and a file can have terabytes without a byte on disk.
const MAX_HEADER_BYTES: u64 = 128 << 20;

/// 256 tensors for each of llama.cpp's at most 512 blocks.
const MAX_TENSORS: u64 = 512 * 256;

/// Key/value pairs that a header may have; models have about fifty.
const MAX_PAIRS: u64 = 1 << 16;

/// The header of one GGUF file.
#[derive(Debug)]
pub(crate) struct GgufHeader(NonNull<sys::gguf_context>);

// SAFETY: nothing here changes a header after it was read, and ggml's getters only read it.
unsafe impl Send for GgufHeader {}
// SAFETY: as above.
unsafe impl Sync for GgufHeader {}

/// One tensor of a file.
pub(crate) struct GgufTensor {
    /// An error if it is no UTF-8.
    pub(crate) name: Result<String, String>,
    pub(crate) type_id: u32,
    /// ggml's name of the element type.
    pub(crate) kind: String,
    /// Without the dimensions of 1 at the end.
    pub(crate) shape: Vec<u64>,
    pub(crate) bytes: u64,
    /// From the start of the file.
    pub(crate) offset: u64,
}

/// The types of single values that llama.cpp asserts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GgufKind {
    Text,
    U16,
    F32,
    Other,
}

impl GgufHeader {
    /// Reads the header of a file, none of its data.
    pub(crate) fn read(file: File) -> Result<Self, Failure> {
        // A header may be read before llama.cpp is initialised.
        log::install();
        let mut source = Source {
            file: BufReader::with_capacity(1 << 16, file),
            at: 0,
            error: None,
        };
        let header = source.read_header();
        // Whatever the reader made of it, this is the cause.
        match source.error {
            Some(error) => Err(failure(error.to_string())),
            None => header,
        }
    }

    /// The value of `key`, if it is there.
    pub(crate) fn value(&self, key: &str) -> Option<Value> {
        self.value_at(self.id(key)?)
    }

    /// The pairs in the file's order.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (String, Value)> {
        self.ids()
            .filter_map(|id| Some((text::owned(self.pair(id)?.key), self.value_at(id)?)))
    }

    fn value_at(&self, id: i64) -> Option<Value> {
        let kv = self.pair(id)?;
        if kv.type_ != sys::GGUF_TYPE_ARRAY {
            return if kv.type_ == sys::GGUF_TYPE_STRING {
                Some(Value::Text(text::owned(kv.string)))
            } else {
                self.numbers(&kv)?.pop()
            };
        }
        Some(Value::Array(match kv.element_type {
            sys::GGUF_TYPE_STRING => {
                let texts = (0..kv.n).map(|index| self.text(id, index));
                texts
                    .map(|text| Some(Value::Text(text?.to_string_lossy().into_owned())))
                    .collect::<Option<_>>()?
            }
            _ => self.numbers(&kv)?,
        }))
    }

    /// The keys in the file's order.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.ids()
            .filter_map(|id| Some(text::owned(self.pair(id)?.key)))
            .collect()
    }

    fn ids(&self) -> std::ops::Range<i64> {
        // SAFETY: a live header.
        0..unsafe { sys::gguf_get_n_kv(self.0.as_ptr()) }
    }

    /// The number of elements of an array, 1 for a single value.
    pub(crate) fn n_values(&self, key: &str) -> Option<usize> {
        Some(self.find(key)?.n)
    }

    /// The number of elements of an array of texts; `None` for anything else.
    pub(crate) fn n_texts(&self, key: &str) -> Option<usize> {
        let kv = self.find(key)?;
        let is_texts = kv.type_ == sys::GGUF_TYPE_ARRAY && kv.element_type == sys::GGUF_TYPE_STRING;
        is_texts.then_some(kv.n)
    }

    /// The numbers, or truth values, of a pair.
    fn numbers(&self, kv: &sys::llama_shim_gguf_kv) -> Option<Vec<Value>> {
        fn values<T: Copy>(
            header: &GgufHeader,
            kv: &sys::llama_shim_gguf_kv,
            of: impl Fn(T) -> Value,
        ) -> Vec<Value> {
            slice(header, kv).iter().map(|&number| of(number)).collect()
        }
        Some(match kv.element_type {
            sys::GGUF_TYPE_UINT8 => values(self, kv, Value::U8),
            sys::GGUF_TYPE_INT8 => values(self, kv, Value::I8),
            sys::GGUF_TYPE_UINT16 => values(self, kv, Value::U16),
            sys::GGUF_TYPE_INT16 => values(self, kv, Value::I16),
            sys::GGUF_TYPE_UINT32 => values(self, kv, Value::U32),
            sys::GGUF_TYPE_INT32 => values(self, kv, Value::I32),
            sys::GGUF_TYPE_UINT64 => values(self, kv, Value::U64),
            sys::GGUF_TYPE_INT64 => values(self, kv, Value::I64),
            sys::GGUF_TYPE_FLOAT32 => values(self, kv, Value::F32),
            sys::GGUF_TYPE_FLOAT64 => values(self, kv, Value::F64),
            sys::GGUF_TYPE_BOOL => values(self, kv, |byte: u8| Value::Bool(byte != 0)),
            _ => return None,
        })
    }

    /// The whole numbers of a key as llama.cpp reads them, without a copy: an array may have
    /// a hundred million. Its counts have 32 bits and no sign, whatever the file says.
    pub(crate) fn whole_numbers(&self, key: &str) -> Box<dyn Iterator<Item = u64> + '_> {
        let Some(kv) = self.find(key) else {
            return Box::new(iter::empty());
        };
        match kv.element_type {
            sys::GGUF_TYPE_UINT8 => self.each(&kv, |n: u8| n.into()),
            sys::GGUF_TYPE_INT8 => self.each(&kv, |n: i8| (n as u32).into()),
            sys::GGUF_TYPE_UINT16 => self.each(&kv, |n: u16| n.into()),
            sys::GGUF_TYPE_INT16 => self.each(&kv, |n: i16| (n as u32).into()),
            sys::GGUF_TYPE_UINT32 => self.each(&kv, |n: u32| n.into()),
            sys::GGUF_TYPE_INT32 => self.each(&kv, |n: i32| (n as u32).into()),
            sys::GGUF_TYPE_UINT64 => self.each(&kv, |n: u64| n),
            sys::GGUF_TYPE_INT64 => self.each(&kv, |n: i64| n as u64),
            // In an array, truth values are numbers too.
            sys::GGUF_TYPE_BOOL if kv.type_ == sys::GGUF_TYPE_ARRAY => {
                self.each(&kv, |truth: u8| u64::from(truth != 0))
            }
            _ => Box::new(iter::empty()),
        }
    }

    fn each<'a, T: Copy + 'a>(
        &'a self,
        kv: &sys::llama_shim_gguf_kv,
        number: impl Fn(T) -> u64 + 'a,
    ) -> Box<dyn Iterator<Item = u64> + 'a> {
        let numbers = slice::<T>(self, kv).iter();
        Box::new(numbers.map(move |n| number(*n)))
    }

    /// One text of an array of texts.
    fn text(&self, id: i64, index: usize) -> Option<&CStr> {
        let mut text = ptr::null();
        guarded(|error| {
            // SAFETY: a live header; anything but an array of texts is refused, and an
            // index out of range too.
            unsafe {
                sys::llama_shim_gguf_get_arr_str(self.0.as_ptr(), id, index, &mut text, error)
            }
        })
        .ok()?;
        // SAFETY: a NUL-terminated text of the header, which lives as long as `self`.
        Some(unsafe { CStr::from_ptr(text) })
    }

    /// The type that `key` has; `None` if it is not there.
    pub(crate) fn kind(&self, key: &str) -> Option<GgufKind> {
        Some(match self.find(key)?.type_ {
            sys::GGUF_TYPE_STRING => GgufKind::Text,
            sys::GGUF_TYPE_UINT16 => GgufKind::U16,
            sys::GGUF_TYPE_FLOAT32 => GgufKind::F32,
            _ => GgufKind::Other,
        })
    }

    /// A text that occurs twice in an array of texts; see the shim for empty ones.
    pub(crate) fn repeated_text(&self, key: &str) -> Option<String> {
        let id = self.id(key)?;
        let mut index = 0;
        guarded(|error| {
            // SAFETY: a live header; anything but an array of texts is refused.
            unsafe { sys::llama_shim_gguf_find_repeated(self.0.as_ptr(), id, &mut index, error) }
        })
        .ok()?;
        // There is no text with that index if all differ.
        let text = self.text(id, index)?.to_string_lossy().into_owned();
        Some(if text.is_empty() {
            format!("[EMPTY_{index}]")
        } else {
            text
        })
    }

    fn find(&self, key: &str) -> Option<sys::llama_shim_gguf_kv> {
        self.pair(self.id(key)?)
    }

    /// The index of a key; -1, which names no pair, if it is not there.
    fn id(&self, key: &str) -> Option<i64> {
        let key = CString::new(key).ok()?;
        // SAFETY: a live header and a NUL-terminated key.
        Some(unsafe { sys::gguf_find_key(self.0.as_ptr(), key.as_ptr()) })
    }

    fn pair(&self, id: i64) -> Option<sys::llama_shim_gguf_kv> {
        // SAFETY: zero is a valid value of this plain struct, which the call fills.
        let mut kv = unsafe { std::mem::zeroed::<sys::llama_shim_gguf_kv>() };
        guarded(|error| {
            // SAFETY: a live header; the shim refuses an id out of range.
            unsafe { sys::llama_shim_gguf_get_kv(self.0.as_ptr(), id, &mut kv, error) }
        })
        .ok()?;
        Some(kv)
    }

    pub(crate) fn n_tensors(&self) -> usize {
        // SAFETY: a live header.
        usize::try_from(unsafe { sys::gguf_get_n_tensors(self.0.as_ptr()) }).unwrap_or(0)
    }

    /// The file's tensors, in the file's order.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = GgufTensor> {
        // SAFETY: a live header.
        let data = unsafe { sys::gguf_get_data_offset(self.0.as_ptr()) } as u64;
        (0..self.n_tensors() as i64).filter_map(move |id| {
            // SAFETY: zero is a valid value of this plain struct, which the call fills.
            let mut tensor = unsafe { std::mem::zeroed::<sys::llama_shim_gguf_tensor>() };
            guarded(|error| {
                // SAFETY: a live header; the shim refuses an id out of range.
                unsafe { sys::llama_shim_gguf_get_tensor(self.0.as_ptr(), id, &mut tensor, error) }
            })
            .ok()?;
            // SAFETY: the reader refuses types that ggml has no name for.
            let kind = unsafe { sys::ggml_type_name(tensor.type_) };
            let n_dims = 1 + tensor.ne.iter().rposition(|&n| n != 1).unwrap_or(0);
            let shape = tensor.ne.iter().take(n_dims);
            Some(GgufTensor {
                name: text::checked(tensor.name),
                type_id: tensor.type_,
                kind: text::owned(kind),
                shape: shape.map(|&n| u64::try_from(n).unwrap_or(0)).collect(),
                bytes: tensor.size as u64,
                offset: data.saturating_add(tensor.offset as u64),
            })
        })
    }
}

impl Drop for GgufHeader {
    fn drop(&mut self) {
        // SAFETY: owned, freed once; freeing memory does not fail.
        unsafe { sys::llama_shim_gguf_free(self.0.as_ptr(), ptr::null_mut()) };
    }
}

/// The numbers of a pair, which lives as long as its header; `T` is the type that it has.
fn slice<'a, T>(_header: &'a GgufHeader, kv: &sys::llama_shim_gguf_kv) -> &'a [T] {
    if kv.data.is_null() || kv.n == 0 {
        return &[];
    }
    // SAFETY: not NULL; the shim says that `data` leads to `n` numbers of the pair's type,
    // aligned, which live as long as the header.
    unsafe { std::slice::from_raw_parts(kv.data.cast::<T>(), kv.n) }
}

/// The file that ggml's reader is given, piece by piece.
struct Source {
    file: BufReader<File>,
    /// Where the next byte is read.
    at: u64,
    /// Why the last read failed.
    error: Option<io::Error>,
}

impl Source {
    fn read_header(&mut self) -> Result<GgufHeader, Failure> {
        let length = match self.file.get_ref().metadata() {
            Ok(metadata) => metadata.len(),
            Err(error) => return Err(failure(error.to_string())),
        };
        self.check_counts()?;
        let params = sys::gguf_init_params {
            no_alloc: true,
            ctx: ptr::null_mut(),
        };
        let mut gguf = ptr::null_mut();
        guarded(|error| {
            // SAFETY: a callback that does not unwind and its own state, which outlives the
            // call; parameters that ask for no tensors, and out-parameters of this frame.
            unsafe {
                sys::llama_shim_gguf_init_from_callback(
                    Some(read_piece),
                    ptr::from_mut(self).cast(),
                    0,
                    length.min(MAX_HEADER_BYTES),
                    &params,
                    &mut gguf,
                    error,
                )
            }
        })?;
        let gguf = NonNull::new(gguf).ok_or_else(|| failure("no header was returned".to_owned()));
        gguf.map(GgufHeader)
    }

    /// Refuses more tensors or pairs than a model can have, before memory is taken for them.
    fn check_counts(&mut self) -> Result<(), Failure> {
        let start = self.file.fill_buf();
        let start = start.map_err(|error| failure(error.to_string()))?;
        let number = |at: usize| {
            let bytes = start.get(at..at + 8)?.try_into().ok()?;
            Some(u64::from_ne_bytes(bytes))
        };
        // What is no GGUF of these versions is refused by the reader, for better reasons.
        let version = start
            .get(4..8)
            .map(|bytes| bytes == 2u32.to_ne_bytes() || bytes == 3u32.to_ne_bytes());
        if !start.starts_with(b"GGUF") || version != Some(true) {
            return Ok(());
        }
        for (at, what, max) in [
            (8, "tensors", MAX_TENSORS),
            (16, "metadata keys", MAX_PAIRS),
        ] {
            if let Some(n) = number(at)
                && n > max
            {
                return Err(failure(format!(
                    "the header says that it has {n} {what}; at most {max} are possible"
                )));
            }
        }
        Ok(())
    }

    /// Copies up to `len` bytes from `offset` on; how many it were.
    ///
    /// # Safety
    /// `len` bytes can be written at `output`.
    unsafe fn copy(&mut self, output: *mut u8, offset: u64, len: usize) -> usize {
        if offset != self.at {
            if let Err(error) = self.file.seek(SeekFrom::Start(offset)) {
                self.error = Some(error);
                return 0;
            }
            self.at = offset;
        }
        let mut copied = 0;
        while copied < len {
            let piece = match self.file.fill_buf() {
                Ok(piece) => piece,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    self.error = Some(error);
                    break;
                }
            };
            if piece.is_empty() {
                break;
            }
            let n = piece.len().min(len - copied);
            // SAFETY: `copied` is less than `len`, so this stays within the caller's bytes.
            let to = unsafe { output.add(copied) };
            // SAFETY: `n` bytes are in the piece and are free at `to`, which is ggml's.
            unsafe { ptr::copy_nonoverlapping(piece.as_ptr(), to, n) };
            self.file.consume(n);
            copied += n;
        }
        self.at += copied as u64;
        copied
    }
}

/// What ggml's reader calls; nothing in it panics.
unsafe extern "C" fn read_piece(
    source: *mut c_void,
    output: *mut c_void,
    offset: u64,
    len: usize,
) -> usize {
    // SAFETY: the state that was given with this callback, borrowed by nobody else meanwhile.
    let source = unsafe { &mut *source.cast::<Source>() };
    // SAFETY: ggml lends `len` bytes at `output`.
    unsafe { source.copy(output.cast(), offset, len) }
}

fn failure(reason: String) -> Failure {
    Failure {
        kind: FailureKind::Failed,
        reason,
    }
}
