//! Saving and restoring a context's memory.

use std::fs;

use llama_moe::{CacheType, Context, Error, MemoryError, Model, StateError, Token};

mod support;
use support::decode::{batch, context, decode, distance, model, prompt, small};
use support::layouts::{Layout, N_EMBD};
use support::on_cpu;

fn state_error<T: std::fmt::Debug>(result: llama_moe::Result<T>) -> StateError {
    match result.unwrap_err() {
        Error::State(error) => error,
        error => panic!("{error:?}"),
    }
}

/// A context with a conversation of 12 tokens in it.
fn filled(model: &Model) -> Context {
    let mut context = context(model);
    decode(&mut context, &prompt(12), 0, 0);
    context
}

fn next(context: &mut Context, seq: u32) -> Vec<f32> {
    decode(context, &prompt(14)[12..], 12, seq)
}

#[test]
fn a_restored_state_goes_on_exactly() {
    for layout in Layout::ALL {
        let model = model(layout);
        let mut first = filled(&model);
        let size = first.state_size().unwrap();
        let state = first.save_state().unwrap();
        assert!(state.len() > size, "{layout:?}");
        let expected = next(&mut first, 0);

        let mut second = context(&model);
        // What was there before is gone.
        decode(&mut second, &prompt(3), 0, 0);
        second.load_state(&state).unwrap();
        assert_eq!(
            second.memory().positions(0).unwrap(),
            Some(0..=11),
            "{layout:?}"
        );
        assert_eq!(next(&mut second, 0), expected, "{layout:?}");
        // Any number of times.
        second.load_state(&state).unwrap();
        assert_eq!(next(&mut second, 0), expected, "{layout:?}");
        assert_eq!(
            second.save_state().unwrap(),
            first.save_state().unwrap(),
            "{layout:?}"
        );
    }
}

#[test]
fn a_sequence_is_restored_as_another() {
    for layout in [Layout::Qwen3Moe, Layout::GptOss, Layout::DeepSeek2] {
        let model = model(layout);
        for unified in [false, true] {
            let params = small()
                .with_n_ctx(512)
                .with_n_seq_max(2)
                .with_kv_unified(unified);
            let mut context = model.context(params).unwrap();
            decode(&mut context, &prompt(12), 0, 0);
            let state = context.save_state_seq(0).unwrap();
            decode(&mut context, &prompt(3), 0, 1);
            context.load_state_seq(1, &state).unwrap();
            assert_eq!(context.memory().positions(0).unwrap(), Some(0..=11));
            assert_eq!(context.memory().positions(1).unwrap(), Some(0..=11));
            let (source, copy) = (next(&mut context, 0), next(&mut context, 1));
            let difference = distance(&source, &copy);
            assert!(difference < 0.01, "{layout:?} {unified}: {difference}");
        }
    }
}

#[test]
fn files_hold_tokens_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let model = model(Layout::Qwen3Moe);
    let mut first = filled(&model);
    first.save_state_file(&path, &prompt(12)).unwrap();
    let seq_path = dir.path().join("sequence");
    first.save_state_seq_file(0, &seq_path, &[]).unwrap();
    let expected = next(&mut first, 0);

    let mut second = context(&model);
    assert_eq!(second.load_state_file(&path).unwrap(), prompt(12));
    assert_eq!(next(&mut second, 0), expected);
    assert_eq!(second.load_state_seq_file(0, &seq_path).unwrap(), []);
    assert_eq!(next(&mut second, 0), expected);

    // One kind is not taken for the other.
    assert_eq!(
        state_error(second.load_state_file(&seq_path)),
        StateError::OfSequence
    );
    assert_eq!(
        state_error(second.load_state_seq_file(0, &path)),
        StateError::OfContext
    );

    for path in [dir.path().join("missing"), dir.path().to_owned()] {
        let error = second.load_state_file(&path).unwrap_err();
        assert!(
            matches!(&error, Error::File { path: at, .. } if *at == path),
            "{error:?}"
        );
        let error = second
            .save_state_file(path.join("x/y"), &[Token(1)])
            .unwrap_err();
        assert!(matches!(error, Error::File { .. }), "{error:?}");
    }

    let whole = fs::read(&path).unwrap();
    for (contents, expected) in [
        (Vec::new(), StateError::NotAState),
        (
            b"just a text, longer than the beginning of a state has to be".to_vec(),
            StateError::NotAState,
        ),
        (vec![0; 4096], StateError::NotAState),
        (whole[..20].to_vec(), StateError::NotAState),
        (
            whole[..whole.len() - 1].to_vec(),
            StateError::Length {
                len: whole.len() as u64 - 1,
                expected: whole.len() as u64,
            },
        ),
        (
            [&whole[..], b"x"].concat(),
            StateError::Length {
                len: whole.len() as u64 + 1,
                expected: whole.len() as u64,
            },
        ),
    ] {
        fs::write(&path, contents).unwrap();
        assert_eq!(state_error(second.load_state_file(&path)), expected);
        assert_eq!(second.memory().positions(0).unwrap(), Some(0..=13));
    }
}

#[test]
fn what_is_no_whole_state_leaves_the_memory_as_it_is() {
    let model = model(Layout::Qwen3Moe);
    let mut context = filled(&model);
    let state = context.save_state().unwrap();
    let expected = next(&mut context, 0);
    context.load_state(&state).unwrap();

    let mut wrong: Vec<Vec<u8>> = vec![Vec::new(), b"LLMOE".to_vec(), vec![0xAA; 5000]];
    for keep in [8, 55, 56, 57, 100, state.len() / 2, state.len() - 1] {
        wrong.push(state[..keep].to_vec());
    }
    for at in (0..state.len()).step_by(state.len() / 97) {
        let mut changed = state.clone();
        changed[at] ^= 0x40;
        wrong.push(changed);
    }
    for bytes in &wrong {
        for seq in [None, Some(0)] {
            state_error(match seq {
                None => context.load_state(bytes),
                Some(seq) => context.load_state_seq(seq, bytes),
            });
            assert_eq!(context.memory().positions(0).unwrap(), Some(0..=11));
        }
    }
    assert_eq!(next(&mut context, 0), expected);
}

#[test]
fn a_state_of_another_model_is_refused() {
    let mut context = filled(&model(Layout::Qwen3Moe));
    for layout in Layout::ALL {
        let other = filled(&model(layout)).save_state().unwrap();
        let result = context.load_state(&other);
        if layout == Layout::Qwen3Moe {
            // Loaded twice from one file, it is the same model.
            result.unwrap();
        } else {
            assert_eq!(state_error(result), StateError::OtherModel, "{layout:?}");
        }
        assert_eq!(context.memory().positions(0).unwrap(), Some(0..=11));
    }
    // The same shape under another name.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let mut writer = Layout::Qwen3Moe.writer();
    writer
        .remove("general.name")
        .string("general.name", "tuned")
        .write(&path);
    let tuned = Model::load(&support::backend(), &path, on_cpu()).unwrap();
    let other = filled(&tuned).save_state().unwrap();
    assert_eq!(
        state_error(context.load_state(&other)),
        StateError::OtherModel
    );
}

#[test]
fn a_state_that_does_not_fit_leaves_an_empty_memory() {
    let model = model(Layout::Qwen3Moe);
    let mut large = model.context(small().with_n_ctx(512)).unwrap();
    decode(&mut large, &prompt(300), 0, 0);
    let states = [
        large.save_state().unwrap(),
        large.save_state_seq(0).unwrap(),
    ];
    let quantised = small().with_type_k(CacheType::Q8_0).with_n_ctx(512);
    for params in [small(), quantised] {
        let mut context = model.context(params).unwrap();
        let expected = decode(&mut context, &prompt(12), 0, 0);
        for (state, seq) in states.iter().zip([None, Some(0)]) {
            let error = state_error(match seq {
                None => context.load_state(state),
                Some(seq) => context.load_state_seq(seq, state),
            });
            assert!(
                matches!(&error, StateError::Restore { reason } if !reason.is_empty()),
                "{error:?}"
            );
            assert_eq!(context.memory().positions(0).unwrap(), None);
            assert_eq!(decode(&mut context, &prompt(12), 0, 0), expected);
        }
    }
    // Only the sequence that was to be restored is gone.
    let mut two = model
        .context(small().with_n_ctx(512).with_n_seq_max(2))
        .unwrap();
    decode(&mut two, &prompt(12), 0, 0);
    decode(&mut two, &prompt(5), 0, 1);
    state_error(two.load_state_seq(1, &states[1]));
    assert_eq!(two.memory().positions(0).unwrap(), Some(0..=11));
    assert_eq!(two.memory().positions(1).unwrap(), None);
}

#[test]
fn sequences_must_exist() {
    let model = model(Layout::Dense);
    let mut context = filled(&model);
    let state = context.save_state_seq(0).unwrap();
    for seq in [1, 300, u32::MAX] {
        let absent = MemoryError::Sequence { seq, n_seq_max: 1 };
        for error in [
            context.save_state_seq(seq).unwrap_err(),
            context.load_state_seq(seq, &state).unwrap_err(),
        ] {
            assert!(
                matches!(&error, Error::Memory(error) if *error == absent),
                "{error:?}"
            );
        }
    }
}

#[test]
fn moves_and_copies_are_made_before_a_state_is_saved() {
    let model = model(Layout::Qwen3Moe);
    let mut context = model
        .context(small().with_n_ctx(512).with_n_seq_max(2))
        .unwrap();
    decode(&mut context, &prompt(12), 0, 0);
    let state = context.save_state().unwrap();

    context.memory().shift(0, .., 3).unwrap();
    assert_eq!(state_error(context.save_state()), StateError::Unapplied);
    assert_eq!(
        state_error(context.load_state(&state)),
        StateError::Unapplied
    );
    context.memory().clear().unwrap();
    context.load_state(&state).unwrap();

    // The buffer would still be copied over what is restored.
    context.memory().copy(0, 1, ..).unwrap();
    assert_eq!(
        state_error(context.save_state_seq(1)),
        StateError::Unapplied
    );
    context.memory().clear().unwrap();
    assert_eq!(
        state_error(context.load_state(&state)),
        StateError::Unapplied
    );
    context.decode(&batch(&prompt(1), 0, 0)).unwrap();
    context.load_state(&state).unwrap();
    assert_eq!(context.memory().positions(0).unwrap(), Some(0..=11));
}

#[test]
fn the_size_is_that_of_the_cache() {
    let model = model(Layout::Dense);
    let mut context = context(&model);
    let empty = context.state_size().unwrap();
    decode(&mut context, &prompt(100), 0, 0);
    let per_token = (context.state_size().unwrap() - empty) / 100;
    // Keys and values of two heads of 32 elements in 16 bits, and some bookkeeping.
    let cached = 2 * N_EMBD as usize * 2 * Layout::Dense.n_layer() as usize;
    assert!(
        (cached..cached + 64).contains(&per_token),
        "{per_token}, {cached}"
    );
}
