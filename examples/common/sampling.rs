//! How the next token is chosen.

use std::fs;
use std::path::PathBuf;

use clap::Args;
use llama_moe::{Sampler, SamplerChain, Seed, Vocab};

use crate::Result;

/// The rule of a grammar file that a reply has to fit.
const ROOT: &str = "root";

/// How the next token is chosen: the 40 most likely of those that the grammar allows, those
/// of them that make up 95 % and are at least 5 % as likely as the first, at this
/// temperature. These are llama.cpp's own defaults.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Temperature: 0 always takes the most likely token, higher varies more
    #[arg(long, value_name = "T", default_value_t = 0.8)]
    temp: f32,

    /// Makes a reply repeatable [default: another each time]
    #[arg(short, long, value_name = "N")]
    seed: Option<u32>,

    /// Keep to a grammar: a file in GBNF, llama.cpp's form of BNF, with a rule "root"
    #[arg(long, value_name = "FILE")]
    grammar: Option<PathBuf>,
}

impl SamplingArgs {
    /// A sampler for this vocabulary.
    ///
    /// # Errors
    /// For a grammar that cannot be read, and a number that cannot be used.
    pub fn sampler(&self, vocab: &Vocab) -> Result<Sampler> {
        let mut chain = SamplerChain::new();
        if let Some(path) = &self.grammar {
            let name = path.display();
            let grammar =
                fs::read_to_string(path).map_err(|error| format!("--grammar {name}: {error}"))?;
            // By itself first, so that an error can name the file.
            SamplerChain::new()
                .grammar(vocab, &grammar, ROOT)
                .greedy()
                .map_err(|error| format!("--grammar {name}: {error}"))?;
            chain = chain.grammar(vocab, &grammar, ROOT);
        }
        let sampler = if self.temp == 0.0 {
            chain.greedy()
        } else {
            chain
                .top_k(40)
                .top_p(0.95, 1)
                .min_p(0.05, 1)
                .temp(self.temp)
                .dist(Seed::from(self.seed))
        };
        Ok(sampler?)
    }
}
