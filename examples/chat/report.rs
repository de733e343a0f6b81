//! What `--json` prints.

use common::{MoeCacheReport, PlacementReport, Result};
use llama_moe::{Chat, MoeCacheCounts, ReplyStats};
use serde::Serialize;

use crate::stats::{finish, milliseconds};

/// One reply for a script. Tokens are counted by the tokenizer; times are taken from the
/// moments at which the tokens came.
#[derive(Serialize)]
pub struct Report<'a> {
    reply: &'a str,
    model: ModelReport,
    /// Tokens of the whole conversation up to the reply.
    prompt_tokens: usize,
    /// Those of them that the context still held.
    reused_tokens: usize,
    /// The one that ends the reply included.
    generated_tokens: usize,
    ttft_ms: Option<f64>,
    /// Not for a single token.
    time_per_output_token_ms: Option<f64>,
    finish: &'static str,
    /// Not where nothing is left to chance.
    seed: Option<u32>,
    /// Not where an installed llama.cpp does not tell.
    placement: Option<PlacementReport>,
    moe_cache: Option<CacheReport>,
    llama_cpp: &'static str,
}

#[derive(Serialize)]
struct ModelReport {
    path: String,
    description: String,
}

/// The cache of experts: what it holds, and what it did.
#[derive(Serialize)]
struct CacheReport {
    #[serde(flatten)]
    layout: MoeCacheReport,
    /// Not where nothing used the cache.
    hit_rate: Option<f64>,
    #[serde(flatten)]
    counts: MoeCacheCounts,
}

impl CacheReport {
    fn of(chat: &mut Chat) -> Result<Option<Self>> {
        let Some(stats) = chat.context_mut().moe_cache_stats()? else {
            return Ok(None);
        };
        let counts = stats.total();
        let layout = chat.context().moe_cache();
        Ok(layout.map(|layout| Self {
            layout: MoeCacheReport::of(layout, Some(chat.model())),
            hit_rate: counts.hit_rate(),
            counts,
        }))
    }
}

impl<'a> Report<'a> {
    pub fn new(
        chat: &mut Chat,
        reply: &'a str,
        stats: &ReplyStats,
        seed: Option<u32>,
    ) -> Result<Self> {
        let moe_cache = CacheReport::of(chat)?;
        let model = chat.model();
        Ok(Self {
            reply,
            model: ModelReport {
                path: model.path().display().to_string(),
                description: model.description(),
            },
            prompt_tokens: stats.n_prompt,
            reused_tokens: stats.n_reused,
            generated_tokens: stats.n_generated(),
            ttft_ms: stats.ttft().map(milliseconds),
            time_per_output_token_ms: stats.time_per_output_token().map(milliseconds),
            finish: finish(stats),
            seed,
            placement: PlacementReport::of(model)?,
            moe_cache,
            llama_cpp: llama_moe::llama_cpp_version(),
        })
    }
}
