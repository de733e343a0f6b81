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
    /// Whether slots share a buffer. Where they do not, llama.cpp takes equally many tokens of each
    /// slot into a micro-batch, so that pieces of different lengths make several; and only of slots
    /// that follow one on the other, as do their tokens in the batch.
    pub(super) kv_unified: bool,
}

/// Divides a step among slots with so many tokens to compute, at least 1 each, in the order in
/// which they came. Returned are those that have a part in it, in the order of the slots.
///
/// A slot with one token generates, and always has its place: nobody's stream waits for a
/// prompt to end. What is left is for prompts. Every other `turn` it is for the one that came first,
/// so that each has its time, and else for the shortest, so that a question does not wait for a
/// book. What that one does not need is for the shortest of the others: only as far as it is enough
/// for all of them, where each piece is computed by itself. With equal shares for all, most would
/// begin about as late as the last one.
pub(super) fn divide(todo: &[Share], room: Room, turn: u64) -> Vec<Share> {
    let (mut shares, prompts): (Vec<Share>, Vec<Share>) =
        todo.iter().partition(|share| share.n_tokens == 1);
    let n_generating = shares.len();
    shares.extend(divide_rest(&prompts, n_generating, room, turn));
    if !room.kv_unified {
        fill_gaps(&mut shares, n_generating, &prompts, room.n_batch);
    }
    shares.sort_unstable_by_key(|share| share.slot);
    shares
}

/// Divides what those that generate leave of a step among prompts.
fn divide_rest(prompts: &[Share], n_generating: usize, room: Room, turn: u64) -> Vec<Share> {
    let mut prompts = prompts.to_vec();
    if prompts.is_empty() {
        return prompts;
    }
    let left = room.n_batch.saturating_sub(n_generating);
    let mut budget = match room.prefill_chunk {
        _ if n_generating == 0 => left,
        Some(chunk) => chunk.min(left),
        None => room
            .n_ubatch
            .saturating_sub(n_generating)
            .clamp(1, left.max(1)),
    };
    let after_first = usize::from(turn.is_multiple_of(2));
    prompts[after_first..].sort_by_key(|share| share.n_tokens);
    let mut shares = Vec::new();
    for (index, prompt) in prompts.into_iter().enumerate() {
        if index > 0 && !room.kv_unified && prompt.n_tokens > budget {
            break;
        }
        let n_tokens = prompt.n_tokens.min(budget);
        if n_tokens > 0 {
            shares.push(Share { n_tokens, ..prompt });
        }
        budget -= n_tokens;
    }
    shares
}

/// Gives a token to each prompt that waits in a slot between those that generate: it costs little
/// beside the others' tokens, which else would be computed in several micro-batches that read the
/// weights once each.
fn fill_gaps(shares: &mut Vec<Share>, n_generating: usize, prompts: &[Share], n_batch: usize) {
    let generating = || shares[..n_generating].iter().map(|share| share.slot);
    let (Some(first), Some(last)) = (generating().min(), generating().max()) else {
        return;
    };
    let has_share = |slot| shares.iter().any(|share| share.slot == slot);
    let waiting = prompts
        .iter()
        .filter(|prompt| (first..last).contains(&prompt.slot) && !has_share(prompt.slot));
    let n_tokens: usize = shares.iter().map(|share| share.n_tokens).sum();
    let left = n_batch.saturating_sub(n_tokens);
    let filling: Vec<Share> = waiting
        .take(left)
        .map(|prompt| Share {
            n_tokens: 1,
            ..*prompt
        })
        .collect();
    shares.extend(filling);
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room {
        n_batch: 64,
        n_ubatch: 16,
        prefill_chunk: None,
        kv_unified: true,
    };
    const APART: Room = Room {
        kv_unified: false,
        ..ROOM
    };

    fn divided(todo: &[usize], room: Room, turn: u64) -> Vec<usize> {
        let shares: Vec<Share> = (0..)
            .zip(todo)
            .map(|(slot, &n_tokens)| Share { slot, n_tokens })
            .collect();
        let mut result = vec![0; todo.len()];
        let divided = divide(&shares, room, turn);
        assert!(divided.is_sorted_by(|a, b| a.slot < b.slot), "{divided:?}");
        for share in divided {
            assert!(share.n_tokens > 0);
            result[share.slot] += share.n_tokens;
        }
        result
    }

    #[test]
    fn answers_always_have_their_place() {
        for turn in 0..2 {
            for room in [ROOM, APART] {
                assert_eq!(divided(&[1, 1, 1], room, turn), [1, 1, 1]);
                assert_eq!(divided(&[1, 500, 1], room, turn), [1, 14, 1]);
            }
        }
    }

    #[test]
    fn prompts_alone_have_the_whole_batch() {
        assert_eq!(divided(&[500], ROOM, 0), [64]);
        assert_eq!(divided(&[500, 10], ROOM, 0), [64, 0]);
        assert_eq!(divided(&[500, 10], ROOM, 1), [54, 10]);
    }

    #[test]
    fn the_first_and_the_shortest_take_turns() {
        let todo = [1, 30, 12, 9];
        assert_eq!(divided(&todo, ROOM, 0), [1, 15, 0, 0]);
        assert_eq!(divided(&todo, ROOM, 1), [1, 0, 6, 9]);
        assert_eq!(divided(&[1, 5, 12, 9], ROOM, 0), [1, 5, 1, 9]);
        // The first to come is the first of those that are as short.
        assert_eq!(divided(&[1, 30, 30], ROOM, 1), [1, 15, 0]);
    }

    #[test]
    fn in_buffers_of_their_own_no_second_prompt_is_cut() {
        let todo = [1, 30, 12, 9];
        assert_eq!(divided(&todo, APART, 0), [1, 15, 0, 0]);
        assert_eq!(divided(&todo, APART, 1), [1, 0, 0, 9]);
        assert_eq!(divided(&[1, 5, 12, 9], APART, 0), [1, 5, 0, 9]);
        assert_eq!(divided(&[5, 12, 9], APART, 0), [5, 12, 9]);
    }

    #[test]
    fn in_buffers_of_their_own_no_gap_is_left_between_answers() {
        assert_eq!(
            divided(&[1, 30, 30, 30, 1, 30], APART, 0),
            [1, 14, 1, 1, 1, 0]
        );
        assert_eq!(divided(&[30, 30, 1, 30, 30], APART, 1), [15, 0, 1, 0, 0]);
        // Nobody's answer is computed faster by it.
        assert_eq!(divided(&[60, 30, 30, 1], ROOM, 0), [15, 0, 0, 1]);
        assert_eq!(divided(&[60, 30, 60], APART, 0), [60, 0, 0]);
        let small = Room {
            n_batch: 4,
            ..APART
        };
        assert_eq!(divided(&[1, 30, 30, 30, 1], small, 0), [1, 2, 0, 0, 1]);
    }

    #[test]
    fn the_order_is_that_of_the_slots_whoever_came_first() {
        let todo = [3, 1, 0, 2].map(|slot| Share { slot, n_tokens: 1 });
        let divided = divide(&todo, APART, 0);
        assert!(divided.iter().map(|share| share.slot).eq(0..4));
    }

    #[test]
    fn the_first_goes_on_however_little_room_there_is() {
        let room = Room {
            prefill_chunk: Some(1),
            ..ROOM
        };
        assert_eq!(divided(&[1, 500, 2], room, 0), [1, 1, 0]);
        assert_eq!(divided(&[1, 500, 2], room, 1), [1, 0, 1]);
    }

    #[test]
    fn a_batch_is_never_too_large() {
        for n_batch in 4..20 {
            for prefill_chunk in [None, Some(1), Some(100)] {
                let room = Room {
                    n_batch,
                    n_ubatch: 8.min(n_batch),
                    prefill_chunk,
                    ..ROOM
                };
                let shares = divided(&[1, 1, 1, 300], room, 5);
                assert!(shares.iter().sum::<usize>() <= n_batch);
                assert!(shares[3] > 0, "{room:?}");
            }
        }
    }
}
