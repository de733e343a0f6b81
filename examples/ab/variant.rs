//! A variant: a name, and rules.

use std::fmt;
use std::str::FromStr;

use common::{Bytes, Result};
use llama_moe::gguf::Header;
use llama_moe::{Backend, Budget, ContextParams, ModelParams, Pattern, Plan, Planner, Target};
use serde::{Deserialize, Serialize};

/// What a variant's rules can be.
const FORMS: &str = "base, cpu-moe, n-cpu-moe=N, last=N, plan=8GiB, ngl=N, each with or without \
                     NAME= before it, or NAME=REGEX=BUFFER";

/// A variant, as the command line has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variant {
    /// Its name.
    pub name: String,
    /// Its rules.
    pub rules: Rules,
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
        let (name, rules) = match Rules::known(text) {
            Some(rules) => (text, rules?),
            None => {
                let (name, rest) = text
                    .split_once('=')
                    .ok_or_else(|| format!("'{text}' is no set of rules; there are {FORMS}"))?;
                let rules = match Rules::known(rest) {
                    Some(rules) => rules?,
                    None if rest.contains('=') => Rules::Custom(rest.to_owned()),
                    None => return Err(format!("'{rest}' is no set of rules; there are {FORMS}")),
                };
                (name, rules)
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
        })
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
            Self::Plan(bytes) => match (bytes >> 30 << 30 == *bytes, bytes >> 20 << 20 == *bytes) {
                (true, _) => write!(f, "plan={}GiB", bytes >> 30),
                (_, true) => write!(f, "plan={}MiB", bytes >> 20),
                _ => write!(f, "plan={bytes}"),
            },
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
        Ok(params)
    }
}

/// A variant's parameters, before it is known what they take.
pub enum Choice {
    /// Rules of its own.
    Rules(ModelParams, Option<u32>),
    /// What a planner made.
    Plan(Box<Plan>),
}

impl Rules {
    /// The parameters that these rules are for a model.
    pub fn choose(
        &self,
        backend: &Backend,
        header: &Header,
        context: ContextParams,
    ) -> Result<Choice> {
        let params = ModelParams::default();
        Ok(match self {
            Self::Base => Choice::Rules(params, None),
            Self::CpuMoe => Choice::Rules(params.with_cpu_moe_all(), None),
            Self::NCpuMoe(n) => Choice::Rules(params.with_n_cpu_moe(*n), None),
            Self::Last(n) => Choice::Rules(params.with_cpu_moe_last(*n), None),
            Self::GpuLayers(n) => Choice::Rules(params.with_n_gpu_layers(*n), Some(*n)),
            Self::Custom(rules) => Choice::Rules(params.with_override_str(rules)?, None),
            Self::Plan(bytes) => {
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
    fn what_is_none_says_what_there_is() {
        for (text, part) in [
            ("cpumoe", "n-cpu-moe=N"),
            ("", "n-cpu-moe=N"),
            ("x=y", "'y'"),
            ("last=all", "'all'"),
            ("plan=much", "8GiB"),
            ("=cpu-moe", "no name"),
            ("a\nb=cpu-moe", "no name"),
        ] {
            let error = text.parse::<Variant>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
