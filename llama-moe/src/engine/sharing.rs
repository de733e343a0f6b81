//! How much of their beginnings slots have in common in one buffer.

/// For each two slots, how many positions from the first on are the same places of the buffer.
///
/// A slot comes to share by a [copy](Self::copy), and what it computes after that is its own; so
/// what two slots share is always a beginning of both.
pub(super) struct Sharing(Vec<Vec<usize>>);

impl Sharing {
    /// Slots that share nothing.
    pub(super) fn new(n_slots: usize) -> Self {
        Self(vec![vec![0; n_slots]; n_slots])
    }

    /// Positions that two different slots share.
    pub(super) fn between(&self, a: usize, b: usize) -> usize {
        self.0[a][b]
    }

    /// A slot that was empty has the first positions of another one.
    pub(super) fn copy(&mut self, source: usize, slot: usize, n_positions: usize) {
        for other in (0..self.0.len()).filter(|&other| other != slot) {
            let n_shared = if other == source {
                n_positions
            } else {
                self.between(source, other).min(n_positions)
            };
            self.set(slot, other, n_shared);
        }
    }

    /// A slot keeps its first positions at most.
    pub(super) fn cut(&mut self, slot: usize, n_positions: usize) {
        for other in 0..self.0.len() {
            self.set(slot, other, self.between(slot, other).min(n_positions));
        }
    }

    fn set(&mut self, a: usize, b: usize, n_positions: usize) {
        self.0[a][b] = n_positions;
        self.0[b][a] = n_positions;
    }
}

#[cfg(test)]
mod tests {
    use super::Sharing;

    #[test]
    fn a_copy_shares_with_all_that_its_source_shares_with() {
        let mut sharing = Sharing::new(4);
        sharing.copy(0, 1, 50);
        sharing.copy(1, 2, 80);
        assert_eq!(sharing.between(1, 0), 50);
        assert_eq!(sharing.between(2, 1), 80);
        assert_eq!(sharing.between(0, 2), 50);
        sharing.copy(2, 3, 20);
        for other in 0..3 {
            assert_eq!(sharing.between(other, 3), 20);
        }
    }

    #[test]
    fn what_is_cut_is_not_shared_any_more() {
        let mut sharing = Sharing::new(3);
        sharing.copy(0, 1, 50);
        sharing.copy(0, 2, 50);
        sharing.cut(0, 30);
        assert_eq!(sharing.between(0, 1), 30);
        assert_eq!(sharing.between(2, 0), 30);
        assert_eq!(sharing.between(1, 2), 50);
        sharing.cut(1, 0);
        assert_eq!(sharing.between(1, 0) + sharing.between(1, 2), 0);
        assert_eq!(sharing.between(0, 2), 30);
    }
}
