//! The tensors of a shape: names and extents as llama.cpp's loader asks for them.

use super::hyper::{Family, HyperParams, Latent};
use super::quantise::tensor_type;

/// A tensor of a file.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    pub(super) name: String,
    /// As ggml's `ne`: the row's length first.
    pub(super) shape: Vec<u64>,
    /// `ggml_type`.
    pub(super) type_id: u32,
    pub(super) bytes: u64,
}

impl Tensor {
    /// Whether this chooses among experts by the hidden state.
    pub(super) fn is_router(&self) -> bool {
        self.shape.len() == 2 && self.name.ends_with(".ffn_gate_inp.weight")
    }
}

/// All tensors, in the order of a converted file.
pub(super) fn tensors(hyper: &HyperParams) -> Vec<Tensor> {
    let mut list = List {
        hyper,
        block: None,
        tensors: Vec::new(),
    };
    list.model();
    for block in 0..hyper.n_block() {
        list.block = Some(block);
        list.attention();
        list.norms();
        if block < hyper.n_layer_dense {
            list.feed_forward("", hyper.n_ff.into());
        } else {
            list.experts();
        }
        if block >= hyper.n_layer {
            list.prediction();
        }
    }
    list.tensors
}

struct List<'a> {
    hyper: &'a HyperParams,
    block: Option<u32>,
    tensors: Vec<Tensor>,
}

impl List<'_> {
    fn add(&mut self, name: &str, shape: &[u64]) {
        let kind = tensor_type(self.hyper, self.block, name, shape);
        self.tensors.push(Tensor {
            name: match self.block {
                Some(block) => format!("blk.{block}.{name}"),
                None => name.to_owned(),
            },
            shape: shape.to_vec(),
            type_id: kind.block().id,
            bytes: kind.bytes(shape),
        });
    }

    /// A vector for each of these parts: `weight`, `bias`.
    fn vector(&mut self, name: &str, parts: &[&str], n: u64) {
        for part in parts {
            self.add(&format!("{name}.{part}"), &[n]);
        }
    }

    fn n_embd(&self) -> u64 {
        self.hyper.n_embd.into()
    }

    /// What a norm has.
    fn norm_parts(&self) -> &'static [&'static str] {
        match self.hyper.family {
            Family::PhiMoe => &["weight", "bias"],
            _ => &["weight"],
        }
    }

    fn model(&mut self) {
        let n_embd = self.n_embd();
        let n_vocab = self.hyper.n_vocab.into();
        self.add("token_embd.weight", &[n_embd, n_vocab]);
        self.vector("output_norm", self.norm_parts(), n_embd);
        self.add("output.weight", &[n_embd, n_vocab]);
        if self.hyper.family == Family::PhiMoe {
            self.add("output.bias", &[n_vocab]);
            let n_rot = u64::from(self.hyper.n_embd_head);
            for name in ["rope_factors_long.weight", "rope_factors_short.weight"] {
                self.add(name, &[n_rot / 2]);
            }
        }
    }

    fn norms(&mut self) {
        let n_embd = self.n_embd();
        let before_ffn = match self.hyper.family {
            Family::GptOss | Family::Glm4Moe => "post_attention_norm",
            _ => "ffn_norm",
        };
        self.vector("attn_norm", self.norm_parts(), n_embd);
        self.vector(before_ffn, self.norm_parts(), n_embd);
    }

    fn attention(&mut self) {
        if let Some(latent) = self.hyper.latent {
            return self.latent_attention(latent);
        }
        let family = self.hyper.family;
        let n_embd = self.n_embd();
        let head = u64::from(self.hyper.n_embd_head);
        let n_q = u64::from(self.hyper.n_head) * head;
        let n_kv = u64::from(self.hyper.n_head_kv) * head;
        let has_bias = matches!(family, Family::GptOss | Family::Glm4Moe | Family::PhiMoe);
        for (name, n) in [("attn_q", n_q), ("attn_k", n_kv), ("attn_v", n_kv)] {
            self.add(&format!("{name}.weight"), &[n_embd, n]);
            if has_bias {
                self.add(&format!("{name}.bias"), &[n]);
            }
        }
        self.add("attn_output.weight", &[n_q, n_embd]);
        if matches!(family, Family::GptOss | Family::PhiMoe) {
            self.add("attn_output.bias", &[n_embd]);
        }
        if family == Family::GptOss {
            self.add("attn_sinks.weight", &[self.hyper.n_head.into()]);
        }
        if family == Family::Qwen3Moe {
            self.add("attn_q_norm.weight", &[head]);
            self.add("attn_k_norm.weight", &[head]);
        }
    }

    fn latent_attention(&mut self, latent: Latent) {
        let n_embd = self.n_embd();
        let n_head = u64::from(self.hyper.n_head);
        let [q_rank, kv_rank, nope, rope, value] = [
            latent.q_rank,
            latent.kv_rank,
            latent.nope,
            latent.rope,
            latent.value,
        ]
        .map(u64::from);
        let n_q = n_head * (nope + rope);
        if q_rank > 0 {
            self.add("attn_q_a.weight", &[n_embd, q_rank]);
            self.add("attn_q_a_norm.weight", &[q_rank]);
            self.add("attn_q_b.weight", &[q_rank, n_q]);
        } else {
            self.add("attn_q.weight", &[n_embd, n_q]);
        }
        self.add("attn_kv_a_mqa.weight", &[n_embd, kv_rank + rope]);
        self.add("attn_kv_a_norm.weight", &[kv_rank]);
        self.add("attn_k_b.weight", &[nope, kv_rank, n_head]);
        self.add("attn_v_b.weight", &[kv_rank, value, n_head]);
        self.add("attn_output.weight", &[n_head * value, n_embd]);
    }

    /// Up, gate and down of a dense layer, or with a suffix of its shared experts.
    fn feed_forward(&mut self, suffix: &str, n_ff: u64) {
        let n_embd = self.n_embd();
        self.add(&format!("ffn_gate{suffix}.weight"), &[n_embd, n_ff]);
        self.add(&format!("ffn_up{suffix}.weight"), &[n_embd, n_ff]);
        self.add(&format!("ffn_down{suffix}.weight"), &[n_ff, n_embd]);
    }

    fn experts(&mut self) {
        let hyper = self.hyper;
        let n_embd = self.n_embd();
        let n_expert = u64::from(hyper.n_expert);
        let n_ff = u64::from(hyper.n_ff_exp);
        self.add("ffn_gate_inp.weight", &[n_embd, n_expert]);
        if hyper.family == Family::GptOss {
            self.add("ffn_gate_inp.bias", &[n_expert]);
        }
        if hyper.routing.sigmoid {
            self.add("exp_probs_b.bias", &[n_expert]);
        }
        for (name, n_in, n_out) in [
            ("ffn_gate_exps", n_embd, n_ff),
            ("ffn_up_exps", n_embd, n_ff),
            ("ffn_down_exps", n_ff, n_embd),
        ] {
            self.add(&format!("{name}.weight"), &[n_in, n_out, n_expert]);
            if hyper.family == Family::GptOss {
                self.add(&format!("{name}.bias"), &[n_out, n_expert]);
            }
        }
        if hyper.n_expert_shared > 0 {
            self.feed_forward("_shexp", n_ff * u64::from(hyper.n_expert_shared));
        }
    }

    /// What a block that predicts further tokens has besides. Its embedding and output are
    /// those of the model again, as in published files.
    fn prediction(&mut self) {
        let n_embd = self.n_embd();
        let n_vocab = self.hyper.n_vocab.into();
        self.add("nextn.eh_proj.weight", &[2 * n_embd, n_embd]);
        self.add("nextn.embed_tokens.weight", &[n_embd, n_vocab]);
        self.add("nextn.enorm.weight", &[n_embd]);
        self.add("nextn.hnorm.weight", &[n_embd]);
        self.add("nextn.shared_head_head.weight", &[n_embd, n_vocab]);
        self.add("nextn.shared_head_norm.weight", &[n_embd]);
    }
}
