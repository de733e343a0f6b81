//! Batches and decoding: what is computed, and what is refused.

use std::thread;

use llama_moe::{AbortToken, Batch, BatchError, DecodeError, Error, OutputError, Token};

mod support;
use support::decode::{
    answer, batch, context, decode, distance, greedy, model, n_vocab, prompt, refused, small,
};
use support::layouts::Layout;

#[test]
fn every_layout_decodes() {
    for layout in Layout::ALL {
        let model = model(layout);
        let mut context = context(&model);
        let logits = decode(&mut context, &prompt(8), 0, 0);
        assert_eq!(logits.len(), n_vocab(), "{layout:?}");
        assert!(logits.iter().all(|logit| logit.is_finite()), "{layout:?}");
        let spread = distance(&logits, &vec![0.0; logits.len()]);
        assert!(spread > 0.1, "{layout:?}: {spread}");
    }
}

#[test]
fn one_by_one_is_as_all_at_once() {
    let model = model(Layout::Qwen3Moe);
    let mut context = context(&model);
    let tokens = prompt(12);
    let at_once = decode(&mut context, &tokens, 0, 0);
    context.memory().clear().unwrap();
    let mut one_by_one = Vec::new();
    for (pos, &token) in (0..).zip(&tokens) {
        one_by_one = decode(&mut context, &[token], pos, 0);
    }
    let difference = distance(&at_once, &one_by_one);
    assert!(difference < 0.05, "{difference}");
    assert_eq!(greedy(&at_once), greedy(&one_by_one));
}

#[test]
fn a_batch_takes_nothing_that_is_wrong() {
    let mut batch = Batch::new(4, 2);
    let last = i32::MAX as u32 - 1;
    assert_eq!(
        refused(batch.add(Token(-1), 0, &[0], true)),
        BatchError::NegativeToken { token: Token(-1) }
    );
    assert_eq!(
        refused(batch.add(Token(1), 0, &[], true)),
        BatchError::NoSequence
    );
    assert_eq!(
        refused(batch.add(Token(1), 0, &[0, 2], true)),
        BatchError::Sequence {
            seq: 2,
            n_seq_max: 2
        }
    );
    assert_eq!(
        refused(batch.add(Token(1), 0, &[u32::MAX], true)),
        BatchError::Sequence {
            seq: u32::MAX,
            n_seq_max: 2
        }
    );
    assert_eq!(
        refused(batch.add(Token(1), 0, &[1, 1], true)),
        BatchError::SequenceTwice { seq: 1 }
    );
    for pos in [last + 1, u32::MAX] {
        assert_eq!(
            refused(batch.add(Token(1), pos, &[0], true)),
            BatchError::Position { pos: pos.into() }
        );
    }
    assert_eq!(
        refused(batch.add_sequence(&[Token(1); 2], last, 0)),
        BatchError::Position {
            pos: u64::from(last) + 1
        }
    );
    assert_eq!(
        refused(batch.add_sequence(&[Token(1), Token(-7)], 0, 0)),
        BatchError::NegativeToken { token: Token(-7) }
    );
    assert_eq!(
        refused(batch.add_embedding(&[0.0], 0, &[0], true)),
        BatchError::Kind { embeddings: false }
    );
    assert!(batch.is_empty());

    assert_eq!(batch.add(Token(1), last, &[0, 1], false).unwrap(), 0);
    assert_eq!(
        refused(batch.add_sequence(&[Token(1); 4], 0, 0)),
        BatchError::Full {
            capacity: 4,
            len: 1,
            added: 4
        }
    );
    batch.add_sequence(&[Token(1); 3], 0, 0).unwrap();
    assert_eq!(
        refused(batch.add(Token(1), 3, &[0], true)),
        BatchError::Full {
            capacity: 4,
            len: 4,
            added: 1
        }
    );
    assert_eq!((batch.len(), batch.capacity()), (4, 4));
    assert_eq!(batch.outputs().collect::<Vec<_>>(), [3]);
    batch.clear();
    batch.add_sequence_all(&[Token(1); 3], 0, 1).unwrap();
    assert_eq!(batch.outputs().collect::<Vec<_>>(), [0, 1, 2]);

    let mut batch = Batch::embeddings(2, 1, 3);
    assert_eq!(
        refused(batch.add(Token(1), 0, &[0], true)),
        BatchError::Kind { embeddings: true }
    );
    assert_eq!(
        refused(batch.add_sequence(&[], 0, 0)),
        BatchError::Kind { embeddings: true }
    );
    assert_eq!(
        refused(batch.add_embedding(&[0.0; 2], 0, &[0], true)),
        BatchError::Width { len: 2, width: 3 }
    );
    assert!(matches!(
        refused(batch.add_embedding(&[0.0, f32::NAN, 0.0], 0, &[0], true)),
        BatchError::NotFinite { element: 1, value } if value.is_nan()
    ));
    assert!(batch.is_empty());
    assert_eq!(batch.add_embedding(&[0.0; 3], 0, &[0], true).unwrap(), 0);
}

#[test]
fn a_batch_that_does_not_suit_the_context_is_refused() {
    let model = model(Layout::Qwen3Moe);
    let params = small()
        .with_n_batch(16)
        .with_n_ubatch(8)
        .with_n_outputs_max(2);
    let mut context = model.context(params).unwrap();
    let before = answer(&mut context);
    let tokens = prompt(17);
    let n_vocab = n_vocab() as u32;

    let mut outputs = Batch::new(3, 1);
    outputs.add_sequence_all(&tokens[..3], 0, 0).unwrap();
    let mut shared = Batch::new(1, 1);
    shared.add(tokens[0], 0, &[0], true).unwrap();
    let unknown = |token| batch(&[tokens[0], token], 0, 0);
    for (batch, expected) in [
        (Batch::new(1, 1), BatchError::Empty),
        (
            batch(&tokens, 0, 0),
            BatchError::TooLong {
                len: 17,
                parameter: "n_batch",
                limit: 16,
                reason: "",
            },
        ),
        (
            outputs,
            BatchError::TooManyOutputs {
                outputs: 3,
                limit: 2,
            },
        ),
        (
            unknown(Token(n_vocab as i32)),
            BatchError::TokenOutOfRange {
                index: 1,
                token: Token(n_vocab as i32),
                n_vocab,
            },
        ),
        (
            unknown(Token(i32::MAX)),
            BatchError::TokenOutOfRange {
                index: 1,
                token: Token(i32::MAX),
                n_vocab,
            },
        ),
        (
            batch(&tokens[..2], 0, 1),
            BatchError::Sequence {
                seq: 1,
                n_seq_max: 1,
            },
        ),
        (
            batch(&tokens[..2], 0, 255),
            BatchError::Sequence {
                seq: 255,
                n_seq_max: 1,
            },
        ),
    ] {
        assert_eq!(refused(context.decode(&batch)), expected);
        // A batch that was refused has touched neither the outputs nor the memory.
        assert_eq!(context.logits_last().unwrap(), before);
        assert_eq!(context.memory().positions(0).unwrap(), Some(0..=11));
    }
    assert_eq!(answer(&mut context), before);

    context.set_causal_attn(false);
    assert!(matches!(
        refused(context.decode(&batch(&tokens[..9], 12, 0))),
        BatchError::TooLong {
            len: 9,
            parameter: "n_ubatch",
            limit: 8,
            ..
        }
    ));
    context.set_causal_attn(true);
    assert_eq!(answer(&mut context), before);
}

#[test]
fn tokens_of_several_sequences_need_one_buffer() {
    let model = model(Layout::Qwen3Moe);
    let mut shared = Batch::new(2, 2);
    shared.add(prompt(2)[0], 0, &[0, 1], false).unwrap();
    shared.add(prompt(2)[1], 1, &[0, 1], true).unwrap();

    let mut apart = model.context(small().with_n_seq_max(2)).unwrap();
    assert_eq!(
        refused(apart.decode(&shared)),
        BatchError::SharedToken { index: 0 }
    );

    let params = small().with_n_seq_max(2).with_kv_unified(true);
    let mut unified = model.context(params).unwrap();
    unified.decode(&shared).unwrap();
    assert_eq!(unified.memory().positions(0).unwrap(), Some(0..=1));
    assert_eq!(unified.memory().positions(1).unwrap(), Some(0..=1));
}

#[test]
fn a_sequence_goes_on_where_the_memory_ends() {
    let model = model(Layout::Qwen3Moe);
    let mut context = context(&model);
    let tokens = prompt(14);
    let before = decode(&mut context, &tokens[..12], 0, 0);
    for pos in [0, 11, 13, 4000] {
        let error = context.decode(&batch(&tokens[12..], pos, 0)).unwrap_err();
        assert!(
            matches!(
                error,
                Error::Decode(DecodeError::Discontinuous { seq: 0, pos: at, expected: 12 }) if at == pos
            ),
            "{error:?}"
        );
        assert!(matches!(
            context.logits_last().unwrap_err(),
            Error::Output(OutputError::Nothing)
        ));
    }
    // A gap inside of a batch.
    let mut gap = Batch::new(2, 1);
    gap.add(tokens[12], 12, &[0], false).unwrap();
    gap.add(tokens[13], 14, &[0], true).unwrap();
    let error = context.decode(&gap).unwrap_err();
    assert!(
        matches!(&error, Error::Decode(DecodeError::Refused { reason }) if reason.contains("not continuous")),
        "{error:?}"
    );
    assert_eq!(context.memory().positions(0).unwrap(), Some(0..=11));
    assert_eq!(answer(&mut context), before);
}

#[test]
fn positions_can_begin_anywhere_up_to_the_last() {
    let model = model(Layout::Dense);
    let mut context = context(&model);
    let last = llama_moe::context::POS_MAX;
    decode(&mut context, &prompt(2), last - 1, 0);
    assert_eq!(
        context.memory().positions(0).unwrap(),
        Some(last - 1..=last)
    );
    // There is no position after it.
    let error = context.decode(&batch(&prompt(1), last, 0)).unwrap_err();
    assert!(
        matches!(error, Error::Decode(DecodeError::Discontinuous { .. })),
        "{error:?}"
    );
    assert!(context.memory().remove(Some(0), last..).unwrap());
    assert_eq!(
        context.memory().positions(0).unwrap(),
        Some(last - 1..=last - 1)
    );
    answer(&mut context);
}

#[test]
fn only_outputs_that_were_asked_for_can_be_read() {
    let model = model(Layout::Qwen3Moe);
    let mut context = context(&model);
    let output = |result: llama_moe::Result<&[f32]>| match result.unwrap_err() {
        Error::Output(error) => error,
        error => panic!("{error:?}"),
    };
    assert_eq!(output(context.logits(0)), OutputError::Nothing);
    assert_eq!(output(context.logits_last()), OutputError::Nothing);

    let tokens = prompt(6);
    let mut batch = Batch::new(6, 1);
    for (pos, &token) in (0..).zip(&tokens) {
        batch.add(token, pos, &[0], pos % 2 == 1).unwrap();
    }
    context.decode(&batch).unwrap();
    let third = context.logits(3).unwrap().to_vec();
    let last = context.logits(5).unwrap().to_vec();
    assert_ne!(third, last);
    assert_eq!(context.logits_last().unwrap(), last);
    assert_eq!(
        output(context.logits(2)),
        OutputError::NotAskedFor { index: 2 }
    );
    assert_eq!(
        output(context.logits(6)),
        OutputError::OutOfRange { index: 6, len: 6 }
    );
    assert_eq!(
        output(context.logits(usize::MAX)),
        OutputError::OutOfRange {
            index: usize::MAX,
            len: 6
        }
    );
    assert_eq!(output(context.embeddings(3)), OutputError::NoEmbeddings);
    assert_eq!(
        output(context.sequence_embedding(0)),
        OutputError::NoEmbeddings
    );

    // The same token on its own has the same logits.
    context.memory().clear().unwrap();
    assert!(distance(&decode(&mut context, &tokens[..4], 0, 0), &third) < 0.05);

    let mut silent = Batch::new(1, 1);
    silent.add(tokens[4], 4, &[0], false).unwrap();
    context.decode(&silent).unwrap();
    assert_eq!(
        output(context.logits(0)),
        OutputError::NotAskedFor { index: 0 }
    );
    assert_eq!(output(context.logits_last()), OutputError::Nothing);
}

#[test]
fn a_full_memory_says_how_full_it_is() {
    let model = model(Layout::Qwen3Moe);
    let mut context = context(&model);
    let tokens = prompt(257);
    decode(&mut context, &tokens[..256], 0, 0);
    for _ in 0..2 {
        let error = context.decode(&batch(&tokens[256..], 256, 0)).unwrap_err();
        let full = DecodeError::NoRoom {
            n_tokens: 1,
            used: 256,
            n_ctx: 256,
        };
        assert!(
            matches!(&error, Error::Decode(error) if *error == full),
            "{error:?}"
        );
        assert_eq!(context.memory().positions(0).unwrap(), Some(0..=255));
    }
    // Room is made, and what was refused is computed.
    assert!(context.memory().remove(Some(0), 1..11).unwrap());
    context.memory().shift(0, 11.., -10).unwrap();
    assert_eq!(context.memory().positions(0).unwrap(), Some(0..=245));
    decode(&mut context, &tokens[256..], 246, 0);
    let before = answer(&mut context);
    assert_eq!(before, answer(&mut support::decode::context(&model)));
}

#[test]
fn sequences_that_share_a_buffer_fill_it_together() {
    let model = model(Layout::Dense);
    let params = small().with_n_seq_max(2).with_kv_unified(true);
    let mut context = model.context(params).unwrap();
    decode(&mut context, &prompt(200), 0, 0);
    decode(&mut context, &prompt(50), 0, 1);
    let error = context.decode(&batch(&prompt(7), 50, 1)).unwrap_err();
    let full = DecodeError::NoRoom {
        n_tokens: 7,
        used: 250,
        n_ctx: 256,
    };
    assert!(
        matches!(&error, Error::Decode(error) if *error == full),
        "{error:?}"
    );
}

#[test]
fn a_pulled_token_ends_computations_until_it_is_reset() {
    let model = model(Layout::Qwen3Moe);
    let token = AbortToken::new();
    let mut context = model
        .context(small().with_abort_token(token.clone()))
        .unwrap();
    let before = answer(&mut context);
    thread::scope(|scope| scope.spawn(|| token.abort()).join().unwrap());
    for _ in 0..2 {
        let error = context.decode(&batch(&prompt(3), 12, 0)).unwrap_err();
        assert!(
            matches!(error, Error::Decode(DecodeError::Aborted)),
            "{error:?}"
        );
        assert_eq!(context.memory().positions(0).unwrap(), Some(0..=11));
        assert!(matches!(
            context.logits(2).unwrap_err(),
            Error::Output(OutputError::Nothing)
        ));
    }
    token.reset();
    decode(&mut context, &prompt(3), 12, 0);
    assert_eq!(answer(&mut context), before);
}

#[test]
fn a_decoder_does_not_encode() {
    let model = model(Layout::Dense);
    let mut context = context(&model);
    let error = context.encode(&batch(&prompt(3), 0, 0)).unwrap_err();
    assert!(
        matches!(error, Error::Decode(DecodeError::NoEncoder)),
        "{error:?}"
    );
    answer(&mut context);
}
