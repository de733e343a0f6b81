//! Rules change where weights are, not what a model says: with the experts on the CPU and
//! the rest on a worker, every layout answers as it does on one device.
#![cfg(feature = "rpc")]

use std::path::Path;

use llama_moe::{Batch, ContextParams, Model, ModelParams, Token};

mod support;
use support::layouts::{Layout, TOKEN_BOS};
use support::worker::worker;
use support::{backend, file};

#[test]
fn worker_process() {
    support::worker::serve_if_asked();
}

/// Tokens generated after a prompt, and the logits that each was chosen by.
struct Answer {
    tokens: Vec<Token>,
    logits: Vec<Vec<f32>>,
}

fn answer(path: &Path, params: ModelParams) -> Answer {
    let model = Model::load(&backend(), path, params).expect("a loaded model");
    // Two threads on either side of the connection would wait for each other on two cores.
    let params = ContextParams::default()
        .with_n_ctx(256)
        .with_n_threads(1)
        .with_n_threads_batch(1);
    let mut context = model.context(params).expect("a context");
    let prompt = [TOKEN_BOS, 60, 71, 90, 33, 105].map(Token);
    let mut batch = Batch::new(64, 1);
    batch.add_sequence(&prompt, 0, 0).expect("a batch");
    let mut answer = Answer {
        tokens: Vec::new(),
        logits: Vec::new(),
    };
    for pos in (prompt.len() as u32..).take(16) {
        context.decode(&batch).expect("a decoded batch");
        let logits = context.logits_last().expect("logits").to_vec();
        let best = (0..).zip(&logits).max_by(|a, b| a.1.total_cmp(b.1));
        let token = Token(best.expect("a token").0);
        answer.tokens.push(token);
        answer.logits.push(logits);
        batch.clear();
        batch.add(token, pos, &[0], true).expect("room");
    }
    answer
}

/// The largest difference between two answers' logits, in standard deviations of the
/// first one's.
fn difference(one: &Answer, other: &Answer) -> f32 {
    let (a, b): (Vec<f32>, Vec<f32>) = (one.logits.concat(), other.logits.concat());
    assert_eq!(a.len(), b.len());
    let mean = a.iter().sum::<f32>() / a.len() as f32;
    let variance = a.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / a.len() as f32;
    let largest = a
        .iter()
        .zip(&b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(variance > 0.0 && largest.is_finite());
    largest / variance.sqrt()
}

#[test]
fn the_same_kernels_give_the_same_logits() {
    let worker = worker();
    for layout in Layout::ALL {
        let (_dir, path) = file(layout);
        // The worker computes with the CPU's kernels; without repacking, so does this side.
        let params = || ModelParams::default().with_extra_buffer_types(false);
        let on_worker = answer(&path, params().with_devices([worker.device]));
        let on_cpu = answer(&path, params().with_devices([]));
        assert_eq!(on_worker.tokens, on_cpu.tokens, "{layout:?}");
        assert_eq!(on_worker.logits, on_cpu.logits, "{layout:?}");
        // A model that ignores what was said would pass all of these.
        let mut steps = on_worker.logits.windows(2);
        assert!(steps.all(|step| step[0] != step[1]), "{layout:?}");
        if !layout.is_moe() {
            continue;
        }
        for rules in [
            params().with_cpu_moe_all(),
            params().with_cpu_moe_last(1),
            params().with_n_cpu_moe(layout.n_layer()),
        ] {
            let split = answer(&path, rules.with_devices([worker.device]));
            assert_eq!(split.tokens, on_worker.tokens, "{layout:?}");
            assert_eq!(split.logits, on_worker.logits, "{layout:?}");
        }
    }
}

#[test]
fn repacked_experts_stay_within_a_bound() {
    let worker = worker();
    // Other kernels add up in another order: a twentieth of a standard deviation, where
    // about a hundredth was seen.
    let bound = 0.05;
    for layout in [Layout::Mixtral, Layout::GptOss, Layout::DeepSeek2] {
        let (_dir, path) = file(layout);
        let plain = answer(
            &path,
            ModelParams::default()
                .with_devices([worker.device])
                .with_extra_buffer_types(false),
        );
        let repacked = answer(
            &path,
            ModelParams::default()
                .with_devices([worker.device])
                .with_cpu_moe_all(),
        );
        let difference = difference(&plain, &repacked);
        assert!(difference <= bound, "{layout:?}: {difference}");
    }
}
