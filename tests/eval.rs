//! Callbacks that watch a computation.

use std::sync::{Arc, Mutex};

use llama_moe::{AbortToken, DecodeError, Error, EvalCallback, EvalTensor};

mod support;
use support::decode::{answer, batch, context, model, prompt, small};
use support::layouts::{self, Layout};

/// Pulls a token when the computation comes to a certain tensor.
struct PullAt(&'static str, AbortToken);

impl EvalCallback for PullAt {
    fn wants(&mut self, tensor: &EvalTensor<'_>) -> bool {
        tensor.name == self.0
    }

    fn data(&mut self, _: &EvalTensor<'_>, _: &[u8]) {
        self.1.abort();
    }
}

#[test]
fn a_computation_is_ended_in_its_middle() {
    let model = model(Layout::Qwen3Moe);
    let token = AbortToken::new();
    let params = small()
        .with_abort_token(token.clone())
        .with_eval_callback(PullAt("ffn_moe_topk-0", token.clone()));
    let mut context = model.context(params).unwrap();
    let error = context.decode(&batch(&prompt(12), 0, 0)).unwrap_err();
    assert!(
        matches!(error, Error::Decode(DecodeError::Aborted)),
        "{error:?}"
    );
    assert_eq!(context.memory().positions(0).unwrap(), None);
    assert!(token.is_aborted());
}

/// Collects names, and the data of the tensors that choose experts.
#[derive(Clone, Default)]
struct Watch(Arc<Mutex<Vec<Choice>>>);

/// What one layer's router chose.
struct Choice {
    tensor: String,
    shape: [u64; 4],
    experts: Vec<i32>,
}

impl EvalCallback for Watch {
    fn wants(&mut self, tensor: &EvalTensor<'_>) -> bool {
        tensor.name.starts_with("ffn_moe_topk")
    }

    fn data(&mut self, tensor: &EvalTensor<'_>, bytes: &[u8]) {
        assert_eq!(tensor.kind, "i32");
        // Rows of the experts' order, of which the first ones are chosen.
        let row = tensor.strides[1] as usize;
        let n_used = tensor.shape[0] as usize;
        let chosen = (0..tensor.shape[1] as usize).flat_map(|token| {
            let row = &bytes[token * row..][..n_used * 4];
            row.as_chunks::<4>()
                .0
                .iter()
                .map(|&b| i32::from_ne_bytes(b))
        });
        self.0.lock().unwrap().push(Choice {
            tensor: tensor.name.to_string(),
            shape: tensor.shape,
            experts: chosen.collect(),
        });
    }
}

#[test]
fn a_callback_sees_which_experts_the_router_chooses() {
    let model = model(Layout::Qwen3Moe);
    let watch = Watch::default();
    let mut watched = model
        .context(small().with_eval_callback(watch.clone()))
        .unwrap();
    let logits = answer(&mut watched);
    let seen = watch.0.lock().unwrap();
    let layers: Vec<String> = (0..Layout::Qwen3Moe.n_layer())
        .map(|layer| format!("ffn_moe_topk-{layer}"))
        .collect();
    let names: Vec<&String> = seen.iter().map(|choice| &choice.tensor).collect();
    assert_eq!(names, layers.iter().collect::<Vec<_>>());
    // The last layer computes only the token whose output was asked for.
    assert_eq!(seen[0].shape[..2], [layouts::N_EXPERT_USED, 12]);
    for Choice {
        tensor, experts, ..
    } in seen.iter()
    {
        for pair in experts.chunks(layouts::N_EXPERT_USED as usize) {
            assert!(
                pair.iter()
                    .all(|&e| (0..layouts::N_EXPERT as i32).contains(&e)),
                "{tensor}: {pair:?}"
            );
            assert_ne!(pair[0], pair[1], "{tensor}");
        }
    }
    drop(seen);
    assert_eq!(logits, answer(&mut context(&model)));
}

/// Panics at a tensor, in one of its two methods.
struct Panics(bool);

impl EvalCallback for Panics {
    fn wants(&mut self, tensor: &EvalTensor<'_>) -> bool {
        assert!(
            self.0 || tensor.name != "ffn_moe_topk-1",
            "asked for too much"
        );
        tensor.name == "ffn_moe_topk-1"
    }

    fn data(&mut self, _: &EvalTensor<'_>, _: &[u8]) {
        panic!("given too much");
    }
}

#[test]
fn a_panic_in_a_callback_is_an_error_of_the_decode() {
    let model = model(Layout::Qwen3Moe);
    for (in_data, expected) in [(false, "asked for too much"), (true, "given too much")] {
        let mut context = model
            .context(small().with_eval_callback(Panics(in_data)))
            .unwrap();
        for _ in 0..2 {
            context.memory().clear().unwrap();
            let error = context.decode(&batch(&prompt(4), 0, 0)).unwrap_err();
            assert!(
                matches!(
                    &error,
                    Error::CallbackPanicked { callback: "eval callback", message } if message == expected
                ),
                "{error:?}"
            );
            assert!(context.logits_last().is_err());
        }
    }
    answer(&mut context(&model));
}
