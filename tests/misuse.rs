//! Calls in any order and with any values: each one works or is an error, and the process
//! goes on.

use std::num::NonZeroU32;

use llama_moe::{Batch, Context, ContextParams, Error, Model, PoolingType, Token};

mod support;
use support::decode::{batch, model, n_vocab, prompt, small};
use support::layouts::{Layout, N_EMBD};
use support::{backend, on_cpu, others};

/// Numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// Mostly a small number, sometimes any.
    fn number(&mut self, usual: u64) -> u32 {
        match self.below(24) {
            0 => u32::MAX,
            1 => i32::MAX as u32 - self.below(3) as u32,
            2 => self.next() as u32,
            _ => self.below(usual) as u32,
        }
    }
}

const N_SEQ: u64 = 3;

/// The position after the last one of a sequence, as far as there is one.
fn end(context: &mut Context, seq: u32) -> u32 {
    match context.memory().positions(seq) {
        Ok(Some(held)) => held.end() + 1,
        _ => 0,
    }
}

fn any_batch(dice: &mut Dice, context: &mut Context) -> Batch {
    let embeddings = dice.one_in(8);
    let mut batch = if embeddings {
        let width = N_EMBD as usize - usize::from(dice.one_in(10));
        Batch::embeddings(12, 4, width)
    } else {
        Batch::new(12, 4)
    };
    let seq = dice.below(N_SEQ + 1) as u32;
    let start = if dice.one_in(8) {
        dice.number(300)
    } else {
        end(context, seq)
    };
    for i in 0..dice.below(14) as u32 {
        let pos = if dice.one_in(20) {
            dice.number(40)
        } else {
            start.wrapping_add(i)
        };
        let mut seqs = vec![if dice.one_in(10) {
            dice.number(N_SEQ)
        } else {
            seq
        }];
        if dice.one_in(10) {
            seqs.push(dice.number(N_SEQ + 1));
        }
        let output = dice.one_in(2);
        // What the batch does not take is not in it.
        let _ = if embeddings {
            batch.add_embedding(&[0.25; N_EMBD as usize], pos, &seqs, output)
        } else {
            let token = dice.number(n_vocab() as u64) as i32;
            batch.add(Token(token), pos, &seqs, output)
        };
    }
    batch
}

fn any_call(dice: &mut Dice, context: &mut Context, saved: &mut Vec<u8>) -> Result<(), Error> {
    let seq = dice.number(N_SEQ);
    let other = dice.number(N_SEQ);
    let (start, stop) = (dice.number(20), dice.number(40));
    match dice.below(24) {
        0..8 => {
            let batch = any_batch(dice, context);
            if dice.one_in(6) {
                context.encode(&batch)?;
            } else {
                context.decode(&batch)?;
            }
        }
        8 => context.memory().remove(Some(seq), start..stop).map(drop)?,
        9 => context.memory().remove(None, start..).map(drop)?,
        10 => context.memory().remove(Some(seq), ..).map(drop)?,
        11 => context.memory().copy(seq, other, start..stop)?,
        12 => context.memory().copy(seq, other, ..)?,
        13 => context.memory().keep(seq)?,
        14 => {
            let delta = dice.number(30) as i32 - 15;
            context.memory().shift(seq, start..stop, delta)?;
        }
        15 => {
            let divisor = NonZeroU32::new(dice.number(4)).unwrap_or(NonZeroU32::MIN);
            context.memory().divide(seq, start.., divisor)?;
        }
        16 => *saved = context.save_state()?,
        17 => *saved = context.save_state_seq(seq)?,
        18 => context.load_state(saved)?,
        19 => context.load_state_seq(seq, saved)?,
        20 => {
            context.logits(dice.number(12) as usize)?;
            context.logits_last()?;
        }
        21 => {
            context.embeddings(dice.number(12) as usize)?;
        }
        22 => {
            context.sequence_embedding(seq)?;
        }
        _ => match dice.below(4) {
            0 => context.set_embeddings(dice.one_in(2))?,
            1 => context.set_causal_attn(dice.one_in(2)),
            2 => context.memory().clear()?,
            _ => context.perf().map(drop)?,
        },
    }
    Ok(())
}

fn misuse(model: &Model, params: ContextParams, seed: u64) {
    let params = params
        .with_n_seq_max(N_SEQ as u32)
        .with_n_batch(12)
        .with_n_ubatch(9);
    let mut context = model.context(params).expect("a context");
    let mut dice = Dice(seed);
    let mut saved = Vec::new();
    let (mut worked, mut refused) = (0, 0);
    for _ in 0..250 {
        match any_call(&mut dice, &mut context, &mut saved) {
            Ok(()) => worked += 1,
            Err(Error::Llama { call, kind, reason }) => {
                panic!("{call} was left to llama.cpp: {reason} ({kind})")
            }
            Err(_) => refused += 1,
        }
    }
    assert!(
        worked > 30 && refused > 15,
        "{worked} worked, {refused} not"
    );
    // All is as it should be afterwards.
    context.set_embeddings(false).unwrap();
    context.set_causal_attn(true);
    let _ = context.memory().clear();
    if model.has_encoder() {
        context.encode(&batch(&prompt(4), 0, 0)).expect("encoded");
    }
    context.decode(&batch(&prompt(4), 0, 0)).expect("decoded");
}

fn with_every_kind_of_context(model: &Model, seed: u64) {
    misuse(model, small().with_kv_unified(true), seed + 1);
    // Encoder-decoder models have one buffer only.
    let unified = model.has_encoder();
    let small = || small().with_kv_unified(unified);
    misuse(model, small(), seed);
    let embeddings = small().with_n_outputs_max(9).with_embeddings(true);
    misuse(
        model,
        embeddings.clone().with_pooling_type(PoolingType::Mean),
        seed + 2,
    );
    misuse(model, embeddings.with_swa_full(true), seed + 3);
}

#[test]
fn decoders() {
    for (seed, layout) in (1..).zip(Layout::ALL) {
        with_every_kind_of_context(&model(layout), seed * 100);
    }
}

#[test]
fn other_models() {
    let files = [
        others::encoder(),
        others::encoder_decoder(),
        others::recurrent(),
    ];
    for (seed, file) in (1..).zip(files) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        file.write(&path);
        let model = Model::load(&backend(), &path, on_cpu()).unwrap();
        with_every_kind_of_context(&model, seed * 1000);
    }
}
