//! Which rules make a model fit: where its tensors would go, what that costs, and the equal
//! llama.cpp command line. Nothing is loaded.
//!
//! ```text
//! cargo run --release --example plan -- gpt-oss-120b.gguf --budget 24GiB --ctx 16384
//! cargo run --release --example plan -- deepseek-v3.gguf --assume-device 24GiB --assume-device 24GiB --json
//! ```

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use common::{Bytes, LogArgs, MARGIN, ModelArgs, MoeCacheArgs, PlanReport, Result, write_svg};
use llama_moe::{Backend, Budget, Limits, Picture, Plan, Planner, host_bandwidth};

/// Choose rules that make a model fit a memory budget
#[derive(Parser)]
struct Args {
    /// A GGUF file; of a model in several files, the first [default: the small model that came
    /// with the repository]
    #[arg(value_name = "MODEL", conflicts_with_all = ["model", "hf"])]
    file: Option<PathBuf>,

    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    plan: PlanArgs,

    #[command(flatten)]
    moe_cache: MoeCacheArgs,

    #[command(flatten)]
    log: LogArgs,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Plan")]
struct PlanArgs {
    /// Memory that may be used of each device [default: what is free, less 1 GiB]
    ///
    /// Without a device here, one of this size is assumed.
    #[arg(long, value_name = "BYTES", conflicts_with = "assume_device")]
    budget: Option<Bytes>,

    /// Plan for a device of this size that is not at hand; may be repeated
    #[arg(long, value_name = "BYTES")]
    assume_device: Vec<Bytes>,

    /// System memory that may be used [default: what is free; beside assumed devices, as much
    /// as it takes]
    #[arg(long, value_name = "BYTES")]
    ram: Option<Bytes>,

    /// Tokens in the context, 0 for as many as the model was trained for
    #[arg(short, long, value_name = "N", default_value_t = 4096)]
    ctx: u32,

    /// Let the context shrink down to this many tokens where it would not fit otherwise
    #[arg(long, value_name = "N")]
    min_ctx: Option<u32>,

    /// Tokens that are computed at once in a prompt
    #[arg(long, value_name = "N")]
    ubatch: Option<u32>,

    /// Do not measure the system's memory bandwidth, and leave out what follows from it
    #[arg(long)]
    no_limits: bool,

    /// Write a picture of it: layers by roles, area by bytes, colour by memory
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,

    /// One JSON object on stdout, and nothing else
    ///
    /// Amounts are in bytes. Its fields: model, its name; n_ctx; estimate, whether the devices
    /// are not at hand; devices and host, each with name, budget, weights, of which experts,
    /// context, moe_cache, compute, total; n_gpu_layers; tensor_split; moe_cache, the cache of
    /// experts (size, bytes, groups, not_cached), and moe_cache_left_out, whether one was asked for
    /// that is not needed, as all experts are on devices; rules, each with rule, pattern,
    /// target, n_tensors, bytes; limits, with host_bandwidth in bytes per second, n_ubatch, the
    /// tokens of a prompt that are computed at once, and decode and prefill in tokens per second;
    /// command_line. What does not apply is null.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    common::exit_code(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    args.log.init()?;
    let backend = Backend::init()?;
    let source = match &args.file {
        Some(path) => path.into(),
        None => args.model.source()?,
    };
    let params = args.model.params(&backend)?;
    let (budget, note) = args.plan.budget(&backend);
    let mut planner = Planner::new(&backend, source)?
        .with_model_params(params)
        .with_n_ctx(args.plan.ctx)
        .with_moe_cache(args.moe_cache.size());
    if let Some(n) = args.plan.min_ctx {
        planner = planner.with_min_ctx(n);
    }
    if let Some(n) = args.plan.ubatch {
        planner = planner.with_n_ubatch(n);
    }
    let plan = planner.fit(&budget)?;
    if let Some(path) = &args.plan.svg {
        let picture = Picture::of_plan(&plan, planner.header());
        write_svg(&picture, path)?;
    }
    let limits = (!args.plan.no_limits).then(|| plan.limits(host_bandwidth()));
    let text = if args.plan.json {
        serde_json::to_string(&PlanReport::of(&plan, limits))?
    } else {
        text(&plan, limits, note)?
    };
    Ok(writeln!(io::stdout(), "{text}")?)
}

impl PlanArgs {
    fn budget(&self, backend: &Backend) -> (Budget, Option<&'static str>) {
        let mut note = None;
        let budget = match self.budget {
            Some(Bytes(bytes)) if backend.gpus().is_empty() => {
                note = Some("there is no GPU here: planned for one of the budget's size");
                Budget::assumed([bytes])
            }
            Some(Bytes(bytes)) => Budget::per_device(bytes),
            None if self.assume_device.is_empty() => Budget::free(MARGIN),
            None => Budget::assumed(self.assume_device.iter().map(|bytes| bytes.0)),
        };
        let budget = match self.ram {
            Some(Bytes(bytes)) => budget.with_ram(bytes),
            None => budget,
        };
        (budget, note)
    }
}

fn text(plan: &Plan, limits: Option<Limits>, note: Option<&str>) -> Result<String> {
    let mut text = String::new();
    if let Some(note) = note {
        writeln!(text, "{note}")?;
    }
    write!(text, "{plan}")?;
    let Some(limits) = limits else {
        return Ok(text);
    };
    let gib = limits.host_bandwidth / f64::from(1u32 << 30);
    write!(text, "\nsystem memory reads {gib:.1} GiB/s here")?;
    if let (Some(decode), Some(prefill)) = (limits.decode, limits.prefill) {
        write!(
            text,
            ": at most {decode:.1} tokens/s decode, {prefill:.0} tokens/s prefill"
        )?;
    }
    Ok(text)
}
