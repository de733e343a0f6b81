//! The whole way from a file to text: load, tokenize, decode, sample.
//!
//! ```text
//! cargo run --release --example simple -- "What is a router?" gpt-oss-20b.gguf
//! cargo run --release --example simple -- "What is a router?" gpt-oss-20b.gguf --moe-cache 2GiB
//! ```

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use common::MoeCacheArgs;
use llama_moe::{Backend, Batch, ContextParams, Model, ModelParams, SamplerChain};

/// Go on with a prompt for 48 tokens, with all experts in system memory
#[derive(Parser)]
struct Args {
    /// The prompt
    #[arg(default_value = "Once upon a time")]
    prompt: String,

    /// A GGUF file [default: the small model that came with the repository]
    model: Option<PathBuf>,

    #[command(flatten)]
    moe_cache: MoeCacheArgs,
}

fn main() -> ExitCode {
    common::exit_code(run(Args::parse()))
}

fn run(args: Args) -> common::Result<()> {
    let path = args.model.unwrap_or_else(common::bundled_model);

    let backend = Backend::init()?;
    let params = ModelParams::default().with_cpu_moe_all();
    let model = Model::load(&backend, path, args.moe_cache.model_params(params))?;
    let vocab = model.vocab();
    let params = ContextParams::default().with_n_ctx(512);
    let mut context = model.context(args.moe_cache.context_params(params))?;
    let mut sampler = SamplerChain::new().top_k(40).temp(0.7).dist(7)?;

    let tokens = vocab.tokenize(&args.prompt, true, true)?;
    let mut batch = Batch::new(tokens.len().max(1), 1);
    batch.add_sequence(&tokens, 0, 0)?;
    let mut text = vocab.detokenizer();
    for pos in (tokens.len() as u32..).take(48) {
        context.decode(&batch)?;
        let token = sampler.sample(&mut context, None)?;
        if vocab.is_eog(token) {
            break;
        }
        write!(io::stdout(), "{}", text.push(token)?)?;
        io::stdout().flush()?;
        batch.clear();
        batch.add(token, pos, &[0], true)?;
    }
    Ok(writeln!(io::stdout(), "{}", text.finish()?)?)
}
