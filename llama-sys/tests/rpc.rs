//! RPC: a worker process is a second device with memory of its own; one that does
//! not answer is an error where llama.cpp alone would abort.
#![cfg(feature = "rpc")]

use std::env;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::ptr;
use std::thread;
use std::time::{Duration, Instant};

use llama_sys as sys;

mod support;
use support::{Context, Failure, Model, context_params, gguf, guarded, model_params};

/// The variable that turns this test binary into a worker.
const WORKER: &str = "LLAMA_SYS_TEST_WORKER";

fn probe(endpoint: &str, timeout_ms: i32) -> Result<sys::llama_shim_rpc_info, Failure> {
    let endpoint = gguf::c_string(endpoint);
    // SAFETY: zero is a valid value of the plain struct; the call fills it.
    let mut info = unsafe { std::mem::zeroed() };
    guarded(|error| {
        // SAFETY: a NUL-terminated endpoint, out-parameters of this frame.
        unsafe { sys::llama_shim_rpc_probe(endpoint.as_ptr(), timeout_ms, &mut info, error) }
    })?;
    Ok(info)
}

fn add_server(endpoint: &str, timeout_ms: i32) -> Result<sys::ggml_backend_reg_t, Failure> {
    support::init();
    let endpoint = gguf::c_string(endpoint);
    let mut reg = ptr::null_mut();
    guarded(|error| {
        // SAFETY: as above; no other thread of this process uses the registry now.
        unsafe { sys::llama_shim_rpc_add_server(endpoint.as_ptr(), timeout_ms, &mut reg, error) }
    })?;
    assert!(!reg.is_null());
    Ok(reg)
}

fn local(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// A port that nobody listens on just now.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port");
    listener.local_addr().expect("its address").port()
}

/// A worker process with the CPU as its device, killed on drop.
struct Worker(Child, String);

impl Worker {
    fn start() -> Self {
        let endpoint = local(free_port());
        let child = Command::new(env::current_exe().expect("this binary"))
            .args(["--exact", "serve_if_asked_to", "--nocapture"])
            .env(WORKER, &endpoint)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a worker process");
        let worker = Self(child, endpoint);
        let start = Instant::now();
        while let Err(failure) = probe(&worker.1, 500) {
            assert!(
                start.elapsed() < Duration::from_secs(30),
                "no worker: {}",
                failure.text
            );
            thread::sleep(Duration::from_millis(20));
        }
        worker
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Not a test of its own: what `Worker::start` runs in another process.
#[test]
fn serve_if_asked_to() {
    let Ok(endpoint) = env::var(WORKER) else {
        return;
    };
    let devices = [support::cpu_device()];
    let endpoint = gguf::c_string(&endpoint);
    guarded(|error| {
        // SAFETY: a NUL-terminated endpoint and an array of one live device.
        unsafe {
            sys::llama_shim_rpc_serve(
                endpoint.as_ptr(),
                ptr::null(),
                2,
                devices.as_ptr(),
                1,
                error,
            )
        }
    })
    .expect("a worker serves until it is killed");
}

#[test]
fn an_unreachable_endpoint_is_an_error() {
    let endpoint = local(free_port());
    for call in [
        |e: &str| probe(e, 1000).map(drop),
        |e: &str| add_server(e, 1000).map(drop),
    ] {
        let failure = call(&endpoint).expect_err("nobody listens");
        assert_eq!(failure.status, sys::LLAMA_SHIM_FAILED);
        assert!(failure.text.contains(&endpoint), "{}", failure.text);
    }
}

#[test]
fn a_malformed_endpoint_is_refused() {
    for endpoint in [
        "",
        ":",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:port",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "127.0.0.1:-1",
    ] {
        let failure = add_server(endpoint, 1000).expect_err(endpoint);
        assert_eq!(
            failure.status,
            sys::LLAMA_SHIM_INVALID_ARGUMENT,
            "{endpoint}: {}",
            failure.text
        );
    }
}

/// Answers one connection by `answer`, then keeps it open.
fn impostor(answer: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port");
    let address = listener.local_addr().expect("its address");
    thread::spawn(move || {
        let Ok((mut stream, _)) = listener.accept() else {
            return;
        };
        let _ = stream.write_all(&answer);
        // Until the client goes away.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    address
}

#[test]
fn a_server_that_says_nothing_is_a_timeout() {
    let start = Instant::now();
    let failure = add_server(&impostor(Vec::new()).to_string(), 300).expect_err("silence");
    assert_eq!(failure.status, sys::LLAMA_SHIM_FAILED);
    assert!(
        start.elapsed() >= Duration::from_millis(250),
        "{:?}",
        start.elapsed()
    );
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
}

/// A server serves one client at a time: a connection that lives on in a program started
/// meanwhile would block it.
#[test]
#[cfg(unix)]
fn a_probe_leaves_no_connection_to_programs_started_meanwhile() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port");
    let endpoint = listener.local_addr().expect("its address").to_string();
    let probing = thread::spawn(move || probe(&endpoint, 500).map(drop));
    let (mut stream, _) = listener.accept().expect("the probe's connection");
    // It waits for an answer that does not come.
    let mut program = Command::new("sleep").arg("30").spawn().expect("a program");
    probing
        .join()
        .expect("a probe")
        .expect_err("there was no answer");
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .expect("a timeout");
    let end = stream.read_to_end(&mut Vec::new());
    let _ = program.kill();
    let _ = program.wait();
    let timed_out = end.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    assert!(!timed_out, "the connection is still open");
}

#[test]
fn a_server_that_says_something_else_is_an_error() {
    for answer in [
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        vec![0xff; 4096],
        vec![0; 4096],
    ] {
        let failure = add_server(&impostor(answer).to_string(), 1000).expect_err("garbage");
        assert_eq!(failure.status, sys::LLAMA_SHIM_FAILED, "{}", failure.text);
    }
}

#[test]
fn an_address_in_use_is_an_error_of_the_worker() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port");
    let endpoint = gguf::c_string(&listener.local_addr().expect("its address").to_string());
    let devices = [support::cpu_device()];
    let failure = guarded(|error| {
        // SAFETY: a NUL-terminated endpoint and an array of one live device.
        unsafe {
            sys::llama_shim_rpc_serve(
                endpoint.as_ptr(),
                ptr::null(),
                1,
                devices.as_ptr(),
                1,
                error,
            )
        }
    })
    .expect_err("the address is taken");
    assert_eq!(failure.status, sys::LLAMA_SHIM_FAILED, "{}", failure.text);
}

/// Loads the test model with `overrides` and everything else on `device`.
fn load_on(
    device: sys::ggml_backend_dev_t,
    path: &std::path::Path,
    overrides: Option<&std::ffi::CStr>,
) -> Model {
    let mut devices = [device, ptr::null_mut()];
    // SAFETY: a live device.
    let buft = unsafe { sys::ggml_backend_dev_buffer_type(support::cpu_device()) };
    let end = sys::llama_model_tensor_buft_override {
        pattern: ptr::null(),
        buft: ptr::null_mut(),
    };
    let rules = match overrides {
        Some(pattern) => [
            sys::llama_model_tensor_buft_override {
                pattern: pattern.as_ptr(),
                buft,
            },
            end,
        ],
        None => [end, end],
    };
    let params = sys::llama_model_params {
        devices: devices.as_mut_ptr(),
        tensor_buft_overrides: rules.as_ptr(),
        load_mode: sys::LLAMA_LOAD_MODE_NONE,
        ..model_params()
    };
    Model::load(path, &params).expect("the test model loads")
}

#[test]
fn experts_stay_here_and_the_rest_goes_to_the_worker() {
    let worker = Worker::start();
    let info = probe(&worker.1, 5000).expect("a worker that answers");
    assert_eq!(u32::from(info.major), sys::RPC_PROTO_MAJOR_VERSION);
    assert_eq!(info.n_devices, 1);

    let reg = add_server(&worker.1, 5000).expect("a worker");
    assert_eq!(add_server(&worker.1, 5000).expect("the same worker"), reg);
    // SAFETY: the registry was just given with one device.
    let device = unsafe {
        assert_eq!(sys::ggml_backend_reg_dev_count(reg), 1);
        sys::ggml_backend_reg_dev_get(reg, 0)
    };

    let (_dir, path) = support::moe_model();
    let all = load_on(device, &path, None);
    let split = load_on(
        device,
        &path,
        Some(c"\\.ffn_(up|down|gate|gate_up)_(ch|)exps"),
    );
    let local = load_on(ptr::null_mut(), &path, None);

    if cfg!(not(feature = "system")) {
        let experts_on_worker = |model: &Model| {
            support::placement(model)
                .iter()
                .filter(|t| t.name.contains("_exps") && t.device.starts_with("RPC"))
                .map(|t| t.bytes)
                .sum::<u64>()
        };
        assert_eq!(experts_on_worker(&all), gguf::EXPERT_BYTES);
        assert_eq!(experts_on_worker(&split), 0);
        let attention = support::placement(&split)
            .into_iter()
            .filter(|t| t.name.contains("attn_q.weight"))
            .all(|t| t.device.starts_with("RPC") && !t.is_host);
        assert!(attention, "attention left the worker");

        // All of this could be told before.
        let told = support::weights::check(&support::placement(&all), Some(device), true);
        let context = Context::new(&all, &context_params()).expect("a context");
        for entry in support::memory(&context) {
            assert_eq!(told.get(&entry.buffer).copied().unwrap_or(0), entry.model);
        }
    }

    let tokens = support::tokenize(&local, "the expert");
    let mut on_worker = Vec::new();
    let answers = [&all, &split, &local].map(|model| {
        let context = Context::new(model, &context_params()).expect("a context");
        let mut token = support::greedy(&context, &tokens);
        let mut answer = vec![token];
        for _ in 0..8 {
            token = support::greedy(&context, &[token]);
            answer.push(token);
        }
        if cfg!(not(feature = "system")) {
            let memory = support::memory(&context);
            let bytes: u64 = memory
                .iter()
                .filter(|m| m.device.starts_with("RPC"))
                .map(|m| m.model)
                .sum();
            on_worker.push(bytes);
        }
        answer
    });
    if let [all, split, local] = on_worker[..] {
        assert!(
            split > 0 && all - split >= gguf::EXPERT_BYTES,
            "{on_worker:?}"
        );
        assert_eq!(local, 0, "{on_worker:?}");
    }
    // The worker's device is this machine's CPU: the same kernels, the same answer.
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0], answers[2]);
}
