//! Where the beginning of a prompt is in the memory already.

use crate::model::Token;

/// What is known of a slot when a place for a prompt is looked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    /// The tokens that the memory holds of it.
    pub(super) held: &'a [Token],
    /// Whether an answer is generated in it.
    pub(super) is_busy: bool,
    /// When it was last used: the larger, the later.
    pub(super) last_used: u64,
    /// The tokens from the beginning that must be kept at least where it is cut; `None` if it
    /// cannot be cut.
    pub(super) cut_from: Option<usize>,
}

/// The slot that a prompt is computed in, and what of it the memory has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) slot: usize,
    /// The slot whose beginning is used; it can be the same one.
    pub(super) source: usize,
    /// How many tokens of it.
    pub(super) n_tokens: usize,
}

impl Candidate<'_> {
    /// How many tokens a prompt can take over: never all, since the last one has to be
    /// computed for its logits.
    fn usable(&self, prompt: &[Token]) -> usize {
        let most = prompt.len().saturating_sub(1);
        let common = common(self.held, prompt).min(most);
        if common == self.held.len() {
            return common;
        }
        match self.cut_from {
            Some(least) if common >= least => common,
            _ => 0,
        }
    }
}

/// Finds a place for a prompt; `None` if every slot is busy.
///
/// The longest beginning that a slot holds is used. It is used in its own slot if that is free
/// and loses little by it, else copied to the free slot that has been used least recently. One of
/// fewer than `least_copied` tokens is not worth a copy: then that slot has what it holds itself.
pub(super) fn find(
    slots: &[Candidate<'_>],
    prompt: &[Token],
    least_copied: usize,
) -> Option<Place> {
    let source = (0..slots.len())
        .map(|slot| (slots[slot].usable(prompt), slots[slot].last_used, slot))
        .max()
        .filter(|&(n_tokens, ..)| n_tokens > 0);
    let oldest = (0..slots.len())
        .filter(|&slot| !slots[slot].is_busy)
        .min_by_key(|&slot| (!slots[slot].held.is_empty(), slots[slot].last_used))?;
    let in_oldest = Place {
        slot: oldest,
        source: oldest,
        n_tokens: slots[oldest].usable(prompt),
    };
    let Some((n_tokens, _, source)) = source else {
        return Some(in_oldest);
    };
    let n_held = slots[source].held.len();
    let n_lost = n_held - n_tokens;
    // Next to nothing, as where an answer comes back as other tokens; or less than the other
    // slot would lose, and no more than half.
    let is_little =
        n_lost <= n_tokens / 16 || (n_lost <= slots[oldest].held.len() && n_lost <= n_held / 2);
    let is_in_place = source == oldest || (!slots[source].is_busy && is_little);
    if !is_in_place && n_tokens < least_copied {
        return Some(in_oldest);
    }
    Some(Place {
        slot: if is_in_place { source } else { oldest },
        source,
        n_tokens,
    })
}

/// How many tokens both begin with.
pub(super) fn common(a: &[Token], b: &[Token]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<Token> {
        text.bytes().map(|byte| Token(byte.into())).collect()
    }

    /// Slots that hold the letters of a text, busy if it ends with `*`, uncuttable if with `!`,
    /// used one after the other.
    fn found(slots: &[&str], prompt: &str) -> Option<(usize, usize, usize)> {
        found_from(slots, prompt, 1)
    }

    /// The same where copies are of so many tokens at least.
    fn found_from(
        slots: &[&str],
        prompt: &str,
        least_copied: usize,
    ) -> Option<(usize, usize, usize)> {
        let held: Vec<Vec<Token>> = slots
            .iter()
            .map(|slot| tokens(slot.trim_end_matches(['*', '!'])))
            .collect();
        let candidates: Vec<Candidate<'_>> = held
            .iter()
            .zip(slots)
            .enumerate()
            .map(|(index, (held, slot))| Candidate {
                held,
                is_busy: slot.ends_with('*'),
                last_used: index as u64,
                cut_from: (!slot.ends_with('!')).then_some(0),
            })
            .collect();
        find(&candidates, &tokens(prompt), least_copied)
            .map(|place| (place.slot, place.source, place.n_tokens))
    }

    #[test]
    fn a_conversation_goes_on_in_its_slot() {
        assert_eq!(found(&["", "abc", "abd"], "abcdef"), Some((1, 1, 3)));
    }

    #[test]
    fn a_slot_that_loses_little_is_used_itself() {
        assert_eq!(
            found(&["", "abcdefghijklmnopx"], "abcdefghijklmnopyz"),
            Some((1, 1, 16))
        );
        assert_eq!(found(&["zzz", "abcx"], "abcde"), Some((1, 1, 3)));
        assert_eq!(found(&["", "abcx"], "abcde"), Some((0, 1, 3)));
    }

    #[test]
    fn a_shared_beginning_is_copied() {
        assert_eq!(found(&["abcxyz", ""], "abcdef"), Some((1, 0, 3)));
        assert_eq!(found(&["abc*", "zzz"], "abcdef"), Some((1, 0, 3)));
    }

    #[test]
    fn a_beginning_that_is_too_short_is_not_copied() {
        let slots = ["", "abcxyz", "abz*"];
        assert_eq!(found_from(&slots, "abcdef", 3), Some((0, 1, 3)));
        assert_eq!(found_from(&slots, "abcdef", 4), Some((0, 0, 0)));
        // What is there already is used, however short it is.
        assert_eq!(
            found_from(&["azz", "abcwxyz"], "abcdef", 4),
            Some((0, 0, 1))
        );
        assert_eq!(found_from(&["*", "abcx"], "abcdef", 4), Some((1, 1, 3)));
        assert_eq!(found_from(&["", "abc"], "abcdef", 4), Some((1, 1, 3)));
    }

    #[test]
    fn the_least_recently_used_slot_gives_way() {
        assert_eq!(found(&["aaa", "bbb", "cde"], "cxy"), Some((0, 2, 1)));
        assert_eq!(found(&["aaa", "bbb"], "xyz"), Some((0, 0, 0)));
        assert_eq!(found(&["aaa", ""], "xyz"), Some((1, 1, 0)));
        assert_eq!(found(&["abc"], "abd"), Some((0, 0, 2)));
    }

    #[test]
    fn the_last_token_is_always_computed() {
        assert_eq!(found(&["abc"], "abc"), Some((0, 0, 2)));
        assert_eq!(found(&["abcd"], "abc"), Some((0, 0, 2)));
        assert_eq!(found(&["a"], "a"), Some((0, 0, 0)));
    }

    #[test]
    fn what_cannot_be_cut_is_used_whole_or_not_at_all() {
        assert_eq!(found(&["abc!"], "abcd"), Some((0, 0, 3)));
        assert_eq!(found(&["abc!"], "abd"), Some((0, 0, 0)));
        assert_eq!(found(&["abc!"], "abc"), Some((0, 0, 0)));
    }

    #[test]
    fn there_is_no_place_while_all_are_busy() {
        assert_eq!(found(&["abc*", "*"], "abcd"), None);
    }
}
