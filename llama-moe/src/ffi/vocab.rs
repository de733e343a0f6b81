//! A model's vocabulary.

use std::ptr;

use llama_sys as sys;

use super::call::guarded;
use super::model::ModelHandle;
use super::text;
use crate::error::Result;
use crate::model::Token;

/// See [`ModelHandle::special_token`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum SpecialToken {
    Bos,
    Eos,
    Eot,
    Sep,
    Nl,
    Pad,
    Mask,
    FimPre,
    FimSuf,
    FimMid,
    FimPad,
    FimRep,
    FimSep,
}

/// What the vocabulary says of one token.
#[derive(Clone, Debug)]
pub(crate) struct TokenRecord {
    pub(crate) text: String,
    pub(crate) score: f32,
    pub(crate) attr: sys::llama_token_attr,
    pub(crate) is_control: bool,
    pub(crate) is_eog: bool,
}

impl ModelHandle {
    pub(crate) fn vocab_type(&self) -> sys::llama_vocab_type {
        // SAFETY: the vocabulary of a live model.
        unsafe { sys::llama_vocab_type(self.vocab()) }
    }

    pub(crate) fn n_tokens(&self) -> i32 {
        // SAFETY: the vocabulary of a live model.
        unsafe { sys::llama_vocab_n_tokens(self.vocab()) }
    }

    pub(crate) fn special_token(&self, which: SpecialToken) -> Option<Token> {
        let vocab = self.vocab();
        // SAFETY: the vocabulary of a live model; each getter only reads what loading has
        // set.
        let token = unsafe {
            match which {
                SpecialToken::Bos => sys::llama_vocab_bos(vocab),
                SpecialToken::Eos => sys::llama_vocab_eos(vocab),
                SpecialToken::Eot => sys::llama_vocab_eot(vocab),
                SpecialToken::Sep => sys::llama_vocab_sep(vocab),
                SpecialToken::Nl => sys::llama_vocab_nl(vocab),
                SpecialToken::Pad => sys::llama_vocab_pad(vocab),
                SpecialToken::Mask => sys::llama_vocab_mask(vocab),
                SpecialToken::FimPre => sys::llama_vocab_fim_pre(vocab),
                SpecialToken::FimSuf => sys::llama_vocab_fim_suf(vocab),
                SpecialToken::FimMid => sys::llama_vocab_fim_mid(vocab),
                SpecialToken::FimPad => sys::llama_vocab_fim_pad(vocab),
                SpecialToken::FimRep => sys::llama_vocab_fim_rep(vocab),
                SpecialToken::FimSep => sys::llama_vocab_fim_sep(vocab),
            }
        };
        (token >= 0).then_some(Token(token))
    }

    pub(crate) fn adds_bos(&self) -> bool {
        // SAFETY: the vocabulary of a live model.
        unsafe { sys::llama_vocab_get_add_bos(self.vocab()) }
    }

    pub(crate) fn adds_eos(&self) -> bool {
        // SAFETY: the vocabulary of a live model.
        unsafe { sys::llama_vocab_get_add_eos(self.vocab()) }
    }

    pub(crate) fn adds_sep(&self) -> bool {
        // SAFETY: the vocabulary of a live model.
        unsafe { sys::llama_vocab_get_add_sep(self.vocab()) }
    }

    /// False for a number that is no token.
    pub(crate) fn is_eog(&self, token: Token) -> bool {
        // SAFETY: the vocabulary of a live model; the token is looked up in a set.
        unsafe { sys::llama_vocab_is_eog(self.vocab(), token.0) }
    }

    pub(crate) fn suppress_tokens(&self) -> Vec<Token> {
        let mut count = 0;
        // SAFETY: the vocabulary of a live model, an out-parameter of this frame.
        let tokens = unsafe { sys::llama_vocab_get_suppress_tokens(self.vocab(), &mut count) };
        let count = usize::try_from(count).unwrap_or(0);
        if tokens.is_null() || count == 0 {
            return Vec::new();
        }
        // SAFETY: llama.cpp's contract: an array of `count` tokens that the vocabulary owns,
        // and that nothing changes after loading.
        let tokens = unsafe { std::slice::from_raw_parts(tokens, count) };
        tokens.iter().map(|&token| Token(token)).collect()
    }

    pub(crate) fn describe_token(&self, token: Token) -> Result<TokenRecord> {
        // SAFETY: zero is a valid value of this plain struct, which the call fills.
        let mut record = unsafe { std::mem::zeroed::<sys::llama_shim_token>() };
        guarded(|error| {
            // SAFETY: the vocabulary of a live model; an id out of range is refused.
            unsafe { sys::llama_shim_vocab_get(self.vocab(), token.0, &mut record, error) }
        })
        .map_err(|failure| failure.of("llama_vocab_get_text"))?;
        Ok(TokenRecord {
            text: text::owned(record.text),
            score: record.score,
            attr: record.attr,
            is_control: record.is_control,
            is_eog: record.is_eog,
        })
    }

    /// `text_len` is the length of `text`, which the caller has seen to fit.
    pub(crate) fn tokenize(
        &self,
        text: &str,
        text_len: i32,
        add_special: bool,
        parse_special: bool,
    ) -> Result<Vec<Token>> {
        debug_assert_eq!(usize::try_from(text_len).ok(), Some(text.len()));
        // A token per byte and a few more is nearly always enough; of a long text, which has
        // less than that, most of the buffer is never touched.
        let guess = text_len.min(1 << 20) + 16;
        let mut tokens: Vec<sys::llama_token> = vec![0; index(guess)];
        loop {
            let capacity = i32::try_from(tokens.len()).unwrap_or(i32::MAX);
            let mut count = 0;
            guarded(|error| {
                // SAFETY: a live vocabulary; the text with its length; a buffer of `capacity`
                // tokens.
                unsafe {
                    sys::llama_shim_tokenize(
                        self.vocab(),
                        text.as_ptr().cast(),
                        text_len,
                        tokens.as_mut_ptr(),
                        capacity,
                        add_special,
                        parse_special,
                        &mut count,
                        error,
                    )
                }
            })
            .map_err(|failure| failure.of("llama_tokenize"))?;
            let fits = count <= capacity;
            tokens.resize(index(count), 0);
            if fits {
                return Ok(tokens.into_iter().map(Token).collect());
            }
        }
    }

    /// `capacity` is at least the sum of the tokens' pieces, which fits an `i32`.
    pub(crate) fn detokenize(
        &self,
        tokens: &[Token],
        capacity: i32,
        remove_special: bool,
        unparse_special: bool,
    ) -> Result<Vec<u8>> {
        let n_tokens = i32::try_from(tokens.len()).unwrap_or(i32::MAX);
        let mut bytes = vec![0u8; index(capacity)];
        let mut length = 0;
        guarded(|error| {
            // SAFETY: a live vocabulary; `n_tokens` tokens (or more, where that is the
            // largest number), which `Token` is laid out as; a buffer of `capacity` bytes.
            unsafe {
                sys::llama_shim_detokenize(
                    self.vocab(),
                    tokens.as_ptr().cast(),
                    n_tokens,
                    bytes.as_mut_ptr().cast(),
                    capacity,
                    remove_special,
                    unparse_special,
                    &mut length,
                    error,
                )
            }
        })
        .map_err(|failure| failure.of("llama_detokenize"))?;
        bytes.truncate(index(length));
        Ok(bytes)
    }

    /// The bytes of one token.
    pub(crate) fn piece(&self, token: Token, special: bool) -> Result<Vec<u8>> {
        let mut bytes = vec![0u8; 32];
        loop {
            let capacity = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
            let length = self.write_piece(token, bytes.as_mut_ptr(), capacity, special)?;
            let fits = length <= capacity;
            bytes.resize(index(length), 0);
            if fits {
                return Ok(bytes);
            }
        }
    }

    /// How many bytes the piece has.
    pub(crate) fn piece_len(&self, token: Token, special: bool) -> Result<usize> {
        Ok(index(self.write_piece(
            token,
            ptr::null_mut(),
            0,
            special,
        )?))
    }

    /// `buffer` has `capacity` bytes, or is NULL with a capacity of 0.
    fn write_piece(
        &self,
        token: Token,
        buffer: *mut u8,
        capacity: i32,
        special: bool,
    ) -> Result<i32> {
        let mut length = 0;
        guarded(|error| {
            // SAFETY: a live vocabulary; an id out of range is refused; nothing is written
            // that does not fit the buffer.
            unsafe {
                sys::llama_shim_token_to_piece(
                    self.vocab(),
                    token.0,
                    buffer.cast(),
                    capacity,
                    0,
                    special,
                    &mut length,
                    error,
                )
            }
        })
        .map_err(|failure| failure.of("llama_token_to_piece"))?;
        Ok(length)
    }
}

/// A count that llama.cpp returned, which is not negative.
fn index(count: i32) -> usize {
    usize::try_from(count).unwrap_or(0)
}

const _: () = assert!(size_of::<Token>() == size_of::<sys::llama_token>());
