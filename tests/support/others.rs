//! Tiny models that are not decoders with a KV cache: an encoder, an encoder with a
//! decoder, and one whose memory is a state.

use super::gguf::{GgufWriter, TensorType, Value};
use super::layouts::{N_CTX_TRAIN, N_EMBD, vocabulary, write_vocabulary};
use TensorType::F32;

pub(super) const N_LAYER: u64 = 2;
const N_HEAD: u64 = 4;
pub(super) const N_FF: u64 = 96;

/// A file with the common metadata; `others` are added to it.
pub(super) fn start(arch: &str, others: &[(&str, u32)]) -> GgufWriter {
    let mut file = GgufWriter::new(arch);
    file.string("general.name", arch);
    for (key, value) in [
        ("block_count", N_LAYER as u32),
        ("context_length", N_CTX_TRAIN),
        ("embedding_length", N_EMBD as u32),
        ("feed_forward_length", N_FF as u32),
        ("attention.head_count", N_HEAD as u32),
    ] {
        file.arch(key, Value::U32(value));
    }
    for (key, value) in others {
        file.arch(key, Value::U32(*value));
    }
    write_vocabulary(&mut file);
    matrix(
        &mut file,
        "token_embd.weight",
        N_EMBD,
        vocabulary().len() as u64,
    );
    file
}

pub(super) fn matrix(file: &mut GgufWriter, name: &str, columns: u64, rows: u64) {
    let deviation = 1.0 / (columns as f32).sqrt();
    file.random(name, &[columns, rows], F32, deviation);
}

pub(super) fn vector(file: &mut GgufWriter, name: &str, n: u64, value: f32) {
    file.values(name, &[n], F32, &vec![value; n as usize]);
}

/// BERT: no memory, no logits, positions in a table.
pub fn encoder() -> GgufWriter {
    let mut file = start("bert", &[("pooling_type", 1)]);
    file.arch("attention.layer_norm_epsilon", Value::F32(1e-5))
        .arch("attention.causal", Value::Bool(false))
        .u32("tokenizer.ggml.token_type_count", 2);
    matrix(&mut file, "token_types.weight", N_EMBD, 2);
    matrix(
        &mut file,
        "position_embd.weight",
        N_EMBD,
        N_CTX_TRAIN.into(),
    );
    let norm = |file: &mut GgufWriter, name: &str| {
        vector(file, &format!("{name}.weight"), N_EMBD, 1.0);
        vector(file, &format!("{name}.bias"), N_EMBD, 0.0);
    };
    norm(&mut file, "token_embd_norm");
    for layer in 0..N_LAYER {
        let name = |part: &str| format!("blk.{layer}.{part}");
        for part in ["attn_q", "attn_k", "attn_v", "attn_output"] {
            matrix(&mut file, &name(&format!("{part}.weight")), N_EMBD, N_EMBD);
        }
        norm(&mut file, &name("attn_output_norm"));
        matrix(&mut file, &name("ffn_up.weight"), N_EMBD, N_FF);
        matrix(&mut file, &name("ffn_down.weight"), N_FF, N_EMBD);
        norm(&mut file, &name("layer_output_norm"));
    }
    file
}

/// T5: an encoder, and a decoder that looks at what it made.
pub fn encoder_decoder() -> GgufWriter {
    const N_BUCKETS: u64 = 32;
    let mut file = start(
        "t5",
        &[("attention.relative_buckets_count", N_BUCKETS as u32)],
    );
    file.arch("attention.layer_norm_rms_epsilon", Value::F32(1e-5));
    matrix(
        &mut file,
        "output.weight",
        N_EMBD,
        vocabulary().len() as u64,
    );
    for part in ["enc", "dec"] {
        vector(
            &mut file,
            &format!("{part}.output_norm.weight"),
            N_EMBD,
            1.0,
        );
        for layer in 0..N_LAYER {
            let name = |tensor: &str| format!("{part}.blk.{layer}.{tensor}.weight");
            let attention = |file: &mut GgufWriter, kind: &str| {
                vector(file, &name(&format!("{kind}_norm")), N_EMBD, 1.0);
                for tensor in ["q", "k", "v", "o"] {
                    matrix(file, &name(&format!("{kind}_{tensor}")), N_EMBD, N_EMBD);
                }
            };
            attention(&mut file, "attn");
            if layer == 0 {
                matrix(&mut file, &name("attn_rel_b"), N_HEAD, N_BUCKETS);
            }
            if part == "dec" {
                attention(&mut file, "cross_attn");
            }
            vector(&mut file, &name("ffn_norm"), N_EMBD, 1.0);
            matrix(&mut file, &name("ffn_up"), N_EMBD, N_FF);
            matrix(&mut file, &name("ffn_down"), N_FF, N_EMBD);
        }
    }
    file
}

/// Mamba: a state in place of a KV cache.
pub fn recurrent() -> GgufWriter {
    const N_INNER: u64 = 2 * N_EMBD;
    const N_CONV: u64 = 4;
    const N_STATE: u64 = 16;
    const N_RANK: u64 = 4;
    let mut file = start(
        "mamba",
        &[
            ("ssm.conv_kernel", N_CONV as u32),
            ("ssm.inner_size", N_INNER as u32),
            ("ssm.state_size", N_STATE as u32),
            ("ssm.time_step_rank", N_RANK as u32),
        ],
    );
    file.arch("attention.layer_norm_rms_epsilon", Value::F32(1e-5));
    matrix(
        &mut file,
        "output.weight",
        N_EMBD,
        vocabulary().len() as u64,
    );
    vector(&mut file, "output_norm.weight", N_EMBD, 1.0);
    for layer in 0..N_LAYER {
        let name = |part: &str| format!("blk.{layer}.{part}");
        vector(&mut file, &name("attn_norm.weight"), N_EMBD, 1.0);
        matrix(&mut file, &name("ssm_in.weight"), N_EMBD, 2 * N_INNER);
        matrix(&mut file, &name("ssm_conv1d.weight"), N_CONV, N_INNER);
        vector(&mut file, &name("ssm_conv1d.bias"), N_INNER, 0.1);
        matrix(
            &mut file,
            &name("ssm_x.weight"),
            N_INNER,
            N_RANK + 2 * N_STATE,
        );
        matrix(&mut file, &name("ssm_dt.weight"), N_RANK, N_INNER);
        vector(&mut file, &name("ssm_dt.bias"), N_INNER, 0.1);
        let decay = vec![-0.5; (N_STATE * N_INNER) as usize];
        file.values(&name("ssm_a"), &[N_STATE, N_INNER], F32, &decay);
        vector(&mut file, &name("ssm_d"), N_INNER, 1.0);
        matrix(&mut file, &name("ssm_out.weight"), N_INNER, N_EMBD);
    }
    file
}
