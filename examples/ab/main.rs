//! Variants of a model's placement, measured against each other.

mod card;
mod compare;
#[cfg(test)]
mod fixture;
mod markdown;
mod plots;
mod read;
mod report;
mod results;
mod summary;
mod units;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use common::{Result, exit_code};
use read::read_results;

/// Compare variants of a model's placement
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write the report of a comparison again
    Report {
        /// The comparison's folder
        dir: PathBuf,
    },
    /// Hold two comparisons against each other
    Compare {
        /// The results that are the base
        a: PathBuf,
        /// The results that are held against it
        b: PathBuf,
    },
    /// Print for each figure of each variant whether it differs from the base's
    Verdicts {
        /// The results
        results: PathBuf,
    },
    /// Write a section for a Hugging Face model card
    Card {
        /// The results
        results: PathBuf,
    },
}

fn main() -> ExitCode {
    exit_code(run(&Args::parse().command))
}

fn run(command: &Command) -> Result<()> {
    let text = match command {
        Command::Report { dir } => {
            let results = read_results(&dir.join("results.json"))?;
            return report::write_report(&results, dir);
        }
        Command::Compare { a, b } => compare::compare(&read_results(a)?, &read_results(b)?),
        Command::Verdicts { results } => summary::verdict_lines(&read_results(results)?),
        Command::Card { results } => card::card(&read_results(results)?),
    };
    Ok(io::stdout().write_all(text.as_bytes())?)
}
