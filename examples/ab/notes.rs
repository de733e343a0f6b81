//! What a reader of the report has to know before the numbers, and cannot see in them.

use llama_moe::Backend;

use crate::job::PreparedVariant;

const NO_DEVICE: &str = "There is no device beside the CPU: rules that keep experts in system memory change nothing \
     but how the file is read.";
const WORKERS: &str = "Devices of workers are used: their transfers go over a network, and their memory is not \
     watched while the model runs.";

const NO_REPACKING: &str = "Variants with a cache of experts are loaded without repacking weights for the CPU, those \
     without a cache with it where llama.cpp does so: where experts are computed on the CPU, that \
     differs too.";

/// What is known before anything was measured, each a sentence.
pub fn notes(backend: &Backend, variants: &[PreparedVariant]) -> Vec<String> {
    let mut notes = Vec::new();
    let gpus = backend.gpus();
    if gpus.is_empty() {
        notes.push(NO_DEVICE.to_owned());
    }
    if gpus.iter().any(|device| device.backend_name() == "RPC") {
        notes.push(WORKERS.to_owned());
    }
    let has_cache = |variant: &PreparedVariant| variant.moe_cache.is_some();
    if variants.iter().any(has_cache) && !variants.iter().all(has_cache) {
        notes.push(NO_REPACKING.to_owned());
    }
    for (index, variant) in variants.iter().enumerate() {
        let mut others = variants[..index].iter();
        if let Some(other) = others.find(|other| other.loading == variant.loading) {
            notes.push(format!(
                "{} and {} are loaded in the same way: between them nothing but chance differs.",
                other.variant.name, variant.variant.name
            ));
        }
    }
    notes
}
