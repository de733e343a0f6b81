//! The memory of a context, sequence by sequence.

use std::num::NonZeroU32;
use std::ops::{Bound, RangeBounds, RangeInclusive};

use super::Context;
use super::batch::{POS_MAX, Pos, SeqId};
use crate::error::Result;
use crate::ffi::RawRange;
use crate::model::RopeType;

/// An operation that a memory cannot do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The context has no memory.
    #[error("the context has no memory: its model encodes only")]
    None,

    /// There is no such sequence.
    #[error("there is no sequence {seq}: they are numbered from 0 to {}", n_seq_max.saturating_sub(1))]
    Sequence {
        /// The sequence.
        seq: SeqId,
        /// How many sequences there are.
        n_seq_max: u32,
    },

    /// Only a whole sequence can be copied.
    #[error(
        "only a whole sequence can be copied, since the context keeps sequences apart; \
         with_kv_unified(true) allows for parts"
    )]
    PartialCopy,

    /// The range cannot be removed to make place for the copy.
    #[error("the memory cannot replace a part of sequence {seq}")]
    PartialReplace {
        /// The sequence that was to be copied to.
        seq: SeqId,
    },

    /// Positions cannot be moved.
    #[error("this memory cannot move positions")]
    CannotShift,

    /// A position would leave what can be counted.
    #[error("moving position {pos} by {delta} leaves the range from 0 to {POS_MAX}")]
    ShiftOutOfRange {
        /// A position in the range.
        pos: Pos,
        /// How far it was to be moved.
        delta: i32,
    },

    /// A divisor is too large.
    #[error("the divisor {divisor} is too large")]
    Divisor {
        /// The divisor.
        divisor: u32,
    },
}

/// The memory of a context: which positions of which sequences it holds.
///
/// Ranges of positions are Rust's: `5..` from 5 on, `..` everything.
///
/// Rests on `llama_memory_t`.
#[derive(Debug)]
pub struct Memory<'a> {
    context: &'a mut Context,
}

impl Context {
    /// The context's memory.
    pub fn memory(&mut self) -> Memory<'_> {
        Memory { context: self }
    }
}

/// What the memory has been told, and does only with the next batch.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Unapplied {
    /// Positions have been moved, but not what is computed from them.
    moves: bool,
    /// Sequences have been copied, but not their buffers. Emptying the memory does not take
    /// this back.
    copies: bool,
}

impl Unapplied {
    pub(super) fn any(self) -> bool {
        self.moves || self.copies
    }
}

const ALL: RawRange = RawRange { start: -1, end: -1 };

impl Memory<'_> {
    /// Empties the memory and its buffers.
    ///
    /// Rests on `llama_memory_clear`.
    ///
    /// # Errors
    /// [`MemoryError::None`] without a memory.
    pub fn clear(&mut self) -> Result<()> {
        self.check()?;
        let cleared = self.context.handle.clear();
        self.context.watch(cleared, "llama_memory_clear")?;
        self.context.unapplied.moves = false;
        Ok(())
    }

    /// Removes a range of a sequence, or of all sequences. `false` where the memory cannot
    /// remove this part, as a recurrent model's state cannot be taken back; nothing has
    /// been removed then.
    ///
    /// Rests on `llama_memory_seq_rm`.
    ///
    /// # Errors
    /// [`MemoryError`] without a memory or for a sequence that does not exist.
    pub fn remove(&mut self, seq: Option<SeqId>, range: impl RangeBounds<Pos>) -> Result<bool> {
        self.check()?;
        let seq_id = seq.map(|seq| self.seq_id(seq)).transpose()?;
        let Some(range) = raw_range(range) else {
            return Ok(true);
        };
        let Some(seq_id) = seq_id else {
            if range == ALL {
                // The only way for a recurrent memory.
                return self.clear().map(|()| true);
            }
            return self.seq_rm(-1, range);
        };
        self.seq_rm(seq_id, range)
    }

    /// Copies a range of a sequence to another, in place of what that has there. Positions
    /// are not stored twice where the sequences share one buffer. Copies of whole sequences
    /// that have buffers of their own are made together with the next batch.
    ///
    /// Rests on `llama_memory_seq_rm` and `llama_memory_seq_cp`.
    ///
    /// # Errors
    /// [`MemoryError`]; only whole sequences can be copied unless they share one buffer
    /// ([`with_kv_unified`](crate::ContextParams::with_kv_unified)).
    pub fn copy(&mut self, from: SeqId, to: SeqId, range: impl RangeBounds<Pos>) -> Result<()> {
        self.check()?;
        let (src, dst) = (self.seq_id(from)?, self.seq_id(to)?);
        let Some(range) = raw_range(range).filter(|_| src != dst) else {
            return Ok(());
        };
        let recurrent = self.context.model.is_recurrent();
        let apart = !self.context.kv_unified && !recurrent;
        let range = if apart {
            let whole = range.start <= 0 && (range.end < 0 || self.is_beyond(src, range.end)?);
            if !whole {
                return Err(MemoryError::PartialCopy.into());
            }
            ALL
        } else {
            range
        };
        if !self.seq_rm(dst, range)? {
            return Err(MemoryError::PartialReplace { seq: to }.into());
        }
        let copied = self.context.handle.seq_cp(src, dst, range);
        self.context.watch(copied, "llama_memory_seq_cp")?;
        self.context.unapplied.copies |= apart;
        Ok(())
    }

    /// Removes every other sequence.
    ///
    /// Rests on `llama_memory_seq_rm`, since `llama_memory_seq_keep` looks only at the buffer
    /// of the sequence itself.
    ///
    /// # Errors
    /// As [`remove`](Self::remove).
    pub fn keep(&mut self, seq: SeqId) -> Result<()> {
        self.check()?;
        let keep = self.seq_id(seq)?;
        let n_seq_max = self.context.n_seq_max() as i32;
        for other in (0..n_seq_max).filter(|&other| other != keep) {
            self.seq_rm(other, ALL)?;
        }
        Ok(())
    }

    /// Moves the positions of a range by `delta`; what is computed from them follows with the
    /// next batch. Positions that another sequence shares move there too.
    ///
    /// Rests on `llama_memory_seq_add`.
    ///
    /// # Errors
    /// [`MemoryError`] where the memory cannot, or a position would become negative or too
    /// large.
    pub fn shift(&mut self, seq: SeqId, range: impl RangeBounds<Pos>, delta: i32) -> Result<()> {
        self.check()?;
        let seq_id = self.seq_id(seq)?;
        let held = self.positions(seq)?;
        let (Some(range), Some(held)) = (raw_range(range), held) else {
            return Ok(());
        };
        if delta == 0 {
            return Ok(());
        }
        self.check_can_shift()?;
        let first = i64::from(*held.start()).max(range.start.into());
        let last = match range.end {
            end if end < 0 => i64::from(*held.end()),
            end => i64::from(*held.end()).min(i64::from(end) - 1),
        };
        if first > last {
            return Ok(());
        }
        for pos in [first, last] {
            if !(0..=i64::from(POS_MAX)).contains(&(pos + i64::from(delta))) {
                let pos = Pos::try_from(pos).unwrap_or(0);
                return Err(MemoryError::ShiftOutOfRange { pos, delta }.into());
            }
        }
        let shifted = self.context.handle.seq_add(seq_id, range, delta);
        self.context.watch(shifted, "llama_memory_seq_add")?;
        self.context.unapplied.moves = true;
        Ok(())
    }

    /// Divides the positions of a range, rounding down; what is computed from them follows
    /// with the next batch. Positions that another sequence shares change there too.
    ///
    /// Rests on `llama_memory_seq_div`.
    ///
    /// # Errors
    /// [`MemoryError`] where the memory cannot.
    pub fn divide(
        &mut self,
        seq: SeqId,
        range: impl RangeBounds<Pos>,
        divisor: NonZeroU32,
    ) -> Result<()> {
        self.check()?;
        let seq_id = self.seq_id(seq)?;
        let divisor = divisor.get();
        let Ok(by) = i32::try_from(divisor) else {
            return Err(MemoryError::Divisor { divisor }.into());
        };
        let Some(range) = raw_range(range).filter(|_| by != 1) else {
            return Ok(());
        };
        self.check_can_shift()?;
        let divided = self.context.handle.seq_div(seq_id, range, by);
        self.context.watch(divided, "llama_memory_seq_div")?;
        self.context.unapplied.moves = true;
        Ok(())
    }

    /// The first and the last position that the memory holds of a sequence; `None` if it
    /// holds none. A recurrent model has only the last; layers with sliding-window attention
    /// hold less.
    ///
    /// Rests on `llama_memory_seq_pos_min` and `llama_memory_seq_pos_max`.
    ///
    /// # Errors
    /// [`MemoryError`] without a memory or for a sequence that does not exist.
    pub fn positions(&mut self, seq: SeqId) -> Result<Option<RangeInclusive<Pos>>> {
        self.check()?;
        let seq_id = self.seq_id(seq)?;
        let positions = self.context.handle.seq_pos(seq_id);
        let (min, max) = self.context.watch(positions, "llama_memory_seq_pos_max")?;
        Ok(match (Pos::try_from(min), Pos::try_from(max)) {
            (Ok(min), Ok(max)) => Some(min..=max),
            _ => None,
        })
    }

    /// Whether positions can be moved.
    ///
    /// Rests on `llama_memory_can_shift`.
    #[must_use]
    pub fn can_shift(&self) -> bool {
        let several = matches!(
            self.context.model.rope_type(),
            RopeType::Mrope | RopeType::Imrope
        );
        self.context.handle.can_shift() && !several
    }

    fn seq_rm(&mut self, seq_id: i32, range: RawRange) -> Result<bool> {
        let removed = self.context.handle.seq_rm(seq_id, range);
        self.context.watch(removed, "llama_memory_seq_rm")
    }

    fn check(&self) -> Result<()> {
        self.context.check_usable()?;
        if !self.context.has_memory {
            return Err(MemoryError::None.into());
        }
        Ok(())
    }

    fn check_can_shift(&self) -> Result<(), MemoryError> {
        if !self.can_shift() {
            return Err(MemoryError::CannotShift);
        }
        Ok(())
    }

    fn seq_id(&self, seq: SeqId) -> Result<i32, MemoryError> {
        let n_seq_max = self.context.n_seq_max();
        let raw = i32::try_from(seq).ok().filter(|_| seq < n_seq_max);
        raw.ok_or(MemoryError::Sequence { seq, n_seq_max })
    }

    /// Whether a sequence ends before `end`.
    fn is_beyond(&mut self, seq_id: i32, end: i32) -> Result<bool> {
        let positions = self.context.handle.seq_pos(seq_id);
        let (_, max) = self.context.watch(positions, "llama_memory_seq_pos_max")?;
        Ok(max < end)
    }
}

/// llama.cpp's form of a range; `None` if it is empty.
fn raw_range(range: impl RangeBounds<Pos>) -> Option<RawRange> {
    let start = match range.start_bound() {
        Bound::Included(&start) => u64::from(start),
        Bound::Excluded(&start) => u64::from(start) + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&end) => u64::from(end) + 1,
        Bound::Excluded(&end) => u64::from(end),
        Bound::Unbounded => u64::MAX,
    };
    if start >= end || start > u64::from(POS_MAX) {
        return None;
    }
    Some(RawRange {
        start: if start == 0 { -1 } else { start as i32 },
        end: if end > u64::from(POS_MAX) {
            -1
        } else {
            end as i32
        },
    })
}

#[cfg(test)]
mod tests {
    use std::ops::Bound;

    use super::{ALL, POS_MAX, RawRange, raw_range};

    #[test]
    fn ranges_become_half_open_pairs() {
        let raw = |start, end| Some(RawRange { start, end });
        assert_eq!(raw_range(..), Some(ALL));
        assert_eq!(raw_range(0..), Some(ALL));
        assert_eq!(raw_range(5..), raw(5, -1));
        assert_eq!(raw_range(5..9), raw(5, 9));
        assert_eq!(raw_range(5..=9), raw(5, 10));
        assert_eq!(raw_range(..=POS_MAX), Some(ALL));
        assert_eq!(raw_range(..=u32::MAX), Some(ALL));
        assert_eq!(raw_range(..POS_MAX), raw(-1, POS_MAX as i32));
    }

    #[test]
    fn nothing_is_asked_for_an_empty_range() {
        assert_eq!(raw_range(5..5), None);
        assert_eq!(raw_range((Bound::Included(7), Bound::Excluded(5))), None);
        assert_eq!(raw_range(..0), None);
        assert_eq!(raw_range(POS_MAX + 1..), None);
        assert_eq!(raw_range(u32::MAX..), None);
    }
}
