//! Running an example program.

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use assert_cmd::Command;

/// A template that every test model can have.
pub const TEMPLATE: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";

/// How a program ended, and what it said.
#[derive(Debug)]
pub struct Outcome {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// Asserts that the program ended well, and gives what it printed.
    #[track_caller]
    pub fn success(self) -> String {
        assert_eq!(self.code, 0, "{self:#?}");
        self.stdout
    }

    /// Asserts that the program ended with an error: one message on stderr that has all
    /// `parts`, nothing on stdout, and no panic.
    #[track_caller]
    pub fn failure(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, code, "{self:#?}");
        assert_eq!(self.stdout, "", "{self:#?}");
        assert!(self.stderr.starts_with("error: "), "{self:#?}");
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
        for part in parts {
            assert!(self.stderr.contains(part), "no '{part}': {self:#?}");
        }
    }
}

/// The path of an example that was built along with this test.
pub fn path(name: &str) -> PathBuf {
    let test = env::current_exe().expect("this binary");
    let profile = test.ancestors().nth(2).expect("target/<profile>/deps");
    let path = profile.join("examples").join(name);
    let path = path.with_extension(env::consts::EXE_EXTENSION);
    assert!(
        path.exists(),
        "{} is not built; `cargo test -p llama-moe-examples` without `--test` builds it",
        path.display()
    );
    path
}

/// An example program with nothing of this process's settings.
pub fn program(name: &str) -> Command {
    let mut command = Command::new(path(name));
    command.timeout(Duration::from_secs(180));
    for variable in [
        "RUST_LOG",
        "HF_ENDPOINT",
        "HF_HOME",
        "http_proxy",
        "HTTP_PROXY",
    ] {
        command.env_remove(variable);
    }
    command
}

/// Runs an example to its end.
pub fn run<A: AsRef<std::ffi::OsStr>>(name: &str, args: impl IntoIterator<Item = A>) -> Outcome {
    outcome(program(name).args(args))
}

/// `chat` with this model and one prompt. On one thread: those of several processes would
/// only wait for each other.
pub fn chat(model: &Path) -> Command {
    let mut command = program("chat");
    command.arg("--model").arg(model);
    command.args(["--prompt", "hello", "--ctx", "256", "--threads", "1"]);
    command
}

pub fn outcome(command: &mut Command) -> Outcome {
    let output = command.output().expect("the program starts");
    Outcome {
        // None for a signal, the one of the time limit included.
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).expect("UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}
