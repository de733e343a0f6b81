//! What a step computes.

/// Tokens of one slot to be computed in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) slot: usize,
    pub(super) n_tokens: usize,
}

/// The room that a step has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// Tokens of a batch.
    pub(super) n_batch: usize,
    /// Tokens of a micro-batch.
    pub(super) n_ubatch: usize,
    /// Tokens of prompts beside tokens of answers, if that is set.
    pub(super) prefill_chunk: Option<usize>,
}

/// Divides a step among slots with so many tokens to compute, at least 1 each, in the order in
/// which they came.
///
/// A slot with one token generates, and always has its place: nobody's stream waits for a
/// prompt to end. What is left is for prompts. Half of it is for the one that came first, so that
/// each has its time; the other half for those with the fewest tokens, so that a question does
/// not wait for a book. With equal shares for all, most would begin about as late as the last one,
/// and small pieces cost more than large ones.
pub(super) fn divide(todo: &[Share], room: Room) -> Vec<Share> {
    let (mut shares, mut prompts): (Vec<Share>, Vec<Share>) =
        todo.iter().partition(|share| share.n_tokens == 1);
    let n_generating = shares.len();
    let left = room.n_batch.saturating_sub(n_generating);
    let mut budget = match room.prefill_chunk {
        _ if n_generating == 0 => left,
        Some(chunk) => chunk.min(left),
        None => room
            .n_ubatch
            .saturating_sub(n_generating)
            .clamp(1, left.max(1)),
    };
    let Some(first) = prompts.first_mut() else {
        return shares;
    };
    // What it has for certain. It takes part in the other half with what it then still lacks.
    let sure = first.n_tokens.min(budget.div_ceil(2));
    let first_slot = first.slot;
    first.n_tokens -= sure;
    budget -= sure;
    prompts.sort_by_key(|share| share.n_tokens);
    for mut prompt in prompts {
        prompt.n_tokens = prompt.n_tokens.min(budget);
        budget -= prompt.n_tokens;
        if prompt.slot == first_slot {
            prompt.n_tokens += sure;
        }
        if prompt.n_tokens > 0 {
            shares.push(prompt);
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room {
        n_batch: 64,
        n_ubatch: 16,
        prefill_chunk: None,
    };

    fn divided(todo: &[usize], room: Room) -> Vec<usize> {
        let shares: Vec<Share> = (0..)
            .zip(todo)
            .map(|(slot, &n_tokens)| Share { slot, n_tokens })
            .collect();
        let mut result = vec![0; todo.len()];
        for share in divide(&shares, room) {
            assert!(share.n_tokens > 0);
            result[share.slot] += share.n_tokens;
        }
        result
    }

    #[test]
    fn answers_always_have_their_place() {
        assert_eq!(divided(&[1, 1, 1], ROOM), [1, 1, 1]);
        assert_eq!(divided(&[1, 500, 1], ROOM), [1, 14, 1]);
    }

    #[test]
    fn prompts_alone_have_the_whole_batch() {
        assert_eq!(divided(&[500], ROOM), [64]);
        assert_eq!(divided(&[500, 500], ROOM), [64, 0]);
        assert_eq!(divided(&[500, 10], ROOM), [54, 10]);
    }

    #[test]
    fn half_is_for_the_first_and_half_for_the_shortest() {
        let room = Room {
            prefill_chunk: Some(6),
            ..ROOM
        };
        assert_eq!(divided(&[1, 500, 500], room), [1, 6, 0]);
        assert_eq!(divided(&[1, 500, 400], room), [1, 3, 3]);
        assert_eq!(divided(&[500, 1, 2], room), [4, 1, 2]);
        assert_eq!(divided(&[1, 500, 9, 2], room), [1, 3, 1, 2]);
        assert_eq!(divided(&[1, 4, 500, 2], room), [1, 4, 0, 2]);
    }

    #[test]
    fn the_first_goes_on_however_little_room_there_is() {
        let room = Room {
            prefill_chunk: Some(1),
            ..ROOM
        };
        assert_eq!(divided(&[1, 500, 2], room), [1, 1, 0]);
    }

    #[test]
    fn a_batch_is_never_too_large() {
        for n_batch in 4..20 {
            for prefill_chunk in [None, Some(1), Some(100)] {
                let room = Room {
                    n_batch,
                    n_ubatch: 8.min(n_batch),
                    prefill_chunk,
                };
                let shares = divided(&[1, 1, 1, 300], room);
                assert!(shares.iter().sum::<usize>() <= n_batch);
                assert!(shares[3] > 0, "{room:?}");
            }
        }
    }
}
