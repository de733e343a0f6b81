//! Embeddings of texts, and how similar they are.
//!
//! ```text
//! cargo run --release --example embed -- "a cat" "a kitten" "a lathe"
//! cargo run --release --example embed -- --json < lines.txt
//! ```

use std::io::{self, BufRead, IsTerminal, Write};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use common::{LogArgs, ModelArgs, Result};
use llama_moe::{
    Backend, Batch, Context, ContextParams, Error, MemoryError, Model, PoolingType, Token,
};
use serde::Serialize;

/// Embeddings of texts, each of length 1, and the cosine of every pair
#[derive(Parser)]
struct Args {
    /// The texts [default: the lines of stdin]
    texts: Vec<String>,

    /// How the embeddings of a text's tokens become one [default: the model's own, or mean]
    #[arg(long, value_name = "TYPE")]
    pooling: Option<Pooling>,

    /// CPU threads [default: the physical cores]
    #[arg(short, long, value_name = "N")]
    threads: Option<u32>,

    /// One JSON object on stdout: model, n_embd, texts (text, n_tokens, embedding) and
    /// similarity, a matrix of cosines
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    log: LogArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum Pooling {
    Mean,
    Cls,
    Last,
}

#[derive(Serialize)]
struct Report {
    model: String,
    n_embd: usize,
    texts: Vec<Text>,
    similarity: Vec<Vec<f32>>,
}

#[derive(Serialize)]
struct Text {
    text: String,
    n_tokens: usize,
    embedding: Vec<f32>,
}

fn main() -> ExitCode {
    common::exit_code(run(Args::parse()))
}

fn run(args: Args) -> Result<()> {
    args.log.init()?;
    let texts = if args.texts.is_empty() {
        read_lines()?
    } else {
        args.texts.clone()
    };
    let backend = Backend::init()?;
    let model = args.model.load(&backend)?;
    let tokens = tokenize(&model, &texts)?;
    let mut context = context(&model, &args, &tokens)?;

    let mut embedded = Vec::with_capacity(texts.len());
    for (text, tokens) in texts.into_iter().zip(&tokens) {
        embedded.push(Text {
            text,
            n_tokens: tokens.len(),
            embedding: embed(&mut context, tokens)?,
        });
    }
    let report = Report {
        model: model.description(),
        n_embd: embedded.first().map_or(0, |text| text.embedding.len()),
        similarity: similarity(&embedded),
        texts: embedded,
    };
    if args.json {
        writeln!(io::stdout(), "{}", serde_json::to_string(&report)?)?;
    } else {
        print(&report)?;
    }
    Ok(())
}

fn read_lines() -> Result<Vec<String>> {
    if io::stdin().is_terminal() {
        writeln!(io::stderr(), "one text per line; the end of input ends it")?;
    }
    let lines: Vec<String> = io::stdin().lock().lines().collect::<io::Result<_>>()?;
    if lines.is_empty() {
        return Err("there is no text, neither as an argument nor on stdin".into());
    }
    Ok(lines)
}

fn tokenize(model: &Model, texts: &[String]) -> Result<Vec<Vec<Token>>> {
    let vocab = model.vocab();
    let trained = model.n_ctx_train() as usize;
    let mut all = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        let tokens = vocab.tokenize(text, true, false)?;
        let (number, n) = (index + 1, tokens.len());
        if text.trim().is_empty() {
            return Err(format!("text {number} is empty").into());
        }
        if trained > 0 && n > trained {
            return Err(format!(
                "text {number} has {n} tokens, but the model was trained for {trained}"
            )
            .into());
        }
        all.push(tokens);
    }
    Ok(all)
}

/// A context that takes the longest text at once: pooling needs a text in one piece.
fn context(model: &Model, args: &Args, tokens: &[Vec<Token>]) -> Result<Context> {
    let longest = tokens.iter().map(Vec::len).max().unwrap_or(1);
    let n = u32::try_from(longest)?;
    let mut params = ContextParams::default()
        .with_n_ctx(n)
        .with_n_batch(n)
        .with_n_ubatch(n)
        .with_embeddings(true)
        .with_pooling_type(match args.pooling {
            Some(Pooling::Mean) => PoolingType::Mean,
            Some(Pooling::Cls) => PoolingType::Cls,
            Some(Pooling::Last) => PoolingType::Last,
            None if has_pooling(model) => PoolingType::Model,
            None => PoolingType::Mean,
        });
    if let Some(n) = args.threads {
        params = params.with_n_threads(n).with_n_threads_batch(n);
    }
    Ok(model.context(params)?)
}

/// Whether the model was made for embeddings: then it says how they are pooled.
fn has_pooling(model: &Model) -> bool {
    model
        .architecture()
        .is_some_and(|name| model.meta(&format!("{name}.pooling_type")).is_some())
}

fn embed(context: &mut Context, tokens: &[Token]) -> Result<Vec<f32>> {
    let mut batch = Batch::new(tokens.len(), 1);
    batch.add_sequence(tokens, 0, 0)?;
    match context.memory().clear() {
        // A model that only encodes keeps nothing from text to text.
        Ok(()) | Err(Error::Memory(MemoryError::None)) => {}
        Err(error) => return Err(error.into()),
    }
    if context.model().has_encoder() {
        context.encode(&batch)?;
    } else {
        context.decode(&batch)?;
    }
    let mut embedding = context.sequence_embedding(0)?.to_vec();
    let length = dot(&embedding, &embedding).sqrt();
    if length > 0.0 {
        embedding.iter_mut().for_each(|x| *x /= length);
    }
    Ok(embedding)
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn similarity(texts: &[Text]) -> Vec<Vec<f32>> {
    let row = |a: &Text| {
        texts
            .iter()
            .map(|b| dot(&a.embedding, &b.embedding))
            .collect()
    };
    texts.iter().map(row).collect()
}

fn print(report: &Report) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    write!(stdout, "    ")?;
    for number in 1..=report.texts.len() {
        write!(stdout, "{number:>7}")?;
    }
    writeln!(stdout)?;
    for (index, (text, row)) in report.texts.iter().zip(&report.similarity).enumerate() {
        write!(stdout, "{:>4}", index + 1)?;
        for cosine in row {
            write!(stdout, "{cosine:>7.3}")?;
        }
        writeln!(stdout, "  {}", text.text)?;
    }
    Ok(())
}
