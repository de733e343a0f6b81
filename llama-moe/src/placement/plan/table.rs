//! A plan for people to read.

use std::fmt;

use super::{Plan, PlannedMemory};

const MIB: f64 = (1u64 << 20) as f64;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, context of {} tokens", self.name, self.n_ctx)?;
        if let Some(moe) = &self.moe {
            writeln!(
                f,
                "{} MoE layers of {} experts, {} used; experts {:.1} MiB, read per token {:.1} MiB",
                moe.moe_layers.len(),
                moe.n_expert,
                moe.n_expert_used,
                mib(moe.expert_bytes_total()),
                mib(moe.bytes_per_token)
            )?;
        }
        writeln!(f)?;
        writeln!(
            f,
            "{:<12} {:>11} {:>11} {:>11} {:>11} {:>11} {:>11}",
            "MiB", "weights", "(experts)", "context", "compute", "total", "budget"
        )?;
        for memory in self.devices.iter().chain([&self.host]) {
            memory.row(f)?;
        }
        if self.is_estimate {
            writeln!(
                f,
                "context and compute are estimates: the devices are not at hand"
            )?;
        }
        writeln!(f)?;
        for (index, rule) in self.preview.rules().iter().enumerate() {
            writeln!(
                f,
                "rule {}: {}: {} tensors, {:.1} MiB",
                index + 1,
                rule.rule,
                rule.tensors.len(),
                mib(rule.bytes)
            )?;
        }
        write!(f, "llama.cpp: {}", self.command_line())
    }
}

impl PlannedMemory {
    fn row(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used = &self.used;
        let budget = self
            .budget
            .map_or("-".to_owned(), |budget| format!("{:.1}", mib(budget)));
        writeln!(
            f,
            "{:<12} {:>11.1} {:>11.1} {:>11.1} {:>11.1} {:>11.1} {budget:>11}",
            self.name,
            mib(used.weights),
            mib(used.experts),
            mib(used.context),
            mib(used.compute),
            mib(used.total()),
        )
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB
}
