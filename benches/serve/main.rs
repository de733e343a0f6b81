//! Load on `examples/serve`, and on llama.cpp's own server beside it.
//! `examples/measure-serve` runs it and says what it is held to.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;
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

/// Requests of each client.
const PER_CLIENT: usize = 4;
/// Requests of all clients, at least: the 95th percentile is then that of eight of the longest
/// prompts, not the time of one.
const MIN_REQUESTS: usize = 40;
/// Slots, each with room for the longest prompt and its answer.
const SLOTS: u32 = 16;
const N_CTX: u32 = 2048;
/// How long threads that look for more to do may take until they sleep.
const SETTLE: Duration = Duration::from_secs(1);

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

    /// Clients at a time; up to 16 have a slot each
    #[arg(
        long,
        value_name = "N,...",
        value_delimiter = ',',
        default_value = "1,4,16"
    )]
    clients: Vec<NonZeroUsize>,

    /// Short requests, over which memory has to stay flat; 0 to leave that out
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    requests: usize,

    /// Give `serve` this option of its own
    #[arg(long)]
    huge_pages: bool,

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
        huge_pages: args.huge_pages,
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
    let clients: Vec<usize> = args.clients.iter().map(|n| n.get()).collect();
    let mut report = Report::new(programs.len(), clients.clone());
    for repetition in 0..args.repetitions {
        let turns = turns(&programs, &setup, &prompts, &clients, repetition)?;
        for (index, turn) in turns.into_iter().enumerate() {
            report.add(index, turn);
        }
    }
    let mut met = report.print();
    if args.llama_server.is_none() {
        println!("skipped: llama-server, since --llama-server names none");
    }
    if args.requests == 0 {
        println!("skipped: memory, since --requests is 0");
        return Ok(met);
    }
    let program = Program::Serve(args.serve.clone());
    met &= memory::stays_flat(&program, &args.small_model, args.requests)?;
    Ok(met)
}

/// What one start of one server showed.
#[derive(Default)]
struct Turn {
    /// Loads, one for each number of clients.
    loads: Vec<Load>,
    /// The second request's time to the first token, as a share of the first's.
    prefix: f64,
}

/// A start of each server, and the loads on one after the other: however the machine's speed
/// changes in the time, it is much the same for both. Who is not asked sleeps.
fn turns(
    programs: &[Program],
    setup: &Setup,
    prompts: &Prompts,
    clients: &[usize],
    repetition: usize,
) -> Result<Vec<Turn>> {
    let servers = programs
        .iter()
        .map(|program| Server::start(program, setup))
        .collect::<Result<Vec<Server>>>()?;
    for server in &servers {
        // What is only done once, such as repacking of weights, is nobody's request.
        load::run(server, &prompts.mixed(u64::MAX, 2), 2)?;
    }
    let mut turns: Vec<Turn> = servers.iter().map(|_| Turn::default()).collect();
    for (step, &n_clients) in clients.iter().enumerate() {
        let n = (n_clients * PER_CLIENT).max(MIN_REQUESTS);
        let seed = (repetition * clients.len() + step) as u64;
        for index in order(servers.len(), repetition + step) {
            thread::sleep(SETTLE);
            let load = load::run(&servers[index], &prompts.mixed(seed, n), n_clients)?;
            let program = &programs[index];
            eprintln!(
                "{:>2} {program:<12} {n_clients:>2} clients: {load}",
                repetition + 1
            );
            turns[index].loads.push(load);
        }
    }
    for index in order(servers.len(), repetition) {
        thread::sleep(SETTLE);
        let prefix = prefix::share(&servers[index], prompts, repetition as u64)?;
        eprintln!(
            "{:>2} {:<12} shared prefix: second TTFT {:.1} % of the first",
            repetition + 1,
            programs[index],
            100.0 * prefix
        );
        turns[index].prefix = prefix;
    }
    Ok(turns)
}

/// Who is first, who second: neither is always the one that finds the machine warm.
fn order(n: usize, step: usize) -> impl Iterator<Item = usize> {
    (0..n).map(move |index| (index + step) % n)
}
