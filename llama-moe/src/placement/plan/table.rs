//! A plan for people to read.

use std::fmt;

use super::{DecodeForecast, Plan, PlannedMemory};
use crate::placement::{MoeCacheLayout, MoeCacheObstacle};

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
        let has_cache = self.moe_cache.is_some();
        let cache = if has_cache {
            column("cache")
        } else {
            String::new()
        };
        writeln!(
            f,
            "{:<12} {:>11} {:>11} {:>11}{cache} {:>11} {:>11} {:>11}",
            "MiB", "weights", "(experts)", "context", "compute", "total", "budget"
        )?;
        for memory in self.devices.iter().chain([&self.host]) {
            memory.row(f, has_cache)?;
        }
        if self.is_estimate {
            writeln!(
                f,
                "context and compute are estimates: the devices are not at hand"
            )?;
        }
        self.cache_lines(f)?;
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

impl Plan {
    /// What the cache holds, or why there is none, and what is predicted.
    fn cache_lines(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(layout) = &self.moe_cache {
            for group in layout.groups() {
                writeln!(f, "{group}")?;
            }
            // Resident experts need no cache, and the plan wants them where they are.
            let is_resident =
                |of: &&MoeCacheObstacle| matches!(of, MoeCacheObstacle::OnDevice { .. });
            let others = || layout.obstacles().iter().filter(|of| !is_resident(of));
            if let Some(first) = others().next() {
                writeln!(f, "layers not cached: {}; {first}", others().count())?;
            }
        }
        if self.is_moe_cache_left_out {
            writeln!(
                f,
                "no cache of experts: all experts that could be cached are on devices"
            )?;
        }
        let (without, with): (Vec<_>, Vec<_>) = self
            .forecasts
            .iter()
            .partition(|forecast| forecast.moe_cache_size == 0);
        let fastest = with.into_iter().reduce(|best, forecast| {
            if forecast.is_faster_than(best) {
                forecast
            } else {
                best
            }
        });
        let lines: Vec<&DecodeForecast> = without.into_iter().chain(fastest).collect();
        if !lines.is_empty() {
            writeln!(
                f,
                "decode as predicted, bound by transfers, nothing else counted:"
            )?;
        }
        let chosen = self.moe_cache.as_ref().map_or(0, MoeCacheLayout::size);
        for forecast in lines {
            let mark = if forecast.moe_cache_size == chosen {
                " (this plan)"
            } else {
                ""
            };
            writeln!(f, "  {forecast}{mark}")?;
        }
        Ok(())
    }
}

impl PlannedMemory {
    fn row(&self, f: &mut fmt::Formatter<'_>, has_cache: bool) -> fmt::Result {
        let used = &self.used;
        let cache = if has_cache {
            column(&format!("{:.1}", mib(used.moe_cache)))
        } else {
            String::new()
        };
        let budget = self
            .budget
            .map_or("-".to_owned(), |budget| format!("{:.1}", mib(budget)));
        writeln!(
            f,
            "{:<12} {:>11.1} {:>11.1} {:>11.1}{cache} {:>11.1} {:>11.1} {budget:>11}",
            self.name,
            mib(used.weights),
            mib(used.experts),
            mib(used.context),
            mib(used.compute),
            mib(used.total()),
        )
    }
}

fn column(text: &str) -> String {
    format!(" {text:>11}")
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB
}
