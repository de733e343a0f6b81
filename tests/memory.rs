//! The memory of a context, sequence by sequence.

use std::num::NonZeroU32;

use llama_moe::{Error, MemoryError};

mod support;
use support::decode::{answer, context, decode, distance, model, prompt, small};
use support::layouts::Layout;

fn memory_error<T: std::fmt::Debug>(result: llama_moe::Result<T>) -> MemoryError {
    match result.unwrap_err() {
        Error::Memory(error) => error,
        error => panic!("{error:?}"),
    }
}

#[test]
fn a_copied_sequence_goes_on_as_its_source() {
    let tokens = prompt(14);
    for layout in [Layout::Qwen3Moe, Layout::GptOss, Layout::DeepSeek2] {
        let model = model(layout);
        for unified in [false, true] {
            let params = small()
                .with_n_ctx(512)
                .with_n_seq_max(2)
                .with_kv_unified(unified);
            let mut context = model.context(params).unwrap();
            decode(&mut context, &tokens[..12], 0, 0);
            // What was there before is replaced, whole or not.
            decode(&mut context, &tokens[..3], 0, 1);
            context.memory().copy(0, 1, ..).unwrap();
            context.memory().copy(0, 1, ..12).unwrap();
            assert_eq!(context.memory().positions(1).unwrap(), Some(0..=11));
            let source = decode(&mut context, &tokens[12..], 12, 0);
            let copy = decode(&mut context, &tokens[12..], 12, 1);
            let difference = distance(&source, &copy);
            assert!(difference < 0.01, "{layout:?} {unified}: {difference}");
            context.memory().keep(1).unwrap();
            assert_eq!(context.memory().positions(0).unwrap(), None);
            assert_eq!(context.memory().positions(1).unwrap(), Some(0..=13));
        }
    }
}

#[test]
fn parts_are_copied_where_sequences_share_a_buffer() {
    let model = model(Layout::Qwen3Moe);
    let mut apart = model
        .context(small().with_n_ctx(512).with_n_seq_max(2))
        .unwrap();
    let mut unified = model
        .context(small().with_n_seq_max(2).with_kv_unified(true))
        .unwrap();
    for context in [&mut apart, &mut unified] {
        decode(context, &prompt(12), 0, 0);
    }
    for part in [1..12, 0..11] {
        assert_eq!(
            memory_error(apart.memory().copy(0, 1, part)),
            MemoryError::PartialCopy
        );
    }
    assert_eq!(apart.memory().positions(1).unwrap(), None);
    unified.memory().copy(0, 1, ..8).unwrap();
    assert_eq!(unified.memory().positions(1).unwrap(), Some(0..=7));
    let expected = decode(&mut context(&model), &prompt(9), 0, 0);
    let continued = decode(&mut unified, &prompt(9)[8..], 8, 1);
    assert!(distance(&expected, &continued) < 0.05);
}

#[test]
fn parts_are_removed() {
    let model = model(Layout::Qwen3Moe);
    let params = small().with_n_ctx(512).with_n_seq_max(2);
    let mut context = model.context(params).unwrap();
    let tokens = prompt(12);
    let first = decode(&mut context, &tokens, 0, 0);
    decode(&mut context, &tokens[..5], 0, 1);

    let mut memory = context.memory();
    assert!(memory.remove(Some(0), 20..).unwrap());
    assert!(memory.remove(Some(0), 8..8).unwrap());
    assert!(memory.remove(Some(0), u32::MAX..).unwrap());
    assert_eq!(memory.positions(0).unwrap(), Some(0..=11));
    assert!(memory.remove(Some(0), 8..).unwrap());
    assert_eq!(memory.positions(0).unwrap(), Some(0..=7));
    assert_eq!(memory.positions(1).unwrap(), Some(0..=4));
    let again = decode(&mut context, &tokens[8..], 8, 0);
    assert!(distance(&first, &again) < 0.05);

    let mut memory = context.memory();
    assert!(memory.remove(None, 3..).unwrap());
    assert_eq!(memory.positions(0).unwrap(), Some(0..=2));
    assert_eq!(memory.positions(1).unwrap(), Some(0..=2));
    assert!(memory.remove(None, ..).unwrap());
    assert_eq!(memory.positions(0).unwrap(), None);
    assert_eq!(memory.positions(1).unwrap(), None);
}

#[test]
fn positions_are_moved_and_divided() {
    let model = model(Layout::Qwen3Moe);
    let mut context = context(&model);
    let tokens = prompt(12);
    decode(&mut context, &tokens, 0, 0);
    let mut memory = context.memory();
    assert!(memory.can_shift());
    memory.shift(0, .., 5).unwrap();
    assert_eq!(memory.positions(0).unwrap(), Some(5..=16));
    memory.shift(0, .., 0).unwrap();
    memory.shift(0, 100.., -50).unwrap();
    memory.shift(0, ..5, -50).unwrap();
    assert_eq!(memory.positions(0).unwrap(), Some(5..=16));
    memory.shift(0, .., -5).unwrap();
    assert_eq!(memory.positions(0).unwrap(), Some(0..=11));
    // There and back again: the cache is where it was, but for rounding.
    let moved = decode(&mut context, &tokens[..1], 12, 0);
    let mut still = support::decode::context(&model);
    decode(&mut still, &tokens, 0, 0);
    let expected = decode(&mut still, &tokens[..1], 12, 0);
    assert!(distance(&moved, &expected) < 0.1);

    for (range, delta, pos) in [
        (0..13, -1, 0),
        (5..13, -6, 5),
        (5..13, i32::MAX, 5),
        (5..13, i32::MIN, 5),
    ] {
        assert_eq!(
            memory_error(context.memory().shift(0, range, delta)),
            MemoryError::ShiftOutOfRange { pos, delta }
        );
    }
    let two = NonZeroU32::new(2).unwrap();
    context.memory().divide(0, .., two).unwrap();
    assert_eq!(context.memory().positions(0).unwrap(), Some(0..=6));
    context.memory().divide(0, 3..3, two).unwrap();
    context.memory().divide(0, .., NonZeroU32::MIN).unwrap();
    assert_eq!(
        memory_error(context.memory().divide(0, .., NonZeroU32::MAX)),
        MemoryError::Divisor { divisor: u32::MAX }
    );
    assert_eq!(context.memory().positions(0).unwrap(), Some(0..=6));
    decode(&mut context, &tokens[..1], 7, 0);
}

#[test]
fn sequences_that_do_not_exist_are_named() {
    let model = model(Layout::Dense);
    let mut context = model.context(small().with_n_seq_max(2)).unwrap();
    for seq in [2, 256, u32::MAX] {
        let absent = MemoryError::Sequence { seq, n_seq_max: 2 };
        let mut memory = context.memory();
        assert_eq!(memory_error(memory.remove(Some(seq), ..)), absent);
        assert_eq!(memory_error(memory.copy(0, seq, ..)), absent);
        assert_eq!(memory_error(memory.copy(seq, 0, ..)), absent);
        assert_eq!(memory_error(memory.keep(seq)), absent);
        assert_eq!(memory_error(memory.shift(seq, .., 1)), absent);
        assert_eq!(
            memory_error(memory.divide(seq, .., NonZeroU32::MIN)),
            absent
        );
        assert_eq!(memory_error(memory.positions(seq)), absent);
    }
    answer(&mut context);
}
