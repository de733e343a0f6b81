//! Which experts a model's tokens take, and the hit rate of a cache of experts for every size.
//!
//! ```text
//! cargo run --release --features measure --example trace -- gpt-oss-20b.gguf --text chat.txt
//! cargo run --release --features measure --example trace -- gpt-oss-20b.gguf --cpu-moe --tokens 1000
//! ```
//!
//! It writes three files:
//!
//! | file | content |
//! |---|---|
//! | `trace.json` | every choice: the form is that of `RoutingTrace::to_json` |
//! | `routing.json` | how uneven the routing is, how soon experts come back, and the curve |
//! | `hit-rate.svg` | the hit rate against the cache's size, beside the share of experts that the same bytes keep resident |
//!
//! The curve is that of a model with all of its experts in system memory and one device for the
//! layers, whatever devices there are.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use common::{ContextArgs, LogArgs, ModelArgs, Result};
use llama_moe::measure::routing::{HitRateCurve, OneDevice, Phase, RoutingAnalysis, RoutingTrace};
use llama_moe::{Backend, Token};
use serde::Serialize;

/// The text that is recorded unless another is named.
const STORY: &str = include_str!("ab/text.txt");
/// The same for the bundled model, which knows nothing else.
const CORPUS: &str = include_str!("model/corpus/concepts.txt");
/// Tokens of a bundled text that are computed before others are decoded.
const PREFILL: usize = 128;
/// Tokens that are decoded unless a number is given.
const DECODED: usize = 256;
/// Sizes of the curve.
const SIZES: usize = 33;
/// Sizes that the table shows.
const ROWS: usize = 9;

/// Record which experts a model's tokens take, and work out the hit rate of a cache of experts
/// for every size
#[derive(Parser)]
struct Args {
    /// A GGUF file; of a model in several files, the first [default: the small model that came
    /// with the repository]
    #[arg(value_name = "MODEL", conflicts_with_all = ["model", "hf"])]
    file: Option<PathBuf>,

    /// Record this text [default: a short one of the repository's]
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,

    /// Write the results into this folder
    #[arg(long, value_name = "DIR", default_value = "routing")]
    out: PathBuf,

    /// Decode N tokens after the text [default: 256]; with --teacher-forcing, compute the first N
    /// tokens of the text [default: all of it]
    #[arg(long, value_name = "N")]
    tokens: Option<usize>,

    /// Compute the text token by token, as if the model generated it
    #[arg(long)]
    teacher_forcing: bool,

    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    context: ContextArgs,

    #[command(flatten)]
    log: LogArgs,
}

/// `routing.json`.
#[derive(Serialize)]
struct Report {
    model: String,
    text: String,
    teacher_forcing: bool,
    n_prefill: u64,
    n_decoded: u64,
    crate_version: &'static str,
    decode: RoutingAnalysis,
    all: RoutingAnalysis,
    curve: HitRateCurve,
}

fn main() -> ExitCode {
    common::exit_code(run(Args::parse()))
}

fn run(args: Args) -> Result<()> {
    args.log.init()?;
    let (text, name) = read_text(&args)?;
    let backend = Backend::init()?;
    let model = args
        .model
        .clone()
        .or_file(args.file.clone())
        .load(&backend)?;
    let device = OneDevice::new(&model)?;
    let tokens = tokens(&args, model.vocab().tokenize(&text, true, false)?);
    let params = args.context.params(&model);
    let trace = if args.teacher_forcing {
        RoutingTrace::record_forced(&model, params, &tokens)?
    } else {
        RoutingTrace::record(&model, params, &tokens, args.tokens.unwrap_or(DECODED))?
    };
    let report = Report {
        model: trace.model().to_owned(),
        text: name,
        teacher_forcing: args.teacher_forcing,
        n_prefill: trace.n_tokens(Phase::Prefill),
        n_decoded: trace.n_tokens(Phase::Decode),
        crate_version: env!("CARGO_PKG_VERSION"),
        decode: trace.analysis(Some(Phase::Decode)),
        all: trace.analysis(None),
        curve: trace.hit_rate_curve_on(&device, SIZES)?,
    };
    fs::create_dir_all(&args.out).map_err(|error| named(&args.out, &error))?;
    write(&args.out, "trace.json", &trace.to_json()?)?;
    write(&args.out, "routing.json", &serde_json::to_string(&report)?)?;
    write(&args.out, "hit-rate.svg", &report.curve.svg())?;
    print(&report, &args.out)?;
    Ok(())
}

fn named(path: &Path, error: &io::Error) -> String {
    format!("'{}': {error}", path.display())
}

fn write(dir: &Path, name: &str, content: &str) -> Result<()> {
    let path = dir.join(name);
    Ok(fs::write(&path, content).map_err(|error| named(&path, &error))?)
}

/// The text, and its name.
fn read_text(args: &Args) -> Result<(String, String)> {
    if let Some(path) = &args.text {
        let text = fs::read_to_string(path).map_err(|error| named(path, &error))?;
        if text.trim().is_empty() {
            return Err(format!("'{}': the text is empty", path.display()).into());
        }
        return Ok((text, path.display().to_string()));
    }
    if args.file.is_none() && args.model.is_bundled() {
        let answers = CORPUS.lines().filter_map(|line| line.strip_prefix("> "));
        let text: Vec<&str> = answers.collect();
        return Ok((text.join("\n"), "the bundled model's concepts".to_owned()));
    }
    Ok((STORY.to_owned(), "the bundled story".to_owned()))
}

/// The tokens that are computed.
fn tokens(args: &Args, mut tokens: Vec<Token>) -> Vec<Token> {
    let is_bundled = args.text.is_none();
    let most = match (args.teacher_forcing, args.tokens) {
        (true, Some(n)) => n,
        (true, None) if is_bundled => PREFILL + DECODED,
        (false, _) if is_bundled => PREFILL,
        _ => tokens.len(),
    };
    tokens.truncate(most);
    tokens
}

fn print(report: &Report, out: &Path) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    // Without a token decoded, the text itself is looked at.
    let (analysis, what) = if report.n_decoded > 0 {
        (&report.decode, "decoded")
    } else {
        (&report.all, "computed at once")
    };
    let n_tokens = report
        .n_decoded
        .max(report.n_prefill * u64::from(report.n_decoded == 0));
    let n_layers = analysis.layers.len();
    writeln!(
        stdout,
        "{}: {n_tokens} tokens {what}, {n_layers} layers of {} experts",
        report.model, analysis.n_expert
    )?;
    writeln!(stdout)?;
    row(&mut stdout, "", "measured", "if even")?;
    let entropy = analysis
        .mean_entropy()
        .map_or("-".to_owned(), |e| format!("{e:.3}"));
    row(&mut stdout, "entropy of the uses", &entropy, "1.000")?;
    let quarter = mean(analysis, |layer| {
        let most = layer.top.iter().rev().find(|top| top.uniform <= 0.25);
        most.map(|top| (top.share, top.uniform))
    });
    row_of(&mut stdout, "share of the most used quarter", quarter)?;
    let overlap = mean(analysis, |layer| {
        layer
            .overlap
            .map(|overlap| (overlap, layer.uniform_overlap))
    });
    row_of(&mut stdout, "kept from the token before", overlap)?;
    let median = mean(analysis, |layer| {
        layer
            .reuse
            .quantile(0.5)
            .map(|distance| (f64::from(distance), 0.0))
    });
    let median = median.map_or("-".to_owned(), |(median, _)| format!("{median:.1}"));
    row(
        &mut stdout,
        "median reuse distance, in experts",
        &median,
        "",
    )?;
    writeln!(stdout)?;
    writeln!(
        stdout,
        "{:>12} {:>8} {:>10} {:>18}",
        "cache MiB", "slots", "hit rate", "resident instead"
    )?;
    let points = &report.curve.points;
    let step = (points.len().saturating_sub(1) / (ROWS - 1)).max(1);
    for point in points.iter().step_by(step) {
        let rate = point.hit_rate.map_or("-".to_owned(), per_cent);
        writeln!(
            stdout,
            "{:>12.2} {:>8} {rate:>10} {:>18}",
            point.bytes as f64 / f64::from(1 << 20),
            point.n_slots,
            per_cent(point.resident_share)
        )?;
    }
    writeln!(stdout)?;
    writeln!(
        stdout,
        "written to {}: trace.json, routing.json, hit-rate.svg",
        out.display()
    )
}

fn row(out: &mut impl Write, name: &str, measured: &str, even: &str) -> io::Result<()> {
    let line = format!("{name:<34} {measured:>10} {even:>10}");
    writeln!(out, "{}", line.trim_end())
}

fn row_of(out: &mut impl Write, name: &str, shares: Option<(f64, f64)>) -> io::Result<()> {
    match shares {
        Some((measured, even)) => row(out, name, &per_cent(measured), &per_cent(even)),
        None => row(out, name, "-", "-"),
    }
}

fn per_cent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// The means of two figures over the layers that have them.
fn mean(
    analysis: &RoutingAnalysis,
    figures: impl Fn(&llama_moe::measure::routing::LayerAnalysis) -> Option<(f64, f64)>,
) -> Option<(f64, f64)> {
    let figures: Vec<(f64, f64)> = analysis.layers.iter().filter_map(figures).collect();
    let n = figures.len() as f64;
    let sum = figures.into_iter().reduce(|(a, b), (c, d)| (a + c, b + d));
    sum.map(|(measured, even)| (measured / n, even / n))
}
