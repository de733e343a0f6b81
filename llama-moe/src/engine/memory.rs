//! The context, and which tokens its memory holds in which slot.

use super::error::EngineError;
use super::prefix::Place;
use super::sharing::Sharing;
use crate::context::{Batch, Context, ContextParams, MoeCacheStats, Pos, SeqId};
use crate::error::Result;
use crate::model::{Model, Token};

/// Tokens that are always worth copying a buffer for: to compute them takes longer.
const WORTH_COPYING: usize = 256;

/// Tokens to be computed, which come next in a slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part<'a> {
    slot: usize,
    tokens: &'a [Token],
    /// Whether the last of them has an output.
    has_output: bool,
    /// Tokens that may come after them, each with an output.
    drafted: &'a [Token],
}

impl<'a> Part<'a> {
    /// Tokens of which the last one has an output.
    pub(super) fn with_output(slot: usize, tokens: &'a [Token]) -> Self {
        Self {
            slot,
            tokens,
            has_output: true,
            drafted: &[],
        }
    }

    /// Tokens of which none has an output.
    pub(super) fn without_output(slot: usize, tokens: &'a [Token]) -> Self {
        Self {
            has_output: false,
            ..Self::with_output(slot, tokens)
        }
    }

    /// The same with tokens that may come after them.
    pub(super) fn with_drafted(self, drafted: &'a [Token]) -> Self {
        Self { drafted, ..self }
    }
}

/// The context that answers are computed with, and for each slot, which is a sequence, the
/// tokens that its memory holds from position 0 on.
///
/// Where an operation fails, the memory is not what `held` says, and is to be
/// [rebuilt](Self::rebuild).
pub(super) struct SlotMemory {
    /// None after another one could not be made.
    context: Option<Context>,
    /// To make another one.
    params: ContextParams,
    held: Vec<Vec<Token>>,
    /// Nothing is shared between buffers.
    sharing: Sharing,
    batch: Batch,
    n_ctx: usize,
    n_batch: usize,
    n_ubatch: usize,
    n_swa: usize,
    least_copied: usize,
    /// A state cannot be taken back to an earlier token.
    is_state: bool,
    kv_unified: bool,
    n_rebuilt: u64,
    /// Statistics of the caches of earlier contexts.
    earlier_caches: MoeCacheStats,
    /// The last statistics of the context's cache.
    cache: MoeCacheStats,
}

impl SlotMemory {
    pub(super) fn new(context: Context, params: ContextParams, kv_unified: bool) -> Self {
        let model = context.model();
        Self {
            held: vec![Vec::new(); context.n_seq_max() as usize],
            sharing: Sharing::new(context.n_seq_max() as usize),
            batch: Batch::new(context.n_batch() as usize, context.n_seq_max()),
            n_ctx: context.n_ctx() as usize,
            n_batch: context.n_batch() as usize,
            n_ubatch: context.n_ubatch() as usize,
            n_swa: model.n_swa() as usize,
            least_copied: least_copied(&context, kv_unified),
            is_state: model.is_recurrent() || model.is_hybrid(),
            kv_unified,
            n_rebuilt: 0,
            earlier_caches: MoeCacheStats::default(),
            cache: MoeCacheStats::default(),
            params,
            context: Some(context),
        }
    }

    /// The context, for reading outputs.
    ///
    /// # Errors
    /// If there is none: another one could not be made.
    pub(super) fn context(&mut self) -> Result<&mut Context> {
        Ok(self.context.as_mut().ok_or(EngineError::Stopped)?)
    }

    /// Another context in place of one that cannot be used any more. It holds nothing.
    pub(super) fn rebuild(&mut self, model: &Model) -> Result<()> {
        self.held.iter_mut().for_each(Vec::clear);
        self.sharing = Sharing::new(self.held.len());
        self.earlier_caches = self.earlier_caches.plus(&self.cache);
        self.cache = MoeCacheStats::default();
        // There need not be room for both at a time.
        self.context = None;
        self.context = Some(model.context(self.params.clone())?);
        self.n_rebuilt += 1;
        Ok(())
    }

    /// Statistics of the cache of experts, earlier contexts included; `None` without a cache.
    ///
    /// A context that cannot be used any more is not asked again: what it did until then stays.
    pub(super) fn moe_cache_stats(&mut self) -> Option<MoeCacheStats> {
        if self.params.moe_cache_size() == 0 {
            return None;
        }
        let context = self.context.as_mut();
        if let Some(Ok(Some(stats))) = context.map(Context::moe_cache_stats) {
            self.cache = stats;
        }
        Some(self.earlier_caches.plus(&self.cache))
    }

    /// How many times there was another context.
    pub(super) fn n_rebuilt(&self) -> u64 {
        self.n_rebuilt
    }

    pub(super) fn n_slots(&self) -> usize {
        self.held.len()
    }

    /// Positions of all slots together.
    pub(super) fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    pub(super) fn n_batch(&self) -> usize {
        self.n_batch
    }

    pub(super) fn n_ubatch(&self) -> usize {
        self.n_ubatch
    }

    /// The tokens that the memory holds of a slot.
    pub(super) fn held(&self, slot: usize) -> &[Token] {
        &self.held[slot]
    }

    /// Positions from the first on that two different slots share.
    pub(super) fn n_shared(&self, a: usize, b: usize) -> usize {
        self.sharing.between(a, b)
    }

    /// Positions that hold something. Shared ones count for each slot.
    pub(super) fn used(&self) -> usize {
        self.held.iter().map(Vec::len).sum()
    }

    /// How many tokens from the beginning have to be kept at least for the memory to go on
    /// from there; `None` if it can only go on from the end.
    pub(super) fn cut_from(&mut self, slot: usize) -> Option<usize> {
        if self.is_state {
            return None;
        }
        // Layers with sliding-window attention have let go of what is behind the window, and
        // it takes all of the window to go on.
        let mut memory = self.context().ok()?.memory();
        let positions = memory.positions(seq(slot)).ok()?;
        let first = positions.map_or(0, |held| *held.start() as usize);
        Some(if first == 0 { 0 } else { first + self.n_swa })
    }

    /// Whether of a batch with tokens of so many slots, each slot's can be taken back to the first
    /// of them. Layers with sliding-window attention let go of what is behind the window of the
    /// first token of a micro-batch; and slots with buffers of their own are computed in several of
    /// them, unless they have equally many tokens.
    pub(super) fn can_take_back(&self, n_slots: usize) -> bool {
        !self.is_state && (self.n_swa == 0 || self.kv_unified || n_slots == 1)
    }

    /// The fewest tokens that are worth a copy.
    pub(super) fn least_copied(&self) -> usize {
        self.least_copied
    }

    /// Makes a slot hold the beginning that was found for it, and returns how much that is.
    pub(super) fn take_place(&mut self, place: Place) -> Result<usize> {
        let Place {
            slot,
            source,
            n_tokens,
        } = place;
        if slot != source {
            self.copy(source, slot, n_tokens)?;
        } else if !self.cut(slot, n_tokens)? {
            self.clear(slot)?;
        }
        Ok(self.held[slot].len())
    }

    /// Makes a slot hold what another one holds up to `n_tokens`, from where that can be cut.
    pub(super) fn copy(&mut self, source: usize, slot: usize, n_tokens: usize) -> Result<()> {
        self.clear(slot)?;
        let is_whole = n_tokens == self.held[source].len();
        let copies_all = is_whole || !self.kv_unified;
        let mut memory = self.context()?.memory();
        if copies_all {
            // Buffers can only be copied as a whole.
            memory.copy(seq(source), seq(slot), ..)?;
        } else {
            memory.copy(seq(source), seq(slot), ..pos(n_tokens))?;
        }
        self.held[slot] = self.held[source][..n_tokens].to_vec();
        if self.kv_unified {
            self.sharing.copy(source, slot, n_tokens);
        }
        if !is_whole && !self.kv_unified && !self.remove_from(slot, n_tokens)? {
            self.clear(slot)?;
        }
        Ok(())
    }

    /// Keeps the first tokens of a slot. `false` if the memory cannot, and is unchanged.
    pub(super) fn cut(&mut self, slot: usize, n_tokens: usize) -> Result<bool> {
        if n_tokens >= self.held[slot].len() {
            return Ok(true);
        }
        if self.cut_from(slot).is_none_or(|least| n_tokens < least) {
            return Ok(false);
        }
        self.remove_from(slot, n_tokens)
    }

    /// After a computation that failed: takes out what may be in the memory beyond what
    /// `held` says. Micro-batches that came before may have pushed the window out of the layers
    /// that hold no more than that, or have moved a state on: then nothing is left.
    pub(super) fn settle(&mut self, slot: usize) -> Result<()> {
        let n_held = self.held[slot].len();
        let least = self.cut_from(slot);
        if least.is_none_or(|least| n_held < least) || !self.remove_from(slot, n_held)? {
            self.clear(slot)?;
        }
        Ok(())
    }

    /// Empties a slot.
    pub(super) fn clear(&mut self, slot: usize) -> Result<()> {
        self.held[slot].clear();
        self.sharing.cut(slot, 0);
        // A whole sequence can always be removed.
        self.context()?.memory().remove(Some(seq(slot)), ..)?;
        Ok(())
    }

    fn remove_from(&mut self, slot: usize, n_tokens: usize) -> Result<bool> {
        let mut memory = self.context()?.memory();
        let removed = memory.remove(Some(seq(slot)), pos(n_tokens)..)?;
        if removed {
            self.held[slot].truncate(n_tokens);
            self.sharing.cut(slot, n_tokens);
        }
        Ok(removed)
    }

    /// Computes tokens that come next in their slots. Returned are the slots of those that have
    /// outputs, and the first one's index: those of drafted tokens follow it.
    pub(super) fn compute(&mut self, parts: &[Part<'_>]) -> Result<Vec<(usize, usize)>> {
        self.batch.clear();
        let mut outputs = Vec::new();
        for part in parts {
            let start = self.held[part.slot].len();
            let n_before = part.tokens.len().saturating_sub(1);
            for (index, &token) in part.tokens.iter().chain(part.drafted).enumerate() {
                let position = pos(start + index);
                let output = index >= n_before && part.has_output;
                let added = self.batch.add(token, position, &[seq(part.slot)], output)?;
                if output && index == n_before {
                    outputs.push((part.slot, added));
                }
            }
        }
        let context = self.context.as_mut().ok_or(EngineError::Stopped)?;
        context.decode(&self.batch)?;
        // So that a failure is seen here.
        context.synchronize()?;
        for part in parts {
            let held = &mut self.held[part.slot];
            held.extend_from_slice(part.tokens);
            held.extend_from_slice(part.drafted);
        }
        Ok(outputs)
    }
}

/// The fewest tokens that are worth a copy. In one buffer a copy is a note that two sequences
/// share them, and a state is small; but a buffer of a slot's own is copied as a whole,
/// however little of it is used.
fn least_copied(context: &Context, kv_unified: bool) -> usize {
    if kv_unified || context.model().is_recurrent() {
        return 1;
    }
    (context.n_ctx_seq() as usize / 8).min(WORTH_COPYING)
}

/// There are at most 256 slots.
fn seq(slot: usize) -> SeqId {
    slot as SeqId
}

/// Positions fit: a context has less than 2^31.
fn pos(index: usize) -> Pos {
    index as Pos
}
