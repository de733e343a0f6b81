//! Metadata that llama.cpp's loader asserts on: refused here, where it is an error, before
//! it ends the process there.

use std::collections::BTreeMap;

use super::ModelHeader;
use crate::ffi::{GgufHeader, GgufValue, KvValue};

/// `LLAMA_MAX_LAYERS` and `LLAMA_MAX_EXPERTS` of the pinned llama.cpp's `llama-hparams.h`.
const MAX_LAYERS: u64 = 512;
const MAX_EXPERTS: u64 = 1024;

/// `LLAMA_TOKEN_TYPE_BYTE`.
const TOKEN_TYPE_BYTE: u64 = 6;

/// The last of `enum llama_pooling_type`: others end the process once a context pools.
const MAX_POOLING_TYPE: u64 = 4;

/// Architectures that may name experts and have none.
const EXPERTS_OPTIONAL: [&str; 2] = ["hunyuan_vl", "hunyuan-dense"];

/// Whole numbers that the loader's assertions are about, without the architecture's name
/// before them.
const NUMBERS: [&str; 9] = [
    "block_count",
    "pooling_type",
    "posnet.block_count",
    "convnext.block_count",
    "nextn_predict_layers",
    "expert_count",
    "expert_used_count",
    "expert_group_count",
    "expert_group_used_count",
];

/// The values of a header that the loader's assertions are about.
#[derive(Clone, Debug, Default)]
pub(super) struct CriticalKeys {
    architecture: String,
    /// Some are arrays, with a number for each layer.
    numbers: BTreeMap<&'static str, Vec<u64>>,
    rope_scaling: Option<String>,
    repeated_token: Option<String>,
    /// WordPiece has no tokens for bytes.
    bytes_in_word_pieces: bool,
}

impl CriticalKeys {
    pub(super) fn read(header: &GgufHeader, architecture: String) -> Self {
        let value = |key: &str| header.value(&format!("{architecture}.{key}"));
        let numbers = NUMBERS.into_iter().filter_map(|key| match value(key) {
            Some(GgufValue::Unsigned(numbers)) => Some((key, numbers)),
            _ => None,
        });
        Self {
            numbers: numbers.collect(),
            rope_scaling: match value("rope.scaling.type") {
                Some(GgufValue::Text(scaling)) => Some(scaling),
                _ => None,
            },
            repeated_token: header.repeated_text("tokenizer.ggml.tokens"),
            bytes_in_word_pieces: header.value("tokenizer.ggml.model")
                == Some(GgufValue::Text("bert".to_owned()))
                && matches!(
                    header.value("tokenizer.ggml.token_type"),
                    Some(GgufValue::Unsigned(types)) if types.contains(&TOKEN_TYPE_BYTE)
                ),
            architecture,
        }
    }

    /// The largest of a key's numbers.
    fn max(&self, key: &str, replaced: &[(String, KvValue)]) -> Option<u64> {
        let of_file = self.numbers.get(key).map(Vec::as_slice).unwrap_or_default();
        // llama.cpp replaces single numbers only, and cuts them to 32 bits. One that may be an
        // array is not even looked for if the file has none.
        let replaceable = match of_file {
            [] => key != "expert_used_count",
            numbers => numbers.len() == 1,
        };
        match self.replacement(key, replaced) {
            Some(KvValue::Int(number)) if replaceable => Some(u64::from(*number as u32)),
            _ => of_file.iter().max().copied(),
        }
    }

    /// What a key is replaced by, given without the architecture's name; the first one holds.
    fn replacement<'a>(&self, key: &str, replaced: &'a [(String, KvValue)]) -> Option<&'a KvValue> {
        let key = format!("{}.{key}", self.architecture);
        let found = replaced.iter().find(|(replaced, _)| *replaced == key);
        found.map(|(_, value)| value)
    }
}

impl ModelHeader {
    /// Counts blocks as a load does that replaces these entries.
    pub(crate) fn replace(&mut self, replaced: &[(String, KvValue)]) {
        let count = |key| {
            let count = self.critical.max(key, replaced).unwrap_or(0);
            u32::try_from(count).unwrap_or(u32::MAX)
        };
        (self.block_count, self.nextn_blocks) =
            (count("block_count"), count("nextn_predict_layers"));
    }

    /// Finds what the loader would assert on; says which key, which value, and what would be
    /// right. `replaced` are the entries that loading replaces.
    pub(crate) fn check(
        &self,
        vocab_only: bool,
        replaced: &[(String, KvValue)],
    ) -> Result<(), String> {
        let keys = &self.critical;
        if let Some(token) = &keys.repeated_token {
            return Err(format!(
                "tokenizer.ggml.tokens has the text {token:?} twice; llama.cpp needs each once"
            ));
        }
        if keys.bytes_in_word_pieces {
            return Err(format!(
                "tokenizer.ggml.token_type has a token for a byte ({TOKEN_TYPE_BYTE}), which the \
                 tokenizer 'bert' knows nothing of"
            ));
        }
        // Projectors have no hyper-parameters, and are refused by the loader itself.
        if vocab_only || keys.architecture == "clip" {
            return Ok(());
        }
        let architecture = &keys.architecture;
        let refuse = |key: &str, value: u64, expected: String| {
            Err(format!("{architecture}.{key} = {value}: {expected}"))
        };

        // Without this key the loader reports an error by itself.
        let Some(n_layer) = keys.max("block_count", replaced) else {
            return Ok(());
        };
        if !(1..=MAX_LAYERS).contains(&n_layer) {
            return refuse(
                "block_count",
                n_layer,
                format!("1 to {MAX_LAYERS} are possible"),
            );
        }
        let n_nextn = keys.max("nextn_predict_layers", replaced).unwrap_or(0);
        if n_nextn > n_layer {
            let expected = format!("there are {n_layer} blocks");
            return refuse("nextn_predict_layers", n_nextn, expected);
        }
        for key in ["posnet.block_count", "convnext.block_count"] {
            let n = keys.max(key, replaced).unwrap_or(0);
            if n > n_layer {
                return refuse(key, n, format!("there are {n_layer} blocks"));
            }
        }
        let pooling = keys.max("pooling_type", replaced).unwrap_or(0);
        let unspecified = u64::from(u32::MAX);
        if pooling > MAX_POOLING_TYPE && pooling != unspecified {
            let expected = format!("0 to {MAX_POOLING_TYPE} are possible");
            return refuse("pooling_type", pooling, expected);
        }
        self.check_experts(replaced)?;

        let scaling = match keys.replacement("rope.scaling.type", replaced) {
            Some(KvValue::Text(scaling)) => scaling,
            _ => keys.rope_scaling.as_deref().unwrap_or("linear"),
        };
        if !matches!(scaling, "none" | "linear" | "yarn" | "longrope") {
            return Err(format!(
                "{architecture}.rope.scaling.type = {scaling:?}: llama.cpp knows none, linear, yarn \
                 and longrope"
            ));
        }
        Ok(())
    }

    fn check_experts(&self, replaced: &[(String, KvValue)]) -> Result<(), String> {
        let architecture = &self.critical.architecture;
        // Without a key llama.cpp counts 0.
        let number = |key: &str| self.critical.max(key, replaced).unwrap_or(0);
        let n_expert = number("expert_count");
        if n_expert <= 1 && EXPERTS_OPTIONAL.contains(&architecture.as_str()) {
            return Ok(());
        }
        let [used, groups, used_groups] = [
            "expert_used_count",
            "expert_group_count",
            "expert_group_used_count",
        ]
        .map(number);
        let expected = if n_expert > MAX_EXPERTS {
            format!("at most {MAX_EXPERTS} experts are possible")
        } else if used > n_expert {
            "more experts are used than there are".to_owned()
        } else if n_expert > 0 && used == 0 {
            "no expert is used".to_owned()
        } else if groups >= n_expert && groups > 0 {
            "there are fewer groups than experts".to_owned()
        } else if groups > 1 && n_expert % groups != 0 {
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
