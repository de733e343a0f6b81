//! Engines on tiny models, and what an answer is held against.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use llama_moe::engine::{Choice, Engine, EngineParams, EngineStats, Event, Request, Stream};
use llama_moe::{ContextParams, EvalCallback, EvalTensor, Model, Overflow, Token};

use crate::support::decode::{self, batch, small};
use crate::support::gguf::{GgufWriter, Value};
use crate::support::layouts::{CHAT_TEMPLATE, Layout, N_EXPERT};
use crate::support::{backend, on_cpu};

/// How much logits of [`MODEL`] differ at most between batches of different shapes, whose sums
/// are added up in another order. The models' logits differ by several units.
pub const BOUND: f32 = 0.05;

/// The same for experts that are stored in 4 or 8 bits: what they are multiplied by is rounded
/// to 8 bits.
pub const QUANTISED_BOUND: f32 = 0.3;

/// A model with a chat template, [`steady`].
pub static MODEL: LazyLock<Model> = LazyLock::new(|| {
    let mut file = steady_file(Layout::Qwen3Moe);
    file.string("tokenizer.chat_template", CHAT_TEMPLATE);
    load(&mut file)
});

/// A model whose layers in turn see a window of 128 tokens only.
pub static WINDOWED: LazyLock<Model> = LazyLock::new(|| steady(Layout::GptOss));

/// A model that uses all of its experts. With a choice among them, rounding now and then
/// decides which one it is, and the logits are others altogether, batch or no batch.
pub fn steady(layout: Layout) -> Model {
    load(&mut steady_file(layout))
}

/// The file of [`steady`], to be changed.
pub fn steady_file(layout: Layout) -> GgufWriter {
    let mut file = layout.writer();
    file.arch("expert_used_count", Value::U32(N_EXPERT as u32));
    file
}

pub fn load(file: &mut GgufWriter) -> Model {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    file.write(&path);
    Model::load(&backend(), &path, on_cpu()).unwrap()
}

/// A context of so many positions.
pub fn context(n_ctx: u32) -> ContextParams {
    small().with_n_ctx(n_ctx)
}

/// Parameters for `slots` slots on 1024 positions.
pub fn params(slots: u32) -> EngineParams {
    EngineParams::default()
        .with_slots(slots)
        .with_context(context(1024))
}

pub fn engine(slots: u32) -> Engine {
    Engine::new(&MODEL, params(slots)).unwrap()
}

/// An engine that says the same to the same request every time: the batches have the same shapes.
pub fn unvarying() -> Engine {
    Engine::new(&MODEL, params(1).with_prefix_cache(false)).unwrap()
}

/// A prompt of `n` tokens, another one for each `kind`.
pub fn prompt(n: usize, kind: usize) -> Vec<Token> {
    let token = |i: usize| 261 + ((i * 7 + kind * 31 + i * i * kind) % 100) as i32;
    (0..n)
        .map(|i| Token(if i == 0 { 1 } else { token(i) }))
        .collect()
}

/// A greedy request for `n` tokens.
pub fn greedy(prompt: Vec<Token>, n: u32) -> Request {
    Request::new(prompt).with_greedy().with_max_tokens(n)
}

/// A request that is answered until somebody ends it.
pub fn endless(kind: usize) -> Request {
    Request::new(prompt(10, kind))
        .with_greedy()
        .with_overflow(Overflow::Shift)
}

/// Holds the engine's thread until it is dropped.
pub struct Gate {
    reached: Receiver<()>,
    _open: Sender<()>,
}

impl Gate {
    /// A request for `n` tokens, and what holds the thread where it chooses the first of them.
    pub fn new(n: u32) -> (Request, Self) {
        let (reach, reached) = mpsc::channel();
        let (open, opened) = mpsc::channel::<()>();
        let ends = Mutex::new(Some((reach, opened)));
        let request = greedy(prompt(4, 0), n).with_sampler(move |chain, _| {
            let mut ends = ends.lock().unwrap().take();
            let chain = chain.custom_fn("gate", move |_| {
                if let Some((reach, opened)) = ends.take() {
                    reach.send(()).unwrap();
                    // Nothing is sent: it returns when the other end is dropped.
                    assert!(opened.recv().is_err());
                }
            });
            chain.greedy()
        });
        let gate = Self {
            reached,
            _open: open,
        };
        (request, gate)
    }

    /// Waits until the thread is there.
    pub fn wait(&self) {
        self.reached.recv_timeout(Duration::from_secs(60)).unwrap();
    }
}

/// Fails the computations whose number it is given, by panicking. They are counted at a
/// tensor that each micro-batch has once.
pub struct Fails {
    tensor: &'static str,
    n: usize,
    fails: fn(usize) -> bool,
}

impl Fails {
    pub fn at(tensor: &'static str, fails: fn(usize) -> bool) -> Self {
        Self {
            tensor,
            n: 0,
            fails,
        }
    }
}

impl EvalCallback for Fails {
    fn wants(&mut self, tensor: &EvalTensor<'_>) -> bool {
        tensor.name == self.tensor
    }

    fn data(&mut self, _: &EvalTensor<'_>, _: &[u8]) {
        let n = self.n;
        self.n += 1;
        assert!(!(self.fails)(n), "by order");
    }
}

/// The only answer of a request.
pub fn answer(stream: Stream) -> Choice {
    let mut completion = stream.wait().unwrap();
    assert_eq!(completion.choices.len(), 1);
    completion.choices.remove(0)
}

/// Waits until something is so.
pub fn wait_until(engine: &Engine, is_so: impl Fn(&EngineStats) -> bool) -> EngineStats {
    let start = Instant::now();
    loop {
        let stats = engine.stats();
        if is_so(&stats) {
            return stats;
        }
        let waited = start.elapsed();
        assert!(waited < Duration::from_secs(60), "still {stats:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Reads up to the first text, for the request to have a slot, and returns its tokens.
pub fn begun(stream: &mut Stream) -> Vec<Token> {
    match stream.next().unwrap().unwrap() {
        Event::Text { tokens, .. } => tokens,
        event => panic!("{event:?}"),
    }
}

/// All slots are free, and a request is answered as ever.
pub fn check_free(engine: &Engine) {
    wait_until(engine, |stats| {
        stats.slots_busy == 0 && stats.requests_queued == 0 && stats.requests_running == 0
    });
    for kind in 0..engine.slots() as usize {
        let prompt = prompt(9, kind);
        let answer = answer(engine.submit(greedy(prompt.clone(), 5)).unwrap());
        check_greedy(engine.model(), &prompt, &answer.tokens);
        assert_eq!(answer.tokens.len(), 5);
    }
}

/// Answers of `n` tokens to three prompts at a time are right.
pub fn check_side_by_side(engine: &Engine, n: u32) {
    let prompts: Vec<_> = (0..3).map(|kind| prompt(10 + kind, kind)).collect();
    let streams: Vec<_> = prompts
        .iter()
        .map(|prompt| engine.submit(greedy(prompt.clone(), n)).unwrap())
        .collect();
    for (prompt, stream) in prompts.iter().zip(streams) {
        let answer = answer(stream);
        assert_eq!(answer.tokens.len(), n as usize);
        check_greedy(engine.model(), prompt, &answer.tokens);
    }
}

/// Dropping the stream of an engine's first request, which has `n` answers, frees their slots.
pub fn check_cancelled(engine: &Engine, n: u32) {
    let mut stream = engine.submit(endless(1).with_n(n)).unwrap();
    begun(&mut stream);
    drop(stream);
    wait_until(engine, |stats| stats.requests_cancelled == 1);
    assert_eq!(engine.stats().slots_busy, 0);
    check_free(engine);
}

/// The logprobs that were told of an answer of [`MODEL`] are those of the logits when the
/// request is computed alone and token by token.
pub fn check_logprobs(prompt: &[Token], choice: &Choice) {
    let mut alone = decode::context(&MODEL);
    let (mut start, mut fed) = (0, prompt.to_vec());
    for (token, told) in choice.tokens.iter().zip(&choice.logprobs) {
        let logits = decode::decode(&mut alone, &fed[start..], start as u32, 0);
        start = fed.len();
        let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
        for top in &told.top {
            let expected = f64::from(logits[top.token.0 as usize]) - sum.ln();
            let distance = (f64::from(top.logprob) - expected).abs();
            assert!(distance <= f64::from(BOUND), "{distance}");
        }
        fed.push(*token);
    }
}

/// Every token is the likeliest after those before it, or as likely up to the bound, when the
/// request is computed alone and token by token.
pub fn check_greedy(model: &Model, prompt: &[Token], tokens: &[Token]) {
    let bound = if model.is_same(&MODEL) {
        BOUND
    } else {
        QUANTISED_BOUND
    };
    let n_ctx = (prompt.len() + tokens.len()) as u32;
    let mut context = model
        .context(context(n_ctx).with_n_batch(512))
        .expect("a context");
    let mut fed = prompt.to_vec();
    let mut n_held = 0;
    for (index, &token) in tokens.iter().enumerate() {
        for part in fed[n_held..].chunks(512) {
            let part = batch(part, n_held as u32, 0);
            context.decode(&part).unwrap();
            n_held += part.len();
        }
        let logits = context.logits_last().unwrap();
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let chosen = logits[token.0 as usize];
        assert!(
            highest - chosen <= bound,
            "token {index} of {}: {token} has {chosen}, the likeliest {highest}",
            tokens.len()
        );
        fed.push(token);
    }
}
