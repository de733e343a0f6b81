//! A variant: a name, rules, and a cache of experts.

use std::fmt;
use std::str::FromStr;

use common::{Bytes, Result};
use llama_moe::gguf::Header;
use llama_moe::{Backend, Budget, ContextParams, ModelParams, Pattern, Plan, Planner, Target};
use serde::{Deserialize, Serialize};

/// What a variant's rules can be.
const FORMS: &str = "base, cpu-moe, n-cpu-moe=N, last=N, plan=8GiB, ngl=N, cache=2GiB, each with or \
                     without NAME= before it, or NAME=REGEX=BUFFER; +cache=2GiB may follow any";

/// What comes between rules and the size of a cache.
const CACHE: &str = "+cache=";

/// A variant, as the command line has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variant {
    /// Its name.
    pub name: String,
    /// Its rules.
    pub rules: Rules,
    /// Bytes of its cache of experts, 0 for none; null where its rules name no cache.
    #[serde(default)]
    pub moe_cache: Option<u64>,
}

/// A set of rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rules {
    /// None: everything on the devices, as far as there are some.
    Base,
    /// All experts in system memory.
    CpuMoe,
    /// Those of the first so many blocks.
    NCpuMoe(u32),
    /// Those of the last so many MoE layers.
    Last(u32),
    /// Rules that make the model fit so many bytes of each device.
    Plan(u64),
    /// So many layers on devices.
    GpuLayers(u32),
    /// Rules in the form of llama.cpp's `-ot`.
    Custom(String),
}

impl FromStr for Variant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, (rules, moe_cache)) = match known(text) {
            Some(known) => (text, known?),
            None => {
                let (name, rest) = text
                    .split_once('=')
                    .ok_or_else(|| format!("'{text}' is no set of rules; there are {FORMS}"))?;
                let of_rest = match known(rest) {
                    Some(known) => known?,
                    None if rest.contains('=') => custom(rest),
                    None => return Err(format!("'{rest}' is no set of rules; there are {FORMS}")),
                };
                (name, of_rest)
            }
        };
        let name = name.trim();
        if name.is_empty() || name.chars().any(char::is_control) {
            return Err(format!(
                "{name:?} is no name: at least one visible character"
            ));
        }
        Ok(Self {
            name: name.to_owned(),
            rules,
            moe_cache,
        })
    }
}

/// Rules, and the size of a cache where one is named.
type Setup = (Rules, Option<u64>);

/// Rules that have a name of their own, with or without a cache; `None` for others.
fn known(text: &str) -> Option<Result<Setup, String>> {
    let size = |text: &str| text.parse().map(|Bytes(bytes)| Some(bytes));
    if let Some(amount) = text.strip_prefix("cache=") {
        // A cache serves experts in system memory.
        return Some(size(amount).map(|size| (Rules::CpuMoe, size)));
    }
    let Some((rules, amount)) = text.rsplit_once(CACHE) else {
        return Some(Rules::known(text)?.map(|rules| (rules, None)));
    };
    Some(Rules::known(rules)?.and_then(|rules| Ok((rules, size(amount)?))))
}

/// Rules in the form of llama.cpp's `-ot`. A `+cache=` that no amount follows belongs to them.
fn custom(text: &str) -> Setup {
    if let Some((rules, amount)) = text.rsplit_once(CACHE)
        && rules.contains('=')
        && let Ok(Bytes(bytes)) = amount.parse()
    {
        return (Rules::Custom(rules.to_owned()), Some(bytes));
    }
    (Rules::Custom(text.to_owned()), None)
}

impl Variant {
    /// Bytes of its cache of experts; 0 for none.
    pub fn moe_cache_size(&self) -> u64 {
        self.moe_cache.unwrap_or(0)
    }

    /// Its rules and its cache, as the command line has them.
    pub fn setup(&self) -> String {
        match self.moe_cache_size() {
            0 => self.rules.to_string(),
            bytes => format!("{}{CACHE}{}", self.rules, Amount(bytes)),
        }
    }
}

/// Bytes, as the command line has them.
struct Amount(u64);

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0;
        match (bytes >> 30 << 30 == bytes, bytes >> 20 << 20 == bytes) {
            (true, _) => write!(f, "{}GiB", bytes >> 30),
            (_, true) => write!(f, "{}MiB", bytes >> 20),
            _ => write!(f, "{bytes}"),
        }
    }
}

impl Rules {
    /// Rules that have a name of their own; `None` for others.
    fn known(text: &str) -> Option<Result<Self, String>> {
        match text {
            "base" => return Some(Ok(Self::Base)),
            "cpu-moe" => return Some(Ok(Self::CpuMoe)),
            _ => {}
        }
        let (key, value) = text.split_once('=')?;
        let number = |make: fn(u32) -> Self| {
            let number = value.parse().map(make);
            number.map_err(|_| format!("{key}=N takes a whole number, not '{value}'"))
        };
        match key {
            "n-cpu-moe" => Some(number(Self::NCpuMoe)),
            "last" => Some(number(Self::Last)),
            "ngl" => Some(number(Self::GpuLayers)),
            "plan" => Some(value.parse().map(|Bytes(bytes)| Self::Plan(bytes))),
            _ => None,
        }
    }
}

/// As the command line has it.
impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Base => f.write_str("base"),
            Self::CpuMoe => f.write_str("cpu-moe"),
            Self::NCpuMoe(n) => write!(f, "n-cpu-moe={n}"),
            Self::Last(n) => write!(f, "last={n}"),
            Self::Plan(bytes) => write!(f, "plan={}", Amount(*bytes)),
            Self::GpuLayers(n) => write!(f, "ngl={n}"),
            Self::Custom(rules) => f.write_str(rules),
        }
    }
}

/// A variant's rules, worked out for one model: all of its trials load it in this same way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Loading {
    /// Layers on devices; null for all.
    pub n_gpu_layers: Option<u32>,
    /// Each device's part of them; empty where llama.cpp chooses.
    pub tensor_split: Vec<f32>,
    /// Patterns with their buffer types, in order.
    pub overrides: Vec<(String, String)>,
    /// Bytes of the cache of experts; 0 for none.
    #[serde(default)]
    pub moe_cache: u64,
}

impl Loading {
    /// The parameters for it.
    pub fn params(&self) -> Result<ModelParams> {
        let mut params = ModelParams::default();
        for (pattern, buffer) in &self.overrides {
            let target = Target::Named(buffer.clone());
            params = params.with_override(Pattern::new(pattern)?, target);
        }
        if let Some(n) = self.n_gpu_layers {
            params = params.with_n_gpu_layers(n);
        }
        if !self.tensor_split.is_empty() {
            params = params.with_tensor_split(self.tensor_split.clone());
        }
        if self.moe_cache > 0 {
            params = params.for_moe_cache();
        }
        Ok(params)
    }

    /// A context with its cache.
    pub fn context(&self, params: ContextParams) -> ContextParams {
        params.with_moe_cache_size(self.moe_cache)
    }
}

/// A variant's parameters, before it is known what they take.
pub enum Choice {
    /// Rules of its own.
    Rules(ModelParams, Option<u32>),
    /// What a planner made.
    Plan(Box<Plan>),
}

impl Variant {
    /// The parameters that the variant is for a model.
    pub fn choose(
        &self,
        backend: &Backend,
        header: &Header,
        context: ContextParams,
    ) -> Result<Choice> {
        let params = match self.moe_cache_size() {
            0 => ModelParams::default(),
            _ => ModelParams::default().for_moe_cache(),
        };
        Ok(match &self.rules {
            Rules::Base => Choice::Rules(params, None),
            Rules::CpuMoe => Choice::Rules(params.with_cpu_moe_all(), None),
            Rules::NCpuMoe(n) => Choice::Rules(params.with_n_cpu_moe(*n), None),
            Rules::Last(n) => Choice::Rules(params.with_cpu_moe_last(*n), None),
            Rules::GpuLayers(n) => Choice::Rules(params.with_n_gpu_layers(*n), Some(*n)),
            Rules::Custom(rules) => Choice::Rules(params.with_override_str(rules)?, None),
            Rules::Plan(bytes) => {
                let planner = Planner::of_header(backend, header.clone());
                let plan = planner
                    .with_context_params(context)
                    .fit(&Budget::per_device(*bytes))?;
                Choice::Plan(Box::new(plan))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (String, Rules) {
        let variant: Variant = text.parse().unwrap();
        assert_eq!(variant.moe_cache, None);
        (variant.name, variant.rules)
    }

    #[test]
    fn rules_are_their_own_names() {
        for (text, rules) in [
            ("base", Rules::Base),
            ("cpu-moe", Rules::CpuMoe),
            ("n-cpu-moe=3", Rules::NCpuMoe(3)),
            ("last=4", Rules::Last(4)),
            ("plan=1KiB", Rules::Plan(1024)),
            ("ngl=0", Rules::GpuLayers(0)),
        ] {
            assert_eq!(parse(text), (text.to_owned(), rules));
        }
    }

    #[test]
    fn a_name_may_come_before() {
        let named = |name: &str, rules| (name.to_owned(), rules);
        assert_eq!(parse("A=cpu-moe"), named("A", Rules::CpuMoe));
        assert_eq!(parse("half=n-cpu-moe=3"), named("half", Rules::NCpuMoe(3)));
        let custom = r"blk\.0.*exps=CPU,ffn_up=RPC0";
        assert_eq!(
            parse(&format!("mine={custom}")),
            named("mine", Rules::Custom(custom.to_owned()))
        );
    }

    #[test]
    fn a_cache_may_follow() {
        for (text, name, rules, bytes, setup) in [
            (
                "cache=2GiB",
                "cache=2GiB",
                Rules::CpuMoe,
                2 << 30,
                "cpu-moe+cache=2GiB",
            ),
            (
                "c=cache=2GiB",
                "c",
                Rules::CpuMoe,
                2 << 30,
                "cpu-moe+cache=2GiB",
            ),
            ("base+cache=0", "base+cache=0", Rules::Base, 0, "base"),
            (
                "n-cpu-moe=3+cache=5MiB",
                "n-cpu-moe=3+cache=5MiB",
                Rules::NCpuMoe(3),
                5 << 20,
                "n-cpu-moe=3+cache=5MiB",
            ),
            (
                "p=plan=8GiB+cache=1025",
                "p",
                Rules::Plan(8 << 30),
                1025,
                "plan=8GiB+cache=1025",
            ),
            (
                r"mine=blk\.[0-9]+\.ffn_up=CPU+cache=1MiB",
                "mine",
                Rules::Custom(r"blk\.[0-9]+\.ffn_up=CPU".to_owned()),
                1 << 20,
                r"blk\.[0-9]+\.ffn_up=CPU+cache=1MiB",
            ),
        ] {
            let variant: Variant = text.parse().unwrap();
            assert_eq!(
                (variant.name.as_str(), &variant.rules),
                (name, &rules),
                "{text}"
            );
            assert_eq!(variant.moe_cache, Some(bytes), "{text}");
            assert_eq!(variant.setup(), setup);
        }
        // A pattern may have the same letters.
        let custom = "x+cache=CPU";
        assert_eq!(
            parse(&format!("mine={custom}")).1,
            Rules::Custom(custom.to_owned())
        );
    }

    #[test]
    fn what_is_none_says_what_there_is() {
        for (text, part) in [
            ("cpumoe", "n-cpu-moe=N"),
            ("", "n-cpu-moe=N"),
            ("x=y", "'y'"),
            ("last=all", "'all'"),
            ("plan=much", "8GiB"),
            ("cache=much", "8GiB"),
            ("cpu-moe+cache=much", "8GiB"),
            ("cpu-moe+cache=-1", "0 or more"),
            ("=cpu-moe", "no name"),
            ("a\nb=cpu-moe", "no name"),
        ] {
            let error = text.parse::<Variant>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
