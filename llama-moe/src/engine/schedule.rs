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

/// Divides a step among slots with so many tokens to compute, at least 1 each.
///
/// A slot with one token generates, and always has its place: nobody's stream waits for a
/// prompt to end. What is left is for prompts, in equal shares: what the short ones do not
/// need is for the long ones. Where there is not a token for each, `turn` says who begins.
pub(super) fn divide(todo: &[Share], room: Room, turn: usize) -> Vec<Share> {
    let (mut shares, mut prompts): (Vec<Share>, Vec<Share>) =
        todo.iter().partition(|share| share.n_tokens == 1);
    if prompts.is_empty() {
        return shares;
    }
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
    let n_prompts = prompts.len();
    prompts.rotate_left(turn % n_prompts);
    if budget >= n_prompts {
        prompts.sort_by_key(|share| share.n_tokens);
    }
    for (index, prompt) in prompts.into_iter().enumerate() {
        let n_tokens = prompt.n_tokens.min(budget.div_ceil(n_prompts - index));
        if n_tokens > 0 {
            shares.push(Share { n_tokens, ..prompt });
        }
        budget -= n_tokens;
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

    fn divided(todo: &[usize], room: Room, turn: usize) -> Vec<usize> {
        let shares: Vec<Share> = (0..)
            .zip(todo)
            .map(|(slot, &n_tokens)| Share { slot, n_tokens })
            .collect();
        let mut result = vec![0; todo.len()];
        for share in divide(&shares, room, turn) {
            result[share.slot] += share.n_tokens;
        }
        result
    }

    #[test]
    fn answers_always_have_their_place() {
        assert_eq!(divided(&[1, 1, 1], ROOM, 0), [1, 1, 1]);
        assert_eq!(divided(&[1, 500, 1], ROOM, 0), [1, 14, 1]);
    }

    #[test]
    fn prompts_alone_have_the_whole_batch() {
        assert_eq!(divided(&[500], ROOM, 0), [64]);
        assert_eq!(divided(&[500, 500], ROOM, 0), [32, 32]);
        assert_eq!(divided(&[500, 10], ROOM, 0), [54, 10]);
    }

    #[test]
    fn prompts_beside_answers_have_what_is_set() {
        let room = Room {
            prefill_chunk: Some(6),
            ..ROOM
        };
        assert_eq!(divided(&[1, 500, 500], room, 0), [1, 3, 3]);
        assert_eq!(divided(&[1, 500, 2], room, 0), [1, 4, 2]);
    }

    #[test]
    fn there_is_a_turn_for_each_where_not_all_fit() {
        let room = Room {
            prefill_chunk: Some(1),
            ..ROOM
        };
        let mut had = [false; 3];
        for turn in 0..3 {
            let shares = divided(&[1, 9, 9, 9], room, turn);
            assert_eq!(shares.iter().sum::<usize>(), 2);
            for (had, share) in had.iter_mut().zip(&shares[1..]) {
                *had |= *share > 0;
            }
        }
        assert_eq!(had, [true; 3]);
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
                let shares = divided(&[1, 1, 1, 300], room, 5);
                assert!(shares.iter().sum::<usize>() <= n_batch);
                assert!(shares[3] > 0, "{room:?}");
            }
        }
    }
}
