//! What llama.cpp asserts on, or divides by, while it loads one architecture or another.

use std::collections::HashSet;

use super::check::{Keys, MAX_EXPERTS, MAX_LAYERS};
use crate::ffi::KvValue;

/// They have experts in any case.
const NEED_EXPERTS: [&str; 6] = [
    "bailingmoe2",
    "glm4moe",
    "grovemoe",
    "lfm2moe",
    "llada-moe",
    "smallthinker",
];

/// They take the size of an expert from the feed-forward's, divided by the experts that the
/// first layer uses, if the file does not say it.
const DIVIDE_BY_EXPERTS_USED: [&str; 8] = [
    "mellum",
    "qwen2moe",
    "qwen35moe",
    "qwen3moe",
    "qwen3next",
    "qwen3vlmoe",
    "qwen4exp",
    "rnd1",
];

/// They divide by the number of heads of the first layer.
const DIVIDE_BY_HEADS: [&str; 4] = ["gemma2", "gemma3", "olmo2", "phimoe"];

impl Keys<'_> {
    /// Says which key, or which tensor, and what would be right.
    pub(super) fn check_architecture(&self) -> Result<(), String> {
        self.check_zeros()?;
        match self.header.architecture() {
            "bailingmoe3" => self.check_kda(),
            "deepseek2" | "mistral4" => self.check_latent_heads(false),
            "deepseek4" | "deepseek41" => self.check_compress_ratios(),
            "gemma-embedding" => {
                self.check_width("dense_2_feat_in")?;
                self.check_width("dense_3_feat_out")
            }
            "gemma4" => self.check_own_keys(),
            "glm5-next" => self.check_pooled_indexer(),
            "granitehybrid" | "jamba" => self.check_inner_size(),
            "hrm_text" => self.check_cycles(),
            "hy_v4" => self.check_latent_heads(true),
            "jina-bert-v2" => self.check_rows("ffn_up", |keys, layer| {
                let n_ff = keys.of_layer("feed_forward_length", layer);
                vec![n_ff, n_ff.saturating_mul(2)]
            }),
            "k2-horizon" => {
                self.check_value_experts()?;
                self.check_norm_groups()
            }
            "laguna" => self.check_rows("attn_gate", |keys, layer| {
                let n_head = keys.of_layer("attention.head_count", layer);
                // A head of sliding-window attention may have another size.
                let size = keys.head_size("key");
                let swa = keys.max("attention.key_length_swa").unwrap_or(size);
                vec![
                    n_head,
                    n_head.saturating_mul(size),
                    n_head.saturating_mul(swa),
                ]
            }),
            "lfm2" | "lfm2moe" => self.check_equal_heads(),
            "limite" => self.check_taps(),
            "nanbeige" => self.check_loops(),
            "nemotron_h" | "nemotron_h_moe" => self.check_experts_used_per_layer(),
            "rwkv6" => self.check_lerp(),
            "wavtokenizer-dec" => self.check_posnet(),
            _ => Ok(()),
        }
    }

    fn refuse(&self, key: &str, value: u64, expected: &str) -> Result<(), String> {
        Err(format!("{} = {value}: {expected}", self.name(key)))
    }

    /// Numbers that must not be 0.
    fn check_zeros(&self) -> Result<(), String> {
        let architecture = self.header.architecture();
        let required: &[&str] = match architecture {
            "falcon-h1" | "granitehybrid" | "mamba2" | "nemotron_h" | "nemotron_h_moe" => {
                &["ssm.group_count"]
            }
            "deepseek4" | "deepseek41" => &["attention.output_group_count"],
            "grovemoe" => &["expert_count", "experts_per_group"],
            "hrm_text" => &["hrm.layers_per_stack", "hrm.h_cycles", "hrm.l_cycles"],
            "minimax-m3" => &["attention.indexer.block_size"],
            "rwkv6" | "rwkv6qwen2" => &["wkv.head_size"],
            "dflash" if self.number("hyper_connection.count") > 0 => {
                &["attention.output_group_count", "attention.sliding_window"]
            }
            _ if NEED_EXPERTS.contains(&architecture) => &["expert_count"],
            _ => &[],
        };
        if let Some(key) = required.iter().find(|key| self.number(key) == 0) {
            return self.refuse(key, 0, "llama.cpp divides by it or needs it");
        }
        if self.max("full_attention_interval") == Some(0) {
            return self.refuse("full_attention_interval", 0, "at least 1 is possible");
        }
        if DIVIDE_BY_HEADS.contains(&architecture) && self.of_layer("attention.head_count", 0) == 0
        {
            return self.refuse("attention.head_count", 0, "the first layer needs heads");
        }
        let divides = NEED_EXPERTS.contains(&architecture)
            || (DIVIDE_BY_EXPERTS_USED.contains(&architecture)
                && self.of_layer("expert_feed_forward_length", 0) == 0);
        if divides && self.of_layer("expert_used_count", 0) == 0 {
            return self.refuse("expert_used_count", 0, "the first layer uses no expert");
        }
        Ok(())
    }

    /// The size of a head's keys or values.
    fn head_size(&self, what: &str) -> u64 {
        let n_head = self.of_layer("attention.head_count", 0);
        let default = self.number("embedding_length").checked_div(n_head);
        self.max(&format!("attention.{what}_length"))
            .or(default)
            .unwrap_or(0)
    }

    /// Latent attention: a part of each head is rotated, and a part is not.
    fn check_latent_heads(&self, is_required: bool) -> Result<(), String> {
        let [keys, values] =
            ["attention.key_length_mla", "attention.value_length_mla"].map(|key| self.number(key));
        let is_latent = keys > 0 && values > 0;
        if is_required && !is_latent {
            return self.refuse("attention.key_length_mla", keys, "it is needed");
        }
        let head = if is_latent {
            keys
        } else {
            self.head_size("key")
        };
        let rotated = self
            .max("rope.dimension_count")
            .unwrap_or_else(|| self.head_size("key"));
        if rotated >= head {
            let expected = format!("a head has {head} dimensions, and some are not rotated");
            return self.refuse("rope.dimension_count", rotated, &expected);
        }
        Ok(())
    }

    fn check_compress_ratios(&self) -> Result<(), String> {
        let key = self.name("attention.compress_ratios");
        match self.header.n_values(&key) {
            Some(n) if n as u64 > MAX_LAYERS => Err(format!(
                "{key} has {n} elements: at most {MAX_LAYERS} are possible"
            )),
            _ => Ok(()),
        }
    }

    /// A number that is the model's width, or 0.
    fn check_width(&self, key: &str) -> Result<(), String> {
        let (width, n) = (self.number("embedding_length"), self.number(key));
        if n == 0 || n == width {
            return Ok(());
        }
        self.refuse(key, n, &format!("embedding_length is {width}"))
    }

    /// The blocks at the end may read keys and values that others keep.
    fn check_own_keys(&self) -> Result<(), String> {
        const SHARED: &str = "attention.shared_kv_layers";
        let [n, shared] = ["block_count", SHARED].map(|key| self.number(key) as u32);
        // In 32 bits, as llama.cpp computes it.
        let own = n.wrapping_sub(shared).cast_signed();
        if own >= 2 {
            return Ok(());
        }
        let expected = format!("two of the {n} blocks keep keys and values of their own");
        self.refuse(SHARED, shared.into(), &expected)
    }

    /// Experts that a token's values come from.
    fn check_value_experts(&self) -> Result<(), String> {
        const COUNT: &str = "attention.value_expert_count";
        const USED: &str = "attention.value_expert_used_count";
        let [n, used] = [COUNT, USED].map(|key| self.number(key));
        if n > MAX_EXPERTS {
            let expected = format!("at most {MAX_EXPERTS} are possible");
            return self.refuse(COUNT, n, &expected);
        }
        if used > n || (n > 0 && used == 0) {
            let expected = format!("there are {n} value experts");
            return self.refuse(USED, used, &expected);
        }
        Ok(())
    }

    fn check_norm_groups(&self) -> Result<(), String> {
        const GROUPS: &str = "attention.group_norm_groups";
        let (width, groups) = (self.number("embedding_length"), self.number(GROUPS));
        // None are one group.
        if width.is_multiple_of(groups.max(1)) {
            return Ok(());
        }
        let expected = format!("a divisor of embedding_length = {width}");
        self.refuse(GROUPS, groups, &expected)
    }

    /// The inputs of earlier layers that a layer reads: so many for each, or a negative number.
    fn check_taps(&self) -> Result<(), String> {
        const COUNT: &str = "mudd.tap_count";
        let n_taps = self.number(COUNT);
        if n_taps == 0 {
            return Ok(());
        }
        let n_layer = self.number("block_count") - self.number("nextn_predict_layers");
        if n_taps.saturating_mul(n_layer) > MAX_LAYERS {
            let expected = format!("{MAX_LAYERS} are possible in all {n_layer} layers");
            return self.refuse(COUNT, n_taps, &expected);
        }
        const TAPS: &str = "mudd.tap_indices";
        let taps: Vec<i32> = self.of_file(TAPS).map(|tap| tap as i32).collect();
        for (layer, of_layer) in taps.chunks(n_taps as usize).enumerate() {
            if layer as u64 >= n_layer || of_layer[0] < 0 {
                continue;
            }
            // Those that the list lacks are negative.
            let missing = (of_layer.len() < n_taps as usize).then_some(-1);
            let is_bad = |tap: &i32| !(0..=layer as i32).contains(tap);
            if let Some(tap) = of_layer.iter().copied().chain(missing).find(is_bad) {
                let key = self.name(TAPS);
                return Err(format!("{key}: layer {layer} cannot read layer {tap}"));
            }
        }
        Ok(())
    }

    fn check_pooled_indexer(&self) -> Result<(), String> {
        let pooled = self.number("attention.indexer.kpool");
        let top = self.number("attention.indexer.top_k");
        if pooled < 2 || !top.is_multiple_of(pooled) {
            let expected = format!("at least 2, and a divisor of attention.indexer.top_k = {top}");
            return self.refuse("attention.indexer.kpool", pooled, &expected);
        }
        match self.number("hyper_connection.count") {
            4 => Ok(()),
            n => self.refuse("hyper_connection.count", n, "4 is what llama.cpp can do"),
        }
    }

    fn check_inner_size(&self) -> Result<(), String> {
        let (width, inner) = (
            self.number("embedding_length"),
            self.number("ssm.inner_size"),
        );
        if inner == width.saturating_mul(2) {
            return Ok(());
        }
        let expected = format!("twice the embedding_length, {width}, is needed");
        self.refuse("ssm.inner_size", inner, &expected)
    }

    fn check_cycles(&self) -> Result<(), String> {
        let [layers, high, low] = ["hrm.layers_per_stack", "hrm.h_cycles", "hrm.l_cycles"]
            .map(|key| self.number(key) as u32);
        let n = self.number("block_count") - self.number("nextn_predict_layers");
        // In 32 bits, as llama.cpp computes it.
        let expected = layers.wrapping_mul(high).wrapping_mul(low.wrapping_add(1));
        if n == u64::from(expected) {
            return Ok(());
        }
        self.refuse("block_count", n, &format!("the cycles need {expected}"))
    }

    fn check_equal_heads(&self) -> Result<(), String> {
        let (keys, values) = (self.head_size("key"), self.head_size("value"));
        if keys == values {
            return Ok(());
        }
        self.refuse(
            "attention.value_length",
            values,
            &format!("keys and values are equally long, {keys}"),
        )
    }

    fn check_loops(&self) -> Result<(), String> {
        let n_layer = self.number("block_count") - self.number("nextn_predict_layers");
        match self.max("num_loops") {
            Some(n) if n == 0 || n.saturating_mul(n_layer) > MAX_LAYERS => {
                let expected = format!("1 or more, and {MAX_LAYERS} layers in all loops");
                self.refuse("num_loops", n, &expected)
            }
            _ => Ok(()),
        }
    }

    fn check_experts_used_per_layer(&self) -> Result<(), String> {
        if self.number("expert_count") == 0 {
            return Ok(());
        }
        let n_layer = self.number("block_count");
        let is_bad = |layer: &usize| {
            self.of_layer("feed_forward_length", *layer) > 0
                && self.of_layer("expert_feed_forward_length", *layer) == 0
                && self.of_layer("expert_used_count", *layer) == 0
        };
        match (0..n_layer as usize).find(is_bad) {
            Some(layer) => self.refuse(
                "expert_used_count",
                0,
                &format!("layer {layer} has no size of an expert"),
            ),
            None => Ok(()),
        }
    }

    /// Keys and gates of the linear attention.
    fn check_kda(&self) -> Result<(), String> {
        let gate = match self.replacement("kda.safe_gate") {
            Some(KvValue::Bool(gate)) => Some(*gate),
            _ => self.value("kda.safe_gate").and_then(|gate| gate.as_bool()),
        };
        // Where the key is missing, so is the assertion's cause: the loader says so.
        if gate == Some(false) {
            return Err(format!(
                "{} = false: it is needed",
                self.name("kda.safe_gate")
            ));
        }
        let bound = match self.replacement("kda.gate_lower_bound") {
            Some(KvValue::Float(bound)) => Some(*bound),
            _ => self
                .value("kda.gate_lower_bound")
                .and_then(|bound| bound.as_f64()),
        };
        match bound {
            Some(bound) if bound < 0.0 => Ok(()),
            bound => Err(format!(
                "{} = {}: a number below 0 is needed",
                self.name("kda.gate_lower_bound"),
                bound.unwrap_or(0.0)
            )),
        }
    }

    /// The rows of one tensor of each layer are one of a few numbers.
    fn check_rows(
        &self,
        part: &str,
        expected: impl Fn(&Self, usize) -> Vec<u64>,
    ) -> Result<(), String> {
        for tensor in self.header.tensors() {
            let is_it = tensor.name.split('.').nth(2) == Some(part);
            let Some(layer) = tensor
                .block
                .filter(|_| is_it && tensor.name.ends_with(".weight"))
            else {
                continue;
            };
            let rows = tensor.shape.get(1).copied().unwrap_or(1);
            let expected = expected(self, layer as usize);
            if !expected.contains(&rows) {
                let name = &tensor.name;
                return Err(format!(
                    "{name} has {rows} rows: one of {expected:?} is needed"
                ));
            }
        }
        Ok(())
    }

    fn check_lerp(&self) -> Result<(), String> {
        let tensors = self.header.tensors().iter();
        let names: HashSet<&str> = tensors.map(|tensor| tensor.name.as_str()).collect();
        let is_bad = |layer: &u64| {
            ["fused", "w"]
                .iter()
                .all(|part| !names.contains(&*format!("blk.{layer}.time_mix_lerp_{part}.weight")))
        };
        match (0..self.number("block_count")).find(is_bad) {
            Some(layer) => Err(format!("block {layer} has no time_mix_lerp_fused.weight")),
            None => Ok(()),
        }
    }

    fn check_posnet(&self) -> Result<(), String> {
        let blocks = self.number("posnet.block_count");
        if blocks > 6 {
            return self.refuse("posnet.block_count", blocks, "at most 6 are possible");
        }
        let [posnet, convnext] =
            ["posnet", "convnext"].map(|part| self.number(&format!("{part}.embedding_length")));
        if posnet != convnext {
            let expected = format!("convnext has {convnext}");
            return self.refuse("posnet.embedding_length", posnet, &expected);
        }
        let width = self.number("features_length");
        if width < 7 {
            return self.refuse("features_length", width, "its convolution is 7 wide");
        }
        Ok(())
    }
}
