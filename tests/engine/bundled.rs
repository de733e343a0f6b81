//! The model that came with the repository, on an engine.

use std::path::PathBuf;
use std::sync::LazyLock;

use llama_moe::engine::{Engine, Request};
use llama_moe::{ChatParams, FinishReason, Message, Model, RenderOptions, Sampler};

use crate::rig::{answer, check_greedy, context, params};
use crate::support::{backend, on_cpu};

static BUNDLED: LazyLock<Model> = LazyLock::new(|| {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let path = root.join("examples/model/moe-guide-q8_0.gguf");
    Model::load(&backend(), path, on_cpu()).unwrap()
});

const QUESTIONS: [&str; 4] = [
    "How do I keep the experts on the CPU?",
    "What is a router?",
    "Hello!",
    "What does with_n_cpu_moe do?",
];

/// What a chat of its own answers.
fn alone(question: &str) -> String {
    let chat_params = ChatParams::default()
        .with_context(context(512))
        .with_sampler(Sampler::greedy().unwrap());
    let mut chat = BUNDLED.chat(chat_params).unwrap();
    chat.say(question).unwrap().text().unwrap()
}

/// What an engine is asked.
fn ask(engine: &Engine, question: &str) -> Request {
    let messages = [Message::user(question)];
    let request = engine.chat(&messages, &RenderOptions::default()).unwrap();
    request.with_greedy()
}

#[test]
fn a_question_is_answered_as_by_a_chat() {
    // So that its batches have the shapes that they have in a chat.
    let params = params(1).with_prefix_cache(false);
    let engine = Engine::new(&BUNDLED, params).unwrap();
    for question in QUESTIONS {
        let answer = answer(engine.submit(ask(&engine, question)).unwrap());
        assert_eq!(answer.finish, Some(FinishReason::EndOfGeneration));
        assert_eq!(answer.text, alone(question));
    }
}

/// Not to the letter: the batches have other shapes.
#[test]
fn questions_are_answered_together_up_to_rounding() {
    let engine = Engine::new(&BUNDLED, params(4)).unwrap();
    let streams = QUESTIONS.map(|question| {
        let request = ask(&engine, question);
        (request.prompt().to_vec(), engine.submit(request).unwrap())
    });
    for (prompt, stream) in streams {
        let answer = answer(stream);
        assert_eq!(answer.finish, Some(FinishReason::EndOfGeneration));
        assert!(!answer.text.is_empty());
        check_greedy(&BUNDLED, &prompt, &answer.tokens);
    }
}

#[test]
fn a_conversation_is_computed_from_where_it_was() {
    let engine = Engine::new(&BUNDLED, params(2)).unwrap();
    let mut messages = vec![Message::system("Answer briefly.")];
    for (turn, question) in QUESTIONS.into_iter().take(3).enumerate() {
        messages.push(Message::user(question));
        let request = engine.chat(&messages, &RenderOptions::default()).unwrap();
        let n_prompt = request.prompt().len();
        let completion = engine
            .submit(request.with_greedy())
            .unwrap()
            .wait()
            .unwrap();
        // Of an earlier turn, the end of the answer at most is computed again.
        let n_new = n_prompt - completion.usage.cached_tokens;
        assert!(turn == 0 || n_new < 40, "{n_new} of {n_prompt}");
        messages.push(Message::assistant(completion.choices[0].text.as_str()));
    }
}
