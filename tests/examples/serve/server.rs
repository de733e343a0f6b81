//! The server, started for a test.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::http::{Exchange, Response, send};
use crate::programs;

/// The header of a body of JSON.
pub const JSON: (&str, &str) = ("Content-Type", "application/json");

/// How long a server may take to say that it listens, or has loaded.
const PATIENCE: Duration = Duration::from_secs(120);

/// A server process, ended on drop.
pub struct Server {
    pub address: SocketAddr,
    process: Child,
    /// What it says on stdout. Tests share a server between threads, which a receiver is not made
    /// for by itself.
    lines: Mutex<Receiver<String>>,
    /// Reads stderr to its end, so that nothing there has to wait. None if nobody reads it.
    stderr: Option<JoinHandle<String>>,
}

impl Server {
    /// Starts one with the bundled model, and waits until it answers.
    pub fn start(args: &[&str]) -> Self {
        let mut server = Self::start_only(args);
        server.wait_until_loaded();
        server
    }

    /// The same with this model.
    pub fn with_model(model: &Path, args: &[&str]) -> Self {
        let model = ["--model", model.to_str().expect("UTF-8")];
        Self::start(&[&model, args].concat())
    }

    /// Starts one, which listens then, but still loads.
    pub fn start_only(args: &[&str]) -> Self {
        Self::spawn(args, true)
    }

    /// Starts one to whom nobody listens any more once it has said where it is: stdout and
    /// stderr are closed.
    pub fn start_unheard(args: &[&str]) -> Self {
        let server = Self::spawn(args, false);
        let start = Instant::now();
        while server.get("/health").status != 200 {
            assert!(start.elapsed() < PATIENCE, "the server still loads");
            thread::sleep(Duration::from_millis(10));
        }
        server
    }

    fn spawn(args: &[&str], is_heard: bool) -> Self {
        let mut process = Command::new(programs::path("serve"))
            .args(["--port", "0", "--threads", "1"])
            .args(args)
            .env_remove("RUST_LOG")
            .env_remove("LLAMA_MOE_API_KEY")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stdout = process.stdout.take().expect("a pipe");
        let stderr = process.stderr.take().expect("a pipe");
        let (sender, lines) = channel();
        thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            for line in lines.take(if is_heard { usize::MAX } else { 1 }) {
                let _ = sender.send(line);
            }
        });
        let mut server = Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            process,
            lines: Mutex::new(lines),
            stderr: is_heard.then(move || thread::spawn(move || read_all(stderr))),
        };
        let line = server.line();
        let address = line.strip_prefix("listening on http://");
        let address = address.unwrap_or_else(|| panic!("{line:?}"));
        server.address = address.parse().expect("an address");
        server
    }

    pub fn wait_until_loaded(&mut self) {
        let line = self.line();
        assert!(line.starts_with("serving "), "{line:?}");
    }

    #[track_caller]
    fn line(&mut self) -> String {
        let lines = self.lines.get_mut().expect("nobody panicked with it");
        lines.recv_timeout(PATIENCE).unwrap_or_else(|error| {
            let _ = self.process.kill();
            let stderr = self.stderr();
            panic!("the server says nothing more ({error}): {stderr}")
        })
    }

    /// What stood on stderr, once the process has ended.
    fn stderr(&mut self) -> String {
        let reader = self.stderr.take();
        reader.map_or_else(String::new, |reader| reader.join().expect("it only reads"))
    }

    /// The process' number.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Response {
        self.request("GET", path, &[], b"")
    }

    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.request("POST", path, &[JSON], body.to_string().as_bytes())
    }

    #[track_caller]
    pub fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        send(self.address, method, path, headers, body)
            .and_then(Exchange::finish)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// Sends a request, and returns when the head of the answer is there.
    #[track_caller]
    pub fn open(&self, path: &str, body: &Value) -> Exchange {
        send(
            self.address,
            "POST",
            path,
            &[JSON],
            body.to_string().as_bytes(),
        )
        .expect("an answer")
    }

    /// A chat of one message with the fields of `more`.
    #[track_caller]
    pub fn chat(&self, text: &str, more: Value) -> Response {
        self.post("/v1/chat/completions", &chat(text, more))
    }

    /// What it says, so many times, where a schema leaves it no choice but this text.
    #[track_caller]
    pub fn say(&self, text: &str, n: usize) -> Vec<String> {
        let format = json!({"type": "json_schema",
            "json_schema": {"name": "text", "strict": true, "schema": {"const": text}}});
        let more = json!({"response_format": format, "n": n});
        let answer = self.chat("Go on.", more).ok();
        let choices = answer["choices"].as_array().expect("choices");
        assert_eq!(choices.len(), n);
        let texts = choices.iter().map(|choice| {
            assert_eq!(choice["finish_reason"], "stop");
            let content = choice["message"]["content"].as_str().expect("a text");
            serde_json::from_str(content).unwrap_or_else(|error| panic!("{content}: {error}"))
        });
        texts.collect()
    }

    /// A number among the metrics.
    #[track_caller]
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").text();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("llama_moe_{name} ")));
        let number = line.unwrap_or_else(|| panic!("no {name} in {text}"));
        number.parse().expect("a number")
    }

    /// Waits until nothing is being answered. Fails if that is not soon.
    #[track_caller]
    pub fn wait_until_idle(&self) {
        let start = Instant::now();
        while self.metric("slots_busy") + self.metric("requests_queued") > 0.0 {
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "slots are still busy"
            );
            thread::sleep(Duration::from_millis(10));
        }
    }

    #[cfg(unix)]
    pub fn signal(&self, name: &str) {
        signal(self.process.id(), name);
    }

    /// Waits for the end, and gives what stood on stderr.
    #[track_caller]
    pub fn wait(mut self, most: Duration) -> (ExitStatus, String) {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.process.try_wait().expect("a process") {
                break status;
            }
            assert!(start.elapsed() < most, "the server has not ended");
            thread::sleep(Duration::from_millis(10));
        };
        let stderr = self.stderr();
        (status, stderr)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn read_all(mut pipe: impl Read) -> String {
    let mut bytes = Vec::new();
    let _ = pipe.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Sends a process a signal.
#[cfg(unix)]
pub fn signal(pid: u32, name: &str) {
    let kill = Command::new("kill").args([name, &pid.to_string()]).status();
    assert!(kill.expect("kill").success());
}

/// A conversation of one message with the fields of `more`.
pub fn chat(text: &str, more: Value) -> Value {
    with(
        json!({"messages": [{"role": "user", "content": text}]}),
        more,
    )
}

/// An object with more fields.
pub fn with(mut object: Value, more: Value) -> Value {
    let (Value::Object(fields), Value::Object(more)) = (&mut object, more) else {
        panic!("both are objects");
    };
    fields.extend(more);
    object
}
