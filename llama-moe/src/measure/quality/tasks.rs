//! Tasks whose replies a program can check, and how many of them a model solves.

use serde::{Deserialize, Serialize};

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
