//! Contexts of models that are not decoders with a KV cache.

use llama_moe::{
    Batch, BatchError, Context, ContextParams, DecodeError, Error, MemoryError, Model, OutputError,
    PoolingType,
};

mod support;
use support::decode::{batch, context, decode, distance, prompt, small};
use support::gguf::GgufWriter;
use support::layouts::{N_CTX_TRAIN, N_EMBD};
use support::{backend, on_cpu, others, peculiar, sparse};

fn model(file: &GgufWriter) -> Model {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    file.write(&path);
    Model::load(&backend(), &path, on_cpu()).expect("a model")
}

fn embedding_params() -> ContextParams {
    small()
        .with_n_ctx(N_CTX_TRAIN)
        .with_n_seq_max(2)
        .with_embeddings(true)
}

#[test]
fn an_encoder_has_no_memory_and_no_logits() {
    let model = model(&others::encoder());
    let mut context = model.context(embedding_params()).unwrap();
    assert_eq!(context.pooling_type(), PoolingType::Mean);
    let mut both = Batch::new(8, 2);
    both.add_sequence(&prompt(3), 0, 0).unwrap();
    both.add_sequence(&prompt(5), 0, 1).unwrap();
    context.decode(&both).unwrap();
    let decoded = context.sequence_embedding(1).unwrap().to_vec();
    assert_eq!(decoded.len() as u64, N_EMBD);
    assert!(distance(&decoded, context.sequence_embedding(0).unwrap()) > 0.01);
    assert!(matches!(
        context.logits(0).unwrap_err(),
        Error::Output(OutputError::NoLogits)
    ));
    context.encode(&both).unwrap();
    assert!(distance(&decoded, context.sequence_embedding(1).unwrap()) < 1e-4);

    let no_memory = |result: llama_moe::Result<()>| {
        let error = result.unwrap_err();
        assert!(
            matches!(error, Error::Memory(MemoryError::None)),
            "{error:?}"
        );
    };
    let mut memory = context.memory();
    no_memory(memory.clear());
    no_memory(memory.remove(Some(0), ..).map(drop));
    no_memory(memory.copy(0, 1, ..));
    no_memory(memory.keep(0));
    no_memory(memory.shift(0, .., 1));
    no_memory(memory.positions(0).map(drop));
    assert!(!memory.can_shift());
    let state = context.save_state().unwrap();
    context.load_state(&state).unwrap();
}

#[test]
fn an_encoders_batch_is_not_cut() {
    let model = model(&others::encoder());
    let params = embedding_params().with_n_batch(16).with_n_ubatch(8);
    let mut context = model.context(params).unwrap();
    context.encode(&batch(&prompt(8), 0, 0)).unwrap();
    for result in [
        context.encode(&batch(&prompt(9), 0, 0)),
        context.decode(&batch(&prompt(9), 0, 0)),
    ] {
        let error = result.unwrap_err();
        assert!(
            matches!(
                error,
                Error::Batch(BatchError::TooLong {
                    len: 9,
                    parameter: "n_ubatch",
                    limit: 8,
                    ..
                })
            ),
            "{error:?}"
        );
    }
}

#[test]
fn positions_that_were_not_learned_are_refused() {
    let model = model(&others::encoder());
    let mut context = model.context(embedding_params()).unwrap();
    context
        .encode(&batch(&prompt(2), N_CTX_TRAIN - 2, 0))
        .unwrap();
    let error = context
        .encode(&batch(&prompt(2), N_CTX_TRAIN - 1, 0))
        .unwrap_err();
    let expected = BatchError::NotLearned {
        pos: N_CTX_TRAIN,
        n_ctx_train: N_CTX_TRAIN,
    };
    assert!(
        matches!(&error, Error::Batch(error) if *error == expected),
        "{error:?}"
    );
}

#[test]
fn a_decoder_needs_something_that_was_encoded() {
    let model = model(&others::encoder_decoder());
    assert!(model.has_encoder() && model.has_decoder());
    let mut context = context(&model);
    let error = context.decode(&batch(&prompt(2), 0, 0)).unwrap_err();
    assert!(
        matches!(error, Error::Decode(DecodeError::NothingEncoded)),
        "{error:?}"
    );
    context.encode(&batch(&prompt(7), 0, 0)).unwrap();
    assert!(matches!(
        context.logits(0).unwrap_err(),
        Error::Output(OutputError::NoLogits)
    ));
    let first = decode(&mut context, &prompt(2), 0, 0);
    assert!(first.iter().all(|logit| logit.is_finite()));
    // Something else to look at leads to another answer.
    context.memory().clear().unwrap();
    context.encode(&batch(&prompt(12), 0, 0)).unwrap();
    let second = decode(&mut context, &prompt(2), 0, 0);
    assert!(distance(&first, &second) > 0.001);

    let mut embeddings = Batch::embeddings(1, 1, N_EMBD as usize);
    embeddings
        .add_embedding(&[0.5; N_EMBD as usize], 2, &[0], true)
        .unwrap();
    let error = context.decode(&embeddings).unwrap_err();
    assert!(
        matches!(error, Error::Batch(BatchError::NoEmbeddings)),
        "{error:?}"
    );
}

#[test]
fn an_encoder_decoder_has_one_buffer() {
    let model = model(&others::encoder_decoder());
    let params = small().with_n_seq_max(2);
    let error = model.context(params.clone()).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Parameter {
                parameter: "with_kv_unified",
                ..
            }
        ),
        "{error:?}"
    );
    let mut context = model.context(params.with_kv_unified(true)).unwrap();
    context.encode(&batch(&prompt(7), 0, 1)).unwrap();
    decode(&mut context, &prompt(2), 0, 1);
}

fn next(context: &mut Context, seq: u32) -> Vec<f32> {
    decode(context, &prompt(14)[12..], 12, seq)
}

#[test]
fn a_state_is_copied_and_saved_but_not_taken_back() {
    let model = model(&others::recurrent());
    assert!(model.is_recurrent());
    let mut context = model.context(small().with_n_seq_max(3)).unwrap();
    decode(&mut context, &prompt(12), 0, 0);
    let state = context.save_state().unwrap();
    let of_sequence = context.save_state_seq(0).unwrap();

    let mut memory = context.memory();
    assert_eq!(memory.positions(0).unwrap(), Some(11..=11));
    assert!(!memory.remove(Some(0), 5..).unwrap());
    assert!(!memory.remove(None, 5..).unwrap());
    assert_eq!(memory.positions(0).unwrap(), Some(11..=11));
    memory.copy(0, 1, ..).unwrap();
    assert_eq!(memory.positions(1).unwrap(), Some(11..=11));
    let first = next(&mut context, 0);
    assert!(distance(&first, &next(&mut context, 1)) < 1e-4);

    context.load_state_seq(2, &of_sequence).unwrap();
    assert!(distance(&first, &next(&mut context, 2)) < 1e-4);
    context.memory().keep(2).unwrap();
    assert_eq!(context.memory().positions(0).unwrap(), None);
    assert_eq!(context.memory().positions(2).unwrap(), Some(13..=13));
    context.load_state(&state).unwrap();
    assert!(distance(&first, &next(&mut context, 0)) < 1e-4);
    assert!(context.memory().remove(None, ..).unwrap());
    assert_eq!(context.memory().positions(0).unwrap(), None);
    decode(&mut context, &prompt(12), 0, 0);
    assert!(distance(&first, &next(&mut context, 0)) < 1e-4);
}

#[test]
fn a_state_takes_no_token_of_several_sequences() {
    let model = model(&others::recurrent());
    for unified in [false, true] {
        let params = small().with_n_seq_max(2).with_kv_unified(unified);
        let mut context = model.context(params).unwrap();
        let mut shared = Batch::new(1, 2);
        shared.add(prompt(1)[0], 0, &[0, 1], true).unwrap();
        let error = context.decode(&shared).unwrap_err();
        assert!(
            matches!(error, Error::Batch(BatchError::SharedToken { index: 0 })),
            "{error:?}"
        );
        decode(&mut context, &prompt(3), 0, 0);
    }
}

/// Value experts, connections across layers, keys that layers share, convolutions beside
/// windows, and layers that choose what they look at.
#[test]
fn layers_of_many_kinds_decode() {
    for (name, file) in [
        ("value experts", peculiar::value_experts()),
        ("taps", peculiar::taps()),
        ("shared keys", peculiar::shared_keys()),
        ("convolution", peculiar::convolution()),
        ("engram", sparse::engram()),
        ("latent", sparse::latent()),
    ] {
        let model = model(&file);
        let mut context = context(&model);
        let first = decode(&mut context, &prompt(12), 0, 0);
        assert!(first.iter().all(|logit| logit.is_finite()), "{name}");
        let second = decode(&mut context, &prompt(14)[12..], 12, 0);
        assert!(distance(&first, &second) > 0.001, "{name}");
    }
}
