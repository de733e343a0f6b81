//! The shape of a model: what a file of it says before its weights.

use std::fmt;
use std::ops::RangeInclusive;

use super::hyper::{Family, HyperParams};
use super::named::NamedShape;
use super::tensors::{Tensor, tensors};
use super::vocab;
use super::weight_type::WeightType;
use crate::error::{Error, Result};
use crate::gguf::{Header, Value};

/// The shape of a model: its metadata, and its tensors' names, extents and types.
///
/// That of a [`NamedShape`] can be made smaller, for tests and small machines; that of a
/// file's header is taken as it is.
///
/// ```
/// use llama_moe::gguf::synth::{NamedShape, Shape};
///
/// let shape = Shape::from(NamedShape::DeepSeekV3);
/// assert_eq!(shape.n_params() / 1_000_000_000, 671);
/// let small = shape.with_layers(4)?.with_width(512)?.with_experts(16)?.with_vocab(4096)?;
/// assert!(small.bytes() < 200 << 20);
/// # Ok::<(), llama_moe::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Shape(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Named(NamedShape, HyperParams),
    Header(Header),
}

impl From<NamedShape> for Shape {
    fn from(shape: NamedShape) -> Self {
        Self(Kind::Named(shape, HyperParams::of(shape)))
    }
}

impl From<&Header> for Shape {
    fn from(header: &Header) -> Self {
        Self::of_header(header)
    }
}

impl Shape {
    /// The shape of a real model. Files of a split model become one.
    #[must_use]
    pub fn of_header(header: &Header) -> Self {
        Self(Kind::Header(header.clone()))
    }

    /// The model's name.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.0 {
            Kind::Named(shape, _) => shape.to_string(),
            Kind::Header(header) => header.name(),
        }
    }

    /// llama.cpp's name of the architecture: `qwen3moe`.
    #[must_use]
    pub fn architecture(&self) -> &str {
        match &self.0 {
            Kind::Named(_, hyper) => hyper.family.architecture(),
            Kind::Header(header) => header.architecture(),
        }
    }

    /// Elements of all tensors, as `llama_model_n_params` counts them.
    #[must_use]
    pub fn n_params(&self) -> u64 {
        let elements = |tensor: &Tensor| {
            let extents = tensor.shape.iter();
            extents.fold(1u64, |product, &extent| product.saturating_mul(extent))
        };
        let elements = self.tensors().iter().map(elements).collect::<Vec<_>>();
        elements.into_iter().fold(0, u64::saturating_add)
    }

    /// Bytes of all tensors, without padding.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let tensors = self.tensors();
        let bytes = tensors.iter().map(|tensor| tensor.bytes);
        bytes.fold(0, u64::saturating_add)
    }

    /// With so many layers only. The last ones go; of layers that are dense at the start, as
    /// many go as it takes for one with experts to stay. Blocks that predict further tokens
    /// are not counted, and stay.
    ///
    /// # Errors
    /// [`Error::Parameter`] for no layer, for more than the shape has, and for a number by
    /// which llama.cpp would take the model for another one.
    pub fn with_layers(self, n: u32) -> Result<Self> {
        self.scaled("with_layers", n, |hyper| {
            check_range(n, 1..=hyper.n_layer)?;
            hyper.n_layer = n;
            hyper.n_layer_dense = hyper.n_layer_dense.min(n - 1);
            Ok(())
        })
    }

    /// With so many experts in a layer only; as many are used as before.
    ///
    /// # Errors
    /// [`Error::Parameter`] for fewer than are used, for more than the shape has, and where
    /// experts stand in groups, for a number that does not divide into them.
    pub fn with_experts(self, n: u32) -> Result<Self> {
        self.scaled("with_experts", n, |hyper| {
            let least = match hyper.routing.groups {
                // A group is rated by its two best experts.
                Some((groups, used)) => (2 * groups).max(hyper.n_expert_used * groups / used),
                None => hyper.n_expert_used,
            };
            check_range(n, least..=hyper.n_expert)?;
            if let Some((groups, _)) = hyper.routing.groups {
                check_multiple(n, groups)?;
            }
            hyper.n_expert = n;
            Ok(())
        })
    }

    /// With so many tokens in the vocabulary only.
    ///
    /// # Errors
    /// [`Error::Parameter`] for fewer than 291, which the bytes and a few more take, and for
    /// more than the shape has.
    pub fn with_vocab(self, n: u32) -> Result<Self> {
        self.scaled("with_vocab", n, |hyper| {
            check_range(n, vocab::MIN..=hyper.n_vocab)?;
            hyper.n_vocab = n;
            Ok(())
        })
    }

    /// With a hidden state of this width only (`n_embd`). The rows of feed-forward layers and
    /// experts shrink in proportion, and so does the number of heads; heads, and the ranks of
    /// latent attention, stay as large as they are.
    ///
    /// # Errors
    /// [`Error::Parameter`] for more than the shape has, and where it is no multiple of 32,
    /// or in `phi-3.5-moe`, whose heads make up the whole width, of 512.
    pub fn with_width(self, n_embd: u32) -> Result<Self> {
        self.scaled("with_width", n_embd, |hyper| {
            let heads_per_kv = hyper.n_head / hyper.n_head_kv;
            let step = match hyper.family {
                Family::PhiMoe => heads_per_kv * hyper.n_embd_head,
                _ => 32,
            };
            check_range(n_embd, step..=hyper.n_embd)?;
            check_multiple(n_embd, step)?;
            let before = u64::from(hyper.n_embd);
            let shrink = |n: u32| (u64::from(n) * u64::from(n_embd) / before) as u32;
            for n_ff in [&mut hyper.n_ff, &mut hyper.n_ff_exp] {
                *n_ff = shrink(*n_ff).next_multiple_of(32).max(32);
            }
            if hyper.latent.is_some() {
                hyper.n_head = shrink(hyper.n_head).max(1);
            } else {
                hyper.n_head_kv = shrink(hyper.n_head_kv).max(1);
                hyper.n_head = hyper.n_head_kv * heads_per_kv;
            }
            hyper.n_embd = n_embd;
            Ok(())
        })
    }

    /// With all matrices of one type, but for those whose rows do not divide into its blocks:
    /// they are in 16 bits. Without this, types are those of the usual quantisation.
    ///
    /// # Errors
    /// [`Error::Parameter`] for the shape of a file's header.
    pub fn with_weight_type(self, kind: WeightType) -> Result<Self> {
        self.scaled("with_weight_type", kind, |hyper| {
            hyper.weight_type = Some(kind);
            Ok(())
        })
    }

    fn scaled(
        self,
        parameter: &'static str,
        value: impl fmt::Display,
        scale: impl FnOnce(&mut HyperParams) -> Result<(), String>,
    ) -> Result<Self> {
        let name = self.name();
        let refuse = |reason: String| Error::Parameter {
            parameter,
            value: value.to_string(),
            reason,
        };
        let Kind::Named(shape, mut hyper) = self.0 else {
            return Err(refuse(format!(
                "the shape of {name} is that of a file's header; only a named one can be changed"
            )));
        };
        scale(&mut hyper)
            .and_then(|()| check_not_lite(&hyper))
            .map_err(|reason| refuse(format!("{name}: {reason}")))?;
        Ok(Self(Kind::Named(shape, hyper)))
    }

    pub(super) fn metadata(&self) -> Vec<(String, Value)> {
        match &self.0 {
            Kind::Named(shape, hyper) => {
                // Spaces, as converted files have them: where a name has "phi-3" in it,
                // llama.cpp asks for tokens of that model's vocabulary.
                let name = shape.name().replace('-', " ");
                hyper.metadata(&synthetic(&name))
            }
            Kind::Header(header) => {
                let mut keys = vec![(
                    "general.name".to_owned(),
                    Value::Text(synthetic(&header.name())),
                )];
                // There is one file now, aligned as it is by default.
                keys.extend(header.metadata().filter(|(key, _)| {
                    !key.starts_with("split.")
                        && key != "general.alignment"
                        && key != "general.name"
                }));
                keys
            }
        }
    }

    pub(super) fn tensors(&self) -> Vec<Tensor> {
        match &self.0 {
            Kind::Named(_, hyper) => tensors(hyper),
            Kind::Header(header) => {
                let tensors = header.tensors().iter();
                tensors
                    .map(|tensor| Tensor {
                        name: tensor.name.clone(),
                        shape: tensor.shape.clone(),
                        type_id: tensor.type_id,
                        bytes: tensor.bytes,
                    })
                    .collect()
            }
        }
    }
}

/// Nobody shall take the file for the model.
fn synthetic(name: &str) -> String {
    const MARK: &str = " (synthetic)";
    format!("{}{MARK}", name.strip_suffix(MARK).unwrap_or(name))
}

fn check_range(n: u32, possible: RangeInclusive<u32>) -> Result<(), String> {
    if possible.contains(&n) {
        return Ok(());
    }
    let (least, most) = possible.into_inner();
    Err(format!("{least} to {most} are possible"))
}

fn check_multiple(n: u32, step: u32) -> Result<(), String> {
    if n.is_multiple_of(step) {
        return Ok(());
    }
    Err(format!("it has to be a multiple of {step}"))
}

/// llama.cpp tells the variants of deepseek2 apart by their layers: with these numbers it
/// reads no rank of the queries, and looks for tensors that are not there.
fn check_not_lite(hyper: &HyperParams) -> Result<(), String> {
    let has_rank = hyper.latent.is_some_and(|latent| latent.q_rank > 0);
    match hyper.n_layer {
        26 | 27 if has_rank => (),
        48 if has_rank && hyper.n_vocab == 128_256 => (),
        _ => return Ok(()),
    }
    Err(format!(
        "llama.cpp takes a model of {} layers for one of the lite variants, which it is not",
        hyper.n_layer
    ))
}
