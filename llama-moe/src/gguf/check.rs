//! What llama.cpp's loader asserts on, or divides by: refused here, where it is an error,
//! before it ends the process there.

use super::header::Header;
use super::value::Value;
use crate::ffi::KvValue;

/// `LLAMA_MAX_LAYERS` and `LLAMA_MAX_EXPERTS` of the pinned llama.cpp's `llama-hparams.h`.
pub(super) const MAX_LAYERS: u64 = 512;
pub(super) const MAX_EXPERTS: u64 = 1024;

/// `LLAMA_TOKEN_TYPE_BYTE`.
const TOKEN_TYPE_BYTE: u64 = 6;

/// Tokens without a text that a model without a vocabulary may have; llama.cpp takes memory for
/// as many as the file says.
const MAX_DUMMY_TOKENS: u64 = 1 << 22;

/// Tensors that llama.cpp's loader hands to `ggml_rope_ext`.
const ROPE_FACTORS: [&str; 3] = ["rope_freqs", "rope_factors_long", "rope_factors_short"];

/// llama.cpp makes a square matrix of 32-bit numbers for weights that are stored rotated: 1 GiB
/// at this many rows.
const MAX_ROTATION: u64 = 1 << 14;

/// The last of `enum llama_pooling_type`: others end the process once a context pools.
const MAX_POOLING_TYPE: u64 = 4;

/// What a classifier's head can compute between its matrices.
const CLASSIFIER_ACTIVATIONS: [&str; 3] = ["gelu", "silu", "tanh"];

/// Architectures that may name experts and have none.
const EXPERTS_OPTIONAL: [&str; 2] = ["hunyuan_vl", "hunyuan-dense"];

/// The metadata that a load sees: the file's, some of it replaced.
pub(super) struct Keys<'a> {
    pub(super) header: &'a Header,
    pub(super) replaced: &'a [(String, KvValue)],
}

impl Keys<'_> {
    /// The largest of a key's numbers.
    pub(super) fn max(&self, key: &str) -> Option<u64> {
        let of_file = || self.of_file(key);
        // llama.cpp replaces single numbers only, and cuts them to 32 bits. One that may be an
        // array is not even looked for if the file has none.
        let replaceable = match of_file().count() {
            0 => key != "expert_used_count",
            n => n == 1,
        };
        match self.replacement(key) {
            Some(KvValue::Int(number)) if replaceable => Some(u64::from(*number as u32)),
            _ => of_file().max(),
        }
    }

    /// A key's number; 0 if it has none.
    pub(super) fn number(&self, key: &str) -> u64 {
        self.max(key).unwrap_or(0)
    }

    /// A key's number for one layer; 0 if it has none.
    pub(super) fn of_layer(&self, key: &str, layer: usize) -> u64 {
        if self.of_file(key).count() <= 1 {
            return self.number(key);
        }
        self.of_file(key).nth(layer).unwrap_or(0)
    }

    /// A key's text.
    fn text(&self, key: &str) -> Option<String> {
        if let Some(KvValue::Text(text)) = self.replacement(key) {
            return Some(text.clone());
        }
        match self.value(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// The numbers of the file, whatever replaces them.
    pub(super) fn of_file(&self, key: &str) -> impl Iterator<Item = u64> {
        self.header.gguf().whole_numbers(&self.name(key))
    }

    /// A key's value in the file.
    pub(super) fn value(&self, key: &str) -> Option<Value> {
        self.header.value(&self.name(key))
    }

    /// A key's name with the architecture's before it.
    pub(super) fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.header.architecture())
    }

    /// What a key is replaced by; the first one holds.
    pub(super) fn replacement(&self, key: &str) -> Option<&KvValue> {
        let key = self.name(key);
        let found = self.replaced.iter().find(|(replaced, _)| *replaced == key);
        found.map(|(_, value)| value)
    }
}

impl Header {
    /// Counts blocks as a load does that replaces these entries.
    pub(crate) fn replace(&mut self, replaced: &[(String, KvValue)]) {
        if replaced.is_empty() {
            return;
        }
        let keys = Keys {
            header: self,
            replaced,
        };
        let count = |key| {
            let count = keys.max(key).unwrap_or(0);
            u32::try_from(count).unwrap_or(u32::MAX)
        };
        let (blocks, nextn) = (count("block_count"), count("nextn_predict_layers"));
        self.set_blocks(blocks, nextn);
    }

    /// Finds what the loader would assert on; says which key, which value, and what would be
    /// right. `replaced` are the entries that loading replaces.
    pub(crate) fn check(
        &self,
        vocab_only: bool,
        replaced: &[(String, KvValue)],
    ) -> Result<(), String> {
        self.check_vocabulary(replaced)?;
        if vocab_only {
            return Ok(());
        }
        self.check_hyper_parameters(replaced)
    }

    /// The part of [`check`](Self::check) that a load without the vocabulary can do without.
    fn check_vocabulary(&self, replaced: &[(String, KvValue)]) -> Result<(), String> {
        const TOKENS: &str = "tokenizer.ggml.tokens";
        let model = self.value("tokenizer.ggml.model");
        let model = model.as_ref().and_then(Value::as_str).unwrap_or_default();
        if matches!(model, "none" | "no_vocab") {
            let keys = Keys {
                header: self,
                replaced,
            };
            let n = keys.number("vocab_size");
            return if n <= MAX_DUMMY_TOKENS {
                Ok(())
            } else {
                let key = keys.name("vocab_size");
                Err(format!(
                    "{key} = {n}: at most {MAX_DUMMY_TOKENS} are possible"
                ))
            };
        }
        if self.n_values(TOKENS) == Some(0) {
            return Err(format!("{TOKENS} is empty"));
        }
        if let Some(token) = self.gguf().repeated_text(TOKENS) {
            return Err(format!(
                "{TOKENS} has the text {token:?} twice; llama.cpp needs each once"
            ));
        }
        // WordPiece has no tokens for bytes.
        let mut types = self.gguf().whole_numbers("tokenizer.ggml.token_type");
        if model == "bert" && types.any(|kind| kind == TOKEN_TYPE_BYTE) {
            return Err(format!(
                "tokenizer.ggml.token_type has a token for a byte ({TOKEN_TYPE_BYTE}), which the \
                 tokenizer 'bert' knows nothing of"
            ));
        }
        Ok(())
    }

    /// The rest of [`check`](Self::check).
    pub(crate) fn check_hyper_parameters(
        &self,
        replaced: &[(String, KvValue)],
    ) -> Result<(), String> {
        let keys = Keys {
            header: self,
            replaced,
        };
        // Projectors have no hyper-parameters, and are refused by the loader itself.
        if self.architecture() == "clip" {
            return Ok(());
        }
        let architecture = self.architecture();
        let refuse = |key: &str, value: u64, expected: String| {
            Err(format!("{architecture}.{key} = {value}: {expected}"))
        };

        if let Some(activation) = keys.text("classifier.activation")
            && !CLASSIFIER_ACTIVATIONS.contains(&activation.as_str())
        {
            return Err(format!(
                "{architecture}.classifier.activation = {activation:?}: llama.cpp knows gelu, silu \
                 and tanh"
            ));
        }
        // Without this key the loader reports an error by itself.
        let Some(n_layer) = keys.max("block_count") else {
            return Ok(());
        };
        if !(1..=MAX_LAYERS).contains(&n_layer) {
            return refuse(
                "block_count",
                n_layer,
                format!("1 to {MAX_LAYERS} are possible"),
            );
        }
        let n_nextn = keys.max("nextn_predict_layers").unwrap_or(0);
        if n_nextn >= n_layer {
            let expected = format!("there are {n_layer} blocks, of which some must do the rest");
            return refuse("nextn_predict_layers", n_nextn, expected);
        }
        for key in ["posnet.block_count", "convnext.block_count"] {
            let n = keys.max(key).unwrap_or(0);
            if n > n_layer {
                return refuse(key, n, format!("there are {n_layer} blocks"));
            }
        }
        let pooling = keys.max("pooling_type").unwrap_or(0);
        let unspecified = u64::from(u32::MAX);
        if pooling > MAX_POOLING_TYPE && pooling != unspecified {
            let expected = format!("0 to {MAX_POOLING_TYPE} are possible");
            return refuse("pooling_type", pooling, expected);
        }
        keys.check_experts()?;

        let scaling = keys.text("rope.scaling.type");
        let scaling = scaling.unwrap_or_else(|| "linear".to_owned());
        if !matches!(scaling.as_str(), "none" | "linear" | "yarn" | "longrope") {
            return Err(format!(
                "{architecture}.rope.scaling.type = {scaling:?}: llama.cpp knows none, linear, yarn \
                 and longrope"
            ));
        }
        const ROTATION: &str = "prism.hadamard.block_size";
        let rotation = self.gguf().whole_numbers(ROTATION).max().unwrap_or(0);
        if rotation > MAX_ROTATION {
            return Err(format!(
                "{ROTATION} = {rotation}: at most {MAX_ROTATION} are possible"
            ));
        }
        self.check_tensor_types()?;
        keys.check_architecture()
    }

    fn check_tensor_types(&self) -> Result<(), String> {
        let factors = self.tensors().iter().find(|tensor| {
            let part = tensor.name.strip_suffix(".weight").unwrap_or_default();
            let part = part.rsplit('.').next().unwrap_or_default();
            ROPE_FACTORS.contains(&part) && tensor.kind != "f32"
        });
        if let Some(tensor) = factors {
            let (name, kind) = (&tensor.name, &tensor.kind);
            return Err(format!("{name} is of type {kind}; llama.cpp needs f32"));
        }
        // The tokens of a draft's vocabulary, as rows of the target's.
        match self.tensor("d2t") {
            Some(tensor) if tensor.kind != "i64" => {
                let kind = &tensor.kind;
                Err(format!("d2t is of type {kind}; llama.cpp needs i64"))
            }
            _ => Ok(()),
        }
    }
}

impl Keys<'_> {
    fn check_experts(&self) -> Result<(), String> {
        let architecture = self.header.architecture();
        // Without a key llama.cpp counts 0.
        let n_expert = self.number("expert_count");
        if n_expert <= 1 && EXPERTS_OPTIONAL.contains(&architecture) {
            return Ok(());
        }
        let [used, groups, used_groups] = [
            "expert_used_count",
            "expert_group_count",
            "expert_group_used_count",
        ]
        .map(|key| self.number(key));
        let expected = if n_expert > MAX_EXPERTS {
            format!("at most {MAX_EXPERTS} experts are possible")
        } else if used > n_expert {
            "more experts are used than there are".to_owned()
        } else if n_expert > 0 && used == 0 {
            "no expert is used".to_owned()
        } else if groups >= n_expert && groups > 0 {
            "there are fewer groups than experts".to_owned()
        } else if groups > 1 && !n_expert.is_multiple_of(groups) {
            "groups of experts are equally large".to_owned()
        } else if groups > 1 && !(1..groups).contains(&used_groups) {
            "some groups are used, but not all".to_owned()
        } else {
            return Ok(());
        };
        Err(format!(
            "{architecture}.expert_count = {n_expert}, expert_used_count = {used}, \
             expert_group_count = {groups}, expert_group_used_count = {used_groups}: {expected}"
        ))
    }
}
