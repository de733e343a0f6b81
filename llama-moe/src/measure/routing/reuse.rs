//! Reuse distances.

use super::analysis::Reuse;

/// The experts of a layer in the order of their last use.
pub(super) struct Recency {
    /// The experts that were used, the latest first.
    order: Vec<u16>,
    /// The token that last used each expert, from 1; 0 for none.
    last: Vec<u64>,
    token: u64,
    first_uses: u64,
    distances: Vec<u64>,
}

impl Recency {
    pub(super) fn new(n_expert: usize) -> Self {
        Self {
            order: Vec::new(),
            last: vec![0; n_expert],
            token: 0,
            first_uses: 0,
            distances: vec![0; n_expert],
        }
    }

    /// One token uses these experts.
    pub(super) fn use_together(&mut self, experts: &[u16]) {
        self.token += 1;
        // All distances are taken before any of these experts counts as used.
        for &expert in experts {
            match self.last[expert as usize] {
                0 => self.first_uses += 1,
                last => {
                    let newer = self.newer_than(last);
                    self.distances[newer] += 1;
                }
            }
        }
        for &expert in experts {
            let last = self.last[expert as usize];
            if last == self.token {
                continue;
            }
            if last != 0 {
                let from = self.newer_than(last);
                let found = self.order[from..].iter().position(|of| *of == expert);
                if let Some(found) = found {
                    self.order.remove(from + found);
                }
            }
            self.order.insert(0, expert);
            self.last[expert as usize] = self.token;
        }
    }

    /// How many experts were used after this token.
    fn newer_than(&self, token: u64) -> usize {
        self.order
            .partition_point(|&expert| self.last[expert as usize] > token)
    }

    pub(super) fn finish(self) -> Reuse {
        Reuse {
            first_uses: self.first_uses,
            distances: self.distances,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// By the definition, token by token.
    fn by_hand(tokens: &[Vec<u16>], n_expert: usize) -> (u64, Vec<u64>) {
        let (mut first_uses, mut distances) = (0, vec![0; n_expert]);
        for (at, experts) in tokens.iter().enumerate() {
            for expert in experts {
                match tokens[..at].iter().rposition(|of| of.contains(expert)) {
                    None => first_uses += 1,
                    Some(last) => {
                        let between = tokens[last + 1..at].iter().flatten();
                        distances[between.collect::<HashSet<_>>().len()] += 1;
                    }
                }
            }
        }
        (first_uses, distances)
    }

    #[test]
    fn as_the_definition_has_it() {
        let mut state = 7u32;
        let mut next = |n: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) % n
        };
        for n_expert in [1, 2, 5, 16] {
            let n_used = (n_expert / 2).max(1);
            let tokens: Vec<Vec<u16>> = (0..200)
                .map(|_| {
                    let start = next(n_expert) * (1 + next(2));
                    (0..n_used)
                        .map(|i| ((start + i) % n_expert) as u16)
                        .collect()
                })
                .collect();
            let mut recency = Recency::new(n_expert as usize);
            for token in &tokens {
                recency.use_together(token);
            }
            let found = recency.finish();
            let expected = by_hand(&tokens, n_expert as usize);
            assert_eq!((found.first_uses, found.distances), expected, "{n_expert}");
        }
    }
}
