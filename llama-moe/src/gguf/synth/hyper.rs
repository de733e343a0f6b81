//! The numbers that make a model's shape.

use super::named::NamedShape;
use super::vocab;
use super::weight_type::WeightType;
use crate::gguf::Value;

/// The ways in which llama.cpp's architectures lay out the named models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    GptOss,
    Qwen3Moe,
    PhiMoe,
    DeepSeek2,
    Glm4Moe,
    Mixtral,
}

impl Family {
    /// llama.cpp's name of the architecture.
    pub(super) fn architecture(self) -> &'static str {
        match self {
            Self::GptOss => "gpt-oss",
            Self::Qwen3Moe => "qwen3moe",
            Self::PhiMoe => "phimoe",
            Self::DeepSeek2 => "deepseek2",
            Self::Glm4Moe => "glm4moe",
            Self::Mixtral => "llama",
        }
    }
}

/// Multi-head latent attention (MLA): ranks, and the sizes of one head's parts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Latent {
    /// 0 where queries are not compressed.
    pub(super) q_rank: u32,
    pub(super) kv_rank: u32,
    /// Of a key, without and with its position.
    pub(super) nope: u32,
    pub(super) rope: u32,
    pub(super) value: u32,
}

/// How experts are chosen and weighted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Routing {
    /// Sigmoid with a bias for the choice alone, instead of softmax.
    pub(super) sigmoid: bool,
    /// Experts stand in so many groups, of which so many are used.
    pub(super) groups: Option<(u32, u32)>,
    pub(super) normalised: bool,
    pub(super) scale: f32,
}

/// The hyper-parameters of a shape, named as llama.cpp does.
#[derive(Clone, Debug)]
pub(super) struct HyperParams {
    pub(super) family: Family,
    pub(super) n_ctx_train: u32,
    pub(super) n_vocab: u32,
    pub(super) n_embd: u32,
    /// Layers that are run: blocks that predict further tokens are not among them.
    pub(super) n_layer: u32,
    pub(super) n_layer_mtp: u32,
    pub(super) n_layer_dense: u32,
    pub(super) n_head: u32,
    pub(super) n_head_kv: u32,
    pub(super) n_embd_head: u32,
    pub(super) latent: Option<Latent>,
    /// Of a dense layer; where there is none, what the model's own configuration says.
    pub(super) n_ff: u32,
    pub(super) n_ff_exp: u32,
    pub(super) n_expert: u32,
    pub(super) n_expert_used: u32,
    pub(super) n_expert_shared: u32,
    pub(super) routing: Routing,
    pub(super) rope_freq_base: f32,
    pub(super) norm_rms_eps: f32,
    /// Of all matrices that a quantisation would shrink, in place of the usual mixture.
    pub(super) weight_type: Option<WeightType>,
}

const SOFTMAX: Routing = Routing {
    sigmoid: false,
    groups: None,
    normalised: true,
    scale: 1.0,
};

const SIGMOID: Routing = Routing {
    sigmoid: true,
    ..SOFTMAX
};

const LATENT: Latent = Latent {
    q_rank: 0,
    kv_rank: 512,
    nope: 128,
    rope: 64,
    value: 128,
};

impl HyperParams {
    pub(super) fn of(shape: NamedShape) -> Self {
        match shape {
            NamedShape::GptOss20b => Self::gpt_oss(24, 32),
            NamedShape::GptOss120b => Self::gpt_oss(36, 128),
            NamedShape::Qwen3_30bA3b => Self {
                n_embd: 2048,
                n_layer: 48,
                n_head: 32,
                n_ff: 6144,
                n_ff_exp: 768,
                ..Self::qwen3()
            },
            NamedShape::Qwen3_235bA22b => Self {
                n_embd: 4096,
                n_layer: 94,
                n_head: 64,
                n_ff: 12_288,
                n_ff_exp: 1536,
                ..Self::qwen3()
            },
            NamedShape::Phi35Moe => Self {
                family: Family::PhiMoe,
                n_ctx_train: 131_072,
                n_vocab: 32_064,
                n_ff: 6400,
                n_ff_exp: 6400,
                n_expert: 16,
                rope_freq_base: 10_000.0,
                ..Self::mixtral()
            },
            NamedShape::DeepSeekV2Lite => Self {
                n_vocab: 102_400,
                n_embd: 2048,
                n_layer: 27,
                n_layer_dense: 1,
                n_head: 16,
                latent: Some(LATENT),
                n_ff: 10_944,
                n_ff_exp: 1408,
                n_expert: 64,
                n_expert_used: 6,
                n_expert_shared: 2,
                routing: Routing {
                    normalised: false,
                    ..SOFTMAX
                },
                ..Self::deepseek2()
            },
            NamedShape::DeepSeekV3 => Self::deepseek2(),
            NamedShape::Glm45Air => Self {
                family: Family::Glm4Moe,
                n_ctx_train: 131_072,
                n_vocab: 151_552,
                n_embd: 4096,
                n_layer: 46,
                n_layer_mtp: 1,
                n_layer_dense: 1,
                n_head: 96,
                n_head_kv: 8,
                n_embd_head: 128,
                latent: None,
                n_ff: 10_944,
                n_ff_exp: 1408,
                n_expert: 128,
                n_expert_used: 8,
                n_expert_shared: 1,
                routing: SIGMOID,
                rope_freq_base: 1e6,
                norm_rms_eps: 1e-5,
                weight_type: None,
            },
            NamedShape::Mixtral8x7b => Self::mixtral(),
        }
    }

    fn gpt_oss(n_layer: u32, n_expert: u32) -> Self {
        Self {
            family: Family::GptOss,
            n_ctx_train: 131_072,
            n_vocab: 201_088,
            n_embd: 2880,
            n_layer,
            n_layer_mtp: 0,
            n_layer_dense: 0,
            n_head: 64,
            n_head_kv: 8,
            n_embd_head: 64,
            latent: None,
            n_ff: 2880,
            n_ff_exp: 2880,
            n_expert,
            n_expert_used: 4,
            n_expert_shared: 0,
            routing: SOFTMAX,
            rope_freq_base: 150_000.0,
            norm_rms_eps: 1e-5,
            weight_type: None,
        }
    }

    /// What the two sizes of Qwen3 share, on the way to either.
    fn qwen3() -> Self {
        Self {
            family: Family::Qwen3Moe,
            n_ctx_train: 40_960,
            n_vocab: 151_936,
            n_head_kv: 4,
            n_embd_head: 128,
            n_expert: 128,
            n_expert_used: 8,
            rope_freq_base: 1e6,
            norm_rms_eps: 1e-6,
            weight_type: None,
            ..Self::mixtral()
        }
    }

    fn deepseek2() -> Self {
        Self {
            family: Family::DeepSeek2,
            n_ctx_train: 163_840,
            n_vocab: 129_280,
            n_embd: 7168,
            n_layer: 61,
            n_layer_mtp: 0,
            n_layer_dense: 3,
            n_head: 128,
            // The compressed cache is one head that all share.
            n_head_kv: 1,
            n_embd_head: LATENT.nope + LATENT.rope,
            latent: Some(Latent {
                q_rank: 1536,
                ..LATENT
            }),
            n_ff: 18_432,
            n_ff_exp: 2048,
            n_expert: 256,
            n_expert_used: 8,
            n_expert_shared: 1,
            routing: Routing {
                groups: Some((8, 4)),
                scale: 2.5,
                ..SIGMOID
            },
            rope_freq_base: 10_000.0,
            norm_rms_eps: 1e-6,
            weight_type: None,
        }
    }

    fn mixtral() -> Self {
        Self {
            family: Family::Mixtral,
            n_ctx_train: 32_768,
            n_vocab: 32_000,
            n_embd: 4096,
            n_layer: 32,
            n_layer_mtp: 0,
            n_layer_dense: 0,
            n_head: 32,
            n_head_kv: 8,
            n_embd_head: 128,
            latent: None,
            n_ff: 14_336,
            n_ff_exp: 14_336,
            n_expert: 8,
            n_expert_used: 2,
            n_expert_shared: 0,
            routing: SOFTMAX,
            rope_freq_base: 1e6,
            norm_rms_eps: 1e-5,
            weight_type: None,
        }
    }

    /// All blocks of the file: `block_count`.
    pub(super) fn n_block(&self) -> u32 {
        self.n_layer + self.n_layer_mtp
    }

    /// The metadata of a file that is called `name`.
    pub(super) fn metadata(&self, name: &str) -> Vec<(String, Value)> {
        let file_type = match (self.weight_type, self.family) {
            (Some(kind), _) => kind.file_type(),
            (None, Family::GptOss) => FTYPE_MXFP4_MOE,
            (None, _) => FTYPE_Q4_K_M,
        };
        let mut keys = vec![
            text("general.architecture", self.family.architecture()),
            text("general.type", "model"),
            text("general.name", name),
            ("general.file_type".to_owned(), Value::U32(file_type)),
            ("general.quantization_version".to_owned(), Value::U32(2)),
        ];
        let own = self.own_keys().into_iter().chain(self.rope_keys());
        let architecture = self.family.architecture();
        keys.extend(own.map(|(key, value)| (format!("{architecture}.{key}"), value)));
        keys.extend(vocab::metadata(self.n_vocab));
        keys
    }

    /// The architecture's own keys, without its name.
    fn own_keys(&self) -> Vec<(&'static str, Value)> {
        let mut keys = vec![
            ("vocab_size", Value::U32(self.n_vocab)),
            ("context_length", Value::U32(self.n_ctx_train)),
            ("embedding_length", Value::U32(self.n_embd)),
            ("block_count", Value::U32(self.n_block())),
            ("feed_forward_length", Value::U32(self.n_ff)),
            ("attention.head_count", Value::U32(self.n_head)),
            ("attention.head_count_kv", Value::U32(self.n_head_kv)),
            (
                "attention.layer_norm_rms_epsilon",
                Value::F32(self.norm_rms_eps),
            ),
            ("expert_count", Value::U32(self.n_expert)),
            ("expert_used_count", Value::U32(self.n_expert_used)),
        ];
        if let Some(latent) = self.latent {
            keys.extend([
                ("attention.q_lora_rank", Value::U32(latent.q_rank)),
                ("attention.kv_lora_rank", Value::U32(latent.kv_rank)),
                (
                    "attention.key_length",
                    Value::U32(latent.kv_rank + latent.rope),
                ),
                ("attention.value_length", Value::U32(latent.kv_rank)),
                (
                    "attention.key_length_mla",
                    Value::U32(latent.nope + latent.rope),
                ),
                ("attention.value_length_mla", Value::U32(latent.value)),
            ]);
        } else {
            keys.extend([
                ("attention.key_length", Value::U32(self.n_embd_head)),
                ("attention.value_length", Value::U32(self.n_embd_head)),
            ]);
        }
        if !matches!(self.family, Family::Mixtral | Family::PhiMoe) {
            keys.push(("expert_feed_forward_length", Value::U32(self.n_ff_exp)));
        }
        if matches!(self.family, Family::DeepSeek2 | Family::Glm4Moe) {
            let gating = if self.routing.sigmoid { 2 } else { 1 };
            keys.extend([
                ("leading_dense_block_count", Value::U32(self.n_layer_dense)),
                ("expert_shared_count", Value::U32(self.n_expert_shared)),
                ("expert_gating_func", Value::U32(gating)),
                ("expert_weights_norm", Value::Bool(self.routing.normalised)),
                ("expert_weights_scale", Value::F32(self.routing.scale)),
            ]);
        }
        if let Some((groups, used)) = self.routing.groups {
            keys.extend([
                ("expert_group_count", Value::U32(groups)),
                ("expert_group_used_count", Value::U32(used)),
            ]);
        }
        if self.n_layer_mtp > 0 {
            keys.push(("nextn_predict_layers", Value::U32(self.n_layer_mtp)));
        }
        if self.family == Family::GptOss {
            keys.push(("attention.sliding_window", Value::U32(128)));
        }
        keys
    }

    fn rope_keys(&self) -> Vec<(&'static str, Value)> {
        let n_rot = match (self.family, self.latent) {
            (_, Some(latent)) => latent.rope,
            // Half of a head is turned.
            (Family::Glm4Moe, None) => self.n_embd_head / 2,
            (_, None) => self.n_embd_head,
        };
        let mut keys = vec![
            ("rope.dimension_count", Value::U32(n_rot)),
            ("rope.freq_base", Value::F32(self.rope_freq_base)),
        ];
        let original_context = ("rope.scaling.original_context_length", Value::U32(4096));
        match self.family {
            Family::GptOss => keys.extend([
                text_value("rope.scaling.type", "yarn"),
                ("rope.scaling.factor", Value::F32(32.0)),
                original_context,
            ]),
            Family::DeepSeek2 => {
                // A tenth of the factor for attention over long contexts: 0.707 or 1.
                let multiplier = if self.routing.sigmoid { 0.1 } else { 0.0707 };
                keys.extend([
                    text_value("rope.scaling.type", "yarn"),
                    ("rope.scaling.factor", Value::F32(40.0)),
                    ("rope.scaling.yarn_log_multiplier", Value::F32(multiplier)),
                    original_context,
                ]);
            }
            Family::PhiMoe => keys.push(original_context),
            Family::Qwen3Moe | Family::Glm4Moe | Family::Mixtral => (),
        }
        keys
    }
}

/// `llama_ftype`.
const FTYPE_Q4_K_M: u32 = 15;
const FTYPE_MXFP4_MOE: u32 = 38;

fn text(key: &str, value: &str) -> (String, Value) {
    (key.to_owned(), Value::Text(value.to_owned()))
}

fn text_value(key: &'static str, value: &str) -> (&'static str, Value) {
    (key, Value::Text(value.to_owned()))
}
