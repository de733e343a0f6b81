//! Guessing several tokens of an answer, and computing in one step which of them are right.

use super::{Chosen, Scheduler};
use crate::engine::draft::STEP_TOKENS;
use crate::engine::drafter::{Drafts, Wish};
use crate::engine::schedule::Share;
use crate::engine::stats::EngineStats;
use crate::error::{Error, Result};
use crate::model::Token;

impl Scheduler {
    /// Guesses what comes next in the answers of a step.
    pub(super) fn draft(&mut self, shares: &[Share], stats: &mut EngineStats) -> Drafts {
        let most = self.most_drafted(shares);
        let Some(drafter) = &mut self.drafter else {
            return Drafts::new();
        };
        let mut wanted = Vec::new();
        for share in shares {
            let Some(answer) = &mut self.answers[share.slot] else {
                continue;
            };
            let possible = answer.n_guessable(self.n_ctx).min(most);
            let possible = possible.min(drafter.n_draft(answer.tokens.len()));
            if possible > 0 {
                wanted.push((share.slot, possible.min(answer.pace.next())));
            }
        }
        let wishes: Vec<Wish<'_>> = wanted
            .into_iter()
            .filter(|&(_, n_draft)| n_draft > 0)
            .filter_map(|(slot, n_draft)| {
                let answer = self.answers[slot].as_ref()?;
                Some(Wish {
                    slot,
                    tokens: &answer.tokens,
                    n_draft,
                })
            })
            .collect();
        if wishes.is_empty() {
            return Drafts::new();
        }
        match drafter.draft(&wishes) {
            Ok(drafts) => drafts,
            Err(error) => {
                let slots: Vec<usize> = wishes.iter().map(|wish| wish.slot).collect();
                self.give_up_drafts(&slots, &error, stats);
                Drafts::new()
            }
        }
    }

    /// Tokens that may be guessed of each answer, so that the batch stays small. There is none
    /// beside a prompt: that has the room.
    fn most_drafted(&self, shares: &[Share]) -> usize {
        let is_generating = shares.iter().all(|share| share.n_tokens == 1);
        if !is_generating || !self.memory.can_take_back(shares.len()) {
            return 0;
        }
        let n_tokens = STEP_TOKENS.min(self.memory.n_ubatch());
        let for_each = n_tokens.checked_div(shares.len()).unwrap_or(0);
        for_each.saturating_sub(1)
    }

    /// After the draft's own computation failed: the answers go on without it.
    fn give_up_drafts(&mut self, slots: &[usize], error: &Error, stats: &mut EngineStats) {
        tracing::warn!("answers go on without a draft, whose computation failed: {error}");
        stats.drafts_failed += 1;
        self.refuse_drafts(slots);
        let recovered = self
            .drafter
            .as_mut()
            .map_or(Ok(()), |drafter| drafter.recover(slots, error));
        self.keep_drafter(recovered);
    }

    /// What was guessed is of no use to these answers.
    pub(super) fn refuse_drafts(&mut self, slots: &[usize]) {
        for &slot in slots {
            if let Some(answer) = &mut self.answers[slot] {
                answer.pace.refused();
            }
        }
    }

    /// Forgets what the draft's memory holds of a slot.
    pub(super) fn forget_draft(&mut self, slot: usize) {
        let forgotten = self
            .drafter
            .as_mut()
            .map_or(Ok(()), |drafter| drafter.forget(slot));
        self.keep_drafter(forgotten);
    }

    /// A draft without a context is none.
    fn keep_drafter(&mut self, result: Result<()>) {
        if let Err(error) = result {
            tracing::error!("the engine goes on without its draft: {error}");
            self.drafter = None;
        }
    }

    /// Chooses the next tokens of an answer from the outputs of its last token and of the guessed
    /// ones: as long as each is the one that was guessed, there is an output for what follows it.
    /// `first` is the first output. What was guessed wrongly is taken out of the memory.
    pub(super) fn choose_drafted(
        &mut self,
        slot: usize,
        first: usize,
        draft: &[Token],
        stats: &mut EngineStats,
    ) -> Result<()> {
        let Some(n_tokens) = self.answers[slot]
            .as_ref()
            .map(|answer| answer.tokens.len())
        else {
            return Ok(());
        };
        let mut n_accepted = 0;
        let end = loop {
            match self.choose_one(slot, first + n_accepted, stats) {
                Ok(Some(Chosen { token, end })) => {
                    let is_right = draft.get(n_accepted) == Some(&token);
                    n_accepted += usize::from(is_right);
                    if end.is_some() || !is_right {
                        break Ok(end);
                    }
                }
                Ok(None) => break Ok(None),
                Err(error) => break Err(error),
            }
        };
        self.count_draft(slot, draft.len(), n_accepted, stats);
        self.take_back(slot, n_tokens + n_accepted)?;
        self.conclude(slot, end, stats)
    }

    fn count_draft(
        &mut self,
        slot: usize,
        n_drafted: usize,
        n_accepted: usize,
        stats: &mut EngineStats,
    ) {
        stats.drafted_tokens += n_drafted as u64;
        stats.accepted_tokens += n_accepted as u64;
        let Some(answer) = &mut self.answers[slot] else {
            return;
        };
        answer.pace.accepted(n_accepted);
        if let Some(reply) = self.replies.get_mut(&answer.request) {
            reply.count_draft(n_drafted, n_accepted);
        }
    }

    /// Takes out of the memory what it holds of an answer beyond its first tokens.
    fn take_back(&mut self, slot: usize, n_tokens: usize) -> Result<()> {
        match self.memory.cut(slot, n_tokens) {
            Ok(true) => Ok(()),
            Ok(false) => {
                // It is all computed anew, which is not to happen again.
                if let Some(answer) = &mut self.answers[slot] {
                    answer.pace.stop();
                }
                self.forget(slot)
            }
            Err(error) => self.rebuild(&error),
        }
    }
}
