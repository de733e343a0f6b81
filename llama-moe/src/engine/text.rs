//! From an answer's tokens to the pieces of its text.

use super::job::Job;
use super::reasoning::{Piece, Splitter};
use crate::chat::StopFilter;
use crate::error::Result;
use crate::model::{Detokenizer, Token, Vocab};

/// Turns tokens into text, up to a stop string, and tells reasoning from the answer.
#[derive(Debug)]
pub(super) struct Text {
    detokenizer: Detokenizer,
    filter: StopFilter,
    splitter: Splitter,
}

impl Text {
    pub(super) fn new(vocab: &Vocab, job: &Job) -> Self {
        Self {
            detokenizer: vocab
                .detokenizer()
                .with_special(job.special)
                .with_spaces_kept(true),
            filter: StopFilter::new(&job.stops),
            splitter: Splitter::new(job.reasoning.clone()),
        }
    }

    /// Takes the next token. Adds the text that is settled by it to `pieces`, and returns the
    /// stop string that is complete, which ends the text.
    pub(super) fn push(&mut self, token: Token, pieces: &mut Vec<Piece>) -> Result<Option<String>> {
        let text = self.detokenizer.push(token)?;
        Ok(self.pass(&text, pieces))
    }

    /// Ends the text: adds what was held back.
    pub(super) fn finish(&mut self, pieces: &mut Vec<Piece>) -> Result<Option<String>> {
        let rest = self.detokenizer.clone().finish()?;
        let stop = self.pass(&rest, pieces);
        if stop.is_none() {
            let held = self.filter.finish();
            self.splitter.push(&held, pieces);
            self.splitter.finish(pieces);
        }
        Ok(stop)
    }

    fn pass(&mut self, text: &str, pieces: &mut Vec<Piece>) -> Option<String> {
        let filtered = self.filter.push(text);
        self.splitter.push(&filtered.text, pieces);
        if filtered.stop.is_some() {
            self.splitter.finish(pieces);
        }
        filtered.stop
    }
}
