//! Contexts: batches, decoding, outputs, memory, and everything that is refused.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use llama_moe::{
    AbortToken, AttentionType, Batch, BatchError, CacheType, Context, ContextError, ContextParams,
    DecodeError, Error, EvalCallback, EvalTensor, FlashAttention, MemoryError, Model, ModelParams,
    OutputError, PoolingType, Token,
};

mod support;
use support::decode::{batch, context, decode, distance, greedy, prompt, small};
use support::layouts::{self, Layout, N_EMBD};
use support::{load, on_cpu};

fn model(layout: Layout) -> Model {
    load(layout, on_cpu()).expect("a model")
}

fn n_vocab() -> usize {
    layouts::vocabulary().len()
}

/// What the prompt is answered with: other checks compare with it afterwards.
fn answer(context: &mut Context) -> Vec<f32> {
    context.memory().clear().unwrap();
    decode(context, &prompt(12), 0, 0)
}

#[test]
fn contexts_and_all_that_belongs_to_them_can_be_sent_to_other_threads() {
    fn is_send<T: Send>() {}
    fn is_send_and_sync<T: Send + Sync>() {}
    is_send::<Context>();
    is_send_and_sync::<Batch>();
    is_send_and_sync::<ContextParams>();
    is_send_and_sync::<AbortToken>();
    is_send_and_sync::<llama_moe::LoraAdapter>();
    is_send_and_sync::<Error>();
}

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
fn defaults_are_those_of_llama_cpp_but_for_the_threads() {
    let model = model(Layout::Dense);
    let context = model.context(ContextParams::default()).unwrap();
    // n_ctx 512, n_batch 2048 limited by it, n_ubatch 512, n_seq_max 1.
    assert_eq!((context.n_ctx(), context.n_ctx_seq()), (512, 512));
    assert_eq!((context.n_batch(), context.n_ubatch()), (512, 512));
    assert_eq!((context.n_seq_max(), context.n_outputs_max()), (1, 512));
    assert_eq!(context.pooling_type(), PoolingType::None);
    assert!(context.causal_attn());
    let (single, batch) = context.n_threads();
    let allowed = thread::available_parallelism().unwrap().get() as u32;
    assert_eq!(single, batch);
    assert!((1..=allowed).contains(&single), "{single} of {allowed}");
}

#[test]
fn sizes_are_what_was_asked_for() {
    let model = model(Layout::Dense);
    let params = ContextParams::default()
        .with_n_ctx(1024)
        .with_n_batch(64)
        .with_n_ubatch(16)
        .with_n_seq_max(2)
        .with_n_outputs_max(8)
        .with_n_threads(1)
        .with_n_threads_batch(2);
    let mut context = model.context(params).unwrap();
    assert_eq!((context.n_ctx(), context.n_ctx_seq()), (1024, 512));
    assert_eq!((context.n_batch(), context.n_ubatch()), (64, 16));
    assert_eq!((context.n_seq_max(), context.n_outputs_max()), (2, 8));
    assert_eq!(context.n_threads(), (1, 2));
    context.set_n_threads(2, 1).unwrap();
    assert_eq!(context.n_threads(), (2, 1));
    // 0 asks for what the model was trained with.
    let context = model
        .context(ContextParams::default().with_n_ctx(0))
        .unwrap();
    assert_eq!(context.n_ctx(), layouts::N_CTX_TRAIN);
}

#[test]
fn parameters_that_cannot_work_are_named() {
    let model = model(Layout::Dense);
    let params = ContextParams::default;
    for (name, params) in [
        ("with_n_threads", params().with_n_threads(0)),
        ("with_n_threads", params().with_n_threads(513)),
        (
            "with_n_threads_batch",
            params().with_n_threads_batch(u32::MAX),
        ),
        ("with_n_seq_max", params().with_n_seq_max(0)),
        ("with_n_seq_max", params().with_n_seq_max(257)),
        ("with_n_ctx", params().with_n_ctx(u32::MAX)),
        ("with_n_batch", params().with_n_batch(u32::MAX)),
        ("with_n_batch", params().with_n_batch(0)),
        ("with_n_ubatch", params().with_n_ubatch(u32::MAX)),
        ("with_n_batch", params().with_n_batch(3).with_n_seq_max(4)),
        (
            "with_n_outputs_max",
            params().with_n_outputs_max(3).with_n_seq_max(4),
        ),
        (
            "with_rope_freq_base",
            params().with_rope_freq_base(f32::NAN),
        ),
        ("with_rope_freq_base", params().with_rope_freq_base(-1.0)),
        (
            "with_rope_freq_scale",
            params().with_rope_freq_scale(f32::INFINITY),
        ),
        ("with_rope_freq_scale", params().with_rope_freq_scale(1e-30)),
        (
            "with_yarn_ext_factor",
            params().with_yarn_ext_factor(f32::NAN),
        ),
        (
            "with_yarn_attn_factor",
            params().with_yarn_attn_factor(f32::INFINITY),
        ),
        (
            "with_yarn_beta_fast",
            params().with_yarn_beta_fast(f32::NAN),
        ),
        (
            "with_yarn_beta_slow",
            params().with_yarn_beta_slow(f32::NAN),
        ),
    ] {
        let error = model.context(params).expect_err(name);
        assert!(
            matches!(&error, Error::Parameter { parameter, .. } if *parameter == name),
            "{name}: {error:?}"
        );
    }
    let mut context = context(&model);
    for (single, batch) in [(0, 1), (1, 0), (513, 1)] {
        let error = context.set_n_threads(single, batch).unwrap_err();
        assert!(matches!(error, Error::Parameter { .. }), "{error:?}");
    }
    assert_eq!(context.n_threads(), (1, 1));
}

#[test]
fn what_llama_cpp_cannot_make_comes_with_its_reason() {
    let model = model(Layout::Dense);
    // More sequences than n_ctx has positions, which limit the outputs.
    let params = small().with_n_ctx(4).with_n_seq_max(8);
    // Quantised values need flash attention.
    let quantised = small()
        .with_type_v(CacheType::Q8_0)
        .with_flash_attention(FlashAttention::Disabled);
    for params in [params, quantised] {
        let error = model.context(params).unwrap_err();
        assert!(
            matches!(&error, Error::Context(ContextError::Creation { reason }) if !reason.is_empty()),
            "{error:?}"
        );
    }
    answer(&mut context(&model));
}

#[test]
fn a_context_needs_weights() {
    let error = |params: ModelParams| {
        let model = load(Layout::Dense, params).expect("a model");
        model.context(ContextParams::default()).unwrap_err()
    };
    assert!(matches!(
        error(on_cpu().with_vocab_only(true)),
        Error::Context(ContextError::VocabOnly)
    ));
    assert!(matches!(
        error(on_cpu().with_no_alloc(true)),
        Error::Context(ContextError::NoAlloc)
    ));
    answer(&mut context(&model(Layout::Dense)));
}

#[test]
fn a_context_outlives_every_other_handle_to_its_model() {
    let model = model(Layout::Qwen3Moe);
    let mut context = context(&model);
    let before = answer(&mut context);
    drop(model);
    assert_eq!(answer(&mut context), before);
    assert_eq!(context.model().n_layer(), Layout::Qwen3Moe.n_layer());
}

#[test]
fn two_contexts_on_two_threads_share_a_model() {
    let model = model(Layout::Qwen3Moe);
    let expected = answer(&mut context(&model));
    let answers = thread::scope(|scope| {
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let model = model.clone();
                scope.spawn(move || {
                    let mut context = context(&model);
                    (0..5).map(|_| answer(&mut context)).collect::<Vec<_>>()
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect::<Vec<_>>()
    });
    assert_eq!(answers.len(), 10);
    assert!(answers.iter().all(|answer| *answer == expected));
}

#[test]
fn a_context_goes_on_on_another_thread() {
    let model = model(Layout::Mixtral);
    let mut context = context(&model);
    let tokens = prompt(13);
    decode(&mut context, &tokens[..12], 0, 0);
    let here = decode(&mut context, &tokens[12..], 12, 0);
    assert!(context.memory().remove(Some(0), 12..).unwrap());
    let there = thread::spawn(move || decode(&mut context, &tokens[12..], 12, 0))
        .join()
        .unwrap();
    assert_eq!(here, there);
}

fn refused(result: llama_moe::Result<impl std::fmt::Debug>) -> BatchError {
    match result.unwrap_err() {
        Error::Batch(error) => error,
        error => panic!("{error:?}"),
    }
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
    assert_eq!(before, answer(&mut self::context(&model)));
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

/// Pulls a token when the computation comes to a certain tensor.
struct PullAt(&'static str, AbortToken);

impl EvalCallback for PullAt {
    fn wants(&mut self, tensor: &EvalTensor<'_>) -> bool {
        tensor.name == self.0
    }

    fn data(&mut self, _: &EvalTensor<'_>, _: &[u8]) {
        self.1.abort();
    }
}

#[test]
fn a_computation_is_ended_in_its_middle() {
    let model = model(Layout::Qwen3Moe);
    let token = AbortToken::new();
    let params = small()
        .with_abort_token(token.clone())
        .with_eval_callback(PullAt("ffn_moe_topk-0", token.clone()));
    let mut context = model.context(params).unwrap();
    let error = context.decode(&batch(&prompt(12), 0, 0)).unwrap_err();
    assert!(
        matches!(error, Error::Decode(DecodeError::Aborted)),
        "{error:?}"
    );
    assert_eq!(context.memory().positions(0).unwrap(), None);
    assert!(token.is_aborted());
}

/// Collects names, and the data of the tensors that choose experts.
#[derive(Clone, Default)]
struct Watch(Arc<Mutex<Vec<(String, Vec<u64>, Vec<i32>)>>>);

impl EvalCallback for Watch {
    fn wants(&mut self, tensor: &EvalTensor<'_>) -> bool {
        tensor.name.starts_with("ffn_moe_topk")
    }

    fn data(&mut self, tensor: &EvalTensor<'_>, bytes: &[u8]) {
        assert_eq!(tensor.kind, "i32");
        // Rows of the experts' order, of which the first ones are chosen.
        let row = tensor.strides[1] as usize;
        let n_used = tensor.shape[0] as usize;
        let chosen = (0..tensor.shape[1] as usize).flat_map(|token| {
            let row = &bytes[token * row..][..n_used * 4];
            row.as_chunks::<4>()
                .0
                .iter()
                .map(|&b| i32::from_ne_bytes(b))
        });
        let entry = (
            tensor.name.to_string(),
            tensor.shape.to_vec(),
            chosen.collect(),
        );
        self.0.lock().unwrap().push(entry);
    }
}

#[test]
fn a_callback_sees_which_experts_the_router_chooses() {
    let model = model(Layout::Qwen3Moe);
    let watch = Watch::default();
    let mut watched = model
        .context(small().with_eval_callback(watch.clone()))
        .unwrap();
    let logits = answer(&mut watched);
    let seen = watch.0.lock().unwrap();
    let layers: Vec<String> = (0..Layout::Qwen3Moe.n_layer())
        .map(|layer| format!("ffn_moe_topk-{layer}"))
        .collect();
    let names: Vec<&String> = seen.iter().map(|(name, ..)| name).collect();
    assert_eq!(names, layers.iter().collect::<Vec<_>>());
    // The last layer computes only the token whose output was asked for.
    assert_eq!(seen[0].1[..2], [layouts::N_EXPERT_USED, 12]);
    for (name, _, experts) in seen.iter() {
        for pair in experts.chunks(layouts::N_EXPERT_USED as usize) {
            assert!(
                pair.iter()
                    .all(|&e| (0..layouts::N_EXPERT as i32).contains(&e)),
                "{name}: {pair:?}"
            );
            assert_ne!(pair[0], pair[1], "{name}");
        }
    }
    drop(seen);
    assert_eq!(logits, answer(&mut context(&model)));
}

/// Panics at a tensor, in one of its two methods.
struct Panics(bool);

impl EvalCallback for Panics {
    fn wants(&mut self, tensor: &EvalTensor<'_>) -> bool {
        assert!(
            self.0 || tensor.name != "ffn_moe_topk-1",
            "asked for too much"
        );
        tensor.name == "ffn_moe_topk-1"
    }

    fn data(&mut self, _: &EvalTensor<'_>, _: &[u8]) {
        panic!("given too much");
    }
}

#[test]
fn a_panic_in_a_callback_is_an_error_of_the_decode() {
    let model = model(Layout::Qwen3Moe);
    for (in_data, expected) in [(false, "asked for too much"), (true, "given too much")] {
        let mut context = model
            .context(small().with_eval_callback(Panics(in_data)))
            .unwrap();
        for _ in 0..2 {
            context.memory().clear().unwrap();
            let error = context.decode(&batch(&prompt(4), 0, 0)).unwrap_err();
            assert!(
                matches!(
                    &error,
                    Error::CallbackPanicked { callback: "eval callback", message } if message == expected
                ),
                "{error:?}"
            );
            assert!(context.logits_last().is_err());
        }
    }
    answer(&mut context(&model));
}

fn memory_error<T: std::fmt::Debug>(result: llama_moe::Result<T>) -> MemoryError {
    match result.unwrap_err() {
        Error::Memory(error) => error,
        error => panic!("{error:?}"),
    }
}

#[test]
fn a_copied_sequence_goes_on_as_its_source() {
    let tokens = prompt(14);
    for layout in [Layout::Qwen3Moe, Layout::GptOss, Layout::DeepSeek2] {
        let model = model(layout);
        for unified in [false, true] {
            let params = small()
                .with_n_ctx(512)
                .with_n_seq_max(2)
                .with_kv_unified(unified);
            let mut context = model.context(params).unwrap();
            decode(&mut context, &tokens[..12], 0, 0);
            // What was there before is replaced, whole or not.
            decode(&mut context, &tokens[..3], 0, 1);
            context.memory().copy(0, 1, ..).unwrap();
            context.memory().copy(0, 1, ..12).unwrap();
            assert_eq!(context.memory().positions(1).unwrap(), Some(0..=11));
            let source = decode(&mut context, &tokens[12..], 12, 0);
            let copy = decode(&mut context, &tokens[12..], 12, 1);
            let difference = distance(&source, &copy);
            assert!(difference < 0.01, "{layout:?} {unified}: {difference}");
            context.memory().keep(1).unwrap();
            assert_eq!(context.memory().positions(0).unwrap(), None);
            assert_eq!(context.memory().positions(1).unwrap(), Some(0..=13));
        }
    }
}

#[test]
fn parts_are_copied_where_sequences_share_a_buffer() {
    let model = model(Layout::Qwen3Moe);
    let mut apart = model
        .context(small().with_n_ctx(512).with_n_seq_max(2))
        .unwrap();
    let mut unified = model
        .context(small().with_n_seq_max(2).with_kv_unified(true))
        .unwrap();
    for context in [&mut apart, &mut unified] {
        decode(context, &prompt(12), 0, 0);
    }
    for part in [1..12, 0..11] {
        assert_eq!(
            memory_error(apart.memory().copy(0, 1, part)),
            MemoryError::PartialCopy
        );
    }
    assert_eq!(apart.memory().positions(1).unwrap(), None);
    unified.memory().copy(0, 1, ..8).unwrap();
    assert_eq!(unified.memory().positions(1).unwrap(), Some(0..=7));
    let expected = decode(&mut context(&model), &prompt(9), 0, 0);
    let continued = decode(&mut unified, &prompt(9)[8..], 8, 1);
    assert!(distance(&expected, &continued) < 0.05);
}

#[test]
fn parts_are_removed() {
    let model = model(Layout::Qwen3Moe);
    let params = small().with_n_ctx(512).with_n_seq_max(2);
    let mut context = model.context(params).unwrap();
    let tokens = prompt(12);
    let first = decode(&mut context, &tokens, 0, 0);
    decode(&mut context, &tokens[..5], 0, 1);

    let mut memory = context.memory();
    assert!(memory.remove(Some(0), 20..).unwrap());
    assert!(memory.remove(Some(0), 8..8).unwrap());
    assert!(memory.remove(Some(0), u32::MAX..).unwrap());
    assert_eq!(memory.positions(0).unwrap(), Some(0..=11));
    assert!(memory.remove(Some(0), 8..).unwrap());
    assert_eq!(memory.positions(0).unwrap(), Some(0..=7));
    assert_eq!(memory.positions(1).unwrap(), Some(0..=4));
    let again = decode(&mut context, &tokens[8..], 8, 0);
    assert!(distance(&first, &again) < 0.05);

    let mut memory = context.memory();
    assert!(memory.remove(None, 3..).unwrap());
    assert_eq!(memory.positions(0).unwrap(), Some(0..=2));
    assert_eq!(memory.positions(1).unwrap(), Some(0..=2));
    assert!(memory.remove(None, ..).unwrap());
    assert_eq!(memory.positions(0).unwrap(), None);
    assert_eq!(memory.positions(1).unwrap(), None);
}

#[test]
fn positions_are_moved_and_divided() {
    let model = model(Layout::Qwen3Moe);
    let mut context = context(&model);
    let tokens = prompt(12);
    decode(&mut context, &tokens, 0, 0);
    let mut memory = context.memory();
    assert!(memory.can_shift());
    memory.shift(0, .., 5).unwrap();
    assert_eq!(memory.positions(0).unwrap(), Some(5..=16));
    memory.shift(0, .., 0).unwrap();
    memory.shift(0, 100.., -50).unwrap();
    memory.shift(0, ..5, -50).unwrap();
    assert_eq!(memory.positions(0).unwrap(), Some(5..=16));
    memory.shift(0, .., -5).unwrap();
    assert_eq!(memory.positions(0).unwrap(), Some(0..=11));
    // There and back again: the cache is where it was, but for rounding.
    let moved = decode(&mut context, &tokens[..1], 12, 0);
    let mut still = self::context(&model);
    decode(&mut still, &tokens, 0, 0);
    let expected = decode(&mut still, &tokens[..1], 12, 0);
    assert!(distance(&moved, &expected) < 0.1);

    for (range, delta, pos) in [
        (0..13, -1, 0),
        (5..13, -6, 5),
        (5..13, i32::MAX, 5),
        (5..13, i32::MIN, 5),
    ] {
        assert_eq!(
            memory_error(context.memory().shift(0, range, delta)),
            MemoryError::ShiftOutOfRange { pos, delta }
        );
    }
    let two = NonZeroU32::new(2).unwrap();
    context.memory().divide(0, .., two).unwrap();
    assert_eq!(context.memory().positions(0).unwrap(), Some(0..=6));
    context.memory().divide(0, 3..2, two).unwrap();
    context.memory().divide(0, .., NonZeroU32::MIN).unwrap();
    assert_eq!(
        memory_error(context.memory().divide(0, .., NonZeroU32::MAX)),
        MemoryError::Divisor { divisor: u32::MAX }
    );
    assert_eq!(context.memory().positions(0).unwrap(), Some(0..=6));
    decode(&mut context, &tokens[..1], 7, 0);
}

#[test]
fn sequences_that_do_not_exist_are_named() {
    let model = model(Layout::Dense);
    let mut context = model.context(small().with_n_seq_max(2)).unwrap();
    for seq in [2, 256, u32::MAX] {
        let absent = MemoryError::Sequence { seq, n_seq_max: 2 };
        let mut memory = context.memory();
        assert_eq!(memory_error(memory.remove(Some(seq), ..)), absent);
        assert_eq!(memory_error(memory.copy(0, seq, ..)), absent);
        assert_eq!(memory_error(memory.copy(seq, 0, ..)), absent);
        assert_eq!(memory_error(memory.keep(seq)), absent);
        assert_eq!(memory_error(memory.shift(seq, .., 1)), absent);
        assert_eq!(
            memory_error(memory.divide(seq, .., NonZeroU32::MIN)),
            absent
        );
        assert_eq!(memory_error(memory.positions(seq)), absent);
    }
    answer(&mut context);
}

#[test]
fn every_cache_type_works() {
    let model = model(Layout::Qwen3Moe);
    let reference = answer(&mut context(&model));
    for kind in [
        CacheType::F32,
        CacheType::F16,
        CacheType::Bf16,
        CacheType::Q8_0,
        CacheType::Q4_0,
        CacheType::Q4_1,
        CacheType::Iq4Nl,
        CacheType::Q5_0,
        CacheType::Q5_1,
    ] {
        let both = small().with_type_k(kind).with_type_v(kind);
        let keys = small()
            .with_type_k(kind)
            .with_flash_attention(FlashAttention::Disabled);
        for params in [both, keys] {
            let mut context = model.context(params).unwrap();
            let difference = distance(&answer(&mut context), &reference);
            assert!(difference < 6.0, "{kind:?}: {difference}");
        }
    }
}

#[test]
fn blocks_of_a_quantised_cache_must_divide_the_keys() {
    // Keys of 80 elements.
    let model = model(Layout::DeepSeek2);
    let params = small()
        .with_type_k(CacheType::Q8_0)
        .with_type_v(CacheType::Q8_0);
    let error = model.context(params.clone()).unwrap_err();
    assert!(
        matches!(&error, Error::Context(ContextError::Creation { reason }) if reason.contains("80")),
        "{error:?}"
    );
    let params = params.with_flash_attention(FlashAttention::Disabled);
    let error = model.context(params).unwrap_err();
    assert!(
        matches!(
            &error,
            Error::Parameter {
                parameter: "with_type_k",
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn what_was_computed_is_counted() {
    let model = model(Layout::Qwen3Moe);
    let mut context = model.context(small().with_no_perf(false)).unwrap();
    decode(&mut context, &prompt(12), 0, 0);
    for pos in 12..20 {
        decode(&mut context, &prompt(1), pos, 0);
    }
    let perf = context.perf().unwrap();
    assert_eq!((perf.n_prompt_eval, perf.n_eval), (12, 8));
    // The first single token builds its graph, the others use it again.
    assert_eq!(perf.n_reused, 7);
    assert!(perf.prompt_eval > Duration::ZERO && perf.eval > Duration::ZERO);
    assert!(perf.load > Duration::ZERO);
    context.reset_perf().unwrap();
    decode(&mut context, &prompt(3), 20, 0);
    let perf = context.perf().unwrap();
    assert_eq!(perf.n_prompt_eval, 3);
    assert_eq!((perf.n_reused, perf.eval), (0, Duration::ZERO));
    // By default nothing is timed.
    let mut context = self::context(&model);
    decode(&mut context, &prompt(12), 0, 0);
    let perf = context.perf().unwrap();
    assert_eq!((perf.n_prompt_eval, perf.prompt_eval), (12, Duration::ZERO));
}

#[test]
fn memory_is_broken_down() {
    let model = model(Layout::Qwen3Moe);
    let sums = |n_ctx| {
        let mut context = model.context(small().with_n_ctx(n_ctx)).unwrap();
        let entries = context.memory_breakdown().unwrap();
        assert!(
            entries
                .iter()
                .all(|entry| entry.is_host && !entry.buffer.is_empty())
        );
        let sum = |of: fn(&llama_moe::MemoryEntry) -> u64| entries.iter().map(of).sum::<u64>();
        (sum(|e| e.model), sum(|e| e.context), sum(|e| e.compute))
    };
    let (small, large) = (sums(256), sums(1024));
    assert!(small.0 > 0 && small.2 > 0);
    assert_eq!(small.0, large.0);
    // Keys and values of two heads of 32 elements in 16 bits, for each layer and position.
    let per_position = 2 * 2 * 32 * 2 * u64::from(Layout::Qwen3Moe.n_layer());
    assert_eq!(small.1, 256 * per_position);
    assert_eq!(large.1, 1024 * per_position);
}

#[test]
fn embeddings_are_read_by_token() {
    let model = model(Layout::Qwen3Moe);
    let params = small()
        .with_embeddings(true)
        .with_pooling_type(PoolingType::None);
    let mut context = model.context(params).unwrap();
    let tokens = prompt(5);
    context.decode(&batch(&tokens, 0, 0)).unwrap();
    // All outputs are computed, whatever was asked for.
    let all: Vec<Vec<f32>> = (0..5)
        .map(|index| context.embeddings(index).unwrap().to_vec())
        .collect();
    assert!(all.iter().all(|embedding| embedding.len() as u64 == N_EMBD));
    assert_ne!(all[0], all[4]);
    assert_eq!(context.logits(2).unwrap().len(), n_vocab());
    assert!(matches!(
        context.embeddings(5).unwrap_err(),
        Error::Output(OutputError::OutOfRange { index: 5, len: 5 })
    ));
    assert!(matches!(
        context.sequence_embedding(0).unwrap_err(),
        Error::Output(OutputError::NotPooled)
    ));
    context.set_embeddings(false);
    decode(&mut context, &tokens, 5, 0);
    assert!(matches!(
        context.embeddings(4).unwrap_err(),
        Error::Output(OutputError::NoEmbeddings)
    ));
    context.set_embeddings(true);
    decode(&mut context, &tokens, 10, 0);
    assert_eq!(context.embeddings(4).unwrap().len() as u64, N_EMBD);
}

#[test]
fn embeddings_are_pooled_by_sequence() {
    let model = model(Layout::Qwen3Moe);
    let tokens = prompt(6);
    let of_tokens: Vec<Vec<f32>> = {
        let mut context = model.context(small().with_embeddings(true)).unwrap();
        context.decode(&batch(&tokens, 0, 0)).unwrap();
        (0..6)
            .map(|index| context.embeddings(index).unwrap().to_vec())
            .collect()
    };
    let mean: Vec<f32> = (0..N_EMBD as usize)
        .map(|i| of_tokens.iter().map(|embedding| embedding[i]).sum::<f32>() / 6.0)
        .collect();
    for (pooling, expected) in [
        (PoolingType::Mean, &mean),
        (PoolingType::Cls, &of_tokens[0]),
        (PoolingType::Last, &of_tokens[5]),
    ] {
        let params = small()
            .with_n_ctx(512)
            .with_n_seq_max(2)
            .with_kv_unified(true)
            .with_embeddings(true)
            .with_pooling_type(pooling);
        let mut context = model.context(params).unwrap();
        assert_eq!(context.pooling_type(), pooling);
        let mut batch = Batch::new(9, 2);
        batch.add_sequence(&tokens[1..4], 0, 0).unwrap();
        batch.add_sequence(&tokens, 0, 1).unwrap();
        context.decode(&batch).unwrap();
        let difference = distance(context.sequence_embedding(1).unwrap(), expected);
        assert!(difference < 0.05, "{pooling:?}: {difference}");
        assert_ne!(context.sequence_embedding(0).unwrap(), expected);
        assert!(matches!(
            context.sequence_embedding(2).unwrap_err(),
            Error::Output(OutputError::NoSequence { seq: 2 })
        ));
        assert!(matches!(
            context.embeddings(0).unwrap_err(),
            Error::Output(OutputError::Pooled { .. })
        ));
    }
}

#[test]
fn a_sequence_is_not_pooled_in_parts() {
    let model = model(Layout::Qwen3Moe);
    let tokens = prompt(9);
    let params = small()
        .with_n_ctx(512)
        .with_n_ubatch(8)
        .with_n_seq_max(2)
        .with_embeddings(true);
    for pooling in [PoolingType::Mean, PoolingType::Cls, PoolingType::Last] {
        let params = params.clone().with_pooling_type(pooling);
        let mut context = model.context(params).unwrap();
        let mut two = |first: usize, second: usize| {
            let mut batch = Batch::new(9, 2);
            batch.add_sequence(&tokens[..first], 0, 0).unwrap();
            batch.add_sequence(&tokens[..second], 0, 1).unwrap();
            context.memory().clear().unwrap();
            context.decode(&batch)
        };
        two(4, 4).unwrap();
        for (first, second) in [(3, 4), (5, 4)] {
            let result = two(first, second);
            if pooling == PoolingType::Last {
                result.unwrap();
            } else {
                let error = refused(result);
                assert!(
                    matches!(error, BatchError::PooledInParts { pooling: at, .. } if at == pooling),
                    "{error:?}"
                );
            }
        }
        // Side by side, two equal sequences have equal embeddings.
        two(4, 4).unwrap();
        let first = context.sequence_embedding(0).unwrap().to_vec();
        let difference = distance(&first, context.sequence_embedding(1).unwrap());
        assert!(difference < 0.01, "{pooling:?}: {difference}");
    }
}

#[test]
fn embeddings_are_decoded_in_place_of_tokens() {
    let model = model(Layout::Qwen3Moe);
    let mut context = context(&model);
    let embedding = |i: u64| -> Vec<f32> {
        (0..N_EMBD)
            .map(|j| ((i * 31 + j * 7) % 13) as f32 / 6.0 - 1.0)
            .collect()
    };
    let mut batch = Batch::embeddings(4, 1, N_EMBD as usize);
    for pos in 0..4 {
        batch
            .add_embedding(&embedding(pos.into()), pos, &[0], pos == 3)
            .unwrap();
    }
    context.decode(&batch).unwrap();
    assert_eq!(context.logits(3).unwrap().len(), n_vocab());
    assert!(
        context
            .logits(3)
            .unwrap()
            .iter()
            .all(|logit| logit.is_finite())
    );
    // Tokens go on from there.
    decode(&mut context, &prompt(2), 4, 0);

    let mut narrow = Batch::embeddings(1, 1, N_EMBD as usize - 1);
    narrow
        .add_embedding(&embedding(0)[1..], 6, &[0], true)
        .unwrap();
    let width = N_EMBD as usize;
    assert_eq!(
        refused(context.decode(&narrow)),
        BatchError::Width {
            len: width - 1,
            width
        }
    );
}

#[test]
fn attention_can_look_at_the_whole_batch() {
    let model = model(Layout::Dense);
    let params = small().with_attention_type(AttentionType::NonCausal);
    let mut context = model.context(params).unwrap();
    assert!(!context.causal_attn());
    let tokens = prompt(8);
    let first_of = |context: &mut Context, tokens: &[Token]| {
        context.memory().clear().unwrap();
        let mut batch = Batch::new(tokens.len(), 1);
        batch.add_sequence_all(tokens, 0, 0).unwrap();
        context.decode(&batch).unwrap();
        context.logits(0).unwrap().to_vec()
    };
    let alone = first_of(&mut context, &tokens[..1]);
    assert!(distance(&alone, &first_of(&mut context, &tokens)) > 0.1);
    context.set_causal_attn(true);
    assert!(distance(&alone, &first_of(&mut context, &tokens)) < 0.05);
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
