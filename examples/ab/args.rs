//! The command line.

use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use common::MoeCacheArgs;

use crate::variant::Variant;

/// Measure variants of a model's placement against each other
///
/// Each trial is a process of its own, which loads the model, warms up and measures. The variants
/// take turns: each once, then each again. The first one is the base that the others are compared
/// with. What is measured is kept in the folder after each trial: Ctrl-C loses the trial
/// that is running, and --resume goes on. A trial that fails, by an error, a crash or for want of
/// memory, is kept as one that did; twice in a row, and its variant is given up.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    pub command: Option<Command>,

    #[command(flatten)]
    pub run: RunArgs,
}

/// What else it does.
#[derive(Subcommand)]
pub enum Command {
    /// Write the report of a comparison again
    Report {
        /// The comparison's folder
        dir: PathBuf,
    },
    /// Hold two comparisons against each other
    Compare {
        /// The results that are the base
        a: PathBuf,
        /// The results that are held against it
        b: PathBuf,
    },
    /// Write a section for a Hugging Face model card
    Card {
        /// The results
        results: PathBuf,
    },
    /// Say for each figure whether it differs from the base's, a line each with tabs between:
    /// variant, figure, verdict, adjusted p, difference as a part of the base's mean
    Verdicts {
        /// The results
        results: PathBuf,
    },
    /// One process of a comparison: a job on stdin, what became of it on stdout
    #[command(hide = true)]
    Worker,
}

/// What is measured, and how.
#[derive(clap::Args)]
pub struct RunArgs {
    /// A GGUF file; of a model in several files, the first [default: the small model that came
    /// with the repository]
    #[arg(value_name = "MODEL")]
    pub model: Option<PathBuf>,

    /// What is compared; repeated, the first is the base
    ///
    /// RULES are base (no rules), cpu-moe, n-cpu-moe=N, last=N (experts of the last N MoE layers),
    /// plan=8GiB (rules for a budget per device), ngl=N (layers on devices), or
    /// REGEX=BUFFER,... as llama.cpp's -ot has it, which takes a NAME. Any takes one: two names
    /// with the same rules are an A/A comparison. +cache=2GiB after any adds a cache of experts:
    /// cpu-moe+cache=2GiB, for which cache=2GiB is short.
    #[arg(long = "variant", value_name = "[NAME=]RULES")]
    pub variants: Vec<Variant>,

    /// The folder for the results; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// Go on with what is in the folder
    #[arg(long)]
    pub resume: bool,

    /// Workers whose devices are used: examples/rpc_worker is one. Needs the feature `rpc`
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',')]
    pub rpc: Vec<String>,

    /// For variants that name no cache; +cache=0 is for one without.
    #[command(flatten)]
    pub moe_cache: MoeCacheArgs,

    #[command(flatten)]
    pub measured: MeasuredArgs,

    #[command(flatten)]
    pub quality: QualityArgs,

    #[command(flatten)]
    pub provenance: ProvenanceArgs,
}

/// How much is measured.
#[derive(clap::Args)]
#[command(next_help_heading = "Measurement")]
pub struct MeasuredArgs {
    /// How often each variant is measured: 3 at least, or --quick
    #[arg(long, value_name = "N", default_value_t = 5,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub repetitions: u32,

    /// Load nothing: where the weights would go, and what llama.cpp would take of each memory
    #[arg(long, conflicts_with_all = ["repetitions", "quick", "tasks"])]
    pub dry_run: bool,

    /// Allow for fewer than three repetitions, which the report then says
    #[arg(long)]
    pub quick: bool,

    /// Prompt lengths in tokens [default: 16,31,33,512,2048, as far as the context has room]
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    pub prompt_tokens: Vec<NonZeroU32>,

    /// Tokens that are generated after each prompt
    #[arg(long, value_name = "N", default_value = "128")]
    pub generate: NonZeroU32,

    /// The seed of what is random
    #[arg(short, long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(..i64::from(u32::MAX)))]
    pub seed: u32,

    /// Tokens in the context [default: what the longest prompt takes]
    #[arg(short, long, value_name = "N")]
    pub ctx: Option<NonZeroU32>,

    /// Tokens that are computed at once in a prompt
    #[arg(long, value_name = "N")]
    pub ubatch: Option<NonZeroU32>,

    /// CPU threads [default: the physical cores]
    #[arg(short, long, value_name = "N")]
    pub threads: Option<NonZeroU32>,

    /// What prompts are cut from, and quality is measured on [default: a text about memory
    /// that came with the program]
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,
}

/// Whether the variants still say the same.
#[derive(clap::Args)]
#[command(next_help_heading = "Quality")]
pub struct QualityArgs {
    /// Measure no quality
    #[arg(long)]
    pub no_quality: bool,

    /// Tokens of one chunk for the perplexity [default: 512, or as many as the model was trained
    /// for]
    #[arg(long, value_name = "N", conflicts_with = "no_quality")]
    pub quality_ctx: Option<NonZeroU32>,

    /// Chunks of the text that are scored, at most
    #[arg(
        long,
        value_name = "N",
        default_value = "4",
        conflicts_with = "no_quality"
    )]
    pub quality_chunks: NonZeroU32,

    /// Tasks for pass@k, as JSON
    #[arg(long, value_name = "FILE", conflicts_with = "no_quality")]
    pub tasks: Option<PathBuf>,

    /// Replies to each task
    #[arg(
        long,
        value_name = "N",
        default_value = "5",
        conflicts_with = "no_quality"
    )]
    pub samples: NonZeroU32,

    /// Run the commands of the tasks on what the model wrote
    ///
    /// Dangerous: nothing keeps a command from doing what the model wrote.
    #[arg(long, requires = "tasks")]
    pub allow_commands: bool,
}

/// What is written down beside the numbers.
#[derive(clap::Args)]
#[command(next_help_heading = "Provenance")]
pub struct ProvenanceArgs {
    /// A file that the model was made from, such as SafeTensors: its hash is kept; may be
    /// repeated
    #[arg(long = "source", value_name = "FILE")]
    pub sources: Vec<PathBuf>,

    /// The commit that this program was built from
    #[arg(long, value_name = "HASH")]
    pub commit: Option<String>,
}
