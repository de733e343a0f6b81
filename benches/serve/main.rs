//! Load on `examples/serve`, and on llama.cpp's own server beside it.
//! `examples/measure-serve` runs it and says what it is held to.

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::{error, fs};

use clap::Parser;

mod client;
mod load;
mod memory;
mod prefix;
mod process;
mod prompts;
mod report;
mod server;

use load::Load;
use prompts::Prompts;
use report::Report;
use server::{Program, Server, Setup, llama_server_version};

type Result<T> = std::result::Result<T, Box<dyn error::Error + Send + Sync>>;

/// Clients at a time.
const CLIENTS: [usize; 3] = [1, 4, 16];
/// Requests of each client.
const PER_CLIENT: usize = 4;
/// Requests of all clients, at least: a percentile of four says little.
const MIN_REQUESTS: usize = 20;
/// As many slots as clients, with room for the longest prompt and its answer.
const SLOTS: u32 = 16;
const N_CTX: u32 = 2048;

/// Measure a server beside llama.cpp's own
#[derive(Parser)]
struct Args {
    /// The server, examples/serve
    #[arg(long, value_name = "PATH")]
    serve: PathBuf,

    /// llama.cpp's server [default: none, and no comparison]
    #[arg(long, value_name = "PATH")]
    llama_server: Option<PathBuf>,

    /// The model that both serve
    #[arg(long, value_name = "FILE")]
    model: PathBuf,

    /// A small model, for many short requests
    #[arg(long, value_name = "FILE")]
    small_model: PathBuf,

    /// Turns of each server
    #[arg(long, value_name = "N", default_value_t = 3)]
    repetitions: usize,

    /// Short requests, over which memory has to stay flat
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    requests: usize,

    /// CPU threads of both [default: all cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Measures, and says whether all bounds are met.
fn run(args: &Args) -> Result<bool> {
    let threads = match args.threads {
        Some(threads) => threads,
        None => thread::available_parallelism()?.get(),
    };
    let prompts = Prompts::of(&args.model)?;
    let setup = Setup {
        model: args.model.clone(),
        slots: SLOTS,
        n_ctx: N_CTX,
        threads,
    };
    println!(
        "{}, {} MiB; slots: {SLOTS} of {N_CTX} tokens; threads: {threads}; N = {}, in turns",
        args.model.file_name().unwrap_or_default().display(),
        fs::metadata(&args.model)?.len() >> 20,
        args.repetitions,
    );
    let mut programs = vec![Program::Serve(args.serve.clone())];
    programs.extend(args.llama_server.clone().map(Program::LlamaServer));
    if let Some(path) = &args.llama_server {
        println!("llama-server: {}", llama_server_version(path)?);
    }
    let mut report = Report::new(programs.len());
    for repetition in 0..args.repetitions {
        // Neither is always the one that finds the machine warm.
        let mut order: Vec<usize> = (0..programs.len()).collect();
        order.rotate_left(repetition % programs.len());
        for index in order {
            turn(&programs[index], &setup, &prompts, repetition, |turn| {
                report.add(index, turn);
            })?;
        }
    }
    let mut met = report.print();
    if args.llama_server.is_none() {
        println!("skipped: llama-server, since --llama-server names none");
    }
    let program = Program::Serve(args.serve.clone());
    met &= memory::stays_flat(&program, &args.small_model, args.requests)?;
    Ok(met)
}

/// What one start of one server showed.
struct Turn {
    /// Loads, as [`CLIENTS`] has them.
    loads: Vec<Load>,
    /// The second request's time to the first token, as a share of the first's.
    prefix: f64,
}

fn turn(
    program: &Program,
    setup: &Setup,
    prompts: &Prompts,
    repetition: usize,
    done: impl FnOnce(Turn),
) -> Result<()> {
    let server = Server::start(program, setup)?;
    // What is only done once, such as repacking of weights, is nobody's request.
    load::run(&server, &prompts.mixed(u64::MAX, 2), 2)?;
    let mut loads = Vec::new();
    for (index, clients) in CLIENTS.into_iter().enumerate() {
        let n = (clients * PER_CLIENT).max(MIN_REQUESTS);
        let seed = (repetition * CLIENTS.len() + index) as u64;
        let load = load::run(&server, &prompts.mixed(seed, n), clients)?;
        eprintln!(
            "{:>2} {program:<12} {clients:>2} clients: {load}",
            repetition + 1
        );
        loads.push(load);
    }
    let prefix = prefix::share(&server, prompts, repetition as u64)?;
    eprintln!(
        "{:>2} {program:<12} shared prefix: second TTFT {:.1} % of the first",
        repetition + 1,
        100.0 * prefix
    );
    done(Turn { loads, prefix });
    Ok(())
}
