//! Files of a model's exact shape, without the model.
//!
//! "Would it run here, and how fast?" is a question about a model's shape: how many layers
//! and experts it has, how large they are, in which types. A [`Synth`] writes a GGUF of that
//! shape, named ([`NamedShape`]) or taken from a real file's [`Header`](super::Header), which
//! llama.cpp loads as it would the model: with random weights, to be run and timed, or
//! sparse, with a hole where the weights would be, to be planned with. The second takes two
//! or three megabytes on the disk, whatever the model; most of them are the vocabulary.
//!
//! ```
//! use llama_moe::gguf::synth::{NamedShape, Shape, Synth};
//!
//! # let dir = tempfile::tempdir().unwrap();
//! # let path = dir.path().join("model.gguf");
//! let shape = Shape::from(NamedShape::DeepSeekV3);
//! println!("{} needs {} GiB", shape.name(), shape.bytes() >> 30);
//! Synth::new(shape).sparse().write(&path)?;
//! # Ok::<(), llama_moe::Error>(())
//! ```
//!
//! # What such a file can show
//!
//! - Memory: which tensor goes where, and how many bytes it takes. Every name, extent and
//!   type is what the model's file has, so [`TensorOverrides`](crate::TensorOverrides),
//!   previews and plans see no difference. Published files of the same name may differ in
//!   the types of a few tensors, where their makers departed from llama.cpp's own choice:
//!   take such a file's header for its exact bytes.
//! - Speed, where it does not depend on the values: matrices of the same size and type take
//!   the same time, whatever is in them. That needs random weights: a hole reads as zeros,
//!   all of them from one page of memory, so a sparse file is for planning alone.
//!
//! # What it cannot
//!
//! - Quality. The answers are noise. The vocabulary is made up: it has the model's size, but
//!   splits English into two or three times as many tokens.
//! - How experts are used. A random router chooses among all experts nearly alike. A trained
//!   one has favourites, which differ from text to text, and often takes the same ones for
//!   neighbouring tokens. So with random weights a batch touches more experts than it would
//!   in the model, and a cache holds fewer of those that come next: uniform routing
//!   understates what reuse of experts gains, and flatters what works without any.
//!   [`Synth::with_router_skew`] gives routers favourites. These are the same for every
//!   text, and neighbouring tokens still have nothing to do with each other: a range between
//!   no skew and a strong one is an honest answer, one of the two alone is not.
//! - Everything that rests on what is said: speculative decoding, stopping by itself,
//!   grammars.
//!
//! # Quantisation
//!
//! gpt-oss has its experts in MXFP4, in which they were trained, and its other matrices in
//! Q8_0. The other models are in the mixture that llama.cpp's `llama-quantize` calls Q4_K_M,
//! which is what most people download: Mixtral too, whose mixture keeps keys and values in
//! Q8_0. Where a row is no multiple of 256, the type that `llama-quantize` falls back to
//! stands in: the rows of 1408 in DeepSeek-V2-Lite and GLM-4.5-Air are in Q5_0 and Q8_0.

mod half;
mod hyper;
mod named;
mod quantise;
mod random;
mod shape;
mod tensors;
mod types;
mod vocab;
mod weight_type;
mod weights;
mod writer;

use std::path::Path;

pub use named::NamedShape;
pub use shape::Shape;
pub use weight_type::WeightType;

use crate::error::{Error, Result};
use tensors::Tensor;
use types::TensorType;
use weights::Draw;
use writer::Contents;

/// `LLAMA_MAX_EXPERTS` of the pinned llama.cpp.
const MAX_EXPERTS: u64 = 1024;

/// Writes a file of a model's shape.
///
/// ```
/// use llama_moe::gguf::synth::{NamedShape, Shape, Synth};
///
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("model.gguf");
/// let shape = Shape::from(NamedShape::Mixtral8x7b).with_layers(2)?.with_width(256)?;
/// Synth::new(shape).with_seed(7).with_router_skew(0.5).write(&path)?;
/// # Ok::<(), llama_moe::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Synth {
    shape: Shape,
    sparse: bool,
    seed: u64,
    router_skew: f32,
}

impl Synth {
    /// A file of this shape, with random weights of seed 0.
    pub fn new(shape: impl Into<Shape>) -> Self {
        Self {
            shape: shape.into(),
            sparse: false,
            seed: 0,
            router_skew: 0.0,
        }
    }

    /// A hole instead of weights: for the file system the file is as long as it would be, but
    /// takes no space, where the file system can do that. What is read there is zeros.
    pub fn sparse(mut self) -> Self {
        self.sparse = true;
        self
    }

    /// Other random weights: the same seed gives the same file, on every machine.
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Routers with favourites: the weights of the expert of rank `r`, counted from 0, are
    /// `(r + 1)^-skew` times as large, with ranks dealt anew in every layer. At 0, the
    /// default, all are alike.
    ///
    /// An expert with large weights is among the first for half of all tokens, and among the
    /// last for the other half: so what is routed to it does not follow in proportion, and
    /// skew shows most where there are many experts. Of 128 with 8 used, as in
    /// `qwen3-30b-a3b` cut down to three layers of width 256, the most chosen quarter had
    /// 44 % of all choices at 0, 74 % at 0.5 and 92 % at 1; of 8 with 2 used, as in
    /// `mixtral-8x7b`, it had 30 %, 34 % and 39 %.
    pub fn with_router_skew(mut self, skew: f32) -> Self {
        self.router_skew = skew;
        self
    }

    /// Writes the file. There must be none at `path` yet, lest a real model be lost; what
    /// cannot be completed is removed.
    ///
    /// The weights are written as they are drawn, about a megabyte at a time, so a model may
    /// be larger than the memory.
    ///
    /// # Errors
    /// [`Error::File`] if the file exists, or cannot be created or written, for want of space
    /// for instance. [`Error::Parameter`] for a skew that is negative or no number, for one of
    /// a model without routers or of a sparse file, which has no weights, and for weights of
    /// a type that cannot be drawn.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        self.write_with_progress(path, |_, _| ())
    }

    /// As [`write`](Self::write), telling how many bytes are written, and of how many, for
    /// every megabyte or so.
    ///
    /// # Errors
    /// As `write`.
    pub fn write_with_progress(
        &self,
        path: impl AsRef<Path>,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<()> {
        let tensors = self.shape.tensors();
        self.check(&tensors)?;
        let contents = Contents::new(&self.shape.metadata(), tensors);
        let contents = contents.ok_or_else(|| Error::Parameter {
            parameter: "shape",
            value: self.shape.name(),
            reason: "its tensors are larger than a file can be".to_owned(),
        })?;
        if self.sparse {
            return contents.write_sparse(path.as_ref());
        }
        let draw = Draw {
            seed: self.seed,
            router_skew: self.router_skew,
        };
        let total = contents.len();
        contents.write(path.as_ref(), draw, &mut |written| progress(written, total))
    }

    fn check(&self, tensors: &[Tensor]) -> Result<()> {
        let skew = self.router_skew;
        let refuse_skew = |reason: &str| {
            Err(Error::Parameter {
                parameter: "with_router_skew",
                value: skew.to_string(),
                reason: reason.to_owned(),
            })
        };
        if !skew.is_finite() || skew < 0.0 {
            return refuse_skew("it is a number from 0 on");
        }
        if skew > 0.0 {
            if self.sparse {
                return refuse_skew("a sparse file has no weights");
            }
            let mut routers = tensors
                .iter()
                .filter(|tensor| tensor.is_router())
                .peekable();
            if routers.peek().is_none() {
                return refuse_skew("the shape has no routers");
            }
            if routers.any(|router| router.shape.iter().skip(1).any(|&n| n > MAX_EXPERTS)) {
                return refuse_skew("llama.cpp knows no router with more than 1024 experts");
            }
        }
        if self.sparse {
            return Ok(());
        }
        match tensors
            .iter()
            .find(|tensor| TensorType::from_id(tensor.type_id).is_none())
        {
            None => Ok(()),
            Some(tensor) => Err(Error::Parameter {
                parameter: "shape",
                value: self.shape.name(),
                reason: format!(
                    "weights of ggml's type {}, as {} has them, cannot be drawn; the file can \
                     be sparse",
                    tensor.type_id, tensor.name
                ),
            }),
        }
    }
}
