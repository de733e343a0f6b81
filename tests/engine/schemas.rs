//! Answers that are JSON of a schema.

use llama_moe::engine::Request;
use llama_moe::{
    Candidates, Error, FinishReason, JsonGuide, Sampler, SamplerChain, SamplerError, Token,
};
use serde_json::{Value, json};

use crate::rig::{MODEL, check_free, engine, prompt};
use crate::support::layouts::vocabulary;

/// A schema whose texts are of bounded length, since the model knows no end.
fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "maxLength": 8 },
            "is_expert": { "type": "boolean" },
            "memory": { "enum": ["RAM", "VRAM", null] },
            "layers": {
                "type": "array",
                "items": { "type": "integer", "minimum": 0, "maximum": 60 },
                "maxItems": 3,
            },
        },
        "required": ["name", "is_expert", "memory", "layers"],
        "additionalProperties": false,
    })
}

fn check(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{text:?}: {e}"));
    let object = value.as_object().unwrap();
    assert_eq!(object.len(), 4);
    assert!(
        object["name"].as_str().unwrap().chars().count() <= 8,
        "{text}"
    );
    assert!(object["is_expert"].is_boolean());
    let memories = [json!("RAM"), json!("VRAM"), Value::Null];
    assert!(memories.contains(&object["memory"]), "{text}");
    let layers = object["layers"].as_array().unwrap();
    assert!(layers.len() <= 3);
    assert!(
        layers.iter().all(|layer| layer.as_u64().unwrap() <= 60),
        "{text}"
    );
}

#[test]
fn answers_are_json_of_the_schema() {
    let engine = engine(4);
    let request = Request::new(prompt(20, 1))
        .with_json_schema(schema())
        .with_sampler(|chain, seed| chain.temp(2.0).dist(seed))
        .with_n(3);
    let streams: Vec<_> = (0..5)
        .map(|round| {
            engine
                .submit(request.clone().with_seed(round * 10))
                .unwrap()
        })
        .collect();
    let mut texts = Vec::new();
    for stream in streams {
        for choice in stream.wait().unwrap().choices {
            assert_eq!(choice.finish, Some(FinishReason::EndOfGeneration));
            check(&choice.text);
            texts.push(choice.text);
        }
    }
    texts.dedup();
    assert!(texts.len() > 10, "{texts:?}");
    check_free(&engine);
}

#[test]
fn a_schema_that_cannot_be_kept_to_is_refused() {
    let engine = engine(1);
    let nested = |depth| (1..depth).fold(json!({}), |inner, _| json!({ "items": inner }));
    for schema in [
        json!({ "type": "nonsense" }),
        json!({ "type": "integer", "minimum": 5, "maximum": 4 }),
        json!({ "not": { "type": "string" } }),
        json!({ "$ref": "#/$defs/missing" }),
        json!({ "$ref": "file:///etc/passwd" }),
        json!({ "type": "string", "pattern": "(" }),
        json!(false),
        json!(7),
        nested(129),
    ] {
        let shown = schema.to_string();
        let request = Request::new(prompt(5, 1)).with_json_schema(schema);
        let error = engine.submit(request).expect_err(&shown);
        assert!(
            matches!(&error, Error::Sampler(SamplerError::JsonSchema { reason }) if !reason.is_empty()),
            "{error}"
        );
    }
    let request = Request::new(prompt(5, 1)).with_max_tokens(5);
    let stream = engine.submit(request.with_json_schema(nested(128)));
    assert_eq!(stream.unwrap().wait().unwrap().usage.completion_tokens, 5);
    check_free(&engine);
}

fn constant() -> Sampler {
    let guide = JsonGuide::new(&MODEL.vocab()).unwrap();
    let chain = SamplerChain::new().json_schema(&guide, &json!({ "const": "ab" }));
    chain.greedy().unwrap()
}

/// What the sampler lets through, as a text, from logits that are all the same.
fn text(sampler: &mut Sampler, n: usize) -> String {
    let vocab = MODEL.vocab();
    let mut text = Vec::new();
    for _ in 0..n {
        let logits = vec![0.0; vocabulary().len()];
        let token = sampler
            .apply(&mut Candidates::from_logits(&logits))
            .unwrap();
        if vocab.is_eog(token) {
            break;
        }
        sampler.accept(token).unwrap();
        text.extend(vocab.piece(token, false).unwrap());
    }
    String::from_utf8(text).unwrap()
}

#[test]
fn a_sampler_is_copied_and_reset_with_its_place() {
    let mut sampler = constant();
    assert_eq!(text(&mut sampler, 2), "\"a");
    let mut copy = sampler.try_clone().unwrap();
    assert_eq!(text(&mut sampler, 9), "b\"");
    assert_eq!(text(&mut copy, 9), "b\"");
    sampler.reset().unwrap();
    assert_eq!(text(&mut sampler, 9), "\"ab\"");
}

#[test]
fn a_token_that_is_not_allowed_leaves_no_candidate() {
    let mut sampler = constant();
    sampler.accept(Token(300)).unwrap();
    let logits = vec![0.0; vocabulary().len()];
    let error = sampler
        .apply(&mut Candidates::from_logits(&logits))
        .unwrap_err();
    assert!(
        matches!(&error, Error::Sampler(SamplerError::NoCandidates { sampler: Some(name) }) if name == "json-schema"),
        "{error}"
    );
}
