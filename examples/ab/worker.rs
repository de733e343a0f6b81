//! A process of a comparison.

use std::error::Error as StdError;
use std::io::{self, BufRead, Read, Write};
use std::process::{self, ExitCode};
use std::thread;

use common::Result;
use llama_moe::{Backend, Error, FailureKind};
use serde_json::Value;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::job::{Job, Message};
use crate::results::Failure;
use crate::{prepare, quality, trial};

/// Reads one job and does it. Ends early if the process that gave it is gone.
pub fn run() -> ExitCode {
    let mut stages = Stages::default();
    let message = match work(&mut stages) {
        Ok(result) => Message::Done(result),
        Err(error) => Message::Failed(Failure {
            is_out_of_memory: is_out_of_memory(error.as_ref()),
            message: error.to_string(),
            stage: stages.current,
        }),
    };
    match send(&message) {
        Ok(()) if matches!(message, Message::Done(_)) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn work(stages: &mut Stages) -> Result<Value> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    let job: Job = serde_json::from_str(&line)?;
    end_with_stdin()?;
    log_warnings();
    let backend = Backend::init()?;
    Ok(match job {
        Job::Prepare(job) => serde_json::to_value(prepare::prepare(&backend, job, stages)?)?,
        Job::WarmUp(load) => {
            trial::warm_up(&backend, &load, stages)?;
            Value::Null
        }
        Job::Trial(load) => serde_json::to_value(trial::measure(&backend, &load, stages)?)?,
        Job::Quality(job) => serde_json::to_value(quality::measure(&backend, &job, stages)?)?,
    })
}

/// The other end of stdin is the process that waits for the result: without it nobody does.
fn end_with_stdin() -> io::Result<()> {
    let thread = thread::Builder::new().name("parent".to_owned());
    thread.spawn(|| {
        let _ = io::stdin().lock().read(&mut [0]);
        process::exit(1);
    })?;
    Ok(())
}

/// What llama.cpp warns of, on stderr: the last words of a process that it ends.
fn log_warnings() {
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .without_time()
        .with_writer(io::stderr);
    tracing_subscriber::registry()
        .with(lines)
        .with(LevelFilter::WARN)
        .init();
}

/// What a process is doing, told to the one that waits for it.
#[derive(Debug, Default)]
pub struct Stages {
    current: String,
}

impl Stages {
    /// A new stage begins.
    pub fn begin(&mut self, stage: impl Into<String>) -> Result<()> {
        self.current = stage.into();
        Ok(send(&Message::Stage(self.current.clone()))?)
    }
}

fn send(message: &Message) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}", serde_json::to_string(message)?)?;
    stdout.flush()
}

fn is_out_of_memory(error: &(dyn StdError + 'static)) -> bool {
    let by_kind = matches!(
        error.downcast_ref(),
        Some(Error::Llama {
            kind: FailureKind::OutOfMemory,
            ..
        })
    );
    by_kind || speaks_of_memory(&error.to_string())
}

/// Whether a message says that memory was lacking: llama.cpp and the drivers have no code for it.
pub fn speaks_of_memory(text: &str) -> bool {
    const WORDS: [&str; 8] = [
        "out of memory",
        "outofmemory",
        "outofdevicememory",
        "bad_alloc",
        "failed to allocate",
        "unable to allocate",
        "cannot allocate memory",
        "cudamalloc failed",
    ];
    let text = text.to_lowercase();
    WORDS.iter().any(|words| text.contains(words))
}
