//! The routing trace: complete for every layout, without effect on the model, safe to read, and
//! equal to llama.cpp's own cache when it is replayed.
#![cfg(feature = "measure")]

use llama_moe::measure::routing::{
    CacheGroup, LayerRouting, OneDevice, Phase, RoutedLayer, RoutingError, RoutingRecorder,
    RoutingTrace,
};
use llama_moe::{
    AbortToken, Context, DecodeError, Error, EvalCallback, EvalTensor, Model, MoeCacheError, Result,
};
use proptest::prelude::*;

mod support;
use support::decode::{batch, decode, model, prompt, small};
use support::layouts::{Layout, N_EXPERT, N_EXPERT_USED};

fn moe_layouts() -> impl Iterator<Item = Layout> {
    Layout::ALL.into_iter().filter(|layout| layout.is_moe())
}

fn refused<T: std::fmt::Debug>(result: Result<T>) -> RoutingError {
    match result.expect_err("an error") {
        Error::Routing(error) => error,
        error => panic!("{error:?}"),
    }
}

/// A prompt and two more tokens, with the logits of each step.
fn run(context: &mut Context) -> Vec<Vec<f32>> {
    let mut rows = vec![decode(context, &prompt(12), 0, 0)];
    for (pos, token) in (12..).zip(&prompt(4)[1..3]) {
        rows.push(decode(context, &[*token], pos, 0));
    }
    rows
}

fn check_recording(model: &Model, layout: Layout) {
    let expected = run(&mut model.context(small()).unwrap());
    let recorder = RoutingRecorder::new(model).unwrap();
    let params = small().with_eval_callback(recorder.clone());
    let rows = run(&mut model.context(params).unwrap());
    assert_eq!(rows, expected, "{layout:?}");

    let trace = recorder.take().unwrap();
    assert_eq!(trace.model(), model.description());
    assert_eq!(u64::from(trace.n_expert()), N_EXPERT);
    assert_eq!(u64::from(trace.n_expert_used()), N_EXPERT_USED);
    let layers: Vec<u32> = trace.layers().iter().map(|of| of.layer).collect();
    assert_eq!(layers, layout.moe_layers(), "{layout:?}");
    let last = layers.last().copied().unwrap();
    let batches: Vec<_> = trace.micro_batches().collect();
    let phases: Vec<_> = batches.iter().map(|b| (b.phase(), b.n_tokens())).collect();
    assert_eq!(
        phases,
        [(Phase::Prefill, 12), (Phase::Decode, 1), (Phase::Decode, 1)]
    );
    for batch in &batches {
        for routing in batch.layers() {
            // The last layer computes only the token whose output was asked for.
            let n_tokens = if routing.layer == last {
                1
            } else {
                batch.n_tokens()
            };
            assert_eq!(routing.n_tokens, n_tokens, "{layout:?}, {routing:?}");
            assert_eq!(routing.tokens().len(), n_tokens as usize);
            for pair in routing.tokens() {
                assert_eq!(pair.len() as u64, N_EXPERT_USED);
                assert_ne!(pair[0], pair[1], "{layout:?}");
                assert!(pair.iter().all(|&e| u64::from(e) < N_EXPERT));
            }
        }
    }
    assert!(recorder.take().unwrap().is_empty());
}

#[test]
fn every_layout_is_recorded_and_answers_the_same() {
    for layout in moe_layouts() {
        check_recording(&model(layout), layout);
    }
}

#[test]
fn a_text_is_computed_then_continued() {
    let model = model(Layout::Qwen3Moe);
    let n_layer = Layout::Qwen3Moe.moe_layers().len();
    let params = small().with_n_ubatch(16).with_n_batch(32);
    let trace = RoutingTrace::record(&model, params, &prompt(41), 5).unwrap();
    let tokens = |phase| -> Vec<u32> {
        let batches = trace.micro_batches().filter(|batch| batch.phase() == phase);
        batches.map(|batch| batch.n_tokens()).collect()
    };
    assert_eq!(tokens(Phase::Prefill), [16, 16, 9]);
    assert_eq!(tokens(Phase::Decode), [1; 5]);
    assert_eq!(
        (
            trace.n_tokens(Phase::Prefill),
            trace.n_tokens(Phase::Decode)
        ),
        (41, 5)
    );
    // A prompt's last token alone in its micro-batch belongs to the prompt.
    let params = small().with_n_ubatch(8);
    let trace = RoutingTrace::record(&model, params, &prompt(9), 0).unwrap();
    let phases: Vec<_> = trace.micro_batches().map(|batch| batch.phase()).collect();
    assert_eq!(phases, [Phase::Prefill; 2]);
    // Of the first micro-batch, no output was asked for.
    let first: Vec<LayerRouting> = trace.micro_batches().next().unwrap().layers().collect();
    assert_eq!(first.len(), n_layer);
    assert_eq!((first[0].n_tokens, first[n_layer - 1].n_tokens), (8, 0));
}

#[test]
fn a_text_is_replayed_token_by_token() {
    let model = model(Layout::DeepSeek2);
    let text = prompt(20);
    let forced = RoutingTrace::record_forced(&model, small(), &text).unwrap();
    assert_eq!(forced.micro_batches().len(), 20);
    assert_eq!(forced.n_tokens(Phase::Decode), 20);
    // The same tokens at once take the same experts, in all layers but the last, which computes
    // one of them.
    let whole = RoutingTrace::record(&model, small(), &text, 0).unwrap();
    let whole: Vec<LayerRouting> = whole.micro_batches().next().unwrap().layers().collect();
    let mut n_equal = 0;
    for (at, batch) in forced.micro_batches().enumerate() {
        for (one, all) in batch.layers().zip(&whole[..whole.len() - 1]) {
            n_equal += usize::from(Some(one.experts) == all.tokens().nth(at));
        }
    }
    // Rounding may turn a close decision.
    assert!(n_equal * 10 >= 20 * (whole.len() - 1) * 9, "{n_equal}");
}

#[test]
fn the_caller_can_state_the_phase() {
    let model = model(Layout::Qwen3Moe);
    let recorder = RoutingRecorder::new(&model).unwrap();
    let params = small().with_eval_callback(recorder.clone());
    let mut context = model.context(params).unwrap();
    let _ = decode(&mut context, &prompt(4), 0, 0);
    recorder.set_phase(Some(Phase::Decode));
    let _ = decode(&mut context, &prompt(4), 4, 0);
    recorder.set_phase(Some(Phase::Prefill));
    let _ = decode(&mut context, &prompt(1), 8, 0);
    recorder.set_phase(None);
    let _ = decode(&mut context, &prompt(1), 9, 0);
    let trace = recorder.take().unwrap();
    let phases: Vec<_> = trace.micro_batches().map(|batch| batch.phase()).collect();
    use Phase::{Decode, Prefill};
    assert_eq!(phases, [Prefill, Decode, Prefill, Decode]);
}

/// Records, and ends the computation at a tensor.
struct EndAt(RoutingRecorder, &'static str, AbortToken);

impl EvalCallback for EndAt {
    fn wants(&mut self, tensor: &EvalTensor<'_>) -> bool {
        self.0.wants(tensor)
    }

    fn data(&mut self, tensor: &EvalTensor<'_>, bytes: &[u8]) {
        self.0.data(tensor, bytes);
        if tensor.name == self.1 {
            self.2.abort();
        }
    }
}

#[test]
fn an_aborted_micro_batch_has_the_layers_that_were_computed() {
    let model = model(Layout::Qwen3Moe);
    let recorder = RoutingRecorder::new(&model).unwrap();
    let token = AbortToken::new();
    let callback = EndAt(recorder.clone(), "ffn_moe_topk-1", token.clone());
    let params = small()
        .with_abort_token(token.clone())
        .with_eval_callback(callback);
    let mut context = model.context(params).unwrap();
    let error = context.decode(&batch(&prompt(6), 0, 0)).unwrap_err();
    assert!(
        matches!(error, Error::Decode(DecodeError::Aborted)),
        "{error:?}"
    );
    let trace = recorder.take().unwrap();
    let batches: Vec<_> = trace.micro_batches().collect();
    assert_eq!(batches.len(), 1);
    let layers: Vec<u32> = batches[0].layers().map(|of| of.layer).collect();
    assert_eq!(layers, [0, 1]);
    assert_eq!(
        RoutingTrace::from_json(&trace.to_json().unwrap()).unwrap(),
        trace
    );
}

#[test]
fn a_recording_that_grows_too_long_is_an_error_and_the_next_one_is_not() {
    let model = model(Layout::Qwen3Moe);
    let recorder = RoutingRecorder::new(&model).unwrap().with_limit(64);
    let params = small().with_eval_callback(recorder.clone());
    let mut context = model.context(params).unwrap();
    let _ = decode(&mut context, &prompt(12), 0, 0);
    assert_eq!(
        refused(recorder.take()),
        RoutingError::TooLong { limit: 64 }
    );
    let _ = decode(&mut context, &prompt(1), 12, 0);
    assert_eq!(recorder.take().unwrap().micro_batches().len(), 1);
}

#[test]
fn models_and_texts_that_cannot_be_recorded() {
    let dense = model(Layout::Dense);
    assert_eq!(refused(RoutingRecorder::new(&dense)), RoutingError::NotMoe);
    let record = |model: &Model, n, n_decode| {
        refused(RoutingTrace::record(model, small(), &prompt(n), n_decode))
    };
    assert_eq!(record(&dense, 4, 1), RoutingError::NotMoe);
    let error = OneDevice::new(&dense).unwrap_err();
    assert!(
        matches!(error, Error::MoeCache(MoeCacheError::NotMoe)),
        "{error:?}"
    );
    let moe = model(Layout::Mixtral);
    assert_eq!(record(&moe, 0, 1), RoutingError::NoTokens);
    for (n_prompt, n_decode) in [(257, 0), (200, 57), (1, usize::MAX)] {
        let expected = RoutingError::NoRoom {
            n_prompt,
            n_decode,
            n_ctx_seq: 256,
        };
        assert_eq!(record(&moe, n_prompt, n_decode), expected);
    }
    let forced = RoutingTrace::record_forced(&moe, small(), &prompt(300));
    assert!(matches!(refused(forced), RoutingError::NoRoom { .. }));
    // All of the context is usable.
    assert!(RoutingTrace::record(&moe, small(), &prompt(250), 6).is_ok());
    let nul = moe.vocab().tokenize("a\0b", true, false).unwrap();
    assert!(RoutingTrace::record(&moe, small(), &nul, 1).is_ok());
}

// ---- JSON ------------------------------------------------------------------------------

/// A trace of layers that use one and two of four experts.
fn by_hand() -> RoutingTrace {
    let layer = |layer, n_expert_used| RoutedLayer {
        layer,
        n_expert_used,
    };
    let mut trace = RoutingTrace::new("by hand", 4, [layer(3, 2), layer(5, 1)]).unwrap();
    let mut push = |phase, first: &[u16], second: &[u16]| {
        trace
            .push(phase, &[first.to_vec(), second.to_vec()])
            .unwrap();
    };
    push(Phase::Prefill, &[0, 1, 1, 2, 0, 3], &[2]);
    push(Phase::Decode, &[0, 1], &[2]);
    push(Phase::Decode, &[2, 1], &[3]);
    push(Phase::Decode, &[], &[]);
    trace
}

#[test]
fn json_keeps_a_trace() {
    let trace = by_hand();
    let json = trace.to_json().unwrap();
    assert_eq!(RoutingTrace::from_json(&json).unwrap(), trace);
    assert_eq!(serde_json::from_str::<RoutingTrace>(&json).unwrap(), trace);
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    let keys: Vec<&String> = value.as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        [
            "version",
            "model",
            "n_expert",
            "n_expert_used",
            "layers",
            "micro_batches"
        ]
    );
}

#[test]
fn json_that_does_not_fit_is_an_error() {
    let json = by_hand().to_json().unwrap();
    for (from, to, part) in [
        (r#""version":1"#, r#""version":2"#, "has version 2"),
        (r#""version":1"#, r#""version":-1"#, "not a routing trace"),
        (r#""version":1,"#, "", "missing field `version`"),
        (
            r#""n_expert":4"#,
            r#""n_expert":0"#,
            "a layer has 0 experts",
        ),
        (
            r#""n_expert":4"#,
            r#""n_expert":4294967295"#,
            "4294967295 experts",
        ),
        (r#""n_expert":4"#, r#""n_expert":3"#, "expert 3 of 3"),
        (
            r#""n_expert":4"#,
            r#""n_expert":1"#,
            "a token uses 2 experts",
        ),
        (
            r#""n_expert_used":2"#,
            r#""n_expert_used":1"#,
            "layer 3: a token uses 2",
        ),
        (
            r#""layer":5"#,
            r#""layer":3"#,
            "layer 3: the layer is listed twice",
        ),
        (
            r#""n_tokens":[3,1]"#,
            r#""n_tokens":[3]"#,
            "1 numbers of tokens for 2",
        ),
        (
            r#""n_tokens":[3,1]"#,
            r#""n_tokens":[3,2]"#,
            "7 experts, but its tokens use 8",
        ),
        (
            r#""n_tokens":[3,1]"#,
            r#""n_tokens":[4294967295,4294967295]"#,
            "micro-batch 0",
        ),
        (
            r#""experts":[0,1,2]"#,
            r#""experts":[0,1,9]"#,
            "micro-batch 1: expert 9 of 4",
        ),
        (r#""experts":[0,1,2]"#, r#""experts":[0,1,70000]"#, "70000"),
        (r#""experts":[0,1,2]"#, r#""experts":[0,1,-2]"#, "-2"),
        (r#""phase":"prefill""#, r#""phase":"training""#, "training"),
        (r#""model""#, r#""modle""#, "modle"),
    ] {
        let changed = json.replacen(from, to, 1);
        assert_ne!(changed, json, "{from}");
        let error = RoutingTrace::from_json(&changed).unwrap_err();
        assert!(error.to_string().contains(part), "{to}: {error}");
        assert!(matches!(error, Error::Routing(_)));
        assert!(
            serde_json::from_str::<RoutingTrace>(&changed).is_err(),
            "{to}"
        );
    }
    for wrong in ["", "{", "[]", "null", "\0", "{\"version\":1}"] {
        assert!(matches!(
            refused(RoutingTrace::from_json(wrong)),
            RoutingError::Json { .. }
        ));
    }
    let layers: Vec<String> = (0..600)
        .map(|layer| format!(r#"{{"layer":{layer},"n_expert_used":1}}"#))
        .collect();
    let many = json.replacen(
        r#""layers":["#,
        &format!(r#""layers":[{},"#, layers.join(",")),
        1,
    );
    assert_eq!(
        refused(RoutingTrace::from_json(&many)),
        RoutingError::LayerCount { n_layers: 602 }
    );
}

proptest! {
    /// Whatever is read without an error can be used without a panic.
    #[test]
    fn changed_json_is_refused_or_usable(
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0u8..128), 1..4),
        n_slots in 0u32..9,
    ) {
        let mut bytes = by_hand().to_json().unwrap().into_bytes();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let text = String::from_utf8(bytes).unwrap();
        if let Ok(trace) = RoutingTrace::from_json(&text) {
            let _ = trace.analysis(None);
            let layers: Vec<u32> = trace.layers().iter().map(|of| of.layer).collect();
            if let Ok(group) = CacheGroup::new(layers, trace.n_expert(), n_slots, u64::MAX) {
                let _ = trace.replay(&[group]).unwrap();
            }
        }
    }
}

#[test]
fn traces_by_hand_are_checked() {
    let layer = |layer, n_expert_used| RoutedLayer {
        layer,
        n_expert_used,
    };
    for (n_expert, layers) in [
        (0, vec![]),
        (5000, vec![]),
        (4, vec![layer(0, 5)]),
        (4, vec![layer(0, 0)]),
        (4, vec![layer(1, 1), layer(1, 1)]),
        (4, (0..600).map(|i| layer(i, 1)).collect()),
    ] {
        assert!(RoutingTrace::new("", n_expert, layers).is_err());
    }
    let mut trace = by_hand();
    for experts in [vec![], vec![vec![0], vec![0]], vec![vec![0, 4], vec![0]]] {
        let error = trace.push(Phase::Decode, &experts).unwrap_err();
        assert!(
            matches!(error, RoutingError::MicroBatch { index: 4, .. }),
            "{error}"
        );
    }
    assert_eq!(trace, by_hand());
}

// ---- analysis --------------------------------------------------------------------------

#[test]
fn an_analysis_worked_out_by_hand() {
    let all = by_hand().analysis(None);
    assert_eq!((all.phase, all.n_expert, all.layers.len()), (None, 4, 2));
    let first = &all.layers[0];
    assert_eq!(
        (first.layer, first.n_expert_used, first.n_tokens),
        (3, 2, 5)
    );
    assert_eq!(first.counts, [3, 4, 2, 1]);
    let shares = [0.3, 0.4, 0.2, 0.1f64];
    let entropy: f64 = shares.iter().map(|p| -p * p.ln()).sum::<f64>() / 4f64.ln();
    assert!((first.entropy.unwrap() - entropy).abs() < 1e-12);
    let top: Vec<_> = first
        .top
        .iter()
        .map(|top| (top.n_experts, top.share, top.uniform))
        .collect();
    assert_eq!(top, [(1, 0.4, 0.25), (2, 0.7, 0.5)]);
    // Tokens 01, 12, 03, 01, 21: one of two is shared each time but from 12 to 03.
    assert_eq!(first.overlap, Some(3.0 / 8.0));
    assert_eq!(first.uniform_overlap, 0.5);
    // 1 at once, 0 after {1, 2}, 0 at once, 1 after {0, 3}, 2 after {0, 1, 3}, 1 at once.
    assert_eq!(first.reuse.first_uses, 4);
    assert_eq!(first.reuse.distances, [3, 0, 2, 1]);
    assert_eq!((first.reuse.n(), first.reuse.quantile(0.5)), (6, Some(0)));
    assert_eq!(first.reuse.quantile(1.0), Some(3));

    let decode = by_hand().analysis(Some(Phase::Decode));
    assert_eq!(decode.layers[1].counts, [0, 0, 1, 1]);
    assert_eq!(decode.layers[1].overlap, Some(0.0));
    assert!((decode.layers[1].entropy.unwrap() - 0.5).abs() < 1e-12);
    assert_eq!(decode.mean_overlap(), Some(0.25));

    let empty = RoutingTrace::new("", 4, by_hand().layers().to_vec()).unwrap();
    let empty = empty.analysis(None);
    assert_eq!((empty.mean_entropy(), empty.mean_overlap()), (None, None));
    assert_eq!(empty.layers[0].reuse.quantile(0.5), None);
}

// ---- replay ----------------------------------------------------------------------------

#[test]
fn a_replay_worked_out_by_hand() {
    let group = |layers: &[u32], n_slots| CacheGroup::new(layers, 4, n_slots, 10).unwrap();
    let stats = by_hand().replay(&[group(&[3], 4)]).unwrap();
    // The prompt fills all slots, and is small: six experts, 8 tokens have up to 16.
    assert_eq!((stats.small.hits, stats.small.misses), (4, 4));
    assert_eq!((stats.decode.hits, stats.decode.misses), (4, 0));
    assert_eq!((stats.small.uploaded_bytes, stats.large.misses), (40, 0));
    assert_eq!((stats.micro_batches, stats.not_served), (4, 0));
    assert_eq!(stats.total(), stats.small);

    // Two slots do not hold the four experts that three tokens may take.
    let stats = by_hand().replay(&[group(&[3], 2)]).unwrap();
    assert_eq!((stats.small.hits, stats.small.misses), (1, 3));
    assert_eq!(stats.not_served, 1);

    // One slot is too little for a token of layer 3, and then layer 5 is not cached either.
    let stats = by_hand().replay(&[group(&[3, 5], 1)]).unwrap();
    assert_eq!((stats.total().hits, stats.total().misses), (0, 0));
    assert_eq!(stats.not_served, 3);
    assert_eq!(stats.total().hit_rate(), None);

    let none = by_hand().replay(&[]).unwrap();
    assert_eq!((none.total().misses, none.not_served), (0, 0));
}

#[test]
fn sizes_of_micro_batches_are_counted_as_llama_cpp_counts_them() {
    let layer = RoutedLayer {
        layer: 0,
        n_expert_used: 1,
    };
    let mut trace = RoutingTrace::new("", 2, [layer]).unwrap();
    for n in [8, 9, 32, 33] {
        trace.push(Phase::Prefill, &[vec![0; n]]).unwrap();
    }
    let group = CacheGroup::new([0], 2, 2, 1).unwrap();
    let stats = trace.replay(&[group]).unwrap();
    assert_eq!((stats.small.hits, stats.small.misses), (0, 1));
    assert_eq!((stats.large.hits, stats.large.misses), (2, 0));
    assert_eq!((stats.micro_batches, stats.not_served), (4, 1));
}

#[test]
fn groups_that_cannot_be() {
    let group = |layers: &[u32], n_expert, n_slots| CacheGroup::new(layers, n_expert, n_slots, 1);
    for (layers, n_expert, n_slots, part) in [
        (&[][..], 4, 2, "0 layers"),
        (&[1, 2, 1], 4, 2, "layer 1 is listed twice"),
        (&[1], 0, 0, "0 experts"),
        (&[1], u32::MAX, 2, "4294967295 experts"),
        (&[1, 2], 4, 9, "9 slots for 8 experts"),
        (&[1], 4, u32::MAX, "4294967295 slots"),
    ] {
        let error = refused(group(layers, n_expert, n_slots));
        assert!(matches!(error, RoutingError::Group { .. }));
        assert!(error.to_string().contains(part), "{error}");
    }
    let trace = by_hand();
    let shared = [group(&[3], 4, 2).unwrap(), group(&[5, 3], 4, 2).unwrap()];
    assert_eq!(
        refused(trace.replay(&shared)),
        RoutingError::SharedLayer { layer: 3 }
    );
    let other = refused(trace.replay(&[group(&[3], 3, 3).unwrap()]));
    assert!(matches!(
        other,
        RoutingError::OtherModel {
            group: 3,
            trace: 4,
            ..
        }
    ));
    // Layers of another model are never asked for.
    let stats = trace.replay(&[group(&[70], 4, 4).unwrap()]).unwrap();
    assert_eq!(stats.total().misses, 0);
}

// ---- the curve -------------------------------------------------------------------------

#[test]
fn a_curve_goes_from_the_least_to_all() {
    for layout in moe_layouts() {
        let model = model(layout);
        let device = OneDevice::new(&model).unwrap();
        let trace = RoutingTrace::record(&model, small(), &prompt(24), 60).unwrap();
        let curve = trace.hit_rate_curve_on(&device, 9).unwrap();
        assert_eq!(curve.points.len(), 9, "{layout:?}");
        assert_eq!(curve.expert_bytes, device.expert_bytes(), "{layout:?}");
        assert_eq!(curve.n_decoded, 60);
        let sizes: Vec<u64> = curve.points.iter().map(|point| point.size).collect();
        assert!(sizes.is_sorted());
        let (first, last) = (&curve.points[0], &curve.points[8]);
        assert!(first.n_slots >= N_EXPERT_USED, "{layout:?}");
        assert!(device.layout(first.size - 1).is_err());
        assert_eq!(last.n_slots, layout.moe_layers().len() as u64 * N_EXPERT);
        assert!(last.resident_share > 0.99);
        assert!(last.hit_rate > first.hit_rate, "{layout:?}: {curve:?}");
        // With room for all, only first uses miss.
        let firsts: u64 = trace
            .analysis(None)
            .layers
            .iter()
            .map(|of| of.reuse.first_uses)
            .sum();
        assert!(last.stats.total().misses <= firsts);
    }
}

fn check_svg(svg: &str) {
    let document = roxmltree::Document::parse(svg).expect("well-formed XML");
    let root = document.root_element();
    assert_eq!(
        (root.attribute("width"), root.attribute("height")),
        (Some("800"), Some("500"))
    );
    for node in document.descendants().filter(|node| node.is_element()) {
        for name in ["x", "y", "x1", "x2", "y1", "y2", "cx", "cy"] {
            if let Some(value) = node.attribute(name) {
                let value: f64 = value.parse().unwrap();
                assert!((0.0..=800.0).contains(&value), "{name} = {value}");
            }
        }
    }
}

#[test]
fn a_picture_of_any_curve_is_well_formed() {
    let model = model(Layout::Mixtral);
    let device = OneDevice::new(&model).unwrap();
    let trace = RoutingTrace::record(&model, small(), &prompt(24), 20).unwrap();
    let svg = trace.hit_rate_curve_on(&device, 5).unwrap().svg();
    check_svg(&svg);
    assert_eq!(svg.matches("<circle").count(), 5);
    assert_eq!(svg.matches("<polyline").count(), 2);
    for words in ["hit rate", "experts resident for the same bytes", "100 %"] {
        assert!(svg.contains(words), "{words}");
    }
    // A hostile name, nothing recorded, no sizes.
    let name = format!("<script>\u{0}\u{202e}&\"{}", "long ".repeat(100));
    let empty = RoutingTrace::new(name, 8, trace.layers().to_vec()).unwrap();
    check_svg(&empty.hit_rate_curve_on(&device, 3).unwrap().svg());
    check_svg(
        &empty
            .hit_rate_curve(&[], |size| device.layout(size))
            .unwrap()
            .svg(),
    );
}

// ---- on a worker -----------------------------------------------------------------------

#[cfg(feature = "rpc")]
#[test]
fn worker_process() {
    support::worker::serve_if_asked();
}

#[cfg(feature = "rpc")]
mod on_a_worker {
    use super::*;
    use llama_moe::gguf::synth::{NamedShape, Shape, Synth};
    use llama_moe::{Batch, ContextParams, ModelParams, MoeCacheStats, Token};
    use std::path::{Path, PathBuf};
    use support::worker::{Worker, second_device, worker};
    use support::{backend, file};

    #[test]
    fn a_model_on_a_device_is_recorded_and_answers_the_same() {
        let worker = worker();
        for layout in [Layout::Qwen3Moe, Layout::GptOss, Layout::FusedGateUp] {
            let on = ModelParams::default().with_devices([worker.device]);
            for params in [on.clone(), on.with_cpu_moe_all()] {
                check_recording(&support::load(layout, params).unwrap(), layout);
            }
        }
    }

    /// Runs a prompt, single tokens, and tokens of two sequences at a time.
    fn work(context: &mut Context, n_vocab: i32) {
        let token = |i: i32| Token(3 + (i * i * 31 + i * 7) % (n_vocab - 3));
        let prompt: Vec<Token> = (0..75).map(token).collect();
        let mut all = Batch::new(prompt.len(), 2);
        all.add_sequence(&prompt, 0, 0).unwrap();
        context.decode(&all).unwrap();
        for pos in 75..110 {
            context
                .decode(&batch(&[token(pos)], pos as u32, 0))
                .unwrap();
        }
        for pos in 0..20 {
            let mut pair = Batch::new(2, 2);
            pair.add(token(3 * pos), 110 + pos as u32, &[0], true)
                .unwrap();
            pair.add(token(5 * pos), pos as u32, &[1], pos % 3 > 0)
                .unwrap();
            context.decode(&pair).unwrap();
        }
        // A prompt beside: what it evicts is missed afterwards.
        let mut other = Batch::new(30, 2);
        other.add_sequence(&prompt[..30], 20, 1).unwrap();
        context.decode(&other).unwrap();
        for pos in 130..150 {
            context
                .decode(&batch(&[token(7 * pos)], pos as u32, 0))
                .unwrap();
        }
    }

    /// Holds the replay against what llama.cpp counted. Returns llama.cpp's count.
    fn check(model: &Model, size: u64, n_ubatch: u32, name: &str) -> MoeCacheStats {
        let recorder = RoutingRecorder::new(model).unwrap();
        let params = ContextParams::default()
            .with_n_ctx(512)
            .with_n_seq_max(2)
            .with_n_ubatch(n_ubatch)
            .with_n_threads(1)
            .with_n_threads_batch(1)
            .with_moe_cache_size(size)
            .with_eval_callback(recorder.clone());
        let mut context = model.context(params).unwrap();
        work(&mut context, model.vocab().n_tokens() as i32);
        let counted = context.moe_cache_stats().unwrap().expect("a cache");
        let trace = recorder.take().unwrap();
        let groups = CacheGroup::of_layout(context.moe_cache().expect("a layout")).unwrap();
        let replayed = trace.replay(&groups).unwrap();
        let at = format!("{name}, {size} bytes, micro-batches of {n_ubatch}");
        assert_eq!(replayed.small, counted.small, "{at}");
        assert_eq!(replayed.large, counted.large, "{at}");
        assert!(counted.total().hits + counted.total().misses > 0, "{at}");
        // What was kept as JSON says the same.
        let kept = RoutingTrace::from_json(&trace.to_json().unwrap()).unwrap();
        assert_eq!(kept.replay(&groups).unwrap(), replayed);
        counted
    }

    fn check_sizes(model: &Model, sizes: &[u64], name: &str) {
        let mut seen = MoeCacheStats::default();
        for n_ubatch in [1, 8, 32, 512] {
            for &size in sizes {
                let counted = check(model, size, n_ubatch, name);
                for (sum, counts) in [
                    (&mut seen.small, counted.small),
                    (&mut seen.large, counted.large),
                ] {
                    sum.hits += counts.hits;
                    sum.misses += counts.misses;
                }
            }
        }
        for counts in [seen.small, seen.large] {
            assert!(counts.hits > 0 && counts.misses > 0, "{name}: {seen:?}");
        }
    }

    /// From the least to all.
    fn sizes(model: &Model) -> Vec<u64> {
        let Err(Error::MoeCache(MoeCacheError::TooSmall {
            needed: Some(least),
            ..
        })) = model.moe_cache(1)
        else {
            panic!("a cache of one byte");
        };
        let all = OneDevice::new(model).unwrap().expert_bytes();
        vec![least, all / 2, 2 * all]
    }

    fn load(worker: &Worker, path: &Path, params: ModelParams) -> Model {
        let params = params.with_devices([worker.device]).for_moe_cache();
        Model::load(&backend(), path, params).unwrap()
    }

    #[test]
    fn a_replay_counts_what_llama_cpp_counts() {
        let worker = worker();
        let cpu_moe = || ModelParams::default().with_cpu_moe_all();
        for layout in [Layout::DeepSeek2, Layout::GroveMoe] {
            let (_dir, path) = file(layout);
            let model = load(&worker, &path, cpu_moe());
            check_sizes(&model, &sizes(&model), &format!("{layout:?}"));
        }
        let bundled =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/model/moe-guide-q8_0.gguf");
        let model = load(&worker, &bundled, cpu_moe());
        check_sizes(&model, &sizes(&model), "the bundled model");
    }

    fn many_experts() -> (tempfile::TempDir, PathBuf) {
        let shape = Shape::from(NamedShape::Qwen3_30bA3b).with_layers(3);
        let shape = shape.and_then(|shape| shape.with_width(256));
        let shape = shape.and_then(|shape| shape.with_experts(64));
        let shape = shape.and_then(|shape| shape.with_vocab(1024)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("many.gguf");
        Synth::new(shape)
            .with_router_skew(0.5)
            .write(&path)
            .unwrap();
        (dir, path)
    }

    #[test]
    fn many_experts_with_favourites_are_counted_as_llama_cpp_counts_them() {
        let worker = worker();
        let (_dir, path) = many_experts();
        let model = load(&worker, &path, ModelParams::default().with_cpu_moe_all());
        // Two layers share their slots, and have to hold all experts of one for a large
        // micro-batch.
        let sizes = sizes(&model);
        check_sizes(&model, &[sizes[0], sizes[2] / 3], "many experts");
    }

    #[test]
    fn layers_that_are_not_cached_and_two_devices_are_counted_too() {
        let worker = worker();
        // Before a model is loaded: the new process would inherit the connection to the worker,
        // which then waits for the end of it.
        let second = second_device(&worker);
        // The first layers only.
        let (_dir, path) = file(Layout::Qwen3Moe);
        let model = load(&worker, &path, ModelParams::default().with_n_cpu_moe(2));
        check_sizes(&model, &sizes(&model)[..2], "two layers");

        let params = ModelParams::default()
            .with_cpu_moe_all()
            .with_devices([worker.device, second])
            .with_tensor_split([1.0, 2.0])
            .for_moe_cache();
        let model = Model::load(&backend(), &path, params).unwrap();
        let layout = model.moe_cache(1 << 20).unwrap();
        assert_eq!(layout.groups().len(), 2);
        let least = sizes(&model)[0];
        check_sizes(&model, &[least, 1 << 20], "two devices");
    }

    #[test]
    fn the_assumed_device_divides_a_size_as_a_real_one_does() {
        let worker = worker();
        for layout in [Layout::Qwen3Moe, Layout::Mixtral, Layout::GptOss] {
            let (_dir, path) = file(layout);
            let model = load(&worker, &path, ModelParams::default().with_cpu_moe_all());
            let assumed = OneDevice::new(&model).unwrap();
            for size in assumed.sizes(6) {
                let real = model.moe_cache(size).unwrap();
                let assumed = assumed.layout(size).unwrap();
                for (a, b) in assumed.groups().iter().zip(real.groups()) {
                    assert_eq!(
                        (&a.layers, a.bytes_per_expert),
                        (&b.layers, b.bytes_per_expert)
                    );
                    assert!(a.n_slots.abs_diff(b.n_slots) <= 1, "{layout:?}, {size}");
                }
                assert_eq!(assumed.groups().len(), real.groups().len());
            }
        }
    }
}
