//! The whole of a comparison.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use common::{Interrupt, Result, bundled_model};
use llama_moe::AbortToken;
use llama_moe::measure::{FileRecord, sha256, timestamp};
use serde::de::DeserializeOwned;

use crate::args::RunArgs;
use crate::child;
use crate::job::{Job, Load, PrepareJob, Prepared, QualityAsked, QualityJob};
use crate::journal::{Entry, Journal};
use crate::output::Folder;
use crate::progress::{Kind, Progress, Spinner};
use crate::record::Record;
use crate::report::write_report;
use crate::results::{Failure, Outcome, Quality, Trial};
use crate::text;
use crate::variant::Variant;

/// Trials that fail in a row before a variant is given up.
const PATIENCE: usize = 2;

/// How a comparison ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With all that was asked for tried.
    Complete,
    /// By Ctrl-C.
    Interrupted,
}

/// Measures what the command line asks for.
pub fn run(args: &RunArgs) -> Result<End> {
    check(args)?;
    let out = args
        .out
        .as_deref()
        .ok_or("--out DIR: where do the results go?")?;
    let text = text::read(args.measured.text.as_deref(), args.model.is_none())?;
    let interrupt = Interrupt::new()?;
    let folder = Folder::create(out)?;
    let (mut journal, entries) = Journal::open(&folder, args.resume)?;
    let before = Record::of(entries)?;
    let is_new = before.is_none();
    let prepared = prepare(args, &folder, &text, before.as_ref(), &interrupt);
    let record = match prepared {
        Ok(Some(prepared)) => begin(prepared, before, &mut journal)?,
        Ok(None) if is_new => {
            journal.discard();
            return Ok(End::Interrupted);
        }
        Ok(None) => return Ok(End::Interrupted),
        Err(error) => {
            if is_new {
                journal.discard();
            }
            return Err(error);
        }
    };
    let mut comparison = Comparison {
        args,
        model: model(args),
        progress: Progress::new(to_do(&record)),
        folder,
        journal,
        record,
        interrupt: interrupt.token(),
    };
    let end = interrupt.guard(|| comparison.measure())?;
    comparison.finish(end)
}

/// What can be said without having looked at anything.
fn check(args: &RunArgs) -> Result<()> {
    if args.variants.is_empty() {
        return Err("--variant: what is to be compared? See --help".into());
    }
    let mut names = BTreeSet::new();
    for variant in &args.variants {
        if !names.insert(&variant.name) {
            let name = &variant.name;
            return Err(format!(
                "two variants have the name '{name}': write NAME={}",
                variant.setup()
            )
            .into());
        }
    }
    let repetitions = args.measured.repetitions;
    if repetitions < 3 && !args.measured.quick && !args.measured.dry_run {
        return Err(format!(
            "--repetitions {repetitions}: fewer than three say nothing of how the numbers scatter; \
             --quick does it all the same, and the report says so"
        )
        .into());
    }
    Ok(())
}

/// The variants. Those that name no cache have the one for all.
fn variants(args: &RunArgs) -> Vec<Variant> {
    let for_all = args.moe_cache.given();
    let variants = args.variants.iter().cloned();
    variants
        .map(|variant| Variant {
            moe_cache: variant.moe_cache.or(for_all),
            ..variant
        })
        .collect()
}

fn model(args: &RunArgs) -> PathBuf {
    args.model.clone().unwrap_or_else(bundled_model)
}

/// Works out what is measured, and whether it is what was measured before. `None` if Ctrl-C
/// came.
fn prepare(
    args: &RunArgs,
    folder: &Folder,
    (text, about_text): &(String, String),
    before: Option<&Record>,
    interrupt: &Interrupt,
) -> Result<Option<Prepared>> {
    if before.is_none() {
        folder.write_text(text)?;
    } else if fs::read_to_string(folder.text()).ok().as_ref() != Some(text) {
        return Err("--resume: the text is not the one it began with".into());
    }
    let measured = &args.measured;
    let quality = &args.quality;
    let job = Job::Prepare(PrepareJob {
        model: model(args),
        text: folder.text(),
        notes: vec![about_text.clone()],
        variants: variants(args),
        rpc: args.rpc.clone(),
        repetitions: if measured.dry_run {
            0
        } else {
            measured.repetitions as usize
        },
        is_quick: measured.quick && measured.repetitions < 3,
        prompt_tokens: measured
            .prompt_tokens
            .iter()
            .map(|n| n.get() as usize)
            .collect(),
        generate: measured.generate.get() as usize,
        seed: measured.seed,
        n_ctx: measured.ctx.map(Into::into),
        n_ubatch: measured.ubatch.map(Into::into),
        n_threads: measured.threads.map(Into::into),
        quality: (!quality.no_quality && !measured.dry_run).then(|| QualityAsked {
            n_ctx: quality.quality_ctx.map(Into::into),
            chunks: quality.quality_chunks.get() as usize,
            tasks: quality.tasks.clone(),
            samples: quality.samples.get() as usize,
            allow_commands: quality.allow_commands,
        }),
        sources: args.provenance.sources.clone(),
        commit: args.provenance.commit.clone(),
        hashes: folder.hashes(),
    });
    let token = interrupt.token();
    let spinner = Spinner::new();
    let outcome =
        interrupt.guard(|| child::run::<Prepared>(&job, &token, |stage| spinner.stage(stage)))?;
    drop(spinner);
    let mut prepared = match outcome {
        None => return Ok(None),
        Some(Outcome::Done(prepared)) => prepared,
        Some(Outcome::Failed(failure)) => {
            return Err(format!("{} (while {})", failure.message, failure.stage).into());
        }
    };
    // That process had a command line of its own.
    let command = env::args_os().map(|argument| argument.to_string_lossy().into_owned());
    prepared.provenance.command = command.collect();
    if let Some(before) = before {
        let differences = prepared.differences(&before.prepared)?;
        if !differences.is_empty() {
            return Err(format!(
                "--resume: this is not the comparison that was begun: {}",
                differences.join("; ")
            )
            .into());
        }
    }
    Ok(Some(prepared))
}

/// The first line of a journal, or one that says that it goes on.
fn begin(prepared: Prepared, before: Option<Record>, journal: &mut Journal) -> Result<Record> {
    let (entry, mut record) = match before {
        None => (
            Entry::Begin(Box::new(prepared.clone())),
            Record::new(prepared),
        ),
        // Who has nothing left to do has not gone on.
        Some(record) if to_do(&record).is_empty() => return Ok(record),
        Some(record) => (Entry::Resumed { date: timestamp() }, record),
    };
    journal.append(&entry)?;
    record.add(entry)?;
    Ok(record)
}

/// The processes that are still to be run.
fn to_do(record: &Record) -> Vec<Kind> {
    let mut kinds = Vec::new();
    let settings = &record.prepared.settings;
    for variant in &record.variants {
        let tried = (0..settings.repetitions).filter(|n| variant.is_tried(*n));
        let left = settings.repetitions - tried.count();
        kinds.extend((left > 0).then_some(Kind::WarmUp));
        kinds.extend(vec![Kind::Trial; left]);
        let wants_quality = settings.quality_n_ctx.is_some() && !variant.has_quality();
        kinds.extend(wants_quality.then_some(Kind::Quality));
    }
    kinds
}

/// A comparison that is going on.
struct Comparison<'a> {
    args: &'a RunArgs,
    model: PathBuf,
    folder: Folder,
    journal: Journal,
    record: Record,
    progress: Progress,
    interrupt: AbortToken,
}

impl Comparison<'_> {
    fn measure(&mut self) -> Result<End> {
        let n = self.record.variants.len();
        let repetitions = self.record.prepared.settings.repetitions;
        for variant in 0..n {
            let is_left = |n| !self.record.variants[variant].is_tried(n);
            if (0..repetitions).any(is_left) && !self.warm_up(variant)? {
                return Ok(End::Interrupted);
            }
        }
        let mut in_a_row = vec![0; n];
        for repetition in 0..repetitions {
            for (variant, n_failed) in in_a_row.iter_mut().enumerate() {
                if self.record.variants[variant].is_tried(repetition) {
                    continue;
                }
                if *n_failed >= PATIENCE {
                    self.progress.skip(Kind::Trial);
                    continue;
                }
                match self.trial(variant, repetition)? {
                    None => return Ok(End::Interrupted),
                    Some(true) => *n_failed = 0,
                    Some(false) => *n_failed += 1,
                }
                self.save()?;
            }
        }
        for (variant, n_failed) in in_a_row.into_iter().enumerate() {
            let n_tried = self.record.variants[variant].trials.len();
            if n_failed >= PATIENCE && n_tried < repetitions {
                let name = self.record.name(variant);
                self.record.notes.push(format!(
                    "{name} failed {PATIENCE} times in a row and was given up after {n_tried} of \
                     {repetitions} repetitions."
                ));
            }
        }
        if self.record.prepared.settings.quality_n_ctx.is_some() {
            return self.quality();
        }
        Ok(End::Complete)
    }

    /// A process whose result nobody wants: files are read, clocks are up. Whether it was let
    /// run to its end.
    fn warm_up(&mut self, variant: usize) -> Result<bool> {
        let job = Job::WarmUp(self.load(variant, 0));
        let what = format!("{}, warm-up", self.record.name(variant));
        let outcome = self.run::<serde_json::Value>(&job, Kind::WarmUp, what)?;
        Ok(outcome.is_some())
    }

    /// Whether it ended well; `None` if it was not let run to its end.
    fn trial(&mut self, variant: usize, repetition: usize) -> Result<Option<bool>> {
        let date = timestamp();
        let job = Job::Trial(self.load(variant, repetition));
        let (name, n) = (self.record.name(variant), repetition + 1);
        let all = self.record.prepared.settings.repetitions;
        let what = format!("{name}, repetition {n} of {all}");
        let Some(outcome) = self.run(&job, Kind::Trial, what)? else {
            return Ok(None);
        };
        let trial = Trial {
            repetition,
            date,
            outcome,
        };
        let is_done = trial.is_done();
        self.keep(Entry::Trial { variant, trial })?;
        Ok(Some(is_done))
    }

    /// The base first: the others are held against what it says.
    fn quality(&mut self) -> Result<End> {
        let is_left = |record: &Record, variant: usize| {
            let variant = record.variants.get(variant);
            variant.is_some_and(|variant| !variant.has_quality())
        };
        let n = self.record.variants.len();
        let others_left = (1..n).any(|variant| is_left(&self.record, variant));
        let has_files = self.folder.logits().exists() && self.folder.outputs().exists();
        for variant in 0..n {
            let is_needed = variant == 0 && others_left && !has_files;
            if !is_left(&self.record, variant) && !is_needed {
                continue;
            }
            let quality = match self.no_quality(variant) {
                Some(failure) => {
                    self.progress.skip(Kind::Quality);
                    Outcome::Failed(failure)
                }
                None => {
                    let job = Job::Quality(QualityJob {
                        load: self.load(variant, 0),
                        is_base: variant == 0,
                        logits: self.folder.logits(),
                        outputs: self.folder.outputs(),
                        samples: self.args.quality.samples.get() as usize,
                        allow_commands: self.args.quality.allow_commands,
                    });
                    let what = format!("{}, quality", self.record.name(variant));
                    match self.run::<Quality>(&job, Kind::Quality, what)? {
                        Some(outcome) => outcome,
                        None => return Ok(End::Interrupted),
                    }
                }
            };
            self.keep(Entry::Quality { variant, quality })?;
            self.save()?;
        }
        Ok(End::Complete)
    }

    /// Why a variant's quality is not worth trying.
    fn no_quality(&self, variant: usize) -> Option<Failure> {
        let failure = |message: String| Failure {
            stage: "measuring quality".to_owned(),
            message,
            is_out_of_memory: false,
        };
        if !self.record.variants[variant]
            .trials
            .iter()
            .any(Trial::is_done)
        {
            return Some(failure(
                "not tried: none of its trials ended well".to_owned(),
            ));
        }
        let base = &self.record.variants[0].quality;
        if variant > 0 && matches!(base, Some(Outcome::Failed(_))) {
            let name = self.record.name(0);
            return Some(failure(format!(
                "not tried: {name}, the base, has no result"
            )));
        }
        None
    }

    fn load(&self, variant: usize, repetition: usize) -> Load {
        Load {
            model: self.model.clone(),
            text: self.folder.text(),
            loading: self.record.prepared.variants[variant].loading.clone(),
            settings: self.record.prepared.settings.clone(),
            is_even: repetition.is_multiple_of(2),
        }
    }

    fn run<T: DeserializeOwned>(
        &mut self,
        job: &Job,
        kind: Kind,
        what: String,
    ) -> Result<Option<Outcome<T>>> {
        self.progress.begin(what);
        let progress = &self.progress;
        let outcome = child::run(job, &self.interrupt, |stage| progress.stage(stage))?;
        match &outcome {
            None => {}
            Some(Outcome::Done(_)) => self.progress.end(kind, None),
            Some(Outcome::Failed(failure)) => {
                let said = format!("{} ({})", failure.message, failure.stage);
                self.progress.end(kind, Some(&said));
            }
        }
        Ok(outcome)
    }

    /// On the disk first.
    fn keep(&mut self, entry: Entry) -> Result<()> {
        self.journal.append(&entry)?;
        self.record.add(entry)
    }

    fn save(&self) -> Result<()> {
        self.folder.write_results(&self.record.results(false))
    }

    /// The last look at the model, and the report.
    fn finish(mut self, end: End) -> Result<End> {
        let is_complete = end == End::Complete;
        // One that goes on looks again.
        let changed = if is_complete { self.changed() } else { None };
        if let Some(path) = &changed {
            self.record.notes.insert(
                0,
                format!(
                    "'{path}' changed while it was measured: these numbers are not of one model."
                ),
            );
        }
        let results = self.record.results(is_complete);
        self.folder.write_results(&results)?;
        write_report(&results, self.folder.path())?;
        if is_complete {
            self.folder.tidy();
        }
        drop(self.progress);
        writeln!(io::stdout(), "{}", self.folder.report().display())?;
        if let Some(path) = changed {
            return Err(format!(
                "'{path}' changed while it was measured: measure it again, in another folder"
            )
            .into());
        }
        if end == End::Interrupted {
            let out = self.folder.path().display();
            writeln!(
                io::stderr(),
                "interrupted: {} trials are kept in '{out}'; the same command with --resume goes on",
                self.record.n_done()
            )?;
        } else if self.record.n_done() == 0 && !self.args.measured.dry_run {
            let failure = self.record.variants.iter();
            let failure = failure.filter_map(|variant| variant.last_failure()).next();
            let why = failure.map_or("", |failure| &failure.message);
            return Err(format!("no trial ended well: {why}").into());
        }
        Ok(end)
    }

    /// The first of the model's files that is not what it was.
    fn changed(&self) -> Option<String> {
        let is_same = |file: &&FileRecord| {
            let bytes = fs::metadata(&file.path).map(|metadata| metadata.len());
            bytes.is_ok_and(|bytes| bytes == file.bytes)
                && sha256(&file.path).is_ok_and(|now| now == file.sha256)
        };
        let mut files = self.record.prepared.provenance.model.files.iter();
        let changed = files.find(|file| !is_same(file))?;
        Some(changed.path.display().to_string())
    }
}
