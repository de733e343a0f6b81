//! Variants of a model's placement, measured against each other: the same model, text and seed,
//! one variable changed, each trial in a process of its own, in turns.
//!
//! ```text
//! cargo run --release --example ab --features measure -- gpt-oss-20b.gguf --variant base --variant cpu-moe --out out
//! cargo run --release --example ab --features measure -- compare before/results.json after/results.json
//! ```

mod args;
mod bandwidth;
mod child;
mod job;
mod journal;
mod notes;
mod options;
mod output;
mod prepare;
mod progress;
mod prompts;
mod quality;
mod record;
mod results;
mod runner;
mod settings;
mod text;
mod trial;
mod variant;
mod worker;

use std::process::ExitCode;

use args::{Args, Command};
use clap::Parser;

/// The exit code of a program that Ctrl-C ended, by the shells' convention.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match args.command {
        Some(Command::Worker) => return worker::run(),
        None => runner::run(&args.run),
    };
    match result {
        Ok(runner::End::Interrupted) => ExitCode::from(INTERRUPTED),
        Ok(runner::End::Complete) => ExitCode::SUCCESS,
        Err(error) => common::exit_code(Err(error)),
    }
}
