//! What becomes of answers when the context is made anew.

use std::path::Path;
use std::sync::Arc;

use super::Scheduler;
use crate::backend::Backend;
use crate::context::{AbortToken, Batch, ContextParams};
use crate::engine::inbox::Inbox;
use crate::engine::params::{EngineParams, Settings};
use crate::engine::shared::Shared;
use crate::engine::stats::EngineStats;
use crate::engine::{EngineError, Request, Stream, job};
use crate::error::Error;
use crate::model::{Model, ModelParams, Token};

/// How much logits differ at most between batches of different shapes: the weights have 8 bits.
const BOUND: f32 = 0.3;

/// A scheduler on the model that came with the repository, and what else a worker has.
struct Rig {
    shared: Arc<Shared>,
    scheduler: Scheduler,
    stats: EngineStats,
}

fn context_params() -> ContextParams {
    ContextParams::default()
        .with_n_ctx(512)
        .with_n_threads(1)
        .with_n_threads_batch(1)
}

impl Rig {
    /// With a context, and the parameters of the one that comes in its place.
    fn new(change: impl FnOnce(ContextParams) -> ContextParams) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let path = root.join("examples/model/moe-guide-q8_0.gguf");
        let backend = Backend::init().unwrap();
        let params = ModelParams::default().with_devices([]);
        let model = Model::load(&backend, path, params).unwrap();
        let params = EngineParams::default()
            .with_slots(4)
            .with_context(context_params())
            .with_prefill_chunk(8);
        let settings = params.settle(&model).unwrap();
        let context = model.context(settings.context.clone()).unwrap();
        let shared = Arc::new(Shared::new(
            model,
            Inbox::new(settings.queue),
            settings.slots,
            Some(512),
            settings.embed_tokens as usize,
            None,
            AbortToken::new(),
        ));
        let settings = Settings {
            context: change(settings.context.clone()),
            ..settings
        };
        Self {
            scheduler: Scheduler::new(Arc::clone(&shared), &settings, context, None),
            shared,
            stats: EngineStats::default(),
        }
    }

    fn prompt(&self, text: &str) -> Vec<Token> {
        let vocab = self.shared.model.vocab();
        vocab.tokenize(text, true, false).unwrap()
    }

    fn submit(&mut self, request: Request) -> Stream {
        let (job, events) = job::accept(request, &self.shared).unwrap();
        self.shared.inbox.try_push(job).unwrap();
        self.scheduler.admit(&mut self.stats).unwrap();
        Stream::new(events)
    }

    fn step(&mut self, n: usize) {
        for _ in 0..n {
            self.scheduler.step(&mut self.stats).unwrap();
        }
        self.scheduler.tell();
    }

    /// Every token is the likeliest after those before it, up to the bound.
    fn check_greedy(&self, prompt: &[Token], tokens: &[Token]) {
        let mut context = self.shared.model.context(context_params()).unwrap();
        let mut fed = prompt.to_vec();
        let mut n_held = 0;
        for &token in tokens {
            let mut batch = Batch::new(fed.len(), 1);
            batch
                .add_sequence(&fed[n_held..], n_held as u32, 0)
                .unwrap();
            n_held = fed.len();
            context.decode(&batch).unwrap();
            let logits = context.logits_last().unwrap();
            let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let chosen = logits[token.0 as usize];
            assert!(highest - chosen <= BOUND, "{chosen} and {highest}");
            fed.push(token);
        }
    }
}

const SHORT: &str = "The experts of a model";
const LONG: &str = "A router chooses the experts of a token. They stay in the memory of the \
    machine, and what every token needs is on the device. ";

#[test]
fn answers_go_on_with_another_context() {
    let mut rig = Rig::new(|params| params);
    let [short, long] = [SHORT, LONG].map(|text| rig.prompt(text));
    let ask = |prompt: &[Token]| {
        Request::new(prompt.to_vec())
            .with_greedy()
            .with_max_tokens(16)
    };
    let several = rig.submit(ask(&short).with_n(2));
    rig.step(6);
    let other = rig.submit(ask(&long).with_n(2));
    rig.step(2);
    // Of the one, some tokens are there, and of the other, a part of the prompt.
    assert!(long.len() > 2 * 8, "{}", long.len());
    assert_eq!(rig.stats.completion_tokens, 2 * 8);
    let failed = Error::from(EngineError::Stopped);
    rig.scheduler.rebuild(&failed).unwrap();
    assert_eq!(rig.scheduler.memory.used(), 0);
    rig.step(60);
    assert!(rig.scheduler.is_idle());
    for (prompt, stream) in [(&short, several), (&long, other)] {
        let completion = stream.wait().unwrap();
        assert_eq!(completion.choices.len(), 2);
        for choice in completion.choices {
            assert!(!choice.tokens.is_empty());
            rig.check_greedy(prompt, &choice.tokens);
        }
    }
}

#[test]
fn all_end_where_there_is_no_other_context() {
    let mut rig = Rig::new(|params| params.with_n_seq_max(100_000));
    let prompt = rig.prompt(SHORT);
    let request = Request::new(prompt).with_greedy().with_n(2);
    let streams = [rig.submit(request.clone()), rig.submit(request)];
    rig.step(3);
    let failed = Error::from(EngineError::Stopped);
    let error = rig.scheduler.rebuild(&failed).unwrap_err();
    // The one that failed is gone: there need not be room for two.
    assert!(rig.scheduler.memory.context().is_err());
    assert!(rig.scheduler.step(&mut rig.stats).is_err());
    rig.scheduler.fail_all(&error, &mut rig.stats);
    rig.scheduler.tell();
    assert!(rig.scheduler.is_idle());
    assert_eq!(rig.stats.requests_failed, 2);
    for stream in streams {
        let error = stream.wait().unwrap_err();
        assert!(
            matches!(error, Error::Engine(EngineError::Compute { .. })),
            "{error}"
        );
    }
}
