//! The same with llama.cpp's own programs.

use llama_moe::{Backend, Preview};

use crate::job::PrepareJob;
use crate::prepare::overrides;
use crate::results::Settings;

/// The options of llama.cpp's own programs for the same, for a POSIX shell.
pub fn options(
    backend: &Backend,
    job: &PrepareJob,
    settings: &Settings,
    preview: &Preview,
    n_blocks: u32,
    n_gpu_layers: Option<u32>,
) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    let mut options = vec![
        format!("-m {}", quoted(&job.model.to_string_lossy())),
        "-fit off".to_owned(),
    ];
    if !job.rpc.is_empty() {
        options.push(format!("--rpc {}", job.rpc.join(",")));
    }
    let all = n_blocks.saturating_add(1);
    if backend.gpus().is_empty() {
        options.push("-dev none".to_owned());
    } else {
        options.push(format!("-ngl {}", n_gpu_layers.map_or(all, |n| n.min(all))));
    }
    let rules: Vec<String> = overrides(preview)
        .iter()
        .map(|(pattern, buffer)| format!("{}={buffer}", pattern.replace(',', r"\,")))
        .collect();
    if !rules.is_empty() {
        options.push(format!("-ot {}", quoted(&rules.join(","))));
    }
    options.push(format!("-c {}", settings.n_ctx));
    if let Some(n) = settings.n_ubatch {
        options.push(format!("-ub {n}"));
    }
    if let Some(n) = settings.n_threads {
        options.push(format!("-t {n}"));
    }
    options.push(format!("-lm {}", preview.load_mode()));
    options.join(" ")
}

/// The options for a cache of experts of so many bytes; nothing for 0. llama.cpp counts in MiB.
pub fn cache_options(size: u64) -> String {
    match size.div_ceil(1 << 20) {
        0 => String::new(),
        mib => format!(" --no-repack --moe-cache-mib {mib}"),
    }
}
