//! What a model says of itself.

use super::Model;
use crate::error::Result;
use crate::ffi::{ModelNumber, ModelTrait, sys};

/// How a model encodes positions (`enum llama_rope_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RopeType {
    /// Not by rotation.
    None,
    /// Rotates neighbouring elements.
    Norm,
    /// Rotates elements half a head apart.
    Neox,
    /// Several positions per token (`M-RoPE`): four for each embedding.
    Mrope,
    /// `M-RoPE`, interleaved.
    Imrope,
    /// For images.
    Vision,
}

impl Model {
    /// A few words: "qwen3moe 30B.A3B Q4_K - Medium".
    ///
    /// Rests on `llama_model_desc`.
    #[must_use]
    pub fn description(&self) -> String {
        self.handle().description()
    }

    /// llama.cpp's name of the architecture: `qwen3moe`, `gpt-oss`, `deepseek2`.
    #[must_use]
    pub fn architecture(&self) -> Option<String> {
        self.meta("general.architecture")
    }

    /// Bytes of all tensors in the file.
    ///
    /// Rests on `llama_model_size`.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.handle().size()
    }

    /// The number of parameters.
    ///
    /// Rests on `llama_model_n_params`.
    #[must_use]
    pub fn n_params(&self) -> u64 {
        self.handle().n_params()
    }

    /// Routed experts per MoE layer; 0 for a dense model.
    ///
    /// # Errors
    /// [`Error::Llama`](crate::Error::Llama) with the feature `system`, where llama.cpp
    /// does not tell.
    pub fn n_expert(&self) -> Result<u32> {
        self.handle().n_expert()
    }

    /// Routed experts that one token uses, the most of any layer; 0 for a dense model. With the
    /// feature `system` from the metadata `*.expert_used_count`, if that is one number.
    #[must_use]
    pub fn n_expert_used(&self) -> u32 {
        let told = self.handle().n_expert_used();
        told.unwrap_or_else(|_| self.arch_number("expert_used_count").unwrap_or(0))
    }

    /// Layers, those for multi-token prediction not counted.
    ///
    /// Rests on `llama_model_n_layer`.
    #[must_use]
    pub fn n_layer(&self) -> u32 {
        self.number(ModelNumber::Layer)
    }

    /// Layers for multi-token prediction.
    ///
    /// Rests on `llama_model_n_layer_nextn`.
    #[must_use]
    pub fn n_layer_nextn(&self) -> u32 {
        self.number(ModelNumber::LayerNextn)
    }

    /// The context length, in tokens, that the model was trained for.
    ///
    /// Rests on `llama_model_n_ctx_train`.
    #[must_use]
    pub fn n_ctx_train(&self) -> u32 {
        self.0.n_ctx_train
    }

    /// Elements of an embedding inside of the model.
    ///
    /// Rests on `llama_model_n_embd`.
    #[must_use]
    pub fn n_embd(&self) -> u32 {
        self.number(ModelNumber::Embd)
    }

    /// Elements of an embedding that is given to the model in place of a token.
    ///
    /// Rests on `llama_model_n_embd_inp`.
    #[must_use]
    pub fn n_embd_inp(&self) -> u32 {
        self.number(ModelNumber::EmbdInp)
    }

    /// Elements of an embedding that the model returns.
    ///
    /// Rests on `llama_model_n_embd_out`.
    #[must_use]
    pub fn n_embd_out(&self) -> u32 {
        self.number(ModelNumber::EmbdOut)
    }

    /// Attention heads of the first layer; 0 if only the vocabulary was loaded.
    ///
    /// Rests on `llama_model_n_head`.
    #[must_use]
    pub fn n_head(&self) -> u32 {
        self.number(ModelNumber::Head)
    }

    /// Heads of the first layer that have a KV cache of their own; 0 if only the vocabulary
    /// was loaded.
    ///
    /// Rests on `llama_model_n_head_kv`.
    #[must_use]
    pub fn n_head_kv(&self) -> u32 {
        self.number(ModelNumber::HeadKv)
    }

    /// Tokens that sliding-window attention looks back on; 0 without it.
    ///
    /// Rests on `llama_model_n_swa`.
    #[must_use]
    pub fn n_swa(&self) -> u32 {
        self.number(ModelNumber::Swa)
    }

    /// How positions are encoded.
    ///
    /// Rests on `llama_model_rope_type`.
    #[must_use]
    pub fn rope_type(&self) -> RopeType {
        match self.handle().number(ModelNumber::RopeType) as sys::llama_rope_type {
            sys::LLAMA_ROPE_TYPE_NORM => RopeType::Norm,
            sys::LLAMA_ROPE_TYPE_NEOX => RopeType::Neox,
            sys::LLAMA_ROPE_TYPE_MROPE => RopeType::Mrope,
            sys::LLAMA_ROPE_TYPE_IMROPE => RopeType::Imrope,
            sys::LLAMA_ROPE_TYPE_VISION => RopeType::Vision,
            _ => RopeType::None,
        }
    }

    /// The factor that RoPE's frequencies were scaled by in training.
    ///
    /// Rests on `llama_model_rope_freq_scale_train`.
    #[must_use]
    pub fn rope_freq_scale_train(&self) -> f32 {
        self.handle().rope_freq_scale_train()
    }

    /// Outputs of a classifier, such as a reranker; their labels are
    /// [`cls_label`](Self::cls_label).
    ///
    /// Rests on `llama_model_n_cls_out`.
    #[must_use]
    pub fn n_cls_out(&self) -> u32 {
        self.number(ModelNumber::ClsOut)
    }

    /// The label of a classifier's output.
    ///
    /// Rests on `llama_model_cls_label`.
    #[must_use]
    pub fn cls_label(&self, output: u32) -> Option<String> {
        self.handle().cls_label(output)
    }

    /// Whether it has an encoder: its input goes through
    /// [`Context::encode`](crate::Context::encode).
    ///
    /// Rests on `llama_model_has_encoder`.
    #[must_use]
    pub fn has_encoder(&self) -> bool {
        self.handle().has(ModelTrait::Encoder)
    }

    /// Whether it has a decoder.
    ///
    /// Rests on `llama_model_has_decoder`.
    #[must_use]
    pub fn has_decoder(&self) -> bool {
        self.handle().has(ModelTrait::Decoder)
    }

    /// Whether its memory is a state instead of a KV cache (Mamba, RWKV).
    ///
    /// Rests on `llama_model_is_recurrent`.
    #[must_use]
    pub fn is_recurrent(&self) -> bool {
        self.handle().has(ModelTrait::Recurrent)
    }

    /// Whether it has both (Jamba, Granite 4).
    ///
    /// Rests on `llama_model_is_hybrid`.
    #[must_use]
    pub fn is_hybrid(&self) -> bool {
        self.handle().has(ModelTrait::Hybrid)
    }

    /// Whether it generates by diffusion.
    ///
    /// Rests on `llama_model_is_diffusion`.
    #[must_use]
    pub fn is_diffusion(&self) -> bool {
        self.handle().has(ModelTrait::Diffusion)
    }

    /// A value of the file's metadata as text, such as `general.name`; arrays are
    /// shortened by llama.cpp.
    ///
    /// Rests on `llama_model_meta_val_str`.
    #[must_use]
    pub fn meta(&self, key: &str) -> Option<String> {
        self.handle().meta(key)
    }

    /// All metadata as text, keys and values.
    ///
    /// Rests on `llama_model_meta_key_by_index` and `llama_model_meta_val_str_by_index`.
    #[must_use]
    pub fn metadata(&self) -> Vec<(String, String)> {
        (0..self.handle().meta_count())
            .filter_map(|index| self.handle().meta_pair(index))
            .collect()
    }

    /// The Jinja template for chats that came with the model: the default one, or the one
    /// with this name.
    ///
    /// Rests on `llama_model_chat_template`.
    #[must_use]
    pub fn chat_template(&self, name: Option<&str>) -> Option<String> {
        self.handle().chat_template(name)
    }

    /// A number of the metadata whose key begins with the architecture's name.
    pub(crate) fn arch_number(&self, key: &str) -> Option<u32> {
        let architecture = self.architecture()?;
        self.meta(&format!("{architecture}.{key}"))?.parse().ok()
    }

    /// The size of the vocabulary.
    pub(crate) fn n_vocab(&self) -> u32 {
        self.number(ModelNumber::Vocab)
    }

    /// A number that cannot be negative; what llama.cpp has not set counts as 0.
    fn number(&self, which: ModelNumber) -> u32 {
        u32::try_from(self.handle().number(which)).unwrap_or(0)
    }
}
