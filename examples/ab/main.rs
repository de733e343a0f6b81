//! Variants of a model's placement, measured against each other: the same model, text and seed,
//! one variable changed, each trial in a process of its own, in turns.
//!
//! ```text
//! cargo run --release --example ab --features measure -- gpt-oss-20b.gguf --variant base --variant cpu-moe --out out
//! cargo run --release --example ab --features measure -- compare before/results.json after/results.json
//! ```

mod args;
mod bandwidth;
mod card;
mod child;
mod compare;
#[cfg(test)]
mod fixture;
mod job;
mod journal;
mod markdown;
mod notes;
mod options;
mod output;
mod plots;
mod prepare;
mod progress;
mod prompts;
mod quality;
mod read;
mod record;
mod report;
mod results;
mod runner;
mod settings;
mod summary;
mod text;
mod trial;
mod units;
mod variant;
mod worker;

use std::io::{self, Write};
use std::process::ExitCode;

use args::{Args, Command};
use clap::Parser;
use common::{Result, exit_code};
use read::read_results;
use runner::End;

/// The exit code of a program that Ctrl-C ended, by the shells' convention.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let args = Args::parse();
    match &args.command {
        Some(Command::Worker) => worker::run(),
        Some(command) => exit_code(of_results(command)),
        None => match runner::run(&args.run) {
            Ok(End::Complete) => ExitCode::SUCCESS,
            Ok(End::Interrupted) => ExitCode::from(INTERRUPTED),
            Err(error) => exit_code(Err(error)),
        },
    }
}

/// What needs nothing but results.
fn of_results(command: &Command) -> Result<()> {
    let text = match command {
        Command::Report { dir } => {
            let results = read_results(&dir.join("results.json"))?;
            return report::write_report(&results, dir);
        }
        Command::Compare { a, b } => compare::compare(&read_results(a)?, &read_results(b)?),
        Command::Card { results } => card::card(&read_results(results)?),
        Command::Verdicts { results } => summary::verdict_lines(&read_results(results)?),
        Command::Worker => String::new(),
    };
    Ok(io::stdout().write_all(text.as_bytes())?)
}
