//! Tiny models of architectures that keep numbers of their own: counts and indices which
//! llama.cpp's loader trusts.

use super::gguf::{
    GgufWriter,
    TensorType::{F32, I64, Q8_0},
    Value,
};
use super::layouts::{N_EMBD, vocabulary};
use super::others::{N_FF, N_LAYER, matrix, start, vector};

pub(super) const N_HEAD: u64 = 4;
pub(super) const HEAD: u64 = N_EMBD / N_HEAD;

/// A matrix and what is added to its product.
pub(super) fn biased(file: &mut GgufWriter, name: &str, columns: u64, rows: u64) {
    matrix(file, &format!("{name}.weight"), columns, rows);
    vector(file, &format!("{name}.bias"), rows, 0.0);
}

pub(super) fn attention(file: &mut GgufWriter, layer: u64, parts: &[&str]) {
    for part in parts {
        matrix(
            file,
            &format!("blk.{layer}.attn_{part}.weight"),
            N_EMBD,
            N_EMBD,
        );
    }
}

pub(super) fn norms(file: &mut GgufWriter, layer: u64, names: &[(&str, u64)]) {
    for (name, n) in names {
        vector(file, &format!("blk.{layer}.{name}.weight"), *n, 1.0);
    }
}

pub(super) fn feed_forward(file: &mut GgufWriter, layer: u64) {
    for part in ["gate", "up"] {
        matrix(
            file,
            &format!("blk.{layer}.ffn_{part}.weight"),
            N_EMBD,
            N_FF,
        );
    }
    matrix(file, &format!("blk.{layer}.ffn_down.weight"), N_FF, N_EMBD);
}

/// K2 Horizon: its values come from experts too, as do its feed-forwards after the first layer.
pub fn value_experts() -> GgufWriter {
    const N_EXPERT: u64 = 4;
    const N_FF_EXP: u64 = 32;
    let mut file = start(
        "k2-horizon",
        &[
            ("attention.group_norm_groups", 2),
            ("attention.value_expert_count", N_EXPERT as u32),
            ("attention.value_expert_used_count", 2),
            ("expert_count", N_EXPERT as u32),
            ("expert_feed_forward_length", N_FF_EXP as u32),
            ("expert_used_count", 2),
            ("leading_dense_block_count", 1),
        ],
    );
    file.arch("attention.layer_norm_rms_epsilon", Value::F32(1e-5));
    vector(&mut file, "output_norm.weight", N_EMBD, 1.0);
    for layer in 0..N_LAYER {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        norms(
            &mut file,
            layer,
            &[("attn_norm", N_EMBD), ("ffn_norm", N_EMBD)],
        );
        attention(&mut file, layer, &["q", "k", "output"]);
        if layer == 0 {
            attention(&mut file, layer, &["v"]);
            feed_forward(&mut file, layer);
            continue;
        }
        let mut experts = |part: &str, columns: u64, rows: u64| {
            file.random(&name(part), &[columns, rows, N_EXPERT], F32, 0.1);
        };
        experts("attn_v_exps", N_EMBD, N_EMBD);
        experts("ffn_gate_exps", N_EMBD, N_FF_EXP);
        experts("ffn_up_exps", N_EMBD, N_FF_EXP);
        experts("ffn_down_exps", N_FF_EXP, N_EMBD);
        matrix(&mut file, &name("attn_v_gate"), N_EMBD, N_EXPERT);
        matrix(&mut file, &name("ffn_gate_inp"), N_EMBD, N_EXPERT);
    }
    file
}

/// Limite: the second layer reads the inputs of both.
pub fn taps() -> GgufWriter {
    const N_TAPS: u64 = 2;
    const N_MUDD: u64 = 32;
    let mut file = start(
        "limite",
        &[
            ("attention.sliding_window", 64),
            ("mudd.feed_forward_length", N_MUDD as u32),
            ("mudd.tap_count", N_TAPS as u32),
        ],
    );
    file.arch("attention.layer_norm_rms_epsilon", Value::F32(1e-5))
        .arch("attention.scale", Value::F32(0.25))
        .arch("mudd.tap_indices", Value::I32s(vec![-1, -1, 0, 1]));
    matrix(
        &mut file,
        "value_embd.weight",
        N_EMBD,
        vocabulary().len() as u64,
    );
    for layer in 0..N_LAYER {
        attention(&mut file, layer, &["q", "k", "v", "output"]);
        norms(
            &mut file,
            layer,
            &[("attn_resid_scale", 1), ("ffn_resid_scale", 1)],
        );
        feed_forward(&mut file, layer);
    }
    matrix(&mut file, "blk.1.mudd_down.weight", N_EMBD, N_MUDD);
    biased(&mut file, "blk.1.mudd_up", N_MUDD, 2 * N_TAPS);
    file
}

/// Gemma 4: the last layer reads what an earlier one keeps.
pub fn shared_keys() -> GgufWriter {
    const N_LAYER: u64 = 3;
    let mut file = start(
        "gemma4",
        &[
            ("block_count", N_LAYER as u32),
            ("attention.key_length", HEAD as u32),
            ("attention.key_length_swa", HEAD as u32),
            ("attention.shared_kv_layers", 1),
            ("attention.sliding_window", 64),
            ("attention.value_length", HEAD as u32),
            ("attention.value_length_swa", HEAD as u32),
            ("embedding_length_per_layer_input", 0),
        ],
    );
    file.arch("attention.layer_norm_rms_epsilon", Value::F32(1e-5))
        .arch(
            "attention.sliding_window_pattern",
            Value::U32s(vec![1, 0, 1]),
        );
    vector(&mut file, "output_norm.weight", N_EMBD, 1.0);
    vector(&mut file, "rope_freqs.weight", HEAD / 2, 1.0);
    for layer in 0..N_LAYER {
        norms(
            &mut file,
            layer,
            &[
                ("attn_norm", N_EMBD),
                ("attn_q_norm", HEAD),
                ("attn_k_norm", HEAD),
                ("post_attention_norm", N_EMBD),
                ("ffn_norm", N_EMBD),
                ("post_ffw_norm", N_EMBD),
            ],
        );
        attention(&mut file, layer, &["q", "k", "v", "output"]);
        feed_forward(&mut file, layer);
    }
    file
}

/// LFM3: a convolution, then attention to a window, then to all, which alone turns positions by
/// factors.
pub fn convolution() -> GgufWriter {
    const N_LAYER: u64 = 3;
    const N_CONV: u64 = 3;
    let mut file = start(
        "lfm3",
        &[
            ("block_count", N_LAYER as u32),
            ("attention.sliding_window", 64),
            ("shortconv.l_cache", N_CONV as u32),
        ],
    );
    file.arch("attention.layer_norm_rms_epsilon", Value::F32(1e-5))
        .arch("rope.freq_base_swa", Value::F32(10000.0))
        .arch("attention.head_count_kv", Value::U32s(vec![0, 4, 4]))
        .arch(
            "attention.sliding_window_pattern",
            Value::Bools(vec![false, true, false]),
        );
    vector(&mut file, "output_norm.weight", N_EMBD, 1.0);
    vector(&mut file, "rope_freqs.weight", HEAD / 2, 1.0);
    for layer in 0..N_LAYER {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        norms(
            &mut file,
            layer,
            &[("attn_norm", N_EMBD), ("ffn_norm", N_EMBD)],
        );
        feed_forward(&mut file, layer);
        if layer == 0 {
            matrix(&mut file, &name("shortconv.conv"), N_CONV, N_EMBD);
            matrix(&mut file, &name("shortconv.in_proj"), N_EMBD, 3 * N_EMBD);
            matrix(&mut file, &name("shortconv.out_proj"), N_EMBD, N_EMBD);
            continue;
        }
        norms(
            &mut file,
            layer,
            &[("attn_q_norm", HEAD), ("attn_k_norm", HEAD)],
        );
        attention(&mut file, layer, &["q", "k", "v", "output"]);
        matrix(&mut file, &name("attn_gate"), N_EMBD, N_HEAD);
    }
    file
}

/// DFlash with a LiLiCorr head: a draft with a vocabulary of its own, whose head has blocks
/// after the model's.
pub fn draft() -> GgufWriter {
    const N_DRAFT: u64 = 8;
    const N_BLOCK: u64 = 4;
    const HIDDEN: u64 = 32;
    const TOP_K: u64 = 2;
    const HEADS: u64 = 2;
    const MLP: u64 = 48;
    const FACTOR: u64 = 8;
    let mut file = start("dflash", &[("block_size", N_BLOCK as u32)]);
    file.arch("attention.layer_norm_rms_epsilon", Value::F32(1e-5))
        .arch("target_layers", Value::I32s(vec![0]));
    for (key, value) in [
        ("hidden_size", HIDDEN),
        ("candidate_topk", TOP_K),
        ("num_heads", HEADS),
        ("num_layers", 1),
        ("factor_dim", FACTOR),
        ("mlp_hidden_size", MLP),
    ] {
        file.u32(&format!("lilicorr.{key}"), value as u32);
    }
    file.f32("lilicorr.vector_eps", 1e-5)
        .f32("lilicorr.logit_scale", 1.0);

    file.values("d2t", &[N_DRAFT], I64, &[0.0; N_DRAFT as usize]);
    matrix(&mut file, "output.weight", N_EMBD, N_DRAFT);
    matrix(&mut file, "fc.weight", N_EMBD, N_EMBD);
    vector(&mut file, "enc.output_norm.weight", N_EMBD, 1.0);
    vector(&mut file, "output_norm.weight", N_EMBD, 1.0);
    for layer in 0..N_LAYER {
        norms(
            &mut file,
            layer,
            &[
                ("attn_norm", N_EMBD),
                ("attn_q_norm", HEAD),
                ("attn_k_norm", HEAD),
                ("ffn_norm", N_EMBD),
            ],
        );
        attention(&mut file, layer, &["q", "k", "v", "output"]);
        feed_forward(&mut file, layer);
    }

    let slots = N_BLOCK - 1;
    for (name, columns, rows) in [
        ("token_proj", N_EMBD, HIDDEN),
        ("pass_hidden_proj", N_EMBD, HIDDEN),
        ("context_proj", N_EMBD, HIDDEN),
        ("layers.0.attn.in_proj", HIDDEN, 3 * HIDDEN),
        ("factor_input_proj", 3 * HIDDEN, HIDDEN),
        ("out_head", HIDDEN, FACTOR),
        ("in_head", HIDDEN, FACTOR),
        ("anchor_out_head", HIDDEN, FACTOR),
    ] {
        biased(&mut file, &format!("lilicorr.{name}"), columns, rows);
    }
    matrix(&mut file, "lilicorr.slot_embedding.weight", HIDDEN, slots);
    matrix(&mut file, "lilicorr.rank_embedding.weight", HIDDEN, TOP_K);
    let bias = [slots * TOP_K, slots * TOP_K, HEADS];
    file.random("lilicorr.attention_bias.bias", &bias, F32, 0.1);
    vector(&mut file, "lilicorr.output_norm.weight", HIDDEN, 1.0);
    vector(&mut file, "lilicorr.anchor_norm.weight", HIDDEN, 1.0);
    let (head, features) = (N_LAYER, N_LAYER + 1);
    norms(
        &mut file,
        head,
        &[("attn_norm", HIDDEN), ("ffn_norm", HIDDEN)],
    );
    biased(
        &mut file,
        &format!("blk.{head}.attn_output"),
        HIDDEN,
        HIDDEN,
    );
    biased(&mut file, &format!("blk.{head}.ffn_up"), HIDDEN, MLP);
    biased(&mut file, &format!("blk.{head}.ffn_down"), MLP, HIDDEN);
    norms(&mut file, features, &[("ffn_norm", 5)]);
    vector(&mut file, &format!("blk.{features}.ffn_norm.bias"), 5, 0.0);
    biased(&mut file, &format!("blk.{features}.ffn_up"), 5, HIDDEN);
    biased(
        &mut file,
        &format!("blk.{features}.ffn_down"),
        HIDDEN,
        HIDDEN,
    );
    file
}

/// Maion Coder: each layer's experts have a size, a type and a number per token of their own.
pub fn uneven_experts() -> GgufWriter {
    const N_LAYER: u64 = 4;
    const N_EXPERT: u64 = 6;
    const N_LATENT: u64 = 32;
    const N_USED: [u32; 4] = [1, 3, 2, 3];
    const N_FF_EXP: [u32; 4] = [32, 64, 32, 64];
    let mut file = start(
        "maion-coder",
        &[
            ("block_count", N_LAYER as u32),
            ("attention.key_length", HEAD as u32),
            ("attention.value_length", HEAD as u32),
            ("attention.sliding_window", 64),
            ("rope.dimension_count", HEAD as u32),
            ("expert_count", N_EXPERT as u32),
            ("interleave_moe_layer_step", 1),
            ("moe_latent_size", N_LATENT as u32),
        ],
    );
    file.arch("attention.layer_norm_rms_epsilon", Value::F32(1e-5))
        .arch(
            "attention.sliding_window_pattern",
            Value::Bools(vec![true, false, true, false]),
        )
        .arch("expert_used_count", Value::U32s(N_USED.to_vec()))
        .arch("expert_feed_forward_length", Value::U32s(N_FF_EXP.to_vec()));
    vector(&mut file, "output_norm.weight", N_EMBD, 1.0);
    matrix(
        &mut file,
        "output.weight",
        N_EMBD,
        vocabulary().len() as u64,
    );
    for layer in 0..N_LAYER {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        norms(
            &mut file,
            layer,
            &[
                ("attn_norm", N_EMBD),
                ("attn_q_norm", HEAD),
                ("attn_k_norm", HEAD),
                ("post_attention_norm", N_EMBD),
                ("ffn_norm", N_EMBD),
                ("post_ffw_norm", N_EMBD),
            ],
        );
        attention(&mut file, layer, &["q", "k", "v", "output"]);
        matrix(&mut file, &name("ffn_gate_inp"), N_EMBD, N_EXPERT);
        matrix(&mut file, &name("ffn_latent_down"), N_EMBD, N_LATENT);
        matrix(&mut file, &name("ffn_latent_up"), N_LATENT, N_EMBD);
        let n_ff = u64::from(N_FF_EXP[layer as usize]);
        // The last layer has the sizes of the second, in another type.
        let kind = if layer == 3 { Q8_0 } else { F32 };
        let mut experts = |part: &str, columns: u64, rows: u64| {
            file.random(&name(part), &[columns, rows, N_EXPERT], kind, 0.2);
        };
        experts("ffn_gate_exps", N_LATENT, n_ff);
        experts("ffn_up_exps", N_LATENT, n_ff);
        experts("ffn_down_exps", n_ff, N_LATENT);
    }
    file
}
