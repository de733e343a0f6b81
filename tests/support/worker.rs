//! A second device without a GPU: this test binary, started again as an RPC worker.
//!
//! A test file that uses it has a test of its own for the worker to be:
//!
//! ```ignore
//! #[test]
//! fn worker_process() {
//!     support::worker::serve_if_asked();
//! }
//! ```

use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use std::{env, process, thread};

use llama_moe::{Backend, Device, RpcServer, RpcWorker};

/// Says where to listen, and that this process is a worker.
pub const ENDPOINT: &str = "LLAMA_MOE_TEST_WORKER";

/// The worker of this test process, and its device.
pub struct Worker {
    pub device: Device,
    /// The worker ends when its standard input does: with this process, however it ends.
    _process: Child,
}

/// Starts the worker on first use. Tests that compute on its device take turns: llama.cpp's
/// client does not expect two threads on one connection.
pub fn worker() -> MutexGuard<'static, Worker> {
    static WORKER: OnceLock<Mutex<Worker>> = OnceLock::new();
    WORKER
        .get_or_init(|| Mutex::new(start()))
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

/// The device of one more worker. Whoever uses it has the first one's turn.
pub fn second_device(_first: &Worker) -> Device {
    static SECOND: OnceLock<Worker> = OnceLock::new();
    SECOND.get_or_init(start).device
}

/// A worker whose device says that it has 96 GiB, where the system lets it: for dry runs, which
/// take nothing of it. Tests that use it take turns.
pub fn large_worker() -> MutexGuard<'static, Worker> {
    static WORKER: OnceLock<Mutex<Worker>> = OnceLock::new();
    WORKER
        .get_or_init(|| Mutex::new(start_large()))
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

/// The device of one more such worker. Whoever uses it has the first one's turn.
pub fn second_large_device(_first: &Worker) -> Device {
    static SECOND: OnceLock<Worker> = OnceLock::new();
    SECOND.get_or_init(start_large).device
}

/// A worker that cannot have more than so many bytes of memory, its own program's included.
#[cfg(target_os = "linux")]
pub fn small_worker(bytes: u64) -> Worker {
    let mut command = Command::new("sh");
    let limit = format!("ulimit -v {}; exec \"$0\" \"$@\"", bytes >> 10);
    command
        .args(["-c", &limit])
        .arg(env::current_exe().expect("this binary"));
    start_command(command)
}

fn start_large() -> Worker {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let library = cfg!(target_os = "linux").then(|| large_memory(folder.path()));
    start_with(library.as_deref())
}

/// What makes a process see a larger memory, compiled.
fn large_memory(folder: &Path) -> PathBuf {
    let library = folder.join("large_memory.so");
    let compiler = env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let status = Command::new(&compiler)
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/support/large_memory.c"
        ))
        .arg("-ldl")
        .status();
    let status = status.unwrap_or_else(|error| panic!("{compiler}: {error}"));
    assert!(status.success(), "{compiler}: {status}");
    library
}

/// A port that nobody listens on just now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port");
    listener.local_addr().expect("its address").port()
}

fn start() -> Worker {
    start_with(None)
}

fn start_with(preload: Option<&Path>) -> Worker {
    let mut command = Command::new(env::current_exe().expect("this binary"));
    if let Some(library) = preload {
        command.env("LD_PRELOAD", library);
    }
    start_command(command)
}

fn start_command(mut command: Command) -> Worker {
    let endpoint = format!("127.0.0.1:{}", free_port());
    let process = command
        .args(["--exact", "worker_process", "--nocapture"])
        .env(ENDPOINT, &endpoint)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a worker process");
    let backend = Backend::init().expect("llama.cpp");
    let server = RpcServer::from(endpoint).with_timeout(Duration::from_millis(500));
    let start = Instant::now();
    let device = loop {
        match backend.add_rpc_server(server.clone()) {
            Ok(devices) => break devices[0],
            Err(error) => assert!(
                start.elapsed() < Duration::from_secs(30),
                "no worker: {error}"
            ),
        }
        thread::sleep(Duration::from_millis(20));
    };
    Worker {
        device,
        _process: process,
    }
}

/// What the worker process runs; elsewhere it does nothing.
pub fn serve_if_asked() {
    let Ok(endpoint) = env::var(ENDPOINT) else {
        return;
    };
    thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        process::exit(0);
    });
    let backend = Backend::init().expect("llama.cpp");
    let cpu = backend.cpu().expect("the CPU");
    let worker = RpcWorker::new(endpoint).with_device(cpu).with_n_threads(1);
    let error = backend
        .serve_rpc(worker)
        .expect_err("serving only ends in an error");
    panic!("{error}");
}
