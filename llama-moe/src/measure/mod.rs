//! What a run takes, measured: times, memory, statistics, and what it was measured on.
//!
//! [`generate`] takes the time of each token. [`Series`] keeps repetitions of a number and says
//! how certain their mean is, and whether another series differs from it; [`holm`] is for many
//! comparisons at once. [`deliver`] sends what is generated to a reader. [`DeviceWatch`],
//! [`breakdown`], [`memory_kinds`] and [`HostMemory`] tell what memory is in use, each in its own
//! way; [`transfer_rates`] how fast a device gets what is in system memory. [`Provenance`] says what a result was measured on, for it to be repeated.
//! [`quality`] tells whether a variant still says the same. [`routing`] records which experts a
//! model's tokens take.
//!
//! Results keep their raw values, and can be written and read as JSON.
//!
//! ```no_run
//! use llama_moe::measure::{DeviceWatch, HostMemory, Length, Series, breakdown, generate, prompt};
//! use llama_moe::{Backend, ContextParams, Model, ModelParams, Sampler};
//! use std::time::Duration;
//!
//! let backend = Backend::init()?;
//! let watch = DeviceWatch::start(&backend.gpus(), Duration::from_millis(5))?;
//! let params = ModelParams::default().with_cpu_moe_all();
//! let model = Model::load(&backend, "gpt-oss-20b.gguf", params)?;
//! let mut context = model.context(ContextParams::default().with_n_ctx(1024))?;
//! let mut sampler = Sampler::greedy()?;
//! let prompt = prompt(&model.vocab(), "Why is the sky blue? ", 512)?;
//!
//! let length = Length::Exactly(128);
//! generate(&mut context, &mut sampler, &prompt, length)?; // warms up
//! let mut rates = Vec::new();
//! for _ in 0..5 {
//!     let run = generate(&mut context, &mut sampler, &prompt, length)?;
//!     rates.extend(run.decode_tokens_per_second());
//! }
//! println!("{} tokens per second", Series::new(rates)?); // mean ± σ (N = 5)
//!
//! for device in watch.finish() {
//!     println!("{}: {:?} bytes at most", device.device, device.peak());
//! }
//! for entry in breakdown(&mut context)? {
//!     println!("{}: {} bytes of weights", entry.buffer, entry.model);
//! }
//! if let Some(host) = HostMemory::now() {
//!     println!("{} bytes resident, {} major page faults", host.rss, host.major_faults);
//! }
//! # Ok::<(), llama_moe::Error>(())
//! ```

mod delivery;
mod digest;
mod error;
mod holm;
mod host;
mod machine;
mod memory;
mod provenance;
pub mod quality;
pub mod routing;
mod run;
mod seconds;
mod series;
mod student;
mod transfer;

pub use delivery::{Delivered, Way, deliver};
pub use digest::{HashCache, sha256};
pub use error::MeasureError;
pub use holm::holm;
pub use host::HostMemory;
pub use machine::Machine;
pub use memory::{DeviceUse, DeviceWatch, KindUse, MemorySplit, breakdown, memory_kinds};
pub use provenance::{DeviceRecord, FileRecord, ModelRecord, Provenance, timestamp};
pub use run::{Length, Run, generate, prompt};
pub use series::{Interval, MeanDifference, Series};
pub use transfer::{TransferRate, transfer_rates};
