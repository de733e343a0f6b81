//! What a reader of the report has to know before the numbers.

use llama_moe::Backend;

use crate::job::{PrepareJob, PreparedVariant};

/// What is known before anything was measured, each a sentence.
pub fn notes(backend: &Backend, job: &PrepareJob, variants: &[PreparedVariant]) -> Vec<String> {
    let mut notes = Vec::new();
    match job.repetitions {
        1 => notes.push(QUICK.replace("{}", "one repetition")),
        2 => notes.push(QUICK.replace("{}", "two repetitions")),
        _ => {}
    }
    let gpus = backend.gpus();
    let has_workers = gpus.iter().any(|device| device.backend_name() == "RPC");
    let applies = [
        (gpus.is_empty(), NO_DEVICE),
        (has_workers && job.repetitions > 0, WORKERS),
    ];
    let applies = applies.into_iter().filter(|(applies, _)| *applies);
    notes.extend(applies.map(|(_, note)| note.to_owned()));
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

const QUICK: &str =
    "Quick: {} of each variant says little or nothing about how its numbers scatter.";
const NO_DEVICE: &str = "There is no device beside the CPU: rules that keep experts in system memory change nothing \
     but how the file is read.";
const WORKERS: &str = "Devices of workers are used: their transfers go over a network, and their memory is not \
     watched while the model runs.";
