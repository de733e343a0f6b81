//! What is measured, where the model has a say in it.

use common::Result;
use llama_moe::ContextParams;
use llama_moe::gguf::Header;
use llama_moe::measure::sha256;

use crate::job::PrepareJob;
use crate::results::Settings;

/// Prompt lengths by default: a short one, both sides of the 32 tokens from which experts are
/// computed on the GPU, and two long ones.
const PROMPT_TOKENS: [usize; 5] = [16, 31, 33, 512, 2048];
/// Tokens of a chunk by default, as `llama-perplexity` has it.
const QUALITY_N_CTX: u32 = 512;
/// Contexts are multiples of this in llama.cpp.
const CONTEXT_STEP: usize = 256;
/// Prompts that are cut are cut to multiples of this.
const PROMPT_STEP: usize = 16;
/// What llama.cpp computes at once by default.
const N_BATCH: u32 = 2048;

/// Fills in what was left open. Adds to `notes` what a reader of the report has to know.
pub fn settle(job: &PrepareJob, header: &Header, notes: &mut Vec<String>) -> Result<Settings> {
    let trained = trained_context(header);
    let limit = job.n_ctx.or(trained);
    let prompt_tokens = if job.prompt_tokens.is_empty() {
        default_prompts(limit, job.generate, notes)?
    } else {
        check_prompts(job, limit)?;
        job.prompt_tokens.clone()
    };
    let longest = prompt_tokens.iter().max().copied().unwrap_or_default();
    let positions = longest.saturating_add(job.generate);
    let n_ctx = match job.n_ctx {
        Some(n_ctx) => n_ctx,
        None => u32::try_from(positions.next_multiple_of(CONTEXT_STEP))?,
    };
    if let Some(trained) = trained.filter(|trained| *trained < n_ctx && job.n_ctx.is_some()) {
        notes.push(format!(
            "The context has {n_ctx} tokens; the model was trained for {trained}."
        ));
    }
    let quality_n_ctx = job.quality.as_ref().map(|quality| {
        let default = trained.map_or(QUALITY_N_CTX, |trained| trained.min(QUALITY_N_CTX));
        quality.n_ctx.unwrap_or(default)
    });
    if let (Some(trained), Some(n_ctx)) = (trained, quality_n_ctx)
        && n_ctx > trained
    {
        return Err(
            format!("--quality-ctx {n_ctx}: the model was trained for {trained} tokens").into(),
        );
    }
    let quality = job.quality.as_ref();
    Ok(Settings {
        repetitions: job.repetitions,
        is_quick: job.is_quick,
        prompt_tokens,
        generate: job.generate,
        seed: job.seed,
        n_ctx,
        n_ubatch: job.n_ubatch,
        n_threads: job.n_threads,
        rpc: job.rpc.clone(),
        text_sha256: sha256(&job.text)?,
        quality_n_ctx,
        quality_chunks: quality.map(|quality| quality.chunks),
        tasks: quality
            .and_then(|quality| quality.tasks.as_ref())
            .map(|path| path.display().to_string()),
    })
}

/// Tokens that the model was trained for, where its file says so.
fn trained_context(header: &Header) -> Option<u32> {
    let key = format!("{}.context_length", header.architecture());
    let tokens = header.value(&key)?.as_u64()?;
    u32::try_from(tokens).ok().filter(|tokens| *tokens > 0)
}

/// Those that the context has room for; in the place of longer ones the longest that is.
fn default_prompts(
    limit: Option<u32>,
    generate: usize,
    notes: &mut Vec<String>,
) -> Result<Vec<usize>> {
    let Some(limit) = limit else {
        return Ok(PROMPT_TOKENS.to_vec());
    };
    let room = room(limit, generate);
    let (mut fitting, cut): (Vec<usize>, Vec<usize>) =
        PROMPT_TOKENS.iter().partition(|tokens| **tokens <= room);
    if cut.is_empty() {
        return Ok(fitting);
    }
    let longest = if room < PROMPT_STEP {
        room
    } else {
        room - room % PROMPT_STEP
    };
    if fitting.last().is_none_or(|last| *last < longest) && longest > 0 {
        fitting.push(longest);
    }
    if fitting.is_empty() {
        return Err(format!(
            "a context of {limit} tokens has no room for {generate} that are generated: lower \
             --generate, or raise --ctx"
        )
        .into());
    }
    let cut: Vec<String> = cut.iter().map(ToString::to_string).collect();
    notes.push(format!(
        "Prompts of {} tokens and {generate} generated ones do not fit the context of {limit} \
         tokens; the longest prompt is {longest} tokens instead.",
        cut.join(", ")
    ));
    Ok(fitting)
}

fn check_prompts(job: &PrepareJob, limit: Option<u32>) -> Result<()> {
    let Some(limit) = limit else { return Ok(()) };
    let room = room(limit, job.generate);
    match job.prompt_tokens.iter().find(|tokens| **tokens > room) {
        None => Ok(()),
        Some(tokens) => Err(format!(
            "--prompt-tokens {tokens}: with {} generated tokens a prompt has {room} at most in a \
             context of {limit} tokens, {}",
            job.generate,
            match job.n_ctx {
                Some(_) => "as --ctx has it",
                None => "which the model was trained for; --ctx makes another",
            }
        )
        .into()),
    }
}

/// Tokens of the longest prompt. The last token that is generated takes no position.
fn room(n_ctx: u32, generate: usize) -> usize {
    (n_ctx as usize + 1).saturating_sub(generate)
}

impl Settings {
    /// A context for these settings.
    pub fn context(&self, n_ctx: u32) -> ContextParams {
        let mut params = ContextParams::default().with_n_ctx(n_ctx);
        if let Some(n) = self.n_ubatch {
            params = params.with_n_ubatch(n).with_n_batch(n.max(N_BATCH));
        }
        if let Some(n) = self.n_threads {
            params = params.with_n_threads(n).with_n_threads_batch(n);
        }
        params
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_cut_to_the_room_that_there_is() {
        let prompts = |limit, generate| {
            let mut notes = Vec::new();
            let prompts = default_prompts(limit, generate, &mut notes);
            prompts.ok().map(|prompts| (prompts, notes.len()))
        };
        let all = PROMPT_TOKENS.to_vec();
        assert_eq!(prompts(None, 128), Some((all.clone(), 0)));
        assert_eq!(prompts(Some(2175), 128), Some((all, 0)));
        assert_eq!(
            prompts(Some(2174), 128),
            Some((vec![16, 31, 33, 512, 2032], 1))
        );
        assert_eq!(prompts(Some(160), 128), Some((vec![16, 31, 33], 1)));
        assert_eq!(prompts(Some(130), 128), Some((vec![3], 1)));
        assert_eq!(prompts(Some(127), 128), None);
    }
}
