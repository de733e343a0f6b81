//! What is known of a comparison so far.

use common::Result;
use llama_moe::measure::timestamp;
use serde::Serialize;
use serde_json::Value;

use crate::job::Prepared;
use crate::journal::Entry;
use crate::results::{Failure, Outcome, Quality, Results, SCHEMA, Trial, VariantResults};

/// A comparison: what it is of, and what was measured.
#[derive(Debug)]
pub struct Record {
    pub prepared: Prepared,
    pub variants: Vec<VariantRecord>,
    n_resumed: usize,
    /// What came up meanwhile, for the reader of the report.
    pub notes: Vec<String>,
}

/// What was measured of one variant.
#[derive(Clone, Debug, Default)]
pub struct VariantRecord {
    /// Its trials, by repetition.
    pub trials: Vec<Trial>,
    /// Its quality.
    pub quality: Option<Outcome<Quality>>,
}

impl Record {
    /// Of nothing yet.
    pub fn new(prepared: Prepared) -> Self {
        Self {
            variants: vec![VariantRecord::default(); prepared.variants.len()],
            prepared,
            n_resumed: 0,
            notes: Vec::new(),
        }
    }

    /// Of what a journal has. `None` for an empty one.
    pub fn of(entries: Vec<Entry>) -> Result<Option<Self>> {
        let mut entries = entries.into_iter();
        let Some(Entry::Begin(prepared)) = entries.next() else {
            return Ok(None);
        };
        let mut record = Self::new(*prepared);
        for entry in entries {
            record.add(entry)?;
        }
        Ok(Some(record))
    }

    /// Adds what a line says.
    pub fn add(&mut self, entry: Entry) -> Result<()> {
        let n = self.variants.len();
        let unknown = |index| format!("the journal speaks of variant {index}; there are {n}");
        match entry {
            Entry::Begin(_) => {}
            Entry::Resumed { .. } => self.n_resumed += 1,
            Entry::Trial { variant, trial } => {
                let variant = self.variants.get_mut(variant).ok_or(unknown(variant))?;
                variant.trials.push(trial);
            }
            Entry::Quality { variant, quality } => {
                let variant = self.variants.get_mut(variant).ok_or(unknown(variant))?;
                // A base that is measured once more, for its files, keeps what it found.
                if !variant.has_quality() {
                    variant.quality = Some(quality);
                }
            }
        }
        Ok(())
    }

    /// A variant's name.
    pub fn name(&self, variant: usize) -> &str {
        let variant = self.prepared.variants.get(variant);
        variant.map_or("", |variant| &variant.variant.name)
    }

    /// Trials that ended well, of all variants.
    pub fn n_done(&self) -> usize {
        let trials = self.variants.iter().flat_map(|variant| &variant.trials);
        trials.filter(|trial| trial.is_done()).count()
    }

    /// The results.
    pub fn results(&self, is_complete: bool) -> Results {
        let mut notes = self.notes.clone();
        notes.extend(self.prepared.notes.iter().cloned());
        match self.n_resumed {
            0 => {}
            1 => notes.push("Stopped once, and resumed.".to_owned()),
            n => notes.push(format!("Stopped {n} times, and resumed.")),
        }
        Results {
            schema: SCHEMA,
            provenance: self.prepared.provenance.clone(),
            settings: self.prepared.settings.clone(),
            is_complete,
            finished: timestamp(),
            notes,
            bandwidth: self.prepared.bandwidth.clone(),
            variants: self
                .prepared
                .variants
                .iter()
                .zip(&self.variants)
                .map(|(prepared, record)| VariantResults {
                    name: prepared.variant.name.clone(),
                    rules: prepared.variant.setup(),
                    placement: prepared.placement.clone(),
                    command_line: prepared.command_line.clone(),
                    ceiling: prepared.ceiling.clone(),
                    moe_cache: prepared.moe_cache.clone(),
                    dry_run: prepared.dry_run.clone(),
                    trials: record.trials.clone(),
                    quality: record.quality.clone(),
                })
                .collect(),
        }
    }
}

impl VariantRecord {
    /// Whether a repetition was tried.
    pub fn is_tried(&self, repetition: usize) -> bool {
        let mut trials = self.trials.iter();
        trials.any(|trial| trial.repetition == repetition)
    }

    /// Whether its quality was measured. One that failed is tried again by who resumes.
    pub fn has_quality(&self) -> bool {
        matches!(self.quality, Some(Outcome::Done(_)))
    }

    /// Why its last trial gave nothing, if it did.
    pub fn last_failure(&self) -> Option<&Failure> {
        match &self.trials.last()?.outcome {
            Outcome::Failed(failure) => Some(failure),
            Outcome::Done(_) => None,
        }
    }
}

impl Trial {
    /// Whether it ended well.
    pub fn is_done(&self) -> bool {
        matches!(self.outcome, Outcome::Done(_))
    }
}

impl Prepared {
    /// What is not as it was before: each a sentence. Bandwidths and free memory change all the
    /// time, and do not count.
    pub fn differences(&self, before: &Self) -> Result<Vec<String>> {
        let mut differences = Vec::new();
        let hashes = |prepared: &Self| -> Vec<String> {
            let files = prepared.provenance.model.files.iter();
            files.map(|file| file.sha256.clone()).collect()
        };
        let mut compare = |what: &str, before: Value, now: Value| {
            if before != now {
                differences.push(format!("{what}: {before} before, {now} now"));
            }
        };
        let paths = |prepared: &Self| -> Vec<String> {
            let files = prepared.provenance.model.files.iter();
            files.map(|file| file.path.display().to_string()).collect()
        };
        compare(
            "the model's files",
            value(&paths(before))?,
            value(&paths(self))?,
        );
        let sources = |prepared: &Self| -> Vec<String> {
            let sources = prepared.provenance.sources.iter();
            sources.map(|source| source.sha256.clone()).collect()
        };
        compare(
            "the sources' SHA-256",
            value(&sources(before))?,
            value(&sources(self))?,
        );
        compare(
            "the model's SHA-256",
            value(&hashes(before))?,
            value(&hashes(self))?,
        );
        if let (Value::Object(before), Value::Object(now)) =
            (value(&before.settings)?, value(&self.settings)?)
        {
            for (key, now) in now {
                let before = before.get(&key).cloned().unwrap_or_default();
                compare(&key, before, now);
            }
        }
        let variants = |prepared: &Self| -> Vec<String> {
            let variants = prepared.variants.iter().map(|prepared| &prepared.variant);
            variants
                .map(|variant| format!("{}={}", variant.name, variant.setup()))
                .collect()
        };
        compare(
            "variants",
            value(&variants(before))?,
            value(&variants(self))?,
        );
        for (before, now) in before.variants.iter().zip(&self.variants) {
            let what = format!("how {} is loaded", now.variant.name);
            compare(&what, value(&before.loading)?, value(&now.loading)?);
        }
        compare("samples", value(&before.samples)?, value(&self.samples)?);
        compare(
            "the tasks' SHA-256",
            value(&before.tasks_sha256)?,
            value(&self.tasks_sha256)?,
        );
        let (theirs, ours) = (&before.provenance, &self.provenance);
        let devices = |provenance: &llama_moe::measure::Provenance| -> Vec<String> {
            let devices = provenance.devices.iter();
            devices
                .map(|device| format!("{} ({})", device.name, device.description))
                .collect()
        };
        compare("devices", value(&devices(theirs))?, value(&devices(ours))?);
        compare(
            "the CPU",
            value(&theirs.machine.cpu)?,
            value(&ours.machine.cpu)?,
        );
        compare(
            "kernel and drivers",
            value(&(&theirs.machine.kernel, &theirs.machine.drivers))?,
            value(&(&ours.machine.kernel, &ours.machine.drivers))?,
        );
        compare(
            "environment variables",
            value(&theirs.environment)?,
            value(&ours.environment)?,
        );
        let build = |provenance: &llama_moe::measure::Provenance| {
            value(&(
                &provenance.crate_version,
                &provenance.commit,
                &provenance.features,
                provenance.debug_build,
                &provenance.llama_cpp_version,
                &provenance.llama_cpp_build,
            ))
        };
        compare("this program", build(theirs)?, build(ours)?);
        Ok(differences)
    }
}

fn value(of: &impl Serialize) -> Result<Value> {
    Ok(serde_json::to_value(of)?)
}
