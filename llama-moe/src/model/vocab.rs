//! The vocabulary: text to tokens, and tokens to text.
//!
//! ```no_run
//! use llama_moe::{Backend, Model, ModelParams};
//!
//! let backend = Backend::init()?;
//! let model = Model::load(&backend, "gpt-oss-20b.gguf", ModelParams::default())?;
//! let vocab = model.vocab();
//! let tokens = vocab.tokenize("The experts stay in RAM.", true, false)?;
//! for &token in &tokens {
//!     println!("{token} {:?}", vocab.token(token)?.text);
//! }
//! println!("{}", vocab.detokenize_lossy(&tokens, true, false)?);
//! # Ok::<(), llama_moe::Error>(())
//! ```

use std::fmt;

use super::detokenizer::Detokenizer;
use super::{Model, Token};
use crate::error::Result;
use crate::ffi::{ModelNumber, SpecialToken, sys};

/// A model's vocabulary; holds the model, and is as cheap to clone.
///
/// Rests on `llama_vocab`.
#[derive(Clone)]
pub struct Vocab(Model);

/// Why text and tokens do not go together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VocabError {
    /// A file without a tokenizer.
    #[error("the model has no vocabulary: its tokenizer is 'none'")]
    NoVocabulary,
    /// No token has this number.
    #[error("there is no token {token}: the vocabulary has {n_tokens} tokens, from 0 on")]
    NoToken {
        /// The number.
        token: Token,
        /// The size of the vocabulary.
        n_tokens: u32,
    },
    /// llama.cpp counts in 32 bits.
    #[error("the {what} has {length} {unit}, more than {}", i32::MAX)]
    TooLong {
        /// "text", "list of tokens" or "text of the tokens".
        what: &'static str,
        /// "bytes" or "tokens".
        unit: &'static str,
        /// How many there are.
        length: u64,
    },
}

/// How a vocabulary makes tokens (`enum llama_vocab_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum VocabType {
    /// The model has no vocabulary.
    None,
    /// Byte-level BPE with byte fallback: LLaMA.
    Spm,
    /// Byte-level BPE: GPT-2.
    Bpe,
    /// WordPiece: BERT.
    Wpm,
    /// Unigram: T5.
    Ugm,
    /// Greedy: RWKV.
    Rwkv,
    /// Aho-Corasick with dynamic programming: PLaMo-2.
    Plamo2,
    /// The same on text that is cut before: PLaMo-3.
    Plamo3,
    /// One that this crate has no name for.
    Other,
}

/// What the vocabulary says of one token.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TokenInfo {
    /// As the vocabulary writes it: escaped, `▁` or `Ġ` for a space. Bytes that are not
    /// UTF-8 are U+FFFD. [`Vocab::piece`] has the token's real bytes.
    pub text: String,
    /// Used by some tokenizers to choose between tokens.
    pub score: f32,
    /// What kind of token it is.
    pub attr: TokenAttr,
    /// Whether it has a function instead of a text: `<|im_start|>`.
    pub is_control: bool,
    /// Whether it ends a generation.
    pub is_eog: bool,
}

/// A set of a token's attributes (`enum llama_token_attr`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TokenAttr(u32);

impl TokenAttr {
    /// Stands for what the vocabulary does not know.
    pub const UNKNOWN: Self = Self(sys::LLAMA_TOKEN_ATTR_UNKNOWN);
    /// Not used by the model.
    pub const UNUSED: Self = Self(sys::LLAMA_TOKEN_ATTR_UNUSED);
    /// Ordinary text.
    pub const NORMAL: Self = Self(sys::LLAMA_TOKEN_ATTR_NORMAL);
    /// Has a function instead of a text.
    pub const CONTROL: Self = Self(sys::LLAMA_TOKEN_ATTR_CONTROL);
    /// Added by the model's makers; always a token of its own.
    pub const USER_DEFINED: Self = Self(sys::LLAMA_TOKEN_ATTR_USER_DEFINED);
    /// A single byte.
    pub const BYTE: Self = Self(sys::LLAMA_TOKEN_ATTR_BYTE);
    /// Found in normalised text.
    pub const NORMALIZED: Self = Self(sys::LLAMA_TOKEN_ATTR_NORMALIZED);
    /// Takes the space before it along.
    pub const LSTRIP: Self = Self(sys::LLAMA_TOKEN_ATTR_LSTRIP);
    /// Takes the space after it along.
    pub const RSTRIP: Self = Self(sys::LLAMA_TOKEN_ATTR_RSTRIP);
    /// A whole word only.
    pub const SINGLE_WORD: Self = Self(sys::LLAMA_TOKEN_ATTR_SINGLE_WORD);

    /// The bits, as llama.cpp has them.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether every attribute of `other` is among these.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl std::ops::BitOr for TokenAttr {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl Model {
    /// The model's vocabulary. It is there for a model without one too, and then has
    /// the type [`VocabType::None`].
    ///
    /// Rests on `llama_model_get_vocab`.
    #[must_use]
    pub fn vocab(&self) -> Vocab {
        Vocab(self.clone())
    }
}

impl Vocab {
    /// The model it belongs to.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.0
    }

    /// Whether both belong to the same loaded model.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.0.is_same(&other.0)
    }

    /// How it makes tokens.
    ///
    /// Rests on `llama_vocab_type`.
    #[must_use]
    pub fn vocab_type(&self) -> VocabType {
        match self.0.handle().vocab_type() {
            sys::LLAMA_VOCAB_TYPE_NONE => VocabType::None,
            sys::LLAMA_VOCAB_TYPE_SPM => VocabType::Spm,
            sys::LLAMA_VOCAB_TYPE_BPE => VocabType::Bpe,
            sys::LLAMA_VOCAB_TYPE_WPM => VocabType::Wpm,
            sys::LLAMA_VOCAB_TYPE_UGM => VocabType::Ugm,
            sys::LLAMA_VOCAB_TYPE_RWKV => VocabType::Rwkv,
            sys::LLAMA_VOCAB_TYPE_PLAMO2 => VocabType::Plamo2,
            sys::LLAMA_VOCAB_TYPE_PLAMO3 => VocabType::Plamo3,
            _ => VocabType::Other,
        }
    }

    /// The number of tokens, and of logits per output.
    ///
    /// Rests on `llama_vocab_n_tokens`.
    #[must_use]
    pub fn n_tokens(&self) -> u32 {
        u32::try_from(self.0.handle().n_tokens()).unwrap_or(0)
    }

    /// Beginning of a text.
    ///
    /// Rests on `llama_vocab_bos`.
    #[must_use]
    pub fn bos(&self) -> Option<Token> {
        self.0.handle().special_token(SpecialToken::Bos)
    }

    /// End of a text.
    ///
    /// Rests on `llama_vocab_eos`.
    #[must_use]
    pub fn eos(&self) -> Option<Token> {
        self.0.handle().special_token(SpecialToken::Eos)
    }

    /// End of a turn.
    ///
    /// Rests on `llama_vocab_eot`.
    #[must_use]
    pub fn eot(&self) -> Option<Token> {
        self.0.handle().special_token(SpecialToken::Eot)
    }

    /// Between sentences.
    ///
    /// Rests on `llama_vocab_sep`.
    #[must_use]
    pub fn sep(&self) -> Option<Token> {
        self.0.handle().special_token(SpecialToken::Sep)
    }

    /// End of a line.
    ///
    /// Rests on `llama_vocab_nl`.
    #[must_use]
    pub fn nl(&self) -> Option<Token> {
        self.0.handle().special_token(SpecialToken::Nl)
    }

    /// Padding.
    ///
    /// Rests on `llama_vocab_pad`.
    #[must_use]
    pub fn pad(&self) -> Option<Token> {
        self.0.handle().special_token(SpecialToken::Pad)
    }

    /// Mask.
    ///
    /// Rests on `llama_vocab_mask`.
    #[must_use]
    pub fn mask(&self) -> Option<Token> {
        self.0.handle().special_token(SpecialToken::Mask)
    }

    /// Before the text that precedes a gap to fill.
    ///
    /// Rests on `llama_vocab_fim_pre`.
    #[must_use]
    pub fn fim_prefix(&self) -> Option<Token> {
        self.0.handle().special_token(SpecialToken::FimPre)
    }

    /// Before the text that follows a gap.
    ///
    /// Rests on `llama_vocab_fim_suf`.
    #[must_use]
    pub fn fim_suffix(&self) -> Option<Token> {
        self.0.handle().special_token(SpecialToken::FimSuf)
    }

    /// Before the text that fills a gap.
    ///
    /// Rests on `llama_vocab_fim_mid`.
    #[must_use]
    pub fn fim_middle(&self) -> Option<Token> {
        self.0.handle().special_token(SpecialToken::FimMid)
    }

    /// Padding around a gap.
    ///
    /// Rests on `llama_vocab_fim_pad`.
    #[must_use]
    pub fn fim_pad(&self) -> Option<Token> {
        self.0.handle().special_token(SpecialToken::FimPad)
    }

    /// Before the name of a repository.
    ///
    /// Rests on `llama_vocab_fim_rep`.
    #[must_use]
    pub fn fim_repository(&self) -> Option<Token> {
        self.0.handle().special_token(SpecialToken::FimRep)
    }

    /// Between files.
    ///
    /// Rests on `llama_vocab_fim_sep`.
    #[must_use]
    pub fn fim_separator(&self) -> Option<Token> {
        self.0.handle().special_token(SpecialToken::FimSep)
    }

    /// What the decoder of an encoder-decoder model begins with.
    ///
    /// Rests on `llama_model_decoder_start_token`.
    #[must_use]
    pub fn decoder_start(&self) -> Option<Token> {
        let token = self.0.handle().number(ModelNumber::DecoderStartToken);
        i32::try_from(token)
            .ok()
            .filter(|&token| token >= 0)
            .map(Token)
    }

    /// Whether [`tokenize`](Self::tokenize) with `add_special` begins with
    /// [`bos`](Self::bos).
    ///
    /// Rests on `llama_vocab_get_add_bos`.
    #[must_use]
    pub fn adds_bos(&self) -> bool {
        self.0.handle().adds_bos()
    }

    /// Whether it ends with [`eos`](Self::eos).
    ///
    /// Rests on `llama_vocab_get_add_eos`.
    #[must_use]
    pub fn adds_eos(&self) -> bool {
        self.0.handle().adds_eos()
    }

    /// Whether it ends with [`sep`](Self::sep).
    ///
    /// Rests on `llama_vocab_get_add_sep`.
    #[must_use]
    pub fn adds_sep(&self) -> bool {
        self.0.handle().adds_sep()
    }

    /// Whether this token ends a generation; false for a number that is no token.
    ///
    /// Rests on `llama_vocab_is_eog`.
    #[must_use]
    pub fn is_eog(&self, token: Token) -> bool {
        self.0.handle().is_eog(token)
    }

    /// Tokens that the model's makers want never to be sampled.
    ///
    /// Rests on `llama_vocab_get_suppress_tokens`.
    #[must_use]
    pub fn suppress_tokens(&self) -> Vec<Token> {
        self.0.handle().suppress_tokens()
    }

    /// What the vocabulary says of a token.
    ///
    /// Rests on `llama_vocab_get_text` and its kin.
    ///
    /// # Errors
    /// [`VocabError`] if there is no vocabulary, or no such token.
    pub fn token(&self, token: Token) -> Result<TokenInfo> {
        self.check(token)?;
        let record = self.0.handle().describe_token(token)?;
        Ok(TokenInfo {
            text: record.text,
            score: record.score,
            attr: TokenAttr(record.attr),
            is_control: record.is_control,
            is_eog: record.is_eog,
        })
    }

    /// Turns a text into tokens. NUL is a character like any other.
    ///
    /// `add_special` puts the special tokens around that the model wants around a text.
    /// `parse_special` finds special tokens in the text, such as `<|im_start|>`: for text
    /// that comes from a template, not for what users write.
    ///
    /// Rests on `llama_tokenize`.
    ///
    /// # Errors
    /// [`VocabError::NoVocabulary`]; [`VocabError::TooLong`] for a text of 2 GiB or more;
    /// [`Error::Llama`](crate::Error::Llama) if the model wants a special token that it
    /// does not have, or there is not enough memory.
    pub fn tokenize(
        &self,
        text: &str,
        add_special: bool,
        parse_special: bool,
    ) -> Result<Vec<Token>> {
        self.require()?;
        let Ok(length) = i32::try_from(text.len()) else {
            return Err(too_long("text", "bytes", text.len()).into());
        };
        self.0
            .handle()
            .tokenize(text, length, add_special, parse_special)
    }

    /// Turns tokens into the bytes of their text, which need not be UTF-8: the tokens may
    /// end within a character.
    ///
    /// The space that some vocabularies put before the first word is taken away, unless
    /// a special token precedes it; and some vocabularies take away spaces before
    /// punctuation. `remove_special` leaves out the tokens that
    /// [`tokenize`](Self::tokenize) adds around a text; `unparse_special` writes control
    /// tokens as text, which otherwise have none.
    ///
    /// Rests on `llama_detokenize`.
    ///
    /// # Errors
    /// [`VocabError`] if there is no vocabulary, no such token, or text of 2 GiB or more.
    pub fn detokenize(
        &self,
        tokens: &[Token],
        remove_special: bool,
        unparse_special: bool,
    ) -> Result<Vec<u8>> {
        self.require()?;
        if i32::try_from(tokens.len()).is_err() {
            return Err(too_long("list of tokens", "tokens", tokens.len()).into());
        }
        // llama.cpp adds the lengths up in 32 bits without looking.
        let mut length = 0;
        for &token in tokens {
            self.check(token)?;
            length += self.0.handle().piece_len(token, unparse_special)?;
        }
        let Ok(capacity) = i32::try_from(length) else {
            return Err(too_long("text of the tokens", "bytes", length).into());
        };
        self.0
            .handle()
            .detokenize(tokens, capacity, remove_special, unparse_special)
    }

    /// As [`detokenize`](Self::detokenize), with U+FFFD in place of what is not UTF-8.
    ///
    /// Rests on `llama_detokenize`.
    ///
    /// # Errors
    /// As [`detokenize`](Self::detokenize).
    pub fn detokenize_lossy(
        &self,
        tokens: &[Token],
        remove_special: bool,
        unparse_special: bool,
    ) -> Result<String> {
        let bytes = self.detokenize(tokens, remove_special, unparse_special)?;
        Ok(String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    /// The bytes that one token stands for, a leading space included. Control tokens have
    /// none unless `special` is set.
    ///
    /// Rests on `llama_token_to_piece`.
    ///
    /// # Errors
    /// [`VocabError`] if there is no vocabulary, or no such token.
    pub fn piece(&self, token: Token, special: bool) -> Result<Vec<u8>> {
        self.check(token)?;
        self.0.handle().piece(token, special)
    }

    /// For turning tokens into text one by one, as they are generated.
    #[must_use]
    pub fn detokenizer(&self) -> Detokenizer {
        Detokenizer::new(self.clone())
    }

    /// Whether there is a vocabulary.
    pub(crate) fn require(&self) -> Result<(), VocabError> {
        match self.vocab_type() {
            VocabType::None => Err(VocabError::NoVocabulary),
            _ => Ok(()),
        }
    }

    /// Whether there is such a token.
    pub(crate) fn check(&self, token: Token) -> Result<(), VocabError> {
        self.require()?;
        let n_tokens = self.n_tokens();
        match u32::try_from(token.0) {
            Ok(number) if number < n_tokens => Ok(()),
            _ => Err(VocabError::NoToken { token, n_tokens }),
        }
    }
}

impl fmt::Debug for Vocab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vocab")
            .field("model", &self.0.path())
            .field("vocab_type", &self.vocab_type())
            .field("n_tokens", &self.n_tokens())
            .finish()
    }
}

fn too_long(what: &'static str, unit: &'static str, length: usize) -> VocabError {
    VocabError::TooLong {
        what,
        unit,
        length: length as u64,
    }
}
