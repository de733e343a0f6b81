//! Saving and restoring what a context has in its memory.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use super::Context;
use super::batch::SeqId;
use super::memory::MemoryError;
use super::state_format::{self, HEADER, Kind, Origin};
use crate::error::{Error, Result};
use crate::model::Token;

/// A state that cannot be saved or restored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// This is no saved state.
    #[error("this is not a saved state, or only the beginning of one")]
    NotAState,

    /// It was saved by another version of this crate.
    #[error("the state has format version {version}, which this crate does not read")]
    Version {
        /// The format's version.
        version: u32,
    },

    /// It was saved by another llama.cpp, or on another kind of processor.
    #[error("the state was saved by another llama.cpp; there is no way to convert it")]
    OtherLlama,

    /// It was saved with another model.
    #[error("the state was saved with another model")]
    OtherModel,

    /// It is of one sequence, not of a context.
    #[error("the state is of one sequence; load it with load_state_seq")]
    OfSequence,

    /// It is of a context, not of one sequence.
    #[error("the state is of a whole context; load it with load_state")]
    OfContext,

    /// It is not as long as it says.
    #[error("the state has {len} bytes, but should have {expected}")]
    Length {
        /// Bytes that there are.
        len: u64,
        /// Bytes that it says it has.
        expected: u64,
    },

    /// Its contents have changed since it was saved.
    #[error("the state is damaged: its checksum is wrong")]
    Checksum,

    /// Positions have been moved or sequences copied, which takes effect with the next
    /// batch.
    #[error(
        "the memory has moves or copies that are made with the next batch: compute one before \
         saving or restoring"
    )]
    Unapplied,

    /// llama.cpp could not restore it into this context, for example because the context is
    /// smaller or has another cache type. What was in its place in the memory is gone.
    #[error("the state does not fit this context: {reason}; what was in its place is cleared")]
    Restore {
        /// llama.cpp's own words.
        reason: String,
    },
}

/// The state: what the memory holds.
///
/// A state is bytes that this crate frames: with llama.cpp's version, the model's
/// identity, lengths and a checksum. What is not a whole state of the same llama.cpp and
/// the same model is refused, and the memory stays as it is. The checksum is one against
/// accidents: a state that somebody made to harm may still end the process, so load only
/// what you saved.
///
/// Not in the state are outputs, adapters and what an encoder has computed.
impl Context {
    /// The bytes that llama.cpp needs for the state now, without the frame around it.
    ///
    /// Rests on `llama_state_get_size`.
    ///
    /// # Errors
    /// [`Error::Llama`] if llama.cpp fails.
    pub fn state_size(&mut self) -> Result<usize> {
        self.check_usable()?;
        let size = self.handle.state_size(None);
        self.watch(size, "llama_state_get_size")
    }

    /// Saves the state.
    ///
    /// Rests on `llama_state_get_data`.
    ///
    /// # Errors
    /// [`StateError::Unapplied`]; [`Error::Llama`] if llama.cpp fails.
    pub fn save_state(&mut self) -> Result<Vec<u8>> {
        self.save(None, &[]).map(|parts| parts.concat())
    }

    /// Restores a state in place of everything in the memory.
    ///
    /// Rests on `llama_state_set_data`.
    ///
    /// # Errors
    /// [`StateError`]. After [`StateError::Restore`] the memory is empty; after any other it
    /// is unchanged.
    pub fn load_state(&mut self, state: &[u8]) -> Result<()> {
        self.load(None, state).map(drop)
    }

    /// Saves the state of one sequence.
    ///
    /// Rests on `llama_state_seq_get_data_ext`.
    ///
    /// # Errors
    /// As [`save_state`](Self::save_state); [`MemoryError`] for a sequence that does not
    /// exist.
    pub fn save_state_seq(&mut self, seq: SeqId) -> Result<Vec<u8>> {
        self.save(Some(seq), &[]).map(|parts| parts.concat())
    }

    /// Restores the state of a sequence, in place of what the memory holds of it; the
    /// sequence need not be the one that was saved.
    ///
    /// Rests on `llama_state_seq_set_data_ext`.
    ///
    /// # Errors
    /// [`StateError`]. After [`StateError::Restore`] the sequence is empty; after any other it
    /// is unchanged. [`MemoryError`] for a sequence that does not exist.
    pub fn load_state_seq(&mut self, seq: SeqId, state: &[u8]) -> Result<()> {
        self.load(Some(seq), state).map(drop)
    }

    /// Saves the state to a file, together with tokens: those of a conversation, say.
    ///
    /// Rests on `llama_state_get_data`: the file is this crate's, not one of
    /// `llama_state_save_file`.
    ///
    /// # Errors
    /// As [`save_state`](Self::save_state); [`Error::File`] if the file cannot be written.
    pub fn save_state_file(&mut self, path: impl AsRef<Path>, tokens: &[Token]) -> Result<()> {
        let parts = self.save(None, tokens)?;
        write(path.as_ref(), &parts)
    }

    /// Restores a state from a file and returns the tokens that were saved with it.
    ///
    /// Rests on `llama_state_set_data`.
    ///
    /// # Errors
    /// As [`load_state`](Self::load_state); [`Error::File`] if the file cannot be read.
    pub fn load_state_file(&mut self, path: impl AsRef<Path>) -> Result<Vec<Token>> {
        self.load_file(None, path.as_ref())
    }

    /// Saves the state of a sequence to a file, together with tokens.
    ///
    /// Rests on `llama_state_seq_get_data_ext`.
    ///
    /// # Errors
    /// As [`save_state_seq`](Self::save_state_seq); [`Error::File`] if the file cannot be
    /// written.
    pub fn save_state_seq_file(
        &mut self,
        seq: SeqId,
        path: impl AsRef<Path>,
        tokens: &[Token],
    ) -> Result<()> {
        let parts = self.save(Some(seq), tokens)?;
        write(path.as_ref(), &parts)
    }

    /// Restores the state of a sequence from a file and returns the tokens that were saved
    /// with it.
    ///
    /// Rests on `llama_state_seq_set_data_ext`.
    ///
    /// # Errors
    /// As [`load_state_seq`](Self::load_state_seq); [`Error::File`] if the file cannot be
    /// read.
    pub fn load_state_seq_file(
        &mut self,
        seq: SeqId,
        path: impl AsRef<Path>,
    ) -> Result<Vec<Token>> {
        self.load_file(Some(seq), path.as_ref())
    }

    fn save(&mut self, seq: Option<SeqId>, tokens: &[Token]) -> Result<[Vec<u8>; 3]> {
        let seq_id = self.check_state(seq)?;
        let state = self.handle.state(seq_id);
        let state = self.watch(state, "llama_state_get_data")?;
        let origin = Origin::of(&self.model);
        let [header, tokens] = state_format::frame(kind(seq), origin, tokens, &state);
        Ok([header, tokens, state])
    }

    fn load(&mut self, seq: Option<SeqId>, bytes: &[u8]) -> Result<Vec<Token>> {
        let seq_id = self.check_state(seq)?;
        let (tokens, state) = state_format::open(bytes, kind(seq), Origin::of(&self.model))?;
        let restored = self.handle.set_state(seq_id, state);
        let reason = match restored {
            Ok(used) if used == state.len() => return Ok(tokens),
            Ok(used) => format!("only {used} of its {} bytes were used", state.len()),
            Err(failure) => failure.reason,
        };
        self.clear_after_failure(seq)?;
        Err(StateError::Restore { reason }.into())
    }

    fn load_file(&mut self, seq: Option<SeqId>, path: &Path) -> Result<Vec<Token>> {
        self.check_state(seq)?;
        let bytes = read(path, kind(seq), Origin::of(&self.model))?;
        self.load(seq, &bytes)
    }

    /// llama.cpp's id of the sequence, and whether the state can be told at all.
    fn check_state(&self, seq: Option<SeqId>) -> Result<Option<i32>> {
        self.check_usable()?;
        if self.unapplied.any() {
            return Err(StateError::Unapplied.into());
        }
        let n_seq_max = self.n_seq_max();
        Ok(match seq {
            None => None,
            Some(seq) => {
                let raw = i32::try_from(seq).ok().filter(|_| seq < n_seq_max);
                Some(raw.ok_or(MemoryError::Sequence { seq, n_seq_max })?)
            }
        })
    }

    fn clear_after_failure(&mut self, seq: Option<SeqId>) -> Result<()> {
        if !self.has_memory {
            return Ok(());
        }
        let removed = match seq {
            Some(_) => self.memory().remove(seq, ..)?,
            None => false,
        };
        if removed {
            return Ok(());
        }
        self.memory().clear()
    }
}

fn kind(seq: Option<SeqId>) -> Kind {
    match seq {
        None => Kind::Context,
        Some(_) => Kind::Sequence,
    }
}

fn write(path: &Path, parts: &[Vec<u8>]) -> Result<()> {
    let write = || {
        let mut file = File::create(path)?;
        parts.iter().try_for_each(|part| file.write_all(part))
    };
    write().map_err(|source| Error::File {
        path: path.to_owned(),
        source,
    })
}

/// Reads a whole file, if its beginning says that it is a state of that length.
fn read(path: &Path, kind: Kind, origin: Origin) -> Result<Vec<u8>> {
    let failed = |source| Error::File {
        path: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(failed)?;
    let len = file.metadata().map_err(failed)?.len();
    let mut bytes = Vec::with_capacity(HEADER);
    let mut header = Read::by_ref(&mut file).take(HEADER as u64);
    header.read_to_end(&mut bytes).map_err(failed)?;
    let lengths = state_format::read_header(&bytes, kind, origin)?;
    let expected = lengths
        .rest()
        .and_then(|rest| rest.checked_add(HEADER as u64));
    if expected != Some(len) {
        return Err(StateError::Length {
            len,
            expected: expected.unwrap_or(u64::MAX),
        }
        .into());
    }
    file.read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}
