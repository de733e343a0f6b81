//! Embeddings, in and out.

use llama_moe::{
    AttentionType, Batch, BatchError, Context, ContextError, Error, OutputError, PoolingType, Token,
};

mod support;
use support::decode::{
    answer, batch, context, decode, distance, model, n_vocab, prompt, refused, small,
};
use support::layouts::{Layout, N_EMBD};

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
    context.set_embeddings(false).unwrap();
    decode(&mut context, &tokens, 5, 0);
    assert!(matches!(
        context.embeddings(4).unwrap_err(),
        Error::Output(OutputError::NoEmbeddings)
    ));
    context.set_embeddings(true).unwrap();
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
fn pooling_takes_sizes_that_go_with_it() {
    let model = model(Layout::Qwen3Moe);
    let params = small()
        .with_n_ctx(768)
        .with_n_seq_max(3)
        .with_pooling_type(PoolingType::Mean);
    for (n_ubatch, n_outputs_max) in [(32, 0), (33, 32)] {
        let params = params
            .clone()
            .with_n_ubatch(n_ubatch)
            .with_n_outputs_max(n_outputs_max);
        let error = model
            .context(params.clone().with_embeddings(true))
            .unwrap_err();
        assert!(
            matches!(
                error,
                Error::Context(ContextError::Pooling { n_ubatch: at, n_seq_max: 3, .. }) if at == n_ubatch
            ),
            "{error:?}"
        );
        // Without embeddings all is well, as long as they stay off.
        let mut context = model.context(params).unwrap();
        let error = context.set_embeddings(true).unwrap_err();
        assert!(
            matches!(error, Error::Context(ContextError::Pooling { .. })),
            "{error:?}"
        );
        answer(&mut context);
    }
    let params = params.with_n_ubatch(33).with_embeddings(true);
    let mut context = model.context(params).unwrap();
    context.decode(&batch(&prompt(5), 0, 2)).unwrap();
    context.sequence_embedding(2).unwrap();
}

#[test]
fn a_model_that_takes_no_embeddings_says_so() {
    let mut embedding = Batch::embeddings(1, 1, N_EMBD as usize);
    embedding
        .add_embedding(&[0.5; N_EMBD as usize], 0, &[0], true)
        .unwrap();
    let mut context = context(&model(Layout::Glm4Moe));
    assert_eq!(
        refused(context.decode(&embedding)),
        BatchError::NoEmbeddings
    );
    answer(&mut context);
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
