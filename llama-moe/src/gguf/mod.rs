//! What a model's file says of itself before it is loaded.
//!
//! A [`Header`] is read in milliseconds and touches no device: metadata, and every tensor
//! with its shape, type, bytes and [`Role`]. [`MoeShape`] adds up what matters for placing
//! experts.
//!
//! ```no_run
//! use llama_moe::gguf::Header;
//!
//! let header = Header::read("gpt-oss-20b.gguf")?;
//! if let Some(moe) = header.moe() {
//!     println!("{} MoE layers of {} experts", moe.moe_layers.len(), moe.n_expert);
//!     println!("{} bytes of experts per token", moe.expert_bytes_per_token);
//! }
//! # Ok::<(), llama_moe::Error>(())
//! ```
//!
//! [`synth`] writes files of a model's shape, to be planned or timed with before the model is
//! there.
//!
//! # Hostile files
//!
//! Reading a header is safe whatever the file, and takes memory in proportion to the header:
//! at most 128 MiB of a file are searched for it, and at most 131072 tensors and 65536 keys are
//! read. Pipes and devices are refused. [`Model::load`](crate::Model::load) reads it
//! first, and returns an error for what llama.cpp's loader would end the process over.

mod adapter;
mod architectures;
mod check;
mod header;
mod moe;
pub mod synth;
mod tensor;
mod value;

pub(crate) use adapter::check_adapter;
pub use header::Header;
pub use moe::MoeShape;
pub(crate) use tensor::block_of;
pub use tensor::{Role, TensorInfo};
pub use value::Value;
