//! Commands that check a reply.

use std::fs::{self, DirBuilder, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{env, io, process, thread};

use super::error::QualityError;
use crate::error::{Error, Result};

/// How often a command is asked whether it has ended.
const PATIENCE: Duration = Duration::from_millis(5);

/// What a command is told of the environment: where programs are, and what Windows' programs
/// need to start. Not the rest, which may hold secrets.
const KEPT: [&str; 2] = ["PATH", "SystemRoot"];

/// Whether a command that gets `input` on its standard input ends well, and within the time.
pub(super) fn passes(argv: &[String], input: &str, timeout: Duration) -> Result<bool> {
    let Some((program, args)) = argv.split_first() else {
        return Err(failed("", "it has no words").into());
    };
    let scratch = Scratch::new()?;
    let path = scratch.0.join("input");
    let file = |source| Error::File {
        path: path.clone(),
        source,
    };
    fs::write(&path, input).map_err(file)?;
    // A file is there as a whole, whether it is read or not.
    let stdin = File::open(&path).map_err(file)?;
    let kept = KEPT.map(|name| (name, env::var_os(name)));
    let kept = kept
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)));
    let child = Command::new(program)
        .args(args)
        .current_dir(&scratch.0)
        .env_clear()
        .envs(kept)
        .stdin(stdin)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| failed(program, &error.to_string()))?;
    let ended = Running(child).wait(timeout);
    Ok(ended.map_err(|error| failed(program, &error.to_string()))?)
}

fn failed(program: &str, reason: &str) -> QualityError {
    QualityError::Command {
        program: program.to_owned(),
        reason: reason.to_owned(),
    }
}

/// A process that does not outlive this.
struct Running(Child);

impl Running {
    /// Whether it ends well within the time.
    fn wait(mut self, timeout: Duration) -> io::Result<bool> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status.success());
            }
            if start.elapsed() >= timeout {
                return Ok(false);
            }
            thread::sleep(PATIENCE);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Neither can fail but for a process that has ended, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A new folder, which is removed at the end with all that is in it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let parent = env::temp_dir();
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = parent.join(format!("llama-moe-task-{}-{number}", process::id()));
            match create(&path) {
                // Left by an earlier process of the same number.
                Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(Error::File { path, source }),
                Ok(()) => return Ok(Self(path)),
            }
        }
    }
}

/// A folder of this user's alone.
fn create(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is left to the system, which empties this folder.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The first fenced block of a reply in Markdown, or all of the reply where there is none. A
/// block that is not closed goes to the end.
pub(super) fn code_of(reply: &str) -> &str {
    let mut start = None;
    let mut at = 0;
    for line in reply.split_inclusive('\n') {
        let is_fence = line.trim_start().starts_with("```");
        match start {
            Some(start) if is_fence => return &reply[start..at],
            None if is_fence => start = Some(at + line.len()),
            _ => {}
        }
        at += line.len();
    }
    &reply[start.unwrap_or(0)..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_the_first_fenced_block() {
        for (reply, code) in [
            ("a = 1", "a = 1"),
            (
                "Sure:\n```python\na = 1\n```\nDone.\n```\nb\n```",
                "a = 1\n",
            ),
            ("```\na\n\n  b\n  ```\n", "a\n\n  b\n"),
            ("Here:\n```python\na = 1", "a = 1"),
            ("```", ""),
            ("```\n```", ""),
            ("inline ``` is none", "inline ``` is none"),
            ("", ""),
        ] {
            assert_eq!(code_of(reply), code, "{reply:?}");
        }
    }

    #[test]
    fn a_command_without_words_is_no_check() {
        let error = passes(&[], "", Duration::from_secs(1)).unwrap_err();
        assert!(matches!(
            error,
            Error::Quality(QualityError::Command { .. })
        ));
    }
}
