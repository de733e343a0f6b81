//! A server process, from its start to its end.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::Result;
use crate::client::Client;
use crate::process::Process;

/// How long a model may take to load.
const LOADING: Duration = Duration::from_secs(300);

/// A server program.
pub enum Program {
    /// `examples/serve`.
    Serve(PathBuf),
    /// llama.cpp's.
    LlamaServer(PathBuf),
}

/// What both are given, and what `serve` alone.
pub struct Setup {
    pub model: PathBuf,
    pub slots: u32,
    /// Tokens of one slot.
    pub n_ctx: u32,
    pub threads: usize,
    /// Weights on huge pages, which llama-server has no option for.
    pub huge_pages: bool,
}

/// A server that answers, ended on drop.
pub struct Server {
    pub base: String,
    /// Whether it tells what its engine does.
    pub has_engine: bool,
    process: Child,
    _folder: tempfile::TempDir,
}

impl Server {
    /// Starts a server, and waits until it has loaded the model.
    pub fn start(program: &Program, setup: &Setup) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let log = folder.path().join("log");
        let mut command = program.command(setup);
        // Any port that is free; the server says which.
        command.args(["--host", "127.0.0.1", "--port", "0"]);
        let file = File::create(&log)?;
        let process = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .map_err(|error| format!("{}: {error}", program.path().display()))?;
        let mut server = Self {
            base: String::new(),
            has_engine: matches!(program, Program::Serve(_)),
            process,
            _folder: folder,
        };
        let start = Instant::now();
        while !server.answers(&log)? {
            let ended = server.process.try_wait()?;
            if ended.is_some() || start.elapsed() > LOADING {
                let log = fs::read_to_string(&log)?;
                return Err(format!("{program} does not answer ({ended:?}):\n{log}").into());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    /// Whether it has said where it is, and answers there.
    fn answers(&mut self, log: &Path) -> Result<bool> {
        if self.base.is_empty() {
            let log = String::from_utf8_lossy(&fs::read(log)?).into_owned();
            // The last line may still be written.
            let mut lines = log
                .split_inclusive('\n')
                .filter(|line| line.ends_with('\n'));
            let Some(port) = lines.find_map(port) else {
                return Ok(false);
            };
            self.base = format!("http://127.0.0.1:{port}");
        }
        Ok(matches!(self.client().get("/health"), Ok((200, _))))
    }

    /// A client with connections of its own.
    pub fn client(&self) -> Client {
        Client::new(&self.base)
    }

    pub fn process(&self) -> Process {
        Process::new(self.process.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Program {
    fn path(&self) -> &Path {
        match self {
            Self::Serve(path) | Self::LlamaServer(path) => path,
        }
    }

    fn command(&self, setup: &Setup) -> Command {
        let mut command = Command::new(self.path());
        let threads = setup.threads.to_string();
        command.arg("--model").arg(&setup.model);
        command.args(["--threads", &threads]);
        match self {
            Self::Serve(_) => {
                command.args(["--slots", &setup.slots.to_string()]);
                command.args(["--ctx", &setup.n_ctx.to_string()]);
                // As llama-server has it where it is told the number of slots.
                command.arg("--no-kv-unified");
                if setup.huge_pages {
                    command.arg("--huge-pages");
                }
            }
            Self::LlamaServer(_) => {
                // There the context is what all slots have together.
                let n_ctx = setup.n_ctx * setup.slots;
                command.args(["--parallel", &setup.slots.to_string()]);
                command.args(["--ctx-size", &n_ctx.to_string()]);
                command.args(["--threads-batch", &threads]);
                // It would copy what idle slots hold to memory of its own, which no request of
                // these asks for again.
                command.args(["--cache-ram", "0"]);
            }
        }
        command
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Serve(_) => "serve",
            Self::LlamaServer(_) => "llama-server",
        })
    }
}

/// What a `llama-server` says of its version and its build, in a line.
pub fn llama_server_version(path: &Path) -> Result<String> {
    let output = Command::new(path).arg("--version").output();
    let output = output.map_err(|error| format!("{}: {error}", path.display()))?;
    // It logs beside it.
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let lines = said.lines().map(str::trim);
    let lines =
        lines.filter(|line| line.starts_with("version: ") || line.starts_with("built with "));
    Ok(lines.collect::<Vec<_>>().join(", "))
}

/// The port in a line that says where a server listens: `listening on http://127.0.0.1:PORT`, or,
/// as older ones of llama.cpp's write it, `listening, hostname: 127.0.0.1, port: PORT`.
fn port(line: &str) -> Option<u16> {
    let (_, place) = line.split_once("listening")?;
    let (_, port) = ["http://127.0.0.1:", "port: "]
        .iter()
        .find_map(|before| place.split_once(before))?;
    let end = port.find(|c: char| !c.is_ascii_digit());
    let port = port[..end.unwrap_or(port.len())].parse().ok()?;
    // What it was asked for, not what it has.
    (port != 0).then_some(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_read_where_a_server_says_it() {
        let said = [
            ("listening on http://127.0.0.1:41234\n", Some(41234)),
            (
                "main: server is listening on http://127.0.0.1:8080 - starting\n",
                Some(8080),
            ),
            (
                "HTTP server is listening, hostname: 127.0.0.1, port: 5001, http threads: 3\n",
                Some(5001),
            ),
            // What it was told, before it has one.
            ("listening, hostname: 127.0.0.1, port: 0\n", None),
            ("serving model.gguf on http://127.0.0.1:8080\n", None),
            ("listening on http://127.0.0.1:99999\n", None),
        ];
        for (line, expected) in said {
            assert_eq!(port(line), expected, "{line}");
        }
    }
}
