//! A chain that does not end with a sampler that chooses cannot be asked for a token.

use llama_moe::{Context, Result, SamplerChain, Token};

fn never_chooses(context: &mut Context) -> Result<Token> {
    SamplerChain::new().top_k(40).temp(0.8).sample(context, None)
}

fn main() {}
