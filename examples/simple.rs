//! The whole way from a file to text: load, tokenize, decode, sample.
//!
//! ```text
//! cargo run --release --example simple -- "What is a router?" gpt-oss-20b.gguf
//! ```

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;

use llama_moe::{Backend, Batch, ContextParams, Model, ModelParams, SamplerChain};

fn main() -> ExitCode {
    common::exit_code(run())
}

fn run() -> common::Result<()> {
    let mut args = env::args().skip(1);
    let prompt = args.next().unwrap_or_else(|| "Once upon a time".to_owned());
    let path = args.next().map_or_else(common::bundled_model, Into::into);

    let backend = Backend::init()?;
    let params = ModelParams::default().with_cpu_moe_all();
    let model = Model::load(&backend, path, params)?;
    let vocab = model.vocab();
    let mut context = model.context(ContextParams::default().with_n_ctx(512))?;
    let mut sampler = SamplerChain::new().top_k(40).temp(0.7).dist(7)?;

    let tokens = vocab.tokenize(&prompt, true, true)?;
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
