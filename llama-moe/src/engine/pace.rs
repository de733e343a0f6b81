//! How many tokens of an answer are guessed.

/// After so many drafts in a row of which nothing was accepted, the wait grows no more: it is 64
/// steps then.
const MAX_DOUBLINGS: u32 = 6;

/// How many tokens of an answer are guessed at a time: one more than were right the last time.
/// Where nothing was right twice in a row, a few steps go without, and twice as many each time
/// that it happens again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Tokens of the next draft.
    n_draft: usize,
    /// Drafts in a row of which nothing was accepted.
    n_refused: u32,
    /// Steps to go without.
    waits: u64,
}

impl Pace {
    /// As many as may be, to begin with.
    pub(super) fn new() -> Self {
        Self {
            n_draft: usize::MAX,
            n_refused: 0,
            waits: 0,
        }
    }

    /// Tokens to guess in this step. It is asked once in each.
    pub(super) fn next(&mut self) -> usize {
        if self.waits > 0 {
            self.waits = self.waits.saturating_sub(1);
            return 0;
        }
        self.n_draft
    }

    /// So many of the tokens that were guessed were right.
    pub(super) fn accepted(&mut self, n: usize) {
        if n == 0 {
            return self.refused();
        }
        self.n_draft = n + 1;
        self.n_refused = 0;
    }

    /// Nothing came of a draft.
    pub(super) fn refused(&mut self) {
        self.n_draft = 1;
        self.waits = match self.n_refused {
            0 => 0,
            n => 1 << n.min(MAX_DOUBLINGS),
        };
        self.n_refused = self.n_refused.saturating_add(1);
    }

    /// Nothing is guessed of this answer any more.
    pub(super) fn stop(&mut self) {
        self.waits = u64::MAX;
    }
}

#[cfg(test)]
mod tests {
    use super::Pace;

    /// Steps without a draft before the next one.
    fn waits(pace: &mut Pace) -> usize {
        std::iter::repeat_with(|| pace.next())
            .take_while(|&n| n == 0)
            .count()
    }

    #[test]
    fn as_many_are_guessed_as_were_right_and_one_more() {
        let mut pace = Pace::new();
        assert_eq!(pace.next(), usize::MAX);
        for (n_accepted, next) in [(2, 3), (3, 4), (1, 2), (9, 10)] {
            pace.accepted(n_accepted);
            assert_eq!(pace.next(), next);
        }
    }

    #[test]
    fn guesses_that_are_refused_become_rare() {
        let mut pace = Pace::new();
        for expected in [0, 2, 4, 8, 16, 32, 64, 64, 64] {
            pace.accepted(0);
            assert_eq!(waits(&mut pace), expected);
        }
        // The first that is right makes up for all.
        pace.accepted(1);
        assert_eq!(pace.next(), 2);
        pace.accepted(0);
        assert_eq!(pace.next(), 1);
    }
}
