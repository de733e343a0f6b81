//! Writes a file of a model's exact shape, with random weights or none: to see whether the
//! model would run here, and how fast, before it is downloaded.
//!
//! ```text
//! cargo run --release --example synth -- --list
//! cargo run --release --example synth -- deepseek-v3 deepseek-v3.gguf --sparse
//! cargo run --release --example synth -- qwen3-30b-a3b qwen3.gguf --layers 8
//! ```

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use common::{Result, ShareBar};
use llama_moe::gguf::Header;
use llama_moe::gguf::synth::{NamedShape, Shape, Synth, WeightType};

/// A GGUF of a model's exact shape, with random weights or none
///
/// What it says is noise. What it shows is where the model's tensors go, how much memory they
/// take, and how fast they are computed, as far as that does not hang on which experts are
/// chosen: random routers choose among all alike, trained ones have favourites.
#[derive(Parser)]
struct Args {
    /// A model's name, see --list, or a GGUF file whose header is taken as it is
    #[arg(required_unless_present = "list")]
    shape: Option<String>,

    /// The file to write, which must not exist yet
    #[arg(required_unless_present = "list")]
    out: Option<PathBuf>,

    /// A hole instead of weights: for planning, a few megabytes on the disk
    #[arg(long)]
    sparse: bool,

    /// The first N layers only
    #[arg(long, value_name = "N")]
    layers: Option<u32>,

    /// N experts in a layer only
    #[arg(long, value_name = "N")]
    experts: Option<u32>,

    /// A hidden state of N numbers only, and all else in proportion
    #[arg(long, value_name = "N")]
    width: Option<u32>,

    /// N tokens in the vocabulary only
    #[arg(long, value_name = "N")]
    vocab: Option<u32>,

    /// All matrices of one type (f16, bf16, q8_0, q5_0, q4_0), routers not among them
    /// [default: the usual mixture, Q4_K_M or MXFP4]
    #[arg(long = "type", value_name = "TYPE")]
    weight_type: Option<WeightType>,

    /// How much routers favour some experts: 0 not at all, 1 strongly
    #[arg(
        long,
        value_name = "F",
        default_value_t = 0.0,
        allow_negative_numbers = true
    )]
    router_skew: f32,

    /// The same seed makes the same file
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// The names that there are, with parameters and bytes
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    common::exit_code(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    if args.list {
        return Ok(list()?);
    }
    let (Some(shape), Some(out)) = (&args.shape, &args.out) else {
        return Err("SHAPE and OUT are needed".into());
    };
    let mut shape = find(shape)?;
    for (n, scale) in [
        (args.layers, Shape::with_layers as fn(Shape, u32) -> _),
        (args.experts, Shape::with_experts),
        (args.width, Shape::with_width),
        (args.vocab, Shape::with_vocab),
    ] {
        if let Some(n) = n {
            shape = scale(shape, n)?;
        }
    }
    if let Some(kind) = args.weight_type {
        shape = shape.with_weight_type(kind)?;
    }
    write(args, shape, out)
}

/// A named shape, or that of a file.
fn find(shape: &str) -> Result<Shape> {
    match shape.parse::<NamedShape>() {
        Ok(named) => Ok(named.into()),
        Err(_) if Path::new(shape).exists() => Ok(Shape::of_header(&Header::read(shape)?)),
        Err(unknown) => Err(format!("{unknown}; nor is there such a file").into()),
    }
}

fn write(args: &Args, shape: Shape, out: &Path) -> Result<()> {
    let name = shape.name();
    let (n_params, bytes) = (shape.n_params(), shape.bytes());
    let mut synth = Synth::new(shape)
        .with_seed(args.seed)
        .with_router_skew(args.router_skew);
    if args.sparse {
        synth = synth.sparse();
    }
    let bar = ShareBar::new(&format!("writing {}", out.display()));
    synth.write_with_progress(out, |written, total| {
        bar.set((written as f64 / total as f64) as f32);
    })?;
    drop(bar);
    let weights = if args.sparse {
        "no weights"
    } else {
        "random weights"
    };
    writeln!(
        io::stdout(),
        "{}: {name}, {} parameters, {} of tensors, {weights}; {} bytes",
        out.display(),
        parameters(n_params),
        size(bytes),
        fs::metadata(out)?.len(),
    )?;
    Ok(())
}

fn list() -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(
        stdout,
        "{:<18}{:<12}{:>12}{:>14}",
        "name", "architecture", "parameters", "tensors"
    )?;
    for name in NamedShape::ALL {
        let shape = Shape::from(name);
        writeln!(
            stdout,
            "{name:<18}{:<12}{:>12}{:>14}",
            shape.architecture(),
            parameters(shape.n_params()),
            size(shape.bytes()),
        )?;
    }
    Ok(())
}

fn parameters(n: u64) -> String {
    match n {
        1_000_000_000.. => format!("{:.2} B", n as f64 / 1e9),
        _ => format!("{:.2} M", n as f64 / 1e6),
    }
}

fn size(bytes: u64) -> String {
    match bytes >> 30 {
        1.. => format!("{:.2} GiB", bytes as f64 / f64::from(1 << 30)),
        0 => format!("{:.2} MiB", bytes as f64 / f64::from(1 << 20)),
    }
}
