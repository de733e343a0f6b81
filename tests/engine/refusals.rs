//! Requests that are refused before anything is computed.

use llama_moe::engine::{Engine, EngineError, EngineParams, Request};
use llama_moe::{
    ChatError, Error, Message, RenderOptions, Result, Sampler, SamplerChain, SamplerError, Token,
    VocabError,
};

use crate::rig::{
    MODEL, WINDOWED, check_free, context, engine, greedy, load, params, prompt, steady_file,
};
use crate::support::gguf::Value;
use crate::support::layouts::Layout;
use crate::support::others;

fn refused(engine: &Engine, request: Request) -> Error {
    engine.submit(request).expect_err("a refusal")
}

fn of_engine(error: Error) -> EngineError {
    match error {
        Error::Engine(error) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_cannot_be_answered_is_refused_at_once() {
    let params = params(2).with_n_ctx_per_request(100);
    let engine = Engine::new(&MODEL, params).unwrap();
    assert_eq!(engine.n_ctx_per_request(), Some(100));
    let refused = |request| refused(&engine, request);

    assert_eq!(
        of_engine(refused(greedy(vec![], 5))),
        EngineError::EmptyPrompt
    );
    let too_long = EngineError::PromptTooLong {
        n_prompt: 101,
        n_ctx: 100,
    };
    assert_eq!(of_engine(refused(greedy(prompt(101, 1), 5))), too_long);
    let too_many = EngineError::TooManyChoices { n: 3, slots: 2 };
    assert_eq!(
        of_engine(refused(greedy(prompt(5, 1), 5).with_n(3))),
        too_many
    );

    for (request, parameter) in [
        (greedy(prompt(5, 1), 0), "with_max_tokens"),
        (greedy(prompt(5, 1), 5).with_n(0), "with_n"),
    ] {
        let error = refused(request);
        assert!(
            matches!(&error, Error::Parameter { parameter: named, .. } if *named == parameter),
            "{error}"
        );
    }
    for token in [Token(-1), Token(1 << 20)] {
        let error = refused(greedy(vec![Token(1), token], 5));
        assert!(
            matches!(error, Error::Vocab(VocabError::NoToken { token: named, .. }) if named == token)
        );
    }
    let error = refused(greedy(prompt(5, 1), 5).with_stop_strings(["a", ""]));
    assert!(matches!(error, Error::Chat(ChatError::EmptyStopString)));
    check_free(&engine);
}

#[test]
fn samplers_that_cannot_be_are_refused() {
    let engine = engine(1);
    let request = || greedy(prompt(5, 1), 5);
    let refused = |request| refused(&engine, request);
    let of_sampler = |error: Error| match error {
        Error::Sampler(error) => error,
        other => panic!("{other:?}"),
    };
    let error = of_sampler(refused(request().with_grammar("root ::= (", "root")));
    assert!(matches!(error, SamplerError::Grammar { .. }), "{error}");
    let error = of_sampler(refused(request().with_logit_bias([(Token(5), f32::NAN)])));
    assert!(matches!(error, SamplerError::Parameter { .. }), "{error}");
    let error = of_sampler(refused(
        request().with_sampler(|chain, seed| chain.temp(-1.0).dist(seed)),
    ));
    assert!(matches!(error, SamplerError::Parameter { .. }), "{error}");
    let error = of_sampler(refused(
        request().with_seed(u32::MAX).with_sampler(|c, s| c.dist(s)),
    ));
    assert!(matches!(error, SamplerError::Parameter { .. }), "{error}");
    let error = refused(request().with_logit_bias([(Token(1 << 20), 1.0)]));
    assert!(matches!(error, Error::Vocab(_)), "{error}");

    let other = WINDOWED.vocab();
    let foreign = move |_: SamplerChain, _| -> Result<Sampler> {
        SamplerChain::new()
            .logit_bias(&other, &[(Token(5), 1.0)])
            .greedy()
    };
    let error = of_sampler(refused(request().with_sampler(foreign)));
    assert!(
        matches!(error, SamplerError::OtherVocabulary { .. }),
        "{error}"
    );
    check_free(&engine);
}

#[test]
fn conversations_that_cannot_be_written_down_are_refused() {
    let engine = Engine::new(&WINDOWED, params(1)).unwrap();
    let error = engine.chat(&[Message::user("Hi")], &RenderOptions::default());
    assert!(matches!(error, Err(Error::Chat(ChatError::NoTemplate))));
}

#[test]
fn engines_that_cannot_be_are_refused() {
    for (params, parameter) in [
        (params(0), "with_slots"),
        (params(1).with_queue(0), "with_queue"),
        (params(1).with_prefill_chunk(0), "with_prefill_chunk"),
        (
            params(1).with_n_ctx_per_request(0),
            "with_n_ctx_per_request",
        ),
        (params(1).with_embed_tokens(0), "with_embed_tokens"),
        (params(1000), "with_n_seq_max"),
        (
            params(4).with_context(context(256).with_n_batch(3)),
            "with_n_batch",
        ),
    ] {
        let error = Engine::new(&MODEL, params).unwrap_err();
        assert!(
            matches!(&error, Error::Parameter { parameter: named, .. } if *named == parameter),
            "{error}"
        );
    }
    // Where the model does not say how many tokens it was trained with, there is another limit.
    let mut file = steady_file(Layout::Qwen3Moe);
    file.arch("context_length", Value::U32(u32::MAX));
    let unlimited = load(&mut file);
    let error = Engine::new(&unlimited, params(1).with_embed_tokens(u32::MAX)).unwrap_err();
    assert!(
        matches!(&error, Error::Parameter { parameter: "with_embed_tokens", value, .. } if *value == u32::MAX.to_string()),
        "{error}"
    );
    let both = load(&mut others::encoder_decoder());
    let error = Engine::new(&both, EngineParams::default()).unwrap_err();
    assert_eq!(of_engine(error), EngineError::EncoderDecoder);
}

#[test]
fn room_is_never_more_than_there_is() {
    let room = |params| Engine::new(&MODEL, params).unwrap().n_ctx_per_request();
    // The model was trained with 512.
    assert_eq!(room(params(2)), Some(512));
    assert_eq!(room(params(2).with_n_ctx_per_request(5000)), Some(1024));
    assert_eq!(room(params(2).with_context(context(256))), Some(256));
    assert_eq!(room(EngineParams::default().with_slots(2)), Some(512));
}
