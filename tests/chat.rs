//! Conversations on real models: what is streamed, what ends a reply, what the memory
//! keeps, and what happens when it is full.

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use llama_moe::{
    AbortToken, Chat, ChatError, ChatParams, ChatTemplate, ContextParams, Error, FinishReason,
    Message, Model, Overflow, RenderOptions, Role, Sampler, SamplerChain, Token, ToolCall,
};
use serde_json::json;

mod support;
use support::gguf::GgufWriter;
use support::layouts::{CHAT_TEMPLATE, Layout, TOKEN_IM_END};
use support::{backend, on_cpu, others};

static MODEL: LazyLock<Model> = LazyLock::new(|| model(Layout::Qwen3Moe));

fn model(layout: Layout) -> Model {
    load(layout.writer())
}

fn load(mut file: GgufWriter) -> Model {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    file.string("tokenizer.chat_template", CHAT_TEMPLATE);
    file.write(&path);
    Model::load(&backend(), &path, on_cpu()).unwrap()
}

/// A model whose tokens have several positions (M-RoPE).
fn mrope() -> GgufWriter {
    let mut file = Layout::Qwen3Moe.writer_as("qwen3vlmoe");
    file.i32s("qwen3vlmoe.rope.dimension_sections", &[8, 4, 4, 0]);
    file
}

fn params(n_ctx: u32) -> ChatParams {
    let context = ContextParams::default()
        .with_n_ctx(n_ctx)
        .with_n_batch(32)
        .with_n_threads(1)
        .with_n_threads_batch(1);
    ChatParams::default()
        .with_context(context)
        .with_sampler(Sampler::greedy().unwrap())
}

/// Tokens of the prompt for these messages.
fn prompt(messages: &[Message]) -> Vec<Token> {
    let template = ChatTemplate::of(&MODEL).unwrap();
    let text = template
        .render(messages, &RenderOptions::default())
        .unwrap();
    let mut tokens = MODEL.vocab().tokenize(&text, false, true).unwrap();
    tokens.insert(0, MODEL.vocab().bos().unwrap());
    tokens
}

/// A sampler that says what it is told to, then ends the generation.
fn says(tokens: impl IntoIterator<Item = Token>) -> Sampler {
    let mut script: VecDeque<Token> = tokens.into_iter().collect();
    SamplerChain::new()
        .select_fn("script", move |candidates| {
            let token = script.pop_front().unwrap_or(Token(TOKEN_IM_END));
            candidates.iter().position(|c| c.token == token).unwrap()
        })
        .unwrap()
}

/// The tokens of a text, one for each ASCII character.
fn spelt(text: &str) -> Vec<Token> {
    let vocab = MODEL.vocab();
    let letters: Vec<Token> = (0..vocab.n_tokens() as i32)
        .map(Token)
        .filter(|&token| vocab.piece(token, false).unwrap().len() == 1)
        .collect();
    text.bytes()
        .map(|byte| {
            *letters
                .iter()
                .rfind(|&&token| vocab.piece(token, false).unwrap() == [byte])
                .unwrap()
        })
        .collect()
}

/// A sampler that never ends.
fn goes_on() -> Sampler {
    let letter = spelt("a")[0];
    SamplerChain::new()
        .select_fn("a", move |candidates| {
            candidates.iter().position(|c| c.token == letter).unwrap()
        })
        .unwrap()
}

fn pieces(chat: &mut Chat, text: &str) -> Vec<String> {
    chat.say(text).unwrap().collect::<Result<_, _>>().unwrap()
}

fn finish(chat: &Chat) -> Option<FinishReason> {
    chat.stats().unwrap().finish.clone()
}

fn roles(chat: &Chat) -> Vec<&str> {
    chat.messages()
        .iter()
        .map(|message| message.role.as_str())
        .collect()
}

fn chat_error(error: Error) -> ChatError {
    match error {
        Error::Chat(error) => error,
        other => panic!("not an error of the chat: {other:?}"),
    }
}

#[test]
fn pieces_are_the_whole() {
    let mut streamed = MODEL.chat(params(512).with_max_tokens(60)).unwrap();
    let mut whole = MODEL.chat(params(512).with_max_tokens(60)).unwrap();
    for question in ["the expert", "memory on CPU?"] {
        let pieces = pieces(&mut streamed, question);
        assert!(pieces.len() > 1, "{pieces:?}");
        assert!(pieces.iter().all(|piece| !piece.is_empty()));
        let text = whole.say(question).unwrap().text().unwrap();
        assert_eq!(pieces.concat(), text);
        assert_eq!(streamed.messages().last(), Some(&Message::assistant(text)));
    }
    assert_eq!(roles(&streamed), ["user", "assistant", "user", "assistant"]);
    assert_eq!(streamed.messages(), whole.messages());
}

#[test]
fn the_model_ends_a_reply() {
    let mut chat = MODEL
        .chat(params(256).with_sampler(says(spelt("Hello!"))))
        .unwrap();
    assert_eq!(pieces(&mut chat, "Hi").concat(), "Hello!");
    let stats = chat.stats().unwrap();
    assert_eq!(stats.finish, Some(FinishReason::EndOfGeneration));
    assert_eq!(stats.n_generated(), "Hello!".len() + 1);
    assert_eq!(stats.n_prompt, prompt(&[Message::user("Hi")]).len());
    assert_eq!(stats.n_reused, 0);
    assert_eq!(stats.n_dropped, 0);
    assert_eq!(stats.token_times().len(), stats.n_generated());
    assert!(stats.token_times().is_sorted());
    assert!(stats.ttft() < stats.latency());
    assert!(stats.time_per_output_token() > Some(Duration::ZERO));
}

#[test]
fn a_stop_string_ends_a_reply_and_is_not_in_it() {
    for pieces_of_text in [true, false] {
        let sampler = says(spelt("Well, Use it. User: more"));
        let params = params(256)
            .with_sampler(sampler)
            .with_stop_strings(["User:", "never"]);
        let mut chat = MODEL.chat(params).unwrap();
        let text = if pieces_of_text {
            let pieces = pieces(&mut chat, "Hi");
            assert!(
                pieces.iter().all(|piece| !piece.contains("User")),
                "{pieces:?}"
            );
            pieces.concat()
        } else {
            chat.say("Hi").unwrap().text().unwrap()
        };
        assert_eq!(text, "Well, Use it. ");
        assert_eq!(finish(&chat), Some(FinishReason::Stop("User:".into())));
        assert_eq!(
            chat.stats().unwrap().n_generated(),
            "Well, Use it. User:".len()
        );
        assert_eq!(chat.messages()[1], Message::assistant(text));
    }
}

#[test]
fn what_was_held_back_comes_at_the_end() {
    let stops = ["User:"];
    let sampler = says(spelt("my Use"));
    let params_ended = params(256).with_sampler(sampler).with_stop_strings(stops);
    let mut chat = MODEL.chat(params_ended).unwrap();
    assert_eq!(pieces(&mut chat, "Hi").last().unwrap(), "Use");

    let sampler = says(spelt("my User: no"));
    let limited = params(256)
        .with_sampler(sampler)
        .with_stop_strings(stops)
        .with_max_tokens(6);
    let mut chat = MODEL.chat(limited).unwrap();
    assert_eq!(pieces(&mut chat, "Hi").concat(), "my Use");
    assert_eq!(finish(&chat), Some(FinishReason::Length));
}

#[test]
fn the_number_of_tokens_can_be_limited() {
    let mut chat = MODEL
        .chat(params(256).with_sampler(goes_on()).with_max_tokens(7))
        .unwrap();
    assert_eq!(pieces(&mut chat, "Hi").concat(), "aaaaaaa");
    assert_eq!(finish(&chat), Some(FinishReason::Length));
    assert_eq!(chat.stats().unwrap().n_generated(), 7);
}

#[test]
fn parameters_that_cannot_work_are_refused() {
    assert!(matches!(
        MODEL.chat(params(256).with_max_tokens(0)),
        Err(Error::Parameter {
            parameter: "with_max_tokens",
            ..
        })
    ));
    assert_eq!(
        chat_error(
            MODEL
                .chat(params(256).with_stop_strings(["a", ""]))
                .unwrap_err()
        ),
        ChatError::EmptyStopString
    );
}

#[test]
fn a_model_without_a_template_needs_one() {
    let model = support::load(Layout::Dense, on_cpu()).unwrap();
    let error = chat_error(model.chat(params(256)).unwrap_err());
    assert_eq!(error, ChatError::NoTemplate);
    let template = ChatTemplate::builtin("chatml").unwrap();
    let mut chat = model
        .chat(params(256).with_template(template).with_max_tokens(3))
        .unwrap();
    chat.say("Hi").unwrap().text().unwrap();
    assert_eq!(roles(&chat), ["user", "assistant"]);
}

/// The second turn computes what is new, and says what a chat says that computes it all.
#[test]
fn a_second_turn_reuses_the_first() {
    // The answer as the template writes it becomes the tokens that were generated.
    let first = [
        Message::user("the expert"),
        Message::assistant("on the CPU"),
    ];
    let (asked, answered) = (prompt(&first[..1]), prompt(&first));
    let end = answered
        .iter()
        .rposition(|token| token.0 == TOKEN_IM_END)
        .unwrap();
    let answer = &answered[asked.len()..end];
    assert_eq!(&answered[..asked.len()], asked);

    let mut chat = MODEL
        .chat(params(512).with_sampler(says(answer.to_vec())))
        .unwrap();
    assert_eq!(pieces(&mut chat, "the expert").concat(), "on the CPU");
    chat.set_sampler(Sampler::greedy().unwrap());
    chat.push(Message::user("memory"));
    let reply = chat.reply().unwrap();
    let text: String = reply.take(24).collect::<Result<_, _>>().unwrap();
    let stats = chat.stats().unwrap().clone();
    let messages = [first.to_vec(), vec![Message::user("memory")]].concat();
    assert_eq!(stats.n_prompt, prompt(&messages).len());
    assert_eq!(stats.n_reused, asked.len() + answer.len());

    let mut fresh = MODEL.chat(params(512)).unwrap();
    fresh.set_messages(messages);
    let again: String = fresh
        .reply()
        .unwrap()
        .take(24)
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(fresh.stats().unwrap().n_reused, 0);
    assert_eq!(again, text);

    // The same once more: all but the last token is there.
    fresh.set_messages(chat.messages()[..3].to_vec());
    let again: String = fresh
        .reply()
        .unwrap()
        .take(24)
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(fresh.stats().unwrap().n_reused, stats.n_prompt - 1);
    assert_eq!(again, text);
}

/// Whatever a memory can take back, a conversation goes on as if it were new.
#[test]
fn every_kind_of_memory_says_the_same() {
    let files = [
        Layout::GptOss.writer(), // sliding windows
        Layout::DeepSeek2.writer(),
        Layout::Dense.writer(),
        mrope(),
        others::recurrent(),
    ];
    for file in files {
        let model = load(file);
        let mut chat = model.chat(params(1024)).unwrap();
        let long = "the expert layer ".repeat(20);
        for question in ["Hi", &long, "memory", "router"] {
            chat.push(Message::user(question));
            let text: String = chat
                .reply()
                .unwrap()
                .take(12)
                .collect::<Result<_, _>>()
                .unwrap();
            let (answer, messages) = chat.messages().split_last().unwrap();
            assert_eq!(answer.content, text);
            let mut fresh = model.chat(params(1024)).unwrap();
            fresh.set_messages(messages.to_vec());
            let again: String = fresh
                .reply()
                .unwrap()
                .take(12)
                .collect::<Result<_, _>>()
                .unwrap();
            assert_eq!(again, text, "{}: {question}", model.description());
        }
    }
}

/// Layers with a sliding window have let go of what it takes to go back far.
#[test]
fn going_back_behind_a_sliding_window_computes_anew() {
    let model = model(Layout::GptOss);
    assert!(model.n_swa() > 0);
    let mut chat = model.chat(params(1024).with_max_tokens(12)).unwrap();
    let (far, near) = ("router ".repeat(30), "memory ".repeat(300));
    chat.say(format!("{far}{near}")).unwrap().text().unwrap();
    chat.set_messages([Message::user(far)]);
    let text = chat.reply().unwrap().text().unwrap();
    assert_eq!(chat.stats().unwrap().n_reused, 0);
    let mut fresh = model.chat(params(1024).with_max_tokens(12)).unwrap();
    fresh.set_messages(chat.messages()[..1].to_vec());
    assert_eq!(fresh.reply().unwrap().text().unwrap(), text);
}

/// A state cannot be taken back, only go on.
#[test]
fn a_recurrent_model_computes_anew_what_it_cannot_take_back() {
    let model = load(others::recurrent());
    // Nothing follows the messages, so that a longer conversation goes on where this ends.
    let source = "{% for m in messages %}{{ m.content }}\n{% endfor %}";
    let template = ChatTemplate::jinja(source, None, None).unwrap();
    let params = params(512).with_template(template).with_max_tokens(1);
    let mut chat = model.chat(params).unwrap();
    let mut n_reused = |messages: &[&str]| {
        chat.set_messages(messages.iter().map(|&text| Message::user(text)));
        chat.reply().unwrap().text().unwrap();
        (
            chat.stats().unwrap().n_prompt,
            chat.stats().unwrap().n_reused,
        )
    };
    let (n_first, none) = n_reused(&["the expert"]);
    assert_eq!(none, 0);
    assert_eq!(n_reused(&["the expert", "memory"]).1, n_first);
    assert_eq!(n_reused(&["the expert", "router"]).1, 0);
}

#[test]
fn a_memory_that_cannot_shift_is_told_at_once() {
    let model = load(mrope());
    let shift = params(256).with_overflow(Overflow::Shift);
    assert_eq!(
        chat_error(model.chat(shift).unwrap_err()),
        ChatError::CannotShift
    );
    model.chat(params(256)).unwrap();
}

/// Models that compute no next token have nothing to say.
#[test]
fn a_model_that_is_no_decoder_is_an_error() {
    for file in [others::encoder(), others::encoder_decoder()] {
        let mut chat = load(file).chat(params(256)).unwrap();
        let said: Result<String, _> = chat.say("Hi").unwrap().collect();
        said.unwrap_err();
        assert!(chat.messages().is_empty());
    }
}

#[test]
fn a_changed_memory_is_noticed_or_forgotten() {
    let mut chat = MODEL.chat(params(256).with_max_tokens(4)).unwrap();
    pieces(&mut chat, "Hi");
    chat.context_mut().memory().clear().unwrap();
    pieces(&mut chat, "the");
    assert_eq!(chat.stats().unwrap().n_reused, 0);
    pieces(&mut chat, "the");
    assert!(chat.stats().unwrap().n_reused > 0);
    chat.forget().unwrap();
    pieces(&mut chat, "the");
    assert_eq!(chat.stats().unwrap().n_reused, 0);
}

#[test]
fn a_prompt_that_does_not_fit_is_an_error_before_anything_is_computed() {
    let mut chat = MODEL.chat(params(256).with_max_tokens(4)).unwrap();
    pieces(&mut chat, "Hi");
    let before = chat.messages().to_vec();
    let perf = chat.context_mut().perf().unwrap();

    let long = "router ".repeat(300);
    let error = chat_error(chat.say(&*long).unwrap_err());
    let n_prompt = prompt(&[before.clone(), vec![Message::user(&*long)]].concat()).len();
    assert_eq!(
        error,
        ChatError::PromptTooLong {
            n_prompt,
            n_ctx: 256
        }
    );
    assert_eq!(chat.messages(), before);
    assert_eq!(chat.context_mut().perf().unwrap(), perf);

    pieces(&mut chat, "the");
    assert!(chat.stats().unwrap().n_reused > 0);
}

#[test]
fn a_reply_ends_with_the_context() {
    let mut chat = MODEL.chat(params(256).with_sampler(goes_on())).unwrap();
    let text = pieces(&mut chat, "Hi").concat();
    let stats = chat.stats().unwrap();
    assert_eq!(stats.finish, Some(FinishReason::ContextFull));
    // The last one is sampled from the last place, and needs none itself.
    assert_eq!(stats.n_generated(), 256 - stats.n_prompt + 1);
    assert_eq!(text.len(), stats.n_generated());
    assert_eq!(chat.messages()[1].content, text);
    assert!(matches!(
        chat.say("more").map(|_| ()).map_err(chat_error),
        Err(ChatError::PromptTooLong { n_ctx: 256, .. })
    ));
    assert_eq!(chat.messages().len(), 2);
}

#[test]
fn turns_can_be_left_out_and_the_rest_moved_up() {
    let params = params(256)
        .with_system("on the CPU")
        .with_overflow(Overflow::Shift)
        .with_max_tokens(8);
    let mut chat = MODEL.chat(params).unwrap();
    let question = "expert router memory layer token";
    let mut shifts = 0;
    for _ in 0..12 {
        pieces(&mut chat, question);
        let stats = chat.stats().unwrap();
        assert_eq!(stats.finish, Some(FinishReason::Length));
        assert!(stats.n_prompt <= 256);
        if stats.n_dropped > 0 {
            shifts += 1;
            assert!(stats.n_prompt <= 192);
            // More than the system's message: turns that had to move stay computed.
            let head = prompt(&[Message::system("on the CPU")]).len();
            assert!(stats.n_reused > head + 40, "{stats:?}");
            assert!(stats.n_prompt - stats.n_reused < 100, "{stats:?}");
        }
    }
    assert!(shifts > 1);
    assert_eq!(chat.messages().len(), 25);
    assert_eq!(chat.messages()[0].role, Role::System);

    let end = *chat
        .context_mut()
        .memory()
        .positions(0)
        .unwrap()
        .unwrap()
        .end() as usize;
    let stats = chat.stats().unwrap();
    assert_eq!(end + 1, stats.n_prompt + stats.n_generated() - 1);

    let error = chat_error(chat.say("router ".repeat(300)).unwrap_err());
    assert!(
        matches!(error, ChatError::PromptTooLong { n_ctx: 256, .. }),
        "{error}"
    );
    assert_eq!(chat.messages().len(), 25);
    pieces(&mut chat, "Hi");
    // Turns that were left out for its sake are there again.
    assert!(chat.stats().unwrap().n_prompt > 100);
}

/// What is left after a shift is what the next reply goes by: the newest turns, and the
/// instructions.
#[test]
fn the_prompt_after_a_shift_is_that_of_the_turns_that_are_left() {
    let chat_params = || {
        params(256)
            .with_system("memory")
            .with_overflow(Overflow::Shift)
    };
    let mut chat = MODEL.chat(chat_params().with_max_tokens(2)).unwrap();
    let turn = |n: u32| Message::user(format!("expert {n} {}", "router ".repeat(14)));
    let mut messages = vec![Message::system("memory")];
    for n in 0..4 {
        messages.extend([turn(n), Message::assistant("on")]);
    }
    messages.push(turn(4));
    chat.set_messages(messages.clone());
    chat.reply().unwrap().text().unwrap();
    let all = prompt(&messages).len();
    let left: Vec<usize> = (0..4)
        .map(|n| prompt(&[&messages[..1], &messages[1 + 2 * n..]].concat()).len())
        .collect();
    let n_prompt = *left.iter().find(|&&n| n <= 192).unwrap();
    let stats = chat.stats().unwrap();
    assert!(all > 256);
    assert_eq!(
        (stats.n_prompt, stats.n_dropped),
        (n_prompt, all - n_prompt)
    );
}

#[test]
fn a_reply_can_be_longer_than_the_context() {
    let params = params(256)
        .with_overflow(Overflow::Shift)
        .with_sampler(goes_on())
        .with_max_tokens(700);
    let mut chat = MODEL.chat(params).unwrap();
    let turns = [
        Message::user("Hi"),
        Message::assistant("on"),
        Message::user("the"),
    ];
    chat.set_messages(turns);
    let text = chat.reply().unwrap().text().unwrap();
    assert_eq!(text, "a".repeat(700));
    let stats = chat.stats().unwrap().clone();
    assert_eq!(stats.finish, Some(FinishReason::Length));
    let end = *chat
        .context_mut()
        .memory()
        .positions(0)
        .unwrap()
        .unwrap()
        .end() as usize;
    assert_eq!(end + 1 + stats.n_dropped, stats.n_prompt + 699);
    assert!(stats.n_dropped > 400, "{stats:?}");
}

#[test]
fn a_reply_can_be_dropped_midway() {
    let mut chat = MODEL.chat(params(256).with_sampler(goes_on())).unwrap();
    let mut reply = chat.say("Hi").unwrap();
    let begun: Vec<String> = reply.by_ref().take(5).map(Result::unwrap).collect();
    assert_eq!(reply.stats().n_generated(), 5);
    drop(reply);
    assert_eq!(chat.messages()[1], Message::assistant(begun.concat()));
    assert_eq!(finish(&chat), None);
    assert_eq!(chat.stats().unwrap().n_generated(), 5);
    let n_prompt = chat.stats().unwrap().n_prompt;

    chat.set_sampler(Sampler::greedy().unwrap());
    chat.push(Message::user("the"));
    let text: String = chat
        .reply()
        .unwrap()
        .take(10)
        .collect::<Result<_, _>>()
        .unwrap();
    assert!(chat.stats().unwrap().n_reused >= n_prompt - 1);
    let mut fresh = MODEL.chat(params(256)).unwrap();
    fresh.set_messages(chat.messages()[..3].to_vec());
    let again: String = fresh
        .reply()
        .unwrap()
        .take(10)
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(again, text);
}

#[test]
fn a_question_without_any_answer_is_taken_back() {
    let mut chat = MODEL.chat(params(256).with_max_tokens(2)).unwrap();
    drop(chat.say("Hi").unwrap());
    assert!(chat.messages().is_empty());
    assert_eq!(chat.stats().unwrap().n_generated(), 0);
    chat.push(Message::user("Hi"));
    drop(chat.reply().unwrap());
    assert_eq!(roles(&chat), ["user"]);
    chat.reply().unwrap().text().unwrap();
    assert_eq!(roles(&chat), ["user", "assistant"]);
}

#[test]
fn an_error_midway_leaves_the_chat_usable() {
    let letters = spelt("abc");
    let mut n = 0;
    let sampler = SamplerChain::new()
        .select_fn("breaks", move |candidates| {
            n += 1;
            assert!(n < 4, "no more");
            candidates
                .iter()
                .position(|c| c.token == letters[n - 1])
                .unwrap()
        })
        .unwrap();
    let mut chat = MODEL.chat(params(256).with_sampler(sampler)).unwrap();
    let mut reply = chat.say("Hi").unwrap();
    let said: String = reply.by_ref().take(3).map(Result::unwrap).collect();
    assert_eq!(said, "abc");
    assert!(matches!(
        reply.next(),
        Some(Err(Error::CallbackPanicked { .. }))
    ));
    assert!(reply.next().is_none());
    drop(reply);
    assert_eq!(chat.messages()[1].content, "abc");
    assert_eq!(finish(&chat), None);

    chat.set_sampler(says(spelt("fine")));
    assert_eq!(pieces(&mut chat, "the").concat(), "fine");
    assert!(chat.stats().unwrap().n_reused > 0);
}

#[test]
fn a_reply_can_be_aborted() {
    let abort = AbortToken::new();
    let context = ContextParams::default()
        .with_n_ctx(256)
        .with_abort_token(abort.clone());
    let params = ChatParams::default()
        .with_context(context)
        .with_sampler(goes_on());
    let mut chat = MODEL.chat(params).unwrap();
    let mut reply = chat.say("Hi").unwrap();
    for _ in 0..3 {
        assert_eq!(reply.next().unwrap().unwrap(), "a");
    }
    abort.abort();
    assert!(reply.next().is_none());
    drop(reply);
    assert_eq!(finish(&chat), Some(FinishReason::Aborted));
    assert_eq!(chat.messages()[1].content, "aaa");

    assert_eq!(chat.say("the").unwrap().count(), 0);
    assert_eq!(finish(&chat), Some(FinishReason::Aborted));
    assert_eq!(roles(&chat), ["user", "assistant"]);

    abort.reset();
    assert_eq!(chat.say("the").unwrap().take(2).count(), 2);
    assert!(chat.stats().unwrap().n_reused > 0);
}

/// Pulled while the prompt is computed: what was computed of it is not lost track of.
#[test]
fn a_prompt_can_be_aborted() {
    use llama_moe::{EvalCallback, EvalTensor};
    struct Pull(AbortToken, Arc<Mutex<u32>>);
    impl EvalCallback for Pull {
        fn wants(&mut self, tensor: &EvalTensor<'_>) -> bool {
            if tensor.name == "result_norm" {
                let mut graphs = self.1.lock().unwrap();
                *graphs += 1;
                if *graphs == 3 {
                    self.0.abort();
                }
            }
            false
        }
        fn data(&mut self, _: &EvalTensor<'_>, _: &[u8]) {}
    }
    let abort = AbortToken::new();
    let context = ContextParams::default()
        .with_n_ctx(512)
        .with_n_batch(32)
        .with_n_ubatch(32)
        .with_n_outputs_max(1)
        .with_abort_token(abort.clone())
        .with_eval_callback(Pull(abort.clone(), Arc::default()));
    let sampler = Sampler::greedy().unwrap();
    let params = ChatParams::default()
        .with_context(context)
        .with_sampler(sampler);
    let mut chat = MODEL.chat(params.with_max_tokens(8)).unwrap();
    let question = "router ".repeat(90);
    assert_eq!(chat.say(&*question).unwrap().count(), 0);
    assert_eq!(finish(&chat), Some(FinishReason::Aborted));
    assert!(chat.messages().is_empty());

    abort.reset();
    let text = chat.say(&*question).unwrap().text().unwrap();
    let n_reused = chat.stats().unwrap().n_reused;
    assert!(n_reused > 0 && n_reused.is_multiple_of(32), "{n_reused}");
    let mut fresh = MODEL.chat(self::params(512).with_max_tokens(8)).unwrap();
    assert_eq!(fresh.say(&*question).unwrap().text().unwrap(), text);
}

#[test]
fn a_chat_begins_anew_with_its_instructions() {
    let mut chat = MODEL
        .chat(params(256).with_system("on the CPU").with_max_tokens(6))
        .unwrap();
    assert_eq!(chat.messages(), [Message::system("on the CPU")]);
    let first = pieces(&mut chat, "Hi").concat();
    assert_eq!(roles(&chat), ["system", "user", "assistant"]);
    chat.reset();
    assert_eq!(chat.messages(), [Message::system("on the CPU")]);
    assert!(chat.stats().is_none());
    assert_eq!(pieces(&mut chat, "Hi").concat(), first);

    let mut without = MODEL.chat(params(256).with_max_tokens(6)).unwrap();
    pieces(&mut without, "Hi");
    let with = prompt(&[Message::system("on the CPU"), Message::user("Hi")]).len();
    assert_eq!(chat.stats().unwrap().n_prompt, with);
    assert_eq!(
        without.stats().unwrap().n_prompt,
        prompt(&[Message::user("Hi")]).len()
    );
}

#[test]
fn a_template_can_refuse() {
    let template = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}\
        {% endif %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:";
    let template = || ChatTemplate::jinja(template, None, None).unwrap();
    let mut chat = MODEL
        .chat(params(256).with_template(template()).with_system("the"))
        .unwrap();
    let refused = ChatError::Refused {
        reason: "no system".into(),
    };
    assert_eq!(chat_error(chat.say("Hi").unwrap_err()), refused);
    assert_eq!(roles(&chat), ["system"]);
    chat.set_messages([]);
    assert_eq!(chat.say("Hi").unwrap().take(2).count(), 2);

    let empty = ChatTemplate::jinja("", None, None).unwrap();
    let mut chat = MODEL.chat(params(256).with_template(empty)).unwrap();
    // The vocabulary puts its BOS before even nothing.
    assert_eq!(chat.say("Hi").unwrap().take(2).count(), 2);
    assert_eq!(chat.stats().unwrap().n_prompt, 1);
}

#[test]
fn a_prompt_begins_with_one_bos() {
    let n_prompt = |template: &str| {
        let template = ChatTemplate::jinja(template, Some("<s>"), None).unwrap();
        let mut chat = MODEL.chat(params(256).with_template(template)).unwrap();
        assert_eq!(chat.say("Hi").unwrap().take(1).count(), 1);
        chat.stats().unwrap().n_prompt
    };
    let without = n_prompt("<|im_start|>{{ messages[0].content }}");
    let with = n_prompt("{{ bos_token }}<|im_start|>{{ messages[0].content }}");
    assert_eq!(with, without);

    let messages = [Message::user("one two three")];
    let template = ChatTemplate::of(&MODEL).unwrap();
    let tokens = template.tokenize(&MODEL.vocab(), &messages, &RenderOptions::default());
    assert_eq!(tokens.unwrap(), prompt(&messages));
}

#[test]
fn tools_and_their_results_reach_the_prompt() {
    let source = "{% for tool in tools %}{{ tool | tojson }}{% endfor %}{{ strftime_now('%F') }}\
        {% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}\
        {% for call in m.tool_calls %}{{ call.function.name }}{{ call.function.arguments | tojson }}{% endfor %}\
        <|im_end|>{% endfor %}";
    let template = || ChatTemplate::jinja(source, None, None).unwrap();
    let options = RenderOptions::default()
        .with_tools([json!({"type": "function", "function": {"name": "t"}})])
        .with_now(UNIX_EPOCH);
    let params = params(512)
        .with_template(template())
        .with_render_options(options.clone())
        .with_max_tokens(3);
    let mut chat = MODEL.chat(params).unwrap();
    chat.push(Message::user("on"));
    chat.push(Message::assistant("").with_tool_call(ToolCall::new("t", json!({"a": 1}))));
    assert_eq!(chat.say_as(Role::Tool, "router").unwrap().count(), 3);
    assert_eq!(roles(&chat), ["user", "assistant", "tool", "assistant"]);

    let text = template().render(&chat.messages()[..3], &options).unwrap();
    assert!(
        text.contains("t{\"a\": 1}") && text.contains("1970-01-01"),
        "{text}"
    );
    let tokens = MODEL.vocab().tokenize(&text, true, true).unwrap();
    assert_eq!(chat.stats().unwrap().n_prompt, tokens.len());
}

#[test]
fn control_tokens_are_text_only_if_asked_for() {
    for (special, expected) in [(false, "ab"), (true, "a<|im_start|>b")] {
        let tokens = [
            spelt("a"),
            vec![Token(support::layouts::TOKEN_IM_START)],
            spelt("b"),
        ]
        .concat();
        let params = params(256)
            .with_sampler(says(tokens))
            .with_special_tokens(special);
        let mut chat = MODEL.chat(params).unwrap();
        assert_eq!(pieces(&mut chat, "Hi").concat(), expected);
    }
}

/// What `Model::chat(Default::default())` does.
#[test]
fn the_defaults_work() {
    let mut chat = MODEL.chat(ChatParams::default()).unwrap();
    assert!(chat.context().n_ctx() <= 4096);
    assert_eq!(chat.say("Hi").unwrap().take(3).count(), 3);
}

#[test]
fn a_chat_can_move_to_another_thread() {
    let mut chat = MODEL.chat(params(256).with_max_tokens(3)).unwrap();
    pieces(&mut chat, "Hi");
    let chat = std::thread::spawn(move || {
        pieces(&mut chat, "the");
        chat
    });
    assert_eq!(chat.join().unwrap().messages().len(), 4);
}
