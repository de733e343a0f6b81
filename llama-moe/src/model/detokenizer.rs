//! Text from tokens that come one by one.

use super::{Token, Vocab};
use crate::error::Result;

/// Turns tokens into text as they are generated.
///
/// What [`push`](Self::push) and [`finish`](Self::finish) return is, put together, what
/// [`Vocab::detokenize_lossy`] makes of all the tokens: without the space that some
/// vocabularies put before the first word, and without the spaces that some take away
/// before punctuation. A character whose bytes are in several tokens comes with the last
/// of them. A space that may still be taken away comes with the next token that decides.
///
/// ```no_run
/// # use llama_moe::{Backend, Model, ModelParams, Token};
/// # let backend = Backend::init()?;
/// # let model = Model::load(&backend, "gpt-oss-20b.gguf", ModelParams::default())?;
/// # let generated: Vec<Token> = Vec::new();
/// let mut text = model.vocab().detokenizer();
/// for token in generated {
///     print!("{}", text.push(token)?);
/// }
/// println!("{}", text.finish()?);
/// # Ok::<(), llama_moe::Error>(())
/// ```
///
/// Rests on `llama_detokenize` and `llama_token_to_piece`.
#[derive(Clone, Debug)]
pub struct Detokenizer {
    vocab: Vocab,
    special: bool,
    keep_spaces: bool,
    /// The last token whose text is settled: what follows it is not the first word.
    before: Option<Token>,
    /// The tokens after it, whose text the next ones may still change.
    open: Vec<Token>,
    /// The last bytes of the text, before spaces are taken away.
    tail: Vec<u8>,
    /// Settled bytes that are not yet a character.
    bytes: Vec<u8>,
}

/// The most of `tail` that [`is_open`] looks at.
const TAIL: usize = 3;

impl Detokenizer {
    pub(crate) fn new(vocab: Vocab) -> Self {
        Self {
            vocab,
            special: false,
            keep_spaces: false,
            before: None,
            open: Vec::new(),
            tail: Vec::new(),
            bytes: Vec::new(),
        }
    }

    /// Whether control tokens are written as text, which otherwise have none: the
    /// `unparse_special` of [`Vocab::detokenize`].
    #[must_use]
    pub fn with_special(mut self, special: bool) -> Self {
        self.special = special;
        self
    }

    /// Whether spaces before punctuation stay as they were generated, whatever the
    /// vocabulary says: the text is then each token's own, as llama.cpp's programs show
    /// it. Fit for source code, and for text that is to become the same tokens again.
    #[must_use]
    pub fn with_spaces_kept(mut self, keep: bool) -> Self {
        self.keep_spaces = keep;
        self
    }

    /// Takes the next token, and returns the text that is settled by it: whole
    /// characters, often one word, at times nothing. Bytes that can be no character
    /// become U+FFFD.
    ///
    /// # Errors
    /// [`VocabError`](crate::VocabError) if there is no vocabulary, or no such token; the
    /// token is then left out.
    pub fn push(&mut self, token: Token) -> Result<String> {
        let piece = self.vocab.piece(token, self.special)?;
        if self.keep_spaces && self.before.is_some() {
            self.bytes.extend_from_slice(&piece);
            return Ok(self.take_characters());
        }
        self.tail.extend_from_slice(&piece);
        self.tail.drain(..self.tail.len().saturating_sub(TAIL));
        self.open.push(token);
        if !self.keep_spaces && is_open(&self.tail) {
            return Ok(String::new());
        }
        self.settle()?;
        Ok(self.take_characters())
    }

    /// Ends the text and returns what is left of it; an unfinished character is U+FFFD.
    ///
    /// # Errors
    /// [`Error::Llama`](crate::Error::Llama) if llama.cpp fails.
    pub fn finish(mut self) -> Result<String> {
        self.settle()?;
        let mut text = self.take_characters();
        if !self.bytes.is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
        }
        Ok(text)
    }

    /// Moves the text of the open tokens to `bytes`. The settled token before them goes
    /// through llama.cpp once more, so that it sees that they are not the beginning.
    fn settle(&mut self) -> Result<()> {
        let Some(&last) = self.open.last() else {
            return Ok(());
        };
        let (tokens, known) = match self.before {
            None => (std::mem::take(&mut self.open), 0),
            Some(before) => {
                let known = self.vocab.detokenize(&[before], false, self.special)?;
                let mut tokens = vec![before];
                tokens.append(&mut self.open);
                (tokens, known.len())
            }
        };
        let text = self.vocab.detokenize(&tokens, false, self.special)?;
        self.bytes.extend(text.into_iter().skip(known));
        self.before = Some(last);
        Ok(())
    }

    /// Takes what is whole characters from the front of `bytes`.
    fn take_characters(&mut self) -> String {
        let mut text = String::new();
        let mut rest = self.bytes.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    rest = after;
                    let Some(length) = error.error_len() else {
                        break;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[length..];
                }
            }
        }
        self.bytes = rest.to_vec();
        text
    }
}

/// Whether what follows decides if a space at the end of this text goes: llama.cpp takes
/// it away before `?`, `!`, `.`, `,`, before `'s`, `'m`, `'re`, `'ve`, and around a lone
/// `'`.
fn is_open(tail: &[u8]) -> bool {
    [b" ".as_slice(), b" '", b" 'r", b" 'v"]
        .iter()
        .any(|end| tail.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::is_open;

    #[test]
    fn spaces_are_open_until_it_is_known_what_follows() {
        for open in ["a ", " ", "a '", "a 'r", "a 'v"] {
            assert!(is_open(open.as_bytes()), "{open:?}");
        }
        for settled in ["", "a", "a'", "a .", "a 's", "a 'x", "'r", "a'v"] {
            assert!(!is_open(settled.as_bytes()), "{settled:?}");
        }
    }
}
