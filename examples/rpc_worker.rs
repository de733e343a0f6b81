//! Lends this machine's devices to programs on other machines, which name it with `--rpc`.
//!
//! ```text
//! cargo run --release --example rpc_worker --features rpc -- --listen 192.168.1.7:50052
//! ```

use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Parser;
use common::{LogArgs, Result};
use llama_moe::{Backend, RpcWorker};

/// Lends this machine's devices to llama.cpp on other machines
///
/// There is no authentication and no encryption: private networks only.
#[derive(Parser)]
struct Args {
    /// Address of this machine to listen on; 0.0.0.0 is all of them, port 0 any free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:50052")]
    listen: SocketAddrV4,

    /// CPU threads to compute with [default: all]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,

    /// Devices to lend [default: the GPUs, or the CPU where there is none]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    device: Vec<String>,

    /// A folder to keep large tensors in, so that they are sent once only
    #[arg(long, value_name = "FOLDER")]
    cache: Option<PathBuf>,

    #[command(flatten)]
    log: LogArgs,
}

fn main() -> ExitCode {
    common::exit_code(run(Args::parse()))
}

fn run(args: Args) -> Result<()> {
    args.log.init()?;
    let backend = Backend::init()?;
    let mut address = args.listen;
    if address.port() == 0 {
        address.set_port(TcpListener::bind(address)?.local_addr()?.port());
    }

    let mut worker = RpcWorker::new(address.to_string());
    if let Some(threads) = args.threads {
        worker = worker.with_n_threads(threads.get());
    }
    for name in &args.device {
        worker = worker.with_device(backend.device(name)?);
    }
    if let Some(folder) = args.cache {
        fs::create_dir_all(&folder)
            .map_err(|error| format!("--cache {}: {error}", folder.display()))?;
        worker = worker.with_cache(folder);
    }

    thread::spawn(move || announce(address));
    match backend.serve_rpc(worker)? {}
}

/// Says that the worker is there, once it is: serving itself does not tell.
fn announce(address: SocketAddrV4) {
    let mut reachable = address;
    if reachable.ip().is_unspecified() {
        reachable.set_ip(Ipv4Addr::LOCALHOST);
    }
    while TcpStream::connect(reachable).is_err() {
        thread::sleep(Duration::from_millis(20));
    }
    let mut stdout = io::stdout();
    let _ = writeln!(stdout, "listening on {address}").and_then(|()| stdout.flush());
}
