//! Tiny models whose layers read what other layers keep, and choose what they look at.

use super::gguf::{GgufWriter, TensorType::F32, Value};
use super::layouts::N_EMBD;
use super::others::{N_LAYER, matrix, start, vector};
use super::peculiar::{HEAD, N_HEAD, attention, feed_forward, norms};

const N_EXPERT: u64 = 4;
const N_FF_EXP: u64 = 32;
const N_INDEX_HEAD: u64 = 2;
const INDEX_HEAD: u64 = 64;

/// Routed and shared experts of a layer, and their router.
fn experts(file: &mut GgufWriter, layer: u64) {
    let name = |part: &str| format!("blk.{layer}.{part}.weight");
    matrix(file, &name("ffn_gate_inp"), N_EMBD, N_EXPERT);
    for (part, columns, rows) in [
        ("gate", N_EMBD, N_FF_EXP),
        ("up", N_EMBD, N_FF_EXP),
        ("down", N_FF_EXP, N_EMBD),
    ] {
        let routed = name(&format!("ffn_{part}_exps"));
        file.random(&routed, &[columns, rows, N_EXPERT], F32, 0.1);
        matrix(file, &name(&format!("ffn_{part}_shexp")), columns, rows);
    }
}

const MOE: [(&str, u32); 4] = [
    ("expert_count", N_EXPERT as u32),
    ("expert_feed_forward_length", N_FF_EXP as u32),
    ("expert_shared_count", 1),
    ("expert_used_count", 2),
];

/// DeepSeek-V4.1: the first layer looks words up, the second compresses keys and indexes them.
pub fn engram() -> GgufWriter {
    const RANK: u64 = 32;
    const GROUPS: u64 = 2;
    const OUT_RANK: u64 = 8;
    const STREAMS: u64 = 4;
    const MIX: u64 = (2 + STREAMS) * STREAMS;
    const WORD: u64 = 8;
    const WORD_HEADS: u64 = 2;
    let mut file = start("deepseek41", &MOE);
    for (key, value) in [
        ("attention.head_count_kv", 1),
        ("attention.indexer.head_count", N_INDEX_HEAD),
        ("attention.indexer.key_length", INDEX_HEAD),
        ("attention.indexer.top_k", 8),
        ("attention.output_group_count", GROUPS),
        ("attention.output_lora_rank", OUT_RANK),
        ("attention.q_lora_rank", RANK),
        ("attention.sliding_window", 64),
        ("embedding_length_per_layer_input", WORD),
        ("engram.pad_token_id", 0),
        ("expert_gating_func", 4),
        ("hash_layer_count", 0),
        ("hyper_connection.count", STREAMS),
        ("hyper_connection.sinkhorn_iterations", 2),
        ("ple.heads_per_ngram", WORD_HEADS),
        ("ple.ngram_size", 2),
    ] {
        file.arch(key, Value::U32(value as u32));
    }
    for (key, value) in [
        ("attention.compress_rope_freq_base", 10000.0),
        ("attention.layer_norm_rms_epsilon", 1e-5),
        ("expert_weights_scale", 1.0),
        ("hyper_connection.epsilon", 1e-5),
        ("swiglu_clamp_exp", 7.0),
    ] {
        file.arch(key, Value::F32(value));
    }
    file.arch("expert_weights_norm", Value::Bool(true))
        .arch("attention.compress_ratios", Value::U32s(vec![0, 2]))
        .arch("attention.kv_source_layers", Value::U32s(vec![1]))
        .arch("attention.indexer.source_layers", Value::U32s(vec![1]))
        .arch("ple.layers", Value::U32s(vec![0]))
        .arch("ple.layer_multipliers", Value::U64s(vec![3, 5]))
        .arch("ple.head_offsets", Value::U64s(vec![0, 5]))
        .arch("ple.head_vocab_sizes", Value::U64s(vec![5, 7]))
        .arch("engram.token_map", Value::I32s((0..64).collect()));

    vector(&mut file, "output_norm.weight", N_EMBD, 1.0);
    let n_vocab = super::layouts::vocabulary().len() as u64;
    matrix(&mut file, "output.weight", N_EMBD, n_vocab);
    matrix(&mut file, "per_layer_token_embd.weight", WORD, 5 + 7);
    for layer in 0..N_LAYER {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        norms(
            &mut file,
            layer,
            &[
                ("attn_norm", N_EMBD),
                ("attn_sinks", N_HEAD),
                ("attn_q_a_norm", RANK),
                ("attn_kv_a_norm", HEAD),
                ("ffn_norm", N_EMBD),
            ],
        );
        matrix(&mut file, &name("attn_q_a"), N_EMBD, RANK);
        matrix(&mut file, &name("attn_q_b"), RANK, N_HEAD * HEAD);
        matrix(&mut file, &name("attn_kv"), N_EMBD, HEAD);
        let group = N_HEAD * HEAD / GROUPS;
        file.random(&name("attn_output_a"), &[group, OUT_RANK, GROUPS], F32, 0.1);
        matrix(&mut file, &name("attn_output_b"), GROUPS * OUT_RANK, N_EMBD);
        for part in ["hc_attn", "hc_ffn"] {
            let name = |what: &str| name(&format!("{part}_{what}"));
            matrix(&mut file, &name("fn"), STREAMS * N_EMBD, MIX);
            vector(&mut file, &name("base"), MIX, 0.0);
            vector(&mut file, &name("scale"), 3, 1.0);
        }
        if layer == 0 {
            let width = WORD_HEADS * WORD;
            matrix(&mut file, &name("engram_kv"), width, N_EMBD * (STREAMS + 1));
            matrix(&mut file, &name("engram_gate"), N_EMBD, STREAMS);
        } else {
            for (part, columns, rows) in [
                ("attn_compressor_kv", N_EMBD, HEAD),
                ("attn_compressor_gate", N_EMBD, HEAD),
                ("indexer.attn_k", HEAD, INDEX_HEAD),
                ("indexer.attn_q_b", RANK, N_INDEX_HEAD * INDEX_HEAD),
                ("indexer.proj", N_EMBD, N_INDEX_HEAD),
            ] {
                matrix(&mut file, &name(part), columns, rows);
            }
            norms(
                &mut file,
                layer,
                &[
                    ("attn_compressor_norm", HEAD),
                    ("indexer.k_norm", INDEX_HEAD),
                ],
            );
        }
        vector(
            &mut file,
            &format!("blk.{layer}.exp_probs_b.bias"),
            N_EXPERT,
            0.0,
        );
        experts(&mut file, layer);
    }
    file
}

/// Mistral Large 4: the last layer reads the keys of the first, and has no index of its own.
pub fn latent() -> GgufWriter {
    const N_LAYER: u64 = 3;
    const RANK: u64 = 32;
    const ROTATED: u64 = 8;
    let mut file = start("mistral-large4", &MOE);
    for (key, value) in [
        ("block_count", N_LAYER),
        ("attention.head_count_kv", 1),
        ("attention.indexer.head_count", N_INDEX_HEAD),
        ("attention.indexer.key_length", INDEX_HEAD),
        ("attention.indexer.top_k", 8),
        ("attention.key_length", RANK + ROTATED),
        ("attention.key_length_mla", HEAD),
        ("attention.kv_lora_rank", RANK),
        ("attention.value_length", RANK),
        ("attention.value_length_mla", HEAD),
        ("expert_gating_func", 2),
        ("leading_dense_block_count", 1),
        ("rope.dimension_count", ROTATED),
    ] {
        file.arch(key, Value::U32(value as u32));
    }
    file.arch("attention.layer_norm_epsilon", Value::F32(1e-5))
        .arch("attention.layer_norm_rms_epsilon", Value::F32(1e-5))
        .arch("attention.indexer.types", Value::U32s(vec![1, 1, 0]))
        .arch("attention.kv_source_map", Value::U32s(vec![0, 1, 0]))
        .arch("attention.rope_pattern", Value::U32s(vec![1, 0, 1]));

    vector(&mut file, "output_norm.weight", N_EMBD, 1.0);
    vector(&mut file, "rope_freqs.weight", ROTATED / 2, 1.0);
    let n_vocab = super::layouts::vocabulary().len() as u64;
    matrix(&mut file, "output.weight", N_EMBD, n_vocab);
    for layer in 0..N_LAYER {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let rotated = if layer == 1 { 0 } else { ROTATED };
        norms(
            &mut file,
            layer,
            &[("attn_norm", N_EMBD), ("ffn_norm", N_EMBD)],
        );
        attention(&mut file, layer, &["q", "output"]);
        if layer < 2 {
            matrix(
                &mut file,
                &name("attn_kv_a_mqa.weight"),
                N_EMBD,
                RANK + rotated,
            );
            norms(&mut file, layer, &[("attn_kv_a_norm", RANK)]);
            biased_norm(&mut file, &name("indexer.q_norm"), N_EMBD);
            biased_norm(&mut file, &name("indexer.k_norm"), INDEX_HEAD);
            biased_norm(&mut file, &name("indexer.ssmax"), N_INDEX_HEAD);
            for (part, rows) in [
                ("indexer.attn_q_b", N_INDEX_HEAD * INDEX_HEAD),
                ("indexer.attn_k", INDEX_HEAD),
                ("indexer.proj", N_INDEX_HEAD),
            ] {
                matrix(&mut file, &name(&format!("{part}.weight")), N_EMBD, rows);
            }
        }
        let keys = [HEAD - rotated, RANK, N_HEAD];
        file.random(&name("attn_k_b.weight"), &keys, F32, 0.1);
        file.random(&name("attn_v_b.weight"), &[RANK, HEAD, N_HEAD], F32, 0.1);
        biased_norm(&mut file, &name("attn_ssmax"), N_HEAD);
        if layer == 0 {
            feed_forward(&mut file, layer);
        } else {
            experts(&mut file, layer);
        }
    }
    file
}

fn biased_norm(file: &mut GgufWriter, name: &str, n: u64) {
    vector(file, &format!("{name}.weight"), n, 1.0);
    vector(file, &format!("{name}.bias"), n, 0.0);
}
