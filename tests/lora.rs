//! LoRA adapters and control vectors.

use std::fs;
use std::path::PathBuf;

use llama_moe::{ControlVectorError, Error, LoraAdapter, LoraError, Model};

mod support;
use support::decode::{answer, context, distance};
use support::layouts::{Layout, N_EMBD};
use support::{load, on_cpu};

fn file(layout: Layout) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("adapter.gguf");
    layout.lora().write(&path);
    (dir, path)
}

fn adapter(model: &Model) -> LoraAdapter {
    let (_dir, path) = file(Layout::Qwen3Moe);
    model.lora_adapter(&path).expect("an adapter")
}

#[test]
fn an_adapter_changes_the_answer_as_far_as_its_scale_says() {
    let model = support::decode::model(Layout::Qwen3Moe);
    let adapter = adapter(&model);
    assert!(adapter.model().is_same(&model));
    let metadata = adapter.metadata();
    let value = |key: &str| {
        let pair = metadata.iter().find(|(known, _)| known == key);
        pair.map(|(_, value)| value.as_str())
    };
    assert_eq!(value("adapter.type"), Some("lora"));
    assert_eq!(adapter.invocation_tokens(), []);

    let mut context = context(&model);
    let plain = answer(&mut context);
    context
        .set_lora_adapters(&[(adapter.clone(), 1.0)])
        .unwrap();
    let adapted = answer(&mut context);
    assert!(distance(&plain, &adapted) > 0.1);
    context
        .set_lora_adapters(&[(adapter.clone(), 0.5)])
        .unwrap();
    let half = answer(&mut context);
    assert!(distance(&adapted, &half) > 0.01);
    context
        .set_lora_adapters(&[(adapter.clone(), 0.0)])
        .unwrap();
    assert_eq!(answer(&mut context), plain);
    assert_eq!(context.lora_adapters().len(), 1);
    context.set_lora_adapters(&[]).unwrap();
    assert_eq!(answer(&mut context), plain);
    assert!(context.lora_adapters().is_empty());
    // Another context of the model is not concerned.
    context.set_lora_adapters(&[(adapter, 1.0)]).unwrap();
    assert_eq!(answer(&mut support::decode::context(&model)), plain);
    assert_eq!(answer(&mut context), adapted);
}

#[test]
fn whoever_uses_an_adapter_keeps_it_alive() {
    let model = support::decode::model(Layout::Qwen3Moe);
    let adapter = adapter(&model);
    let mut context = context(&model);
    context
        .set_lora_adapters(&[(adapter.clone(), 1.0)])
        .unwrap();
    let adapted = answer(&mut context);
    drop(adapter);
    assert_eq!(answer(&mut context), adapted);
    // One adapter takes the place of another, which nobody holds any more.
    context
        .set_lora_adapters(&[(self::adapter(&model), 1.0)])
        .unwrap();
    assert_eq!(answer(&mut context), adapted);

    // An adapter outlives every other handle to its model.
    let adapter = self::adapter(&model);
    drop((context, model));
    assert_eq!(adapter.model().n_layer(), Layout::Qwen3Moe.n_layer());
}

#[test]
fn adapters_that_cannot_be_used_are_refused() {
    let model = support::decode::model(Layout::Qwen3Moe);
    let mut context = context(&model);
    let plain = answer(&mut context);
    let adapter = adapter(&model);
    let path = adapter.path().to_owned();
    let other_model = support::decode::model(Layout::Qwen3Moe);
    let other = self::adapter(&other_model);
    let other_path = other.path().to_owned();
    for (adapters, expected) in [
        (
            vec![(other, 1.0)],
            LoraError::OtherModel { path: other_path },
        ),
        (
            vec![(adapter.clone(), 1.0), (adapter.clone(), 0.5)],
            LoraError::Twice { path: path.clone() },
        ),
        (
            vec![(adapter.clone(), f32::INFINITY)],
            LoraError::Scale {
                path,
                scale: f32::INFINITY,
            },
        ),
    ] {
        let error = context.set_lora_adapters(&adapters).unwrap_err();
        assert!(
            matches!(&error, Error::Lora(error) if *error == expected),
            "{error:?}"
        );
    }
    let error = context
        .set_lora_adapters(&[(adapter, f32::NAN)])
        .unwrap_err();
    assert!(
        matches!(error, Error::Lora(LoraError::Scale { .. })),
        "{error:?}"
    );
    assert_eq!(answer(&mut context), plain);
    assert!(context.lora_adapters().is_empty());
}

#[test]
fn what_is_no_adapter_for_the_model() {
    let model = support::decode::model(Layout::Qwen3Moe);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("adapter.gguf");
    for missing in [path.clone(), dir.path().to_owned()] {
        let error = model.lora_adapter(&missing).unwrap_err();
        assert!(
            matches!(&error, Error::File { path, .. } if *path == missing),
            "{error:?}"
        );
    }
    let whole = Layout::Qwen3Moe.lora().to_bytes();
    let wrong: [Vec<u8>; 6] = [
        Vec::new(),
        b"just a text\n".to_vec(),
        whole[..whole.len() / 2].to_vec(),
        whole[..100].to_vec(),
        // Of another architecture, and a model in place of an adapter.
        Layout::Dense.lora().to_bytes(),
        Layout::Qwen3Moe.writer().to_bytes(),
    ];
    for bytes in wrong {
        fs::write(&path, bytes).unwrap();
        let error = model.lora_adapter(&path).unwrap_err();
        assert!(
            matches!(
                &error,
                Error::Lora(LoraError::Load { path: at, reason }) if *at == path && !reason.is_empty()
            ),
            "{error:?}"
        );
    }
    // Types that llama.cpp reads without asking, and ends the process.
    for key in [
        "general.type",
        "general.architecture",
        "adapter.type",
        "adapter.lora.alpha",
    ] {
        let mut writer = Layout::Qwen3Moe.lora();
        writer.u32(key, 1);
        writer.write(&path);
        let error = model.lora_adapter(&path).unwrap_err();
        assert!(error.to_string().contains(key), "{error}");
    }
    fs::write(&path, whole).unwrap();
    model.lora_adapter(&path).unwrap();

    let vocabulary = load(Layout::Qwen3Moe, on_cpu().with_vocab_only(true)).unwrap();
    let error = vocabulary.lora_adapter(&path).unwrap_err();
    assert!(
        matches!(error, Error::Lora(LoraError::Load { .. })),
        "{error:?}"
    );
}

#[test]
fn a_control_vector_steers() {
    let model = support::decode::model(Layout::Qwen3Moe);
    let last = Layout::Qwen3Moe.n_layer() - 1;
    let len = N_EMBD as usize * last as usize;
    let vector: Vec<f32> = (0..len).map(|i| (i % 7) as f32 - 3.0).collect();
    let mut context = context(&model);
    let plain = answer(&mut context);

    let control = |error: Error| match error {
        Error::ControlVector(error) => error,
        error => panic!("{error:?}"),
    };
    for len in [0, vector.len() - 1, vector.len() + 1] {
        let mut vector = vector.clone();
        vector.resize(len, 0.0);
        let error = control(context.set_control_vector(&vector, 1..=last).unwrap_err());
        let expected = ControlVectorError::Length {
            len,
            expected: N_EMBD as usize * last as usize,
            n_embd: N_EMBD as u32,
            last,
        };
        assert_eq!(error, expected);
    }
    for (first, end) in [
        (0, last),
        (1, last + 1),
        (last + 1, last + 1),
        (u32::MAX, u32::MAX),
    ] {
        let error = control(
            context
                .set_control_vector(&vector, first..=end)
                .unwrap_err(),
        );
        assert_eq!(error, ControlVectorError::Layers { first, end, last });
    }
    let mut wrong = vector.clone();
    wrong[3] = f32::NEG_INFINITY;
    let error = control(context.set_control_vector(&wrong, 1..=last).unwrap_err());
    assert_eq!(
        error,
        ControlVectorError::NotFinite {
            element: 3,
            value: f32::NEG_INFINITY
        }
    );
    assert_eq!(answer(&mut context), plain);

    context.set_control_vector(&vector, 1..=last).unwrap();
    assert!(distance(&answer(&mut context), &plain) > 0.1);
    context.clear_control_vector().unwrap();
    assert_eq!(answer(&mut context), plain);
    context.set_control_vector(&vector, last..=last).unwrap();
    assert!(distance(&answer(&mut context), &plain) > 0.1);
}
