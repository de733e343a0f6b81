//! What a reader of the report has to know before the numbers.

use llama_moe::Backend;
use llama_moe::measure::Provenance;

use crate::job::{PrepareJob, PreparedVariant};

/// What is known before anything was measured, each a sentence.
pub fn notes(
    backend: &Backend,
    job: &PrepareJob,
    provenance: &Provenance,
    variants: &[PreparedVariant],
) -> Vec<String> {
    let mut notes = Vec::new();
    match job.repetitions {
        1 => notes.push(QUICK.replace("{}", "one repetition")),
        2 => notes.push(QUICK.replace("{}", "two repetitions")),
        _ => {}
    }
    let gpus = backend.gpus();
    let has_workers = gpus.iter().any(|device| device.backend_name() == "RPC");
    let applies = [
        (provenance.debug_build, NOT_OPTIMISED),
        (provenance.model.name.contains("(synthetic)"), SYNTHETIC),
        (gpus.is_empty(), NO_DEVICE),
        (has_workers, WORKERS),
        (job.quality.is_none(), NO_QUALITY),
        (true, TOKENS),
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
const NOT_OPTIMISED: &str = "This program was compiled without optimisation, which counts for the bandwidth of system \
     memory and for the time between tokens; llama.cpp was compiled with it.";
const SYNTHETIC: &str = "The weights are synthetic: memory is that of a model of this shape, but its router spreads \
     tokens over the experts more evenly than a trained one, and what it says means nothing.";
const NO_DEVICE: &str = "There is no device beside the CPU: rules that keep experts in system memory change nothing \
     but how the file is read.";
const WORKERS: &str = "Devices of workers are used: their transfers go over a network, and their memory is not \
     watched while the model runs.";
const NO_QUALITY: &str = "Quality was not measured.";
const TOKENS: &str = "Tokens are those of the model's own tokenizer. After each prompt as many are generated as \
     asked for, past a token that would end the reply.";
