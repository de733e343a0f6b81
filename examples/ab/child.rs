//! Running a job in a process of its own.

use std::collections::VecDeque;
use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use common::Result;
use llama_moe::AbortToken;
use serde::de::DeserializeOwned;

use crate::job::{Job, Message};
use crate::results::{Failure, Outcome};
use crate::worker::speaks_of_memory;

/// How often it is looked whether somebody pressed Ctrl-C.
const PATIENCE: Duration = Duration::from_millis(50);
/// Lines of a process's stderr that are kept.
const LAST_LINES: usize = 12;
/// What a line of them has at most, in characters.
const LONGEST_LINE: usize = 300;

/// Does a job in a process of its own, and waits for it. `None` if `interrupt` was pulled, which
/// ends the process.
pub fn run<T: DeserializeOwned>(
    job: &Job,
    interrupt: &AbortToken,
    on_stage: impl FnMut(&str),
) -> Result<Option<Outcome<T>>> {
    let mut stage = "starting a process".to_owned();
    let mut child = match Running::start(job) {
        Ok(child) => child,
        Err(error) => {
            let message = error.to_string();
            return Ok(Some(Outcome::Failed(Failure {
                is_out_of_memory: speaks_of_memory(&message),
                stage,
                message,
            })));
        }
    };
    let Some(last) = child.listen(interrupt, &mut stage, on_stage) else {
        return Ok(None);
    };
    Ok(Some(match last {
        Some(Message::Done(value)) => match serde_json::from_value(value) {
            Ok(result) => Outcome::Done(result),
            Err(error) => Outcome::Failed(Failure {
                stage,
                message: format!("its result cannot be read: {error}"),
                is_out_of_memory: false,
            }),
        },
        Some(Message::Failed(failure)) => Outcome::Failed(failure),
        Some(Message::Stage(_)) | None => Outcome::Failed(child.failure(stage)?),
    }))
}

/// A process that runs. Dropped, it is ended.
struct Running {
    process: Child,
    messages: Receiver<Message>,
    stderr: Option<JoinHandle<String>>,
}

impl Running {
    fn start(job: &Job) -> Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.arg("worker");
        // In a group of its own: Ctrl-C is for this process, which then ends that one.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (stdin, stdout, stderr) = (
            process.stdin.as_mut(),
            process.stdout.take(),
            process.stderr.take(),
        );
        let mut line = serde_json::to_vec(job)?;
        line.push(b'\n');
        if let Some(stdin) = stdin {
            // A process that has ended already will say why.
            let _ = stdin.write_all(&line).and_then(|()| stdin.flush());
        }
        let (send, messages) = mpsc::channel();
        if let Some(stdout) = stdout {
            thread::Builder::new().spawn(move || {
                // A driver may print what it likes in between.
                let lines = BufReader::new(stdout)
                    .split(b'\n')
                    .map_while(std::io::Result::ok);
                for message in lines.filter_map(|line| serde_json::from_slice(&line).ok()) {
                    if send.send(message).is_err() {
                        break;
                    }
                }
            })?;
        }
        let tail = stderr.map(|stderr| thread::Builder::new().spawn(move || last_lines(stderr)));
        Ok(Self {
            process,
            messages,
            stderr: tail.transpose()?,
        })
    }

    /// Hears what the process says until it says no more, and gives its last message that is no
    /// stage. `None` if `interrupt` was pulled.
    fn listen(
        &mut self,
        interrupt: &AbortToken,
        stage: &mut String,
        mut on_stage: impl FnMut(&str),
    ) -> Option<Option<Message>> {
        let mut last = None;
        loop {
            if interrupt.is_aborted() {
                return None;
            }
            match self.messages.recv_timeout(PATIENCE) {
                Ok(Message::Stage(now)) => {
                    on_stage(&now);
                    *stage = now;
                }
                Ok(message) => last = Some(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Some(last),
            }
        }
    }

    /// What ended a process that gave no result.
    fn failure(&mut self, stage: String) -> Result<Failure> {
        let status = self.process.wait()?;
        let said = self.stderr.take().map(JoinHandle::join);
        let said = said.and_then(thread::Result::ok).unwrap_or_default();
        let ended = describe(status);
        Ok(Failure {
            stage,
            // Who runs out of memory on Linux is killed, and by nobody else here.
            is_out_of_memory: is_killed(status) || speaks_of_memory(&said),
            message: if said.is_empty() {
                ended
            } else {
                format!("{ended}\n{said}")
            },
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended, which is as good. With all that it started: a task's command would
        // go on otherwise.
        #[cfg(unix)]
        let _ = Command::new("kill")
            .args(["-KILL", "--", &format!("-{}", self.process.id())])
            .stderr(Stdio::null())
            .status();
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn last_lines(stderr: impl Read) -> String {
    let mut lines = VecDeque::new();
    for line in BufReader::new(stderr).split(b'\n') {
        let Ok(line) = line else { break };
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end();
        if !line.is_empty() {
            lines.push_back(line.chars().take(LONGEST_LINE).collect::<String>());
        }
        if lines.len() > LAST_LINES {
            lines.pop_front();
        }
    }
    Vec::from(lines).join("\n")
}

fn describe(status: ExitStatus) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return match signal {
            6 => "the process aborted (signal 6)".to_owned(),
            9 => "the process was killed (signal 9), as the system does when memory runs out"
                .to_owned(),
            11 => "the process crashed (signal 11)".to_owned(),
            signal => format!("the process was ended by signal {signal}"),
        };
    }
    match status.code() {
        Some(code) => format!("the process ended with code {code} and no result"),
        None => "the process ended without a result".to_owned(),
    }
}

fn is_killed(status: ExitStatus) -> bool {
    #[cfg(unix)]
    return std::os::unix::process::ExitStatusExt::signal(&status) == Some(9);
    #[cfg(not(unix))]
    {
        let _ = status;
        false
    }
}
