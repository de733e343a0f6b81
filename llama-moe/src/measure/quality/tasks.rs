//! Tasks whose replies a program can check, and how many of them a model solves.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::seconds;
use super::command;
use super::error::QualityError;
use crate::chat::{Chat, FinishReason, ReplyStats};
use crate::context::DecodeError;
use crate::error::{Error, Result};
use crate::sampler::{Sampler, SamplerChain};

/// Replies that are drawn, if there is more than one: the usual choice for pass@k.
const TEMPERATURE: f32 = 0.8;
const TOP_P: f32 = 0.95;

/// A task for a model, and how to tell whether a reply solves it.
///
/// As JSON, in a file of many:
///
/// ```json
/// [
///   {
///     "name": "first layers",
///     "prompt": "Which option keeps the experts of the first layers on the CPU?",
///     "check": { "contains": "n-cpu-moe" }
///   },
///   {
///     "name": "double",
///     "prompt": "Write a Python function double(x) that returns twice x.",
///     "check": {
///       "command": { "argv": ["python3", "-I", "-"], "timeout": 10, "test": "assert double(4) == 8" }
///     }
///   }
/// ]
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Its name, which no other task of a file has.
    pub name: String,
    /// What the user says.
    pub prompt: String,
    /// What tells whether a reply solves it.
    pub check: Check,
}

/// How a reply is checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Check {
    /// The reply has this text in it, to the letter.
    Contains(String),
    /// A command that gets the reply ends well, with exit code 0, and in time.
    ///
    /// Dangerous: **it may run what a model wrote**, with all rights of this process. It runs in
    /// an empty folder, and of the environment it is told `PATH` alone, but nothing keeps it from
    /// the files, the network and the memory of this machine. A command that is killed at its
    /// timeout leaves behind what it started itself.
    Command {
        /// The program, by name or absolute path, and its arguments.
        argv: Vec<String>,
        /// How long it may take, in seconds.
        #[serde(with = "seconds")]
        timeout: Duration,
        /// What follows the reply on the command's standard input. Of the reply it gets the first
        /// block that is fenced by ```` ``` ````, as Markdown has code, or all if there is none.
        #[serde(default)]
        test: String,
    },
}

impl Task {
    /// Reads tasks from a file: a list of them in JSON.
    ///
    /// # Errors
    /// [`Error::File`]; [`QualityError::TaskFile`] for what is no list of tasks or has none, for
    /// two tasks of one name, and for checks that pass or fail whatever is said: an empty text,
    /// a command without words or time.
    pub fn read_all(path: impl AsRef<Path>) -> Result<Vec<Self>> {
        let path = path.as_ref();
        let text = fs::read_to_string(path).map_err(|source| Error::File {
            path: path.to_owned(),
            source,
        })?;
        let tasks = serde_json::from_str::<Vec<Self>>(&text).map_err(|error| error.to_string());
        let checked = tasks.and_then(|tasks| {
            check_all(&tasks)?;
            Ok(tasks)
        });
        let unusable = |reason| QualityError::TaskFile {
            path: path.to_owned(),
            reason,
        };
        Ok(checked.map_err(unusable)?)
    }

    /// Whether a reply solves it.
    fn is_solved_by(&self, reply: &str) -> Result<bool> {
        match &self.check {
            Check::Contains(text) => Ok(reply.contains(text)),
            Check::Command {
                argv,
                timeout,
                test,
            } => {
                let input = format!("{}\n{test}\n", command::code_of(reply));
                command::passes(argv, &input, *timeout)
            }
        }
    }
}

fn check_all(tasks: &[Task]) -> Result<(), String> {
    if tasks.is_empty() {
        return Err("it has no tasks".to_owned());
    }
    let mut names = BTreeSet::new();
    for task in tasks {
        let name = &task.name;
        if !names.insert(name) {
            return Err(format!("two tasks have the name {name:?}"));
        }
        match &task.check {
            Check::Contains(text) if text.is_empty() => {
                return Err(format!("every reply contains the empty text of {name:?}"));
            }
            Check::Command { argv, .. } if argv.first().is_none_or(String::is_empty) => {
                return Err(format!("the command of {name:?} names no program"));
            }
            Check::Command { timeout, .. } if timeout.is_zero() => {
                return Err(format!("the command of {name:?} has no time"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// What a model made of a set of tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TaskResults {
    /// For each task, in their order.
    pub tasks: Vec<TaskResult>,
}

/// What a model made of one task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TaskResult {
    /// The task's name.
    pub name: String,
    /// How many replies were checked.
    pub n: usize,
    /// How many of them passed.
    pub n_passed: usize,
}

impl TaskResults {
    /// How likely it is that of `k` replies to a task one passes at least, as a mean over the
    /// tasks (pass@k): for each 1 - C(n - c, k) / C(n, k), with n replies of which c passed, which
    /// is right on average. `None` without tasks, for a `k` of 0, and where a task has
    /// fewer than `k` replies.
    #[must_use]
    pub fn pass_at_k(&self, k: usize) -> Option<f64> {
        let each = self.tasks.iter().map(|task| task.pass_at_k(k));
        let sum = each.sum::<Option<f64>>()?;
        (!self.tasks.is_empty()).then(|| sum / self.tasks.len() as f64)
    }
}

impl TaskResult {
    fn pass_at_k(&self, k: usize) -> Option<f64> {
        let n_failed = self.n.saturating_sub(self.n_passed);
        if k == 0 || k > self.n {
            return None;
        }
        // C(n - c, k) / C(n, k), factor by factor: each is at most 1.
        let factors = (0..k).map(|i| n_failed.saturating_sub(i) as f64 / (self.n - i) as f64);
        Some(1.0 - factors.product::<f64>())
    }
}

/// Has a model reply to each task `n_samples` times, and checks the replies. Each is the first of
/// a conversation, computed from nothing.
///
/// A single reply is the greedy one. Several are drawn at temperature 0.8 from the tokens that
/// make up 0.95 of the probability, the first with `seed`, the next with the number after it, and
/// so on: the same for every variant of a model. The chat's messages are cleared, and
/// its sampler is replaced.
///
/// Commands run only with `allows_commands`: read what [`Check::Command`] says of them.
///
/// ```no_run
/// use llama_moe::measure::quality::{Task, run_tasks};
/// # use llama_moe::{Backend, ChatParams, Model, ModelParams};
/// # let backend = Backend::init()?;
/// # let model = Model::load(&backend, "gpt-oss-20b.gguf", ModelParams::default())?;
/// let tasks = Task::read_all("tasks.json")?;
/// let mut chat = model.chat(ChatParams::default().with_max_tokens(512))?;
/// let results = run_tasks(&mut chat, &tasks, 5, 42, false)?;
/// println!("pass@1 = {:?}, pass@5 = {:?}", results.pass_at_k(1), results.pass_at_k(5));
/// # Ok::<(), llama_moe::Error>(())
/// ```
///
/// # Errors
/// Before anything is computed, [`QualityError::CommandsNotAllowed`], and [`Error::Parameter`] for
/// no samples. [`QualityError::Command`] for one that cannot be run; what [`Chat::say`] and its
/// reply return; [`DecodeError::Aborted`] if the chat's abort token is used.
pub fn run_tasks(
    chat: &mut Chat,
    tasks: &[Task],
    n_samples: usize,
    seed: u32,
    allows_commands: bool,
) -> Result<TaskResults> {
    if n_samples == 0 {
        return Err(Error::Parameter {
            parameter: "n_samples",
            value: "0".to_owned(),
            reason: "a task takes one reply at least".to_owned(),
        });
    }
    let with_command = |task: &&Task| matches!(task.check, Check::Command { .. });
    if let Some(task) = tasks.iter().find(with_command)
        && !allows_commands
    {
        let task = task.name.clone();
        return Err(QualityError::CommandsNotAllowed { task }.into());
    }
    let mut results = Vec::with_capacity(tasks.len());
    for task in tasks {
        let mut n_passed = 0;
        for sample in 0..n_samples {
            chat.set_sampler(sampler(n_samples, seed, sample)?);
            let reply = reply(chat, &task.prompt)?;
            n_passed += usize::from(task.is_solved_by(&reply)?);
        }
        results.push(TaskResult {
            name: task.name.clone(),
            n: n_samples,
            n_passed,
        });
    }
    chat.reset();
    Ok(TaskResults { tasks: results })
}

fn sampler(n_samples: usize, seed: u32, sample: usize) -> Result<Sampler> {
    if n_samples == 1 {
        return Sampler::greedy();
    }
    // llama.cpp takes the largest number for a random one.
    let seed = (u64::from(seed) + sample as u64) % u64::from(u32::MAX);
    SamplerChain::new()
        .top_p(TOP_P, 1)
        .temp(TEMPERATURE)
        .dist(seed as u32)
}

fn reply(chat: &mut Chat, prompt: &str) -> Result<String> {
    chat.reset();
    // What is computed again can differ in the last digit from what was kept.
    chat.forget()?;
    let text = chat.say(prompt)?.text()?;
    let is_aborted = |stats: &ReplyStats| stats.finish == Some(FinishReason::Aborted);
    if chat.stats().is_some_and(is_aborted) {
        return Err(DecodeError::Aborted.into());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(of_tasks: &[(usize, usize)]) -> TaskResults {
        let result = |&(n, n_passed)| TaskResult {
            name: format!("{n} {n_passed}"),
            n,
            n_passed,
        };
        TaskResults {
            tasks: of_tasks.iter().map(result).collect(),
        }
    }

    #[test]
    fn pass_at_k_worked_out_by_hand() {
        for (n, c, k, pass) in [
            (1, 1, 1, 1.0),
            (1, 0, 1, 0.0),
            (5, 2, 1, 0.4),
            // 1 - C(3, 2) / C(5, 2) = 1 - 3 / 10.
            (5, 2, 2, 0.7),
            // 1 - C(7, 5) / C(10, 5) = 1 - 21 / 252.
            (10, 3, 5, 1.0 - 21.0 / 252.0),
            // Fewer than k failed.
            (5, 2, 4, 1.0),
            (5, 0, 5, 0.0),
            (5, 5, 5, 1.0),
        ] {
            let ours = results(&[(n, c)]).pass_at_k(k).unwrap();
            assert!((ours - pass).abs() < 1e-12, "{n} {c} {k}: {ours}");
        }
        let mean = results(&[(5, 2), (5, 0)]).pass_at_k(2).unwrap();
        assert!((mean - 0.35).abs() < 1e-12);
        let many = results(&[(1_000_000, 1)]).pass_at_k(1000).unwrap();
        assert!((many - 0.001).abs() < 1e-9, "{many}");
    }

    #[test]
    fn too_few_replies_say_nothing() {
        let some = results(&[(5, 2), (3, 1)]);
        assert_eq!((some.pass_at_k(4), some.pass_at_k(0)), (None, None));
        assert!(some.pass_at_k(3).is_some());
        assert_eq!(results(&[]).pass_at_k(1), None);
        // As a file could have it.
        assert_eq!(results(&[(2, 7)]).pass_at_k(1), Some(1.0));
    }
}
