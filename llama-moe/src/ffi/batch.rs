//! The arrays behind a `llama_batch`.

use std::ptr;

use llama_sys as sys;

use crate::model::Token;

/// The entries of a batch, tokens or embeddings, as arrays of one length.
///
/// The fields are changed by `push_*` and `clear` only, so that the lengths always
/// agree; the values are the caller's to check.
#[derive(Clone, Debug, Default)]
pub(crate) struct BatchArrays {
    /// Floats per embedding; 0 for a batch of tokens.
    width: usize,
    tokens: Vec<Token>,
    embeddings: Vec<f32>,
    positions: Vec<i32>,
    /// How many entries of `seq_ids` belong to each entry.
    n_seq_ids: Vec<i32>,
    seq_ids: Vec<i32>,
    outputs: Vec<i8>,
}

impl BatchArrays {
    pub(crate) fn of_tokens() -> Self {
        Self::default()
    }

    pub(crate) fn of_embeddings(width: usize) -> Self {
        Self {
            width,
            ..Self::default()
        }
    }

    pub(crate) fn width(&self) -> usize {
        self.width
    }

    pub(crate) fn len(&self) -> usize {
        self.positions.len()
    }

    pub(crate) fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// The sequences of each entry, in the order of the entries.
    pub(crate) fn sequences(&self) -> impl Iterator<Item = &[i32]> {
        let mut rest = self.seq_ids.as_slice();
        self.n_seq_ids.iter().map(move |&n| {
            let (these, others) = rest.split_at(n as usize);
            rest = others;
            these
        })
    }

    pub(crate) fn positions(&self) -> &[i32] {
        &self.positions
    }

    pub(crate) fn outputs(&self) -> impl DoubleEndedIterator<Item = bool> + ExactSizeIterator {
        self.outputs.iter().map(|&output| output != 0)
    }

    pub(crate) fn clear(&mut self) {
        self.tokens.clear();
        self.embeddings.clear();
        self.positions.clear();
        self.n_seq_ids.clear();
        self.seq_ids.clear();
        self.outputs.clear();
    }

    /// Adds a token to a batch of tokens.
    pub(crate) fn push_token(
        &mut self,
        token: Token,
        position: i32,
        seq_ids: &[i32],
        output: bool,
    ) {
        debug_assert_eq!(self.width, 0);
        self.tokens.push(token);
        self.push_rest(position, seq_ids, output);
    }

    /// Adds an embedding, of `width` floats, to a batch of embeddings.
    pub(crate) fn push_embedding(
        &mut self,
        embedding: &[f32],
        position: i32,
        seq_ids: &[i32],
        output: bool,
    ) {
        debug_assert_eq!(self.width, embedding.len());
        self.embeddings.extend_from_slice(embedding);
        self.push_rest(position, seq_ids, output);
    }

    fn push_rest(&mut self, position: i32, seq_ids: &[i32], output: bool) {
        self.positions.push(position);
        self.n_seq_ids.push(seq_ids.len() as i32);
        self.seq_ids.extend_from_slice(seq_ids);
        self.outputs.push(i8::from(output));
    }

    /// Lends the arrays to `call` as llama.cpp wants them. `sections` is how many positions
    /// the model has for each embedding; `all_outputs` asks for the output of every entry.
    pub(super) fn lend<T>(
        &self,
        sections: usize,
        all_outputs: bool,
        call: impl FnOnce(&sys::llama_batch) -> T,
    ) -> T {
        let mut start = 0;
        let mut seq_ids: Vec<*mut i32> = self
            .n_seq_ids
            .iter()
            .map(|&n| {
                let these = self.seq_ids[start..].as_ptr().cast_mut();
                start += n as usize;
                these
            })
            .collect();
        // Several positions per embedding are those that llama.cpp gives a token: the
        // same for time, height and width, and 0.
        let mut positions = Vec::new();
        if self.width > 0 && sections > 1 {
            for section in 0..sections {
                if section < 3 {
                    positions.extend_from_slice(&self.positions);
                } else {
                    positions.resize(positions.len() + self.len(), 0);
                }
            }
        }
        let outputs = all_outputs.then(|| vec![1i8; self.len()]);
        let (token, embd) = if self.width == 0 {
            (self.tokens.as_ptr().cast::<i32>(), ptr::null())
        } else {
            (ptr::null(), self.embeddings.as_ptr())
        };
        let pos = if positions.is_empty() {
            self.positions.as_ptr()
        } else {
            positions.as_ptr()
        };
        // llama.cpp's struct has no `const`, but the arrays are only read.
        let batch = sys::llama_batch {
            n_tokens: self.len() as i32,
            token: token.cast_mut(),
            embd: embd.cast_mut(),
            pos: pos.cast_mut(),
            n_seq_id: self.n_seq_ids.as_ptr().cast_mut(),
            seq_id: seq_ids.as_mut_ptr(),
            logits: outputs
                .as_ref()
                .unwrap_or(&self.outputs)
                .as_ptr()
                .cast_mut(),
        };
        call(&batch)
    }
}
