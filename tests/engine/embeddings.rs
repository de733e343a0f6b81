//! Embeddings beside answers.

use std::time::Duration;

use llama_moe::engine::{EmbedRequest, Engine, EngineError};
use llama_moe::{Error, Model, PoolingType, Token};

use crate::rig::{
    BOUND, Gate, MODEL, answer, begun, check_free, context, engine, greedy, load, params, prompt,
    wait_until,
};
use crate::support::decode::{batch, distance};
use crate::support::layouts::N_EMBD;
use crate::support::others;

fn texts() -> Vec<Vec<Token>> {
    [(5, 1), (60, 2), (1, 3)]
        .map(|(n, kind)| prompt(n, kind))
        .to_vec()
}

/// More than are embedded before something else happens.
const N_MANY: usize = 100_000;

fn many_texts() -> Vec<Vec<Token>> {
    vec![prompt(60, 2); N_MANY]
}

/// The embedding of a text that is computed alone.
fn alone(model: &Model, pooling: PoolingType, text: &[Token]) -> Vec<f32> {
    let params = context(512)
        .with_embeddings(true)
        .with_pooling_type(pooling);
    let mut context = model.context(params).unwrap();
    let batch = batch(text, 0, 0);
    if model.has_encoder() {
        context.encode(&batch).unwrap();
    } else {
        context.decode(&batch).unwrap();
    }
    context.sequence_embedding(0).unwrap().to_vec()
}

fn check(engine: &Engine, pooling: PoolingType) {
    let embeddings = engine.embed(texts()).unwrap().wait().unwrap();
    assert_eq!(embeddings.len(), 3);
    for (text, embedding) in texts().iter().zip(&embeddings) {
        assert_eq!(embedding.len() as u64, N_EMBD);
        let alone = alone(engine.model(), pooling, text);
        assert!(distance(&alone, embedding) < BOUND);
    }
    assert!(distance(&embeddings[0], &embeddings[1]) > 0.1);
}

#[test]
fn texts_are_embedded_as_alone() {
    check(&engine(1), PoolingType::Mean);
    let params = params(1).with_pooling_type(PoolingType::Last);
    check(&Engine::new(&MODEL, params).unwrap(), PoolingType::Last);
}

#[test]
fn texts_that_are_computed_together_are_as_alone() {
    for model in [
        &*MODEL,
        &load(&mut others::recurrent()),
        &load(&mut others::encoder()),
    ] {
        let engine = Engine::new(model, params(1).with_embed_tokens(200)).unwrap();
        let texts: Vec<Vec<Token>> = (0..40).map(|i| prompt(1 + (i * 17) % 60, i)).collect();
        let embeddings = engine.embed(texts.clone()).unwrap().wait().unwrap();
        for (text, embedding) in texts.iter().zip(&embeddings) {
            let alone = alone(model, PoolingType::Mean, text);
            assert!(distance(&alone, embedding) < BOUND);
        }
        assert_eq!(engine.stats().embedded_texts, 40);
    }
}

#[test]
fn a_model_that_only_encodes_embeds() {
    let model = load(&mut others::encoder());
    let engine = Engine::new(&model, params(2)).unwrap();
    check(&engine, PoolingType::Model);
    assert_eq!(engine.n_ctx_per_request(), None);
    let error = engine.submit(greedy(prompt(5, 1), 5)).unwrap_err();
    assert!(matches!(error, Error::Engine(EngineError::EncodesOnly)));
    engine.shutdown();
}

#[test]
fn answers_go_on_beside_embeddings() {
    let engine = engine(2);
    let mut going_on = engine.submit(greedy(prompt(10, 1), 300)).unwrap();
    begun(&mut going_on);
    let many = vec![prompt(60, 2); 20];
    let embeddings = engine.embed(many).unwrap().wait().unwrap();
    assert_eq!(embeddings.len(), 20);
    assert_eq!(going_on.wait().unwrap().usage.completion_tokens, 300);
    let stats = engine.stats();
    assert_eq!((stats.embedded_texts, stats.embedded_tokens), (20, 1200));
    check_free(&engine);
}

#[test]
fn texts_that_cannot_be_embedded_are_refused() {
    let engine = Engine::new(&MODEL, params(1).with_embed_tokens(50)).unwrap();
    assert_eq!(engine.embed_tokens(), 50);
    let refused = |texts: Vec<Vec<Token>>| match engine.embed(texts) {
        Err(Error::Engine(error)) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        refused(vec![prompt(5, 1), vec![]]),
        EngineError::EmptyText { index: 1 }
    );
    let too_long = EngineError::TextTooLong {
        index: 0,
        n_tokens: 51,
        limit: 50,
    };
    assert_eq!(refused(vec![prompt(51, 1)]), too_long);
    assert!(matches!(
        engine.embed(vec![vec![Token(-1)]]),
        Err(Error::Vocab(_))
    ));
    assert_eq!(engine.embed(vec![]).unwrap().wait().unwrap().len(), 0);
    assert_eq!(
        engine
            .embed(vec![prompt(50, 1)])
            .unwrap()
            .wait()
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn embeddings_are_cancelled() {
    let engine = engine(1);
    drop(engine.embed(many_texts()).unwrap());
    let embeddings = engine.embed(texts()).unwrap().wait().unwrap();
    assert_eq!(embeddings.len(), 3);
    let stats = engine.stats();
    assert!(stats.embedded_texts < N_MANY as u64, "{stats:?}");
    assert_eq!((stats.requests_cancelled, stats.requests_done), (1, 1));
    check_free(&engine);
}

#[test]
fn stopping_ends_embeddings() {
    let engine = engine(1);
    let many = engine.embed(many_texts()).unwrap();
    wait_until(&engine, |stats| stats.embedded_texts > 0);
    engine.stop();
    let error = many.wait().unwrap_err();
    assert!(
        matches!(error, Error::Engine(EngineError::Stopped)),
        "{error}"
    );
    let stats = engine.stats();
    assert_eq!((stats.requests_failed, stats.requests_running), (0, 0));
}

#[test]
fn few_texts_do_not_wait_for_many() {
    let engine = engine(1);
    let many = engine.embed(many_texts()).unwrap();
    let few = engine.embed(texts()).unwrap().wait().unwrap();
    assert_eq!(few.len(), 3);
    let stats = engine.stats();
    assert!(stats.embedded_texts < N_MANY as u64, "{stats:?}");
    assert_eq!((stats.requests_done, stats.requests_running), (1, 1));
    drop(many);
    wait_until(&engine, |stats| stats.requests_cancelled == 1);
    check_free(&engine);
}

#[test]
fn requests_to_embed_wait_are_counted_and_can_be_cancelled() {
    let engine = Engine::new(&MODEL, params(1).with_queue(3)).unwrap();
    let (request, gate) = Gate::new(1);
    let held = engine.submit(request).unwrap();
    gate.wait();
    let (waiting, refused): (Vec<_>, Vec<_>) = (0..30)
        .map(|_| engine.embed(texts()))
        .partition(|embeddings| embeddings.is_ok());
    // 16 have a turn as soon as the thread goes on.
    assert_eq!((waiting.len(), refused.len()), (16 + 3, 11));
    for error in refused.into_iter().filter_map(Result::err) {
        let full = matches!(error, Error::Engine(EngineError::QueueFull { queue: 3 }));
        assert!(full, "{error}");
    }
    let stats = engine.stats();
    assert_eq!((stats.requests_queued, stats.requests_refused), (19, 11));
    drop(waiting);
    drop(gate);
    let stats = wait_until(&engine, |stats| stats.requests_cancelled == 19);
    assert_eq!((stats.requests_queued, stats.embedded_texts), (0, 0));
    assert_eq!(answer(held).tokens.len(), 1);
    check_free(&engine);
}

#[test]
fn embeddings_have_a_deadline() {
    let engine = engine(1);
    for after in [Duration::ZERO, Duration::from_millis(100)] {
        let request = EmbedRequest::new(many_texts()).with_deadline(after);
        let error = engine.embed(request).unwrap().wait().unwrap_err();
        assert!(
            matches!(error, Error::Engine(EngineError::Deadline)),
            "{error}"
        );
    }
    let stats = engine.stats();
    assert!(stats.embedded_texts < N_MANY as u64, "{stats:?}");
    assert_eq!((stats.requests_failed, stats.requests_running), (2, 0));
    let request = EmbedRequest::new(vec![prompt(5, 1)]).with_deadline(Duration::MAX);
    assert_eq!(engine.embed(request).unwrap().wait().unwrap().len(), 1);
    check_free(&engine);
}
