//! Tiny models with random weights, one for each way in which llama.cpp's
//! architectures lay out the tensors of a Mixture-of-Experts model.
//!
//! [`Layout::tensors`] is the one list from which the files are written and from
//! which the tests take what they expect; every tensor's part in the model is
//! stated there by hand, not found by a pattern.
//!
//! All models share one vocabulary ([`vocabulary`]) and small shapes: 64 wide,
//! four heads of 32, eight experts with two used. Weights are scaled so that
//! each layer changes the hidden state about as much as the embedding did, and
//! logits differ by several units. Greedy decoding answers in printable
//! characters, hardly repeats itself, and never ends by itself.

use std::path::Path;

use super::gguf::{GgufWriter, TensorType, Value};
use TensorType::{F16, F32, Mxfp4, Q4_0, Q8_0};

/// Width of the hidden state.
pub const N_EMBD: u64 = 64;
/// Routed experts of each MoE layer.
pub const N_EXPERT: u64 = 8;
/// Experts that each token is routed to.
pub const N_EXPERT_USED: u64 = 2;
/// The context that the models say they were trained for, in tokens.
pub const N_CTX_TRAIN: u32 = 512;

const EMBEDDING: &str = "token_embd.weight";
const N_HEAD: u64 = 4;
const N_HEAD_KV: u64 = 2;
const N_EMBD_HEAD: u64 = 32;
/// Rows of a dense FFN and of one expert.
const N_FF: u64 = 160;
const N_FF_EXP: u64 = 96;
/// Rows of the shared expert, where its size is a key of its own.
const N_FF_SHEXP: u64 = 64;
/// Experts of a group share one chunk expert (GroveMoE), which has so many rows.
const N_GROUP_EXPERTS: u64 = 2;
const N_FF_CHEXP: u64 = 32;
/// Ranks and head sizes of multi-head latent attention.
const N_LORA_Q: u64 = 32;
const N_LORA_KV: u64 = 64;
const N_EMBD_HEAD_ROPE: u64 = 16;
const N_EMBD_HEAD_NOPE: u64 = 32;
const N_EMBD_HEAD_V: u64 = 32;

/// llama.cpp's number for sigmoid routing.
const GATING_SIGMOID: u32 = 2;

/// A way of laying out a model's tensors, with the architecture that stands for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// qwen3moe: experts in every layer, in F16.
    Qwen3Moe,
    /// Mixtral: the llama architecture with `expert_count`, experts in Q4_0.
    Mixtral,
    /// gpt-oss: experts in MXFP4 with biases, a router with a bias.
    GptOss,
    /// deepseek2: latent attention, two dense leading layers, then experts in Q8_0
    /// with a shared expert and a selection bias.
    DeepSeek2,
    /// glm4moe: one dense leading layer, shared experts, a selection bias, and a
    /// multi-token prediction block, with experts of its own, behind the last layer.
    Glm4Moe,
    /// hy_v3: one dense leading layer; gate and up of an expert are one tensor, down
    /// has a scale for each expert; a shared expert, a selection bias without suffix.
    FusedGateUp,
    /// grovemoe: chunk experts (`chexps`) beside the experts.
    GroveMoe,
    /// granitemoe: experts in F32 and a shared expert.
    GraniteMoe,
    /// The llama architecture without experts.
    Dense,
}

/// The part a tensor plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Belongs to the routed experts: what "experts on the CPU" moves.
    Expert,
    /// Chooses among the experts: the router, its bias, the selection bias.
    Router,
    /// The expert that every token goes through.
    SharedExpert,
    /// Up, gate and down of a layer without experts.
    DenseFfn,
    /// Embedding, attention, norms, output, and what else prediction blocks have.
    Other,
}

/// One tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    pub name: String,
    /// As ggml's `ne`: the row's length first.
    pub shape: Vec<u64>,
    pub kind: TensorType,
    pub role: Role,
    /// The block it belongs to; none for embedding and output.
    pub layer: Option<u32>,
}

impl Tensor {
    /// Bytes of its data.
    pub fn bytes(&self) -> u64 {
        self.kind.bytes(&self.shape)
    }
}

impl Layout {
    pub const ALL: [Layout; 9] = [
        Layout::Qwen3Moe,
        Layout::Mixtral,
        Layout::GptOss,
        Layout::DeepSeek2,
        Layout::Glm4Moe,
        Layout::FusedGateUp,
        Layout::GroveMoe,
        Layout::GraniteMoe,
        Layout::Dense,
    ];

    /// The architecture's name in the file.
    pub fn arch(self) -> &'static str {
        match self {
            Layout::Qwen3Moe => "qwen3moe",
            Layout::Mixtral | Layout::Dense => "llama",
            Layout::GptOss => "gpt-oss",
            Layout::DeepSeek2 => "deepseek2",
            Layout::Glm4Moe => "glm4moe",
            Layout::FusedGateUp => "hy_v3",
            Layout::GroveMoe => "grovemoe",
            Layout::GraniteMoe => "granitemoe",
        }
    }

    /// Layers that are run, as `llama_model_n_layer` counts them: prediction blocks
    /// are not among them.
    pub fn n_layer(self) -> u32 {
        if self == Layout::DeepSeek2 { 6 } else { 4 }
    }

    /// Multi-token prediction blocks behind the last layer, which llama.cpp leaves
    /// out unless `load_mtp` is set.
    pub fn n_layer_nextn(self) -> u32 {
        u32::from(self == Layout::Glm4Moe)
    }

    /// All blocks of the file: its `block_count`.
    pub fn n_block(self) -> u32 {
        self.n_layer() + self.n_layer_nextn()
    }

    /// Dense layers before the first MoE layer.
    fn n_layer_dense_lead(self) -> u32 {
        match self {
            Layout::DeepSeek2 => 2,
            Layout::Glm4Moe | Layout::FusedGateUp => 1,
            Layout::Dense => self.n_layer(),
            _ => 0,
        }
    }

    /// The layers with experts, prediction blocks left out.
    pub fn moe_layers(self) -> Vec<u32> {
        (self.n_layer_dense_lead()..self.n_layer()).collect()
    }

    pub fn is_moe(self) -> bool {
        self != Layout::Dense
    }

    /// How the experts' matrices are stored.
    pub fn expert_type(self) -> TensorType {
        match self {
            Layout::Mixtral => Q4_0,
            Layout::GptOss => Mxfp4,
            Layout::DeepSeek2 => Q8_0,
            Layout::GraniteMoe => F32,
            _ => F16,
        }
    }

    /// Name and bytes of every tensor of the routed experts that is loaded by
    /// default, in the file's order.
    pub fn expert_tensors(self) -> Vec<(String, u64)> {
        let tensors = self.loaded_tensors().into_iter();
        sized(tensors.filter(|tensor| tensor.role == Role::Expert))
    }

    /// The same for prediction blocks: loaded only if `load_mtp` is set.
    pub fn mtp_expert_tensors(self) -> Vec<(String, u64)> {
        let tensors = self.tensors().into_iter();
        let tensors = tensors.filter(|tensor| tensor.layer >= Some(self.n_layer()));
        sized(tensors.filter(|tensor| tensor.role == Role::Expert))
    }

    /// Name and bytes of up, gate and down of the layers without experts.
    pub fn dense_ffn_tensors(self) -> Vec<(String, u64)> {
        let tensors = self.tensors().into_iter();
        sized(tensors.filter(|tensor| tensor.role == Role::DenseFfn))
    }

    /// The names of what stands among the experts and must stay where the layer is:
    /// routers, their biases, shared experts.
    pub fn stay(self) -> Vec<String> {
        let tensors = self.loaded_tensors().into_iter();
        tensors
            .filter(|tensor| matches!(tensor.role, Role::Router | Role::SharedExpert))
            .map(|tensor| tensor.name)
            .collect()
    }

    /// The tensors that llama.cpp loads by default: all but those of prediction blocks.
    pub fn loaded_tensors(self) -> Vec<Tensor> {
        let mut tensors = self.tensors();
        tensors.retain(|tensor| tensor.layer < Some(self.n_layer()));
        tensors
    }

    /// All tensors of the file, in its order.
    pub fn tensors(self) -> Vec<Tensor> {
        let mut list = List::default();
        let n_vocab = vocabulary().len() as u64;
        list.add(Role::Other, EMBEDDING, &[N_EMBD, n_vocab], F16);
        list.add(Role::Other, "output_norm.weight", &[N_EMBD], F32);
        list.add(Role::Other, "output.weight", &[N_EMBD, n_vocab], F16);
        for layer in 0..self.n_block() {
            list.layer = Some(layer);
            self.attention(&mut list);
            if layer < self.n_layer_dense_lead() {
                list.add(Role::DenseFfn, "ffn_gate.weight", &[N_EMBD, N_FF], F16);
                list.add(Role::DenseFfn, "ffn_up.weight", &[N_EMBD, N_FF], F16);
                list.add(Role::DenseFfn, "ffn_down.weight", &[N_FF, N_EMBD], F16);
            } else {
                self.router(&mut list);
                self.experts(&mut list);
                self.shared_experts(&mut list);
            }
            if layer >= self.n_layer() {
                let name = "nextn.eh_proj.weight";
                list.add(Role::Other, name, &[2 * N_EMBD, N_EMBD], F16);
                list.add(Role::Other, "nextn.enorm.weight", &[N_EMBD], F32);
                list.add(Role::Other, "nextn.hnorm.weight", &[N_EMBD], F32);
                list.add(Role::Other, "nextn.shared_head_norm.weight", &[N_EMBD], F32);
            }
        }
        list.tensors
    }

    fn attention(self, list: &mut List) {
        const N_Q: u64 = N_HEAD * N_EMBD_HEAD;
        const N_KV: u64 = N_HEAD_KV * N_EMBD_HEAD;
        let mut add = |name: &str, shape: &[u64], kind| list.add(Role::Other, name, shape, kind);
        add("attn_norm.weight", &[N_EMBD], F32);
        if self == Layout::DeepSeek2 {
            let n_qk = N_EMBD_HEAD_NOPE + N_EMBD_HEAD_ROPE;
            add("attn_q_a.weight", &[N_EMBD, N_LORA_Q], F16);
            add("attn_q_a_norm.weight", &[N_LORA_Q], F32);
            add("attn_q_b.weight", &[N_LORA_Q, N_HEAD * n_qk], F16);
            add(
                "attn_kv_a_mqa.weight",
                &[N_EMBD, N_LORA_KV + N_EMBD_HEAD_ROPE],
                F16,
            );
            add("attn_kv_a_norm.weight", &[N_LORA_KV], F32);
            add(
                "attn_k_b.weight",
                &[N_EMBD_HEAD_NOPE, N_LORA_KV, N_HEAD],
                F16,
            );
            add("attn_v_b.weight", &[N_LORA_KV, N_EMBD_HEAD_V, N_HEAD], F16);
            add("attn_output.weight", &[N_HEAD * N_EMBD_HEAD_V, N_EMBD], F16);
            add("ffn_norm.weight", &[N_EMBD], F32);
            return;
        }
        add("attn_q.weight", &[N_EMBD, N_Q], F16);
        add("attn_k.weight", &[N_EMBD, N_KV], F16);
        add("attn_v.weight", &[N_EMBD, N_KV], F16);
        if matches!(self, Layout::GptOss | Layout::Glm4Moe) {
            add("attn_q.bias", &[N_Q], F32);
            add("attn_k.bias", &[N_KV], F32);
            add("attn_v.bias", &[N_KV], F32);
        }
        if matches!(
            self,
            Layout::Qwen3Moe | Layout::FusedGateUp | Layout::GroveMoe
        ) {
            add("attn_q_norm.weight", &[N_EMBD_HEAD], F32);
            add("attn_k_norm.weight", &[N_EMBD_HEAD], F32);
        }
        add("attn_output.weight", &[N_Q, N_EMBD], F16);
        if self == Layout::GptOss {
            add("attn_output.bias", &[N_EMBD], F32);
            add("attn_sinks.weight", &[N_HEAD], F32);
        }
        if matches!(self, Layout::GptOss | Layout::Glm4Moe) {
            add("post_attention_norm.weight", &[N_EMBD], F32);
        } else {
            add("ffn_norm.weight", &[N_EMBD], F32);
        }
    }

    fn router(self, list: &mut List) {
        let mut add = |name: &str, shape: &[u64]| list.add(Role::Router, name, shape, F32);
        add("ffn_gate_inp.weight", &[N_EMBD, N_EXPERT]);
        match self {
            Layout::GptOss => add("ffn_gate_inp.bias", &[N_EXPERT]),
            Layout::DeepSeek2 | Layout::Glm4Moe => add("exp_probs_b.bias", &[N_EXPERT]),
            Layout::FusedGateUp => add("exp_probs_b", &[N_EXPERT]),
            _ => (),
        }
    }

    fn experts(self, list: &mut List) {
        const N_CHUNK_EXPERT: u64 = N_EXPERT / N_GROUP_EXPERTS;
        let mut add = |name: &str, shape: &[u64], kind| list.add(Role::Expert, name, shape, kind);
        let kind = self.expert_type();
        if self == Layout::FusedGateUp {
            add(
                "ffn_gate_up_exps.weight",
                &[N_EMBD, 2 * N_FF_EXP, N_EXPERT],
                kind,
            );
        } else {
            add("ffn_gate_exps.weight", &[N_EMBD, N_FF_EXP, N_EXPERT], kind);
            add("ffn_up_exps.weight", &[N_EMBD, N_FF_EXP, N_EXPERT], kind);
        }
        add("ffn_down_exps.weight", &[N_FF_EXP, N_EMBD, N_EXPERT], kind);
        match self {
            Layout::GptOss => {
                add("ffn_gate_exps.bias", &[N_FF_EXP, N_EXPERT], F32);
                add("ffn_up_exps.bias", &[N_FF_EXP, N_EXPERT], F32);
                add("ffn_down_exps.bias", &[N_EMBD, N_EXPERT], F32);
            }
            Layout::FusedGateUp => add("ffn_down_exps.scale", &[N_EXPERT], F32),
            Layout::GroveMoe => {
                add(
                    "ffn_gate_chexps.weight",
                    &[N_EMBD, N_FF_CHEXP, N_CHUNK_EXPERT],
                    kind,
                );
                add(
                    "ffn_up_chexps.weight",
                    &[N_EMBD, N_FF_CHEXP, N_CHUNK_EXPERT],
                    kind,
                );
                add(
                    "ffn_down_chexps.weight",
                    &[N_FF_CHEXP, N_EMBD, N_CHUNK_EXPERT],
                    kind,
                );
            }
            _ => (),
        }
    }

    fn shared_experts(self, list: &mut List) {
        let n_ff = match self {
            Layout::DeepSeek2 | Layout::Glm4Moe => N_FF_EXP,
            Layout::FusedGateUp | Layout::GraniteMoe => N_FF_SHEXP,
            _ => return,
        };
        list.add(
            Role::SharedExpert,
            "ffn_gate_shexp.weight",
            &[N_EMBD, n_ff],
            F16,
        );
        list.add(
            Role::SharedExpert,
            "ffn_up_shexp.weight",
            &[N_EMBD, n_ff],
            F16,
        );
        list.add(
            Role::SharedExpert,
            "ffn_down_shexp.weight",
            &[n_ff, N_EMBD],
            F16,
        );
    }

    /// The complete model, to be written as it is or changed first.
    pub fn writer(self) -> GgufWriter {
        self.writer_as(self.arch())
    }

    /// The same for another architecture that has these tensors.
    pub fn writer_as(self, arch: &str) -> GgufWriter {
        let mut file = GgufWriter::new(arch);
        file.string("general.name", &format!("{self:?}"));
        self.hyperparameters(&mut file);
        write_vocabulary(&mut file);
        for tensor in self.tensors() {
            write_tensor(&mut file, &tensor);
        }
        file
    }

    /// Writes the model.
    pub fn write(self, path: &Path) {
        self.writer().write(path);
    }

    /// Writes the model with a chat template.
    pub fn write_chat(self, path: &Path, template: &str) {
        let mut file = self.writer();
        file.string("tokenizer.chat_template", template).write(path);
    }

    /// A LoRA adapter of rank 4 on the query projection of every layer, strong enough
    /// to change logits by several units.
    ///
    /// # Panics
    /// For latent attention, which has no such tensor.
    pub fn lora(self) -> GgufWriter {
        const RANK: u64 = 4;
        let mut file = GgufWriter::new(self.arch());
        file.string("general.type", "adapter")
            .string("adapter.type", "lora")
            .f32("adapter.lora.alpha", 2.0 * RANK as f32);
        let mut tensors = self.loaded_tensors();
        tensors.retain(|tensor| tensor.name.ends_with(".attn_q.weight"));
        assert!(!tensors.is_empty(), "{self:?} has no attn_q");
        for Tensor { name, shape, .. } in tensors {
            let deviation = 1.0 / (shape[0] as f32).sqrt();
            file.random(&format!("{name}.lora_a"), &[shape[0], RANK], F32, deviation);
            file.random(&format!("{name}.lora_b"), &[RANK, shape[1]], F32, 1.0);
        }
        file
    }

    fn hyperparameters(self, file: &mut GgufWriter) {
        let n_ff = match self {
            // The key is the experts' size here, or would be divided by their number.
            Layout::Mixtral | Layout::GraniteMoe => N_FF_EXP,
            _ => N_FF,
        };
        let mut set = |key: &str, value: u64| {
            let value = u32::try_from(value).expect("small models");
            file.arch(key, Value::U32(value));
        };
        set("block_count", self.n_block().into());
        set("context_length", N_CTX_TRAIN.into());
        set("embedding_length", N_EMBD);
        set("feed_forward_length", n_ff);
        set("attention.head_count", N_HEAD);
        if self == Layout::DeepSeek2 {
            // The cache holds one head, the latent vector with the rotated part behind it.
            set("attention.head_count_kv", 1);
            set("attention.key_length", N_LORA_KV + N_EMBD_HEAD_ROPE);
            set("attention.value_length", N_LORA_KV);
            set(
                "attention.key_length_mla",
                N_EMBD_HEAD_NOPE + N_EMBD_HEAD_ROPE,
            );
            set("attention.value_length_mla", N_EMBD_HEAD_V);
            set("attention.q_lora_rank", N_LORA_Q);
            set("attention.kv_lora_rank", N_LORA_KV);
            set("rope.dimension_count", N_EMBD_HEAD_ROPE);
        } else {
            set("attention.head_count_kv", N_HEAD_KV);
            set("attention.key_length", N_EMBD_HEAD);
            set("attention.value_length", N_EMBD_HEAD);
            set("rope.dimension_count", N_EMBD_HEAD);
        }
        if self.is_moe() {
            set("expert_count", N_EXPERT);
            set("expert_used_count", N_EXPERT_USED);
            if n_ff != N_FF_EXP {
                set("expert_feed_forward_length", N_FF_EXP);
            }
        }
        match self {
            Layout::GptOss => set("attention.sliding_window", 128),
            Layout::DeepSeek2 | Layout::Glm4Moe => {
                set(
                    "leading_dense_block_count",
                    self.n_layer_dense_lead().into(),
                );
                set("expert_shared_count", 1);
                set("expert_gating_func", GATING_SIGMOID.into());
            }
            Layout::FusedGateUp | Layout::GraniteMoe => {
                set("expert_shared_feed_forward_length", N_FF_SHEXP);
            }
            Layout::GroveMoe => {
                set("expert_chunk_feed_forward_length", N_FF_CHEXP);
                set("experts_per_group", N_GROUP_EXPERTS);
            }
            _ => (),
        }
        if self.n_layer_nextn() > 0 {
            set("nextn_predict_layers", self.n_layer_nextn().into());
        }
        file.arch("attention.layer_norm_rms_epsilon", Value::F32(1e-6));
        file.arch("rope.freq_base", Value::F32(10_000.0));
        match self {
            Layout::DeepSeek2 | Layout::Glm4Moe | Layout::FusedGateUp => {
                file.arch("expert_weights_norm", Value::Bool(true));
                file.arch("expert_weights_scale", Value::F32(1.5));
            }
            Layout::GroveMoe => {
                file.arch("expert_group_scale", Value::F32(0.5));
            }
            Layout::GraniteMoe => {
                file.arch("logit_scale", Value::F32(1.25));
                file.arch("residual_scale", Value::F32(0.8));
                file.arch("embedding_scale", Value::F32(0.8));
                file.arch("attention.scale", Value::F32(0.2));
            }
            _ => (),
        }
    }
}

fn sized(tensors: impl Iterator<Item = Tensor>) -> Vec<(String, u64)> {
    tensors
        .map(|tensor| (tensor.name.clone(), tensor.bytes()))
        .collect()
}

/// Tensors of one file; those added while `layer` is set are named after it.
#[derive(Default)]
struct List {
    tensors: Vec<Tensor>,
    layer: Option<u32>,
}

impl List {
    fn add(&mut self, role: Role, name: &str, shape: &[u64], kind: TensorType) {
        let name = match self.layer {
            Some(layer) => format!("blk.{layer}.{name}"),
            None => name.to_owned(),
        };
        self.tensors.push(Tensor {
            name,
            shape: shape.to_vec(),
            kind,
            role,
            layer: self.layer,
        });
    }
}

fn write_tensor(file: &mut GgufWriter, tensor: &Tensor) {
    let Tensor {
        name, shape, kind, ..
    } = tensor;
    let elements = shape.iter().product();
    if name.contains("norm") || name.ends_with(".scale") {
        let mut values = file.noise(name, elements, 0.1);
        values.iter_mut().for_each(|value| *value += 1.0);
        file.values(name, shape, *kind, &values);
    } else if name == "output.weight" {
        file.values(name, shape, *kind, &output_rows(file));
    } else {
        let deviation = if name == EMBEDDING {
            // Less than what the layers add, so that they have their say.
            0.7
        } else if shape.len() == 1 || name.ends_with(".bias") {
            0.2
        } else if tensor.role == Role::Router {
            2.0 / (shape[0] as f32).sqrt()
        } else {
            1.0 / (shape[0] as f32).sqrt()
        };
        file.random(name, shape, *kind, deviation);
    }
}

/// The output matrix: a token's row is the embedding of the token before it in the
/// vocabulary, so that answers walk through the vocabulary, now and then pushed
/// elsewhere by the layers, where unrelated rows would soon repeat one token. The rows
/// of control and byte tokens are nearly zero.
fn output_rows(file: &GgufWriter) -> Vec<f32> {
    let tokens = vocabulary();
    let row_length = N_EMBD as usize;
    let elements = tokens.len() as u64 * N_EMBD;
    let embedding = file.noise(EMBEDDING, elements, 4.0 / (N_EMBD as f32).sqrt());
    let noise = file.noise("output.weight", elements, 0.2 / (N_EMBD as f32).sqrt());
    let normal = tokens
        .iter()
        .position(|token| token.kind == TokenKind::Normal);
    let normal = normal.expect("tokens of text") * row_length;
    let (before, last) = embedding.split_at(embedding.len() - row_length);
    let rows = [&noise[..normal], last, &before[normal..]];
    rows.concat()
}

/// How the vocabulary counts a token (`llama_token_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenKind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    Unused = 5,
    Byte = 6,
}

/// One entry of the vocabulary; its place is its id.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    pub text: String,
    pub score: f32,
    pub kind: TokenKind,
}

pub const TOKEN_UNKNOWN: i32 = 0;
pub const TOKEN_BOS: i32 = 1;
pub const TOKEN_EOS: i32 = 2;
/// `<|im_start|>`, a control token.
pub const TOKEN_IM_START: i32 = 3;
/// `<|im_end|>`, a control token and an end of generation.
pub const TOKEN_IM_END: i32 = 4;
/// The token of byte 0; the other bytes follow it.
pub const TOKEN_BYTE: i32 = 5;

/// Every word has all its beginnings as tokens too, so that merges reach it.
const WORDS: [&str; 8] = [
    "the", "expert", "layer", "router", "memory", "token", "on", "CPU",
];

/// A ChatML-like template, as models carry it under `tokenizer.chat_template`.
pub const CHAT_TEMPLATE: &str = "{% for message in messages %}\
    <|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n\
    {% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// The SentencePiece vocabulary of all models: specials, the 256 bytes, the
/// printable ASCII characters and a few words. Everything else is spelt in bytes.
pub fn vocabulary() -> Vec<Token> {
    let token = |text: &str, score: f32, kind: TokenKind| Token {
        text: text.to_owned(),
        score,
        kind,
    };
    let mut tokens = vec![
        token("<unk>", 0.0, TokenKind::Unknown),
        token("<s>", 0.0, TokenKind::Control),
        token("</s>", 0.0, TokenKind::Control),
        token("<|im_start|>", 0.0, TokenKind::Control),
        token("<|im_end|>", 0.0, TokenKind::Control),
    ];
    tokens.extend((0..=255).map(|byte| token(&format!("<0x{byte:02X}>"), 0.0, TokenKind::Byte)));
    let mut pieces: Vec<String> = Vec::new();
    for word in WORDS {
        let word = format!("\u{2581}{word}");
        for (end, character) in word.char_indices() {
            let piece = &word[..end + character.len_utf8()];
            if !pieces.iter().any(|known| known == piece) {
                pieces.push(piece.to_owned());
            }
        }
    }
    for (rank, piece) in pieces.iter().enumerate() {
        tokens.push(token(piece, -(rank as f32), TokenKind::Normal));
    }
    for character in '!'..='~' {
        tokens.push(token(&character.to_string(), -100.0, TokenKind::Normal));
    }
    tokens
}

/// Writes the vocabulary that all models share.
pub fn write_vocabulary(file: &mut GgufWriter) {
    let tokens = vocabulary();
    let texts: Vec<&str> = tokens.iter().map(|token| token.text.as_str()).collect();
    let scores: Vec<f32> = tokens.iter().map(|token| token.score).collect();
    let kinds: Vec<i32> = tokens.iter().map(|token| token.kind as i32).collect();
    file.string("tokenizer.ggml.model", "llama")
        .strings("tokenizer.ggml.tokens", &texts)
        .f32s("tokenizer.ggml.scores", &scores)
        .i32s("tokenizer.ggml.token_type", &kinds);
    for (key, id) in [
        ("unknown", TOKEN_UNKNOWN),
        ("bos", TOKEN_BOS),
        ("eos", TOKEN_EOS),
        ("eot", TOKEN_IM_END),
    ] {
        file.u32(&format!("tokenizer.ggml.{key}_token_id"), id as u32);
    }
}

/// The vocabulary and the metadata of [`Layout::Dense`] without a single tensor: fit
/// for `vocab_only`, not for a context.
pub fn vocabulary_only() -> GgufWriter {
    let mut file = GgufWriter::new(Layout::Dense.arch());
    file.string("general.name", "vocabulary");
    Layout::Dense.hyperparameters(&mut file);
    write_vocabulary(&mut file);
    file
}
