//! A request that has been accepted: checked, with everything made that can fail.

use std::time::{Duration, Instant};

use super::channel::{Receiver, Sender, channel};
use super::embeddings::EmbedRequest;
use super::error::EngineError;
use super::event::Event;
use super::request::{Grammar, MakeSampler, ReasoningTags, Request};
use super::shared::Shared;
use crate::chat::{Overflow, check_stops};
use crate::error::{Error, Result};
use crate::ffi::catch_panic;
use crate::model::{Token, VocabError};
use crate::sampler::{Sampler, SamplerChain, Seed};

/// A request that has been accepted, and waits for slots.
pub(super) struct Job {
    pub(super) prompt: Vec<Token>,
    /// One for each answer.
    pub(super) samplers: Vec<Sampler>,
    pub(super) max_tokens: usize,
    pub(super) stops: Vec<String>,
    pub(super) logprobs: Option<usize>,
    pub(super) overflow: Overflow,
    pub(super) special: bool,
    pub(super) reasoning: Option<ReasoningTags>,
    pub(super) submitted: Instant,
    pub(super) deadline: Option<Instant>,
    pub(super) events: Sender<Result<Event>>,
}

/// An embedding of each text.
pub(super) type Embedded = Vec<Vec<f32>>;

/// Texts to embed that have been accepted.
pub(super) struct EmbedJob {
    pub(super) texts: Vec<Vec<Token>>,
    pub(super) deadline: Option<Instant>,
    pub(super) result: Sender<Result<Embedded>>,
}

impl Job {
    /// Whether nobody waits for it any more.
    pub(super) fn is_cancelled(&self) -> bool {
        self.events.is_closed()
    }

    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

impl EmbedJob {
    /// Whether nobody waits for it any more.
    pub(super) fn is_cancelled(&self) -> bool {
        self.result.is_closed()
    }

    /// Whether it is not to be computed any more: cancelled, or too late.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.is_cancelled() || self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

/// Checks a request, and makes what it takes.
pub(super) fn accept(request: Request, shared: &Shared) -> Result<(Job, Receiver<Result<Event>>)> {
    let submitted = Instant::now();
    check_numbers(&request, shared)?;
    check_prompt(&request.prompt, shared)?;
    check_stops(&request.stops)?;
    let samplers = (0..request.n)
        .map(|choice| sampler(&request, shared, choice))
        .collect::<Result<_>>()?;
    let (events, reader) = channel();
    let job = Job {
        prompt: request.prompt,
        samplers,
        max_tokens: request.max_tokens.map_or(usize::MAX, |n| n as usize),
        stops: request.stops,
        logprobs: request.logprobs,
        overflow: request.overflow,
        special: request.special,
        reasoning: request.reasoning,
        submitted,
        deadline: deadline(submitted, request.deadline),
        events,
    };
    Ok((job, reader))
}

/// Checks texts to embed.
pub(super) fn accept_embed(
    request: EmbedRequest,
    shared: &Shared,
) -> Result<(EmbedJob, Receiver<Result<Embedded>>)> {
    let submitted = Instant::now();
    let limit = shared.embed_tokens;
    for (index, text) in request.texts.iter().enumerate() {
        let n_tokens = text.len();
        if n_tokens == 0 {
            return Err(EngineError::EmptyText { index }.into());
        }
        if n_tokens > limit {
            return Err(EngineError::TextTooLong {
                index,
                n_tokens,
                limit,
            }
            .into());
        }
        check_tokens(text, shared)?;
    }
    let (result, reader) = channel();
    let job = EmbedJob {
        texts: request.texts,
        deadline: deadline(submitted, request.deadline),
        result,
    };
    Ok((job, reader))
}

/// One that cannot be counted never comes.
fn deadline(submitted: Instant, after: Option<Duration>) -> Option<Instant> {
    after.and_then(|after| submitted.checked_add(after))
}

fn check_numbers(request: &Request, shared: &Shared) -> Result<()> {
    let refuse = |parameter, reason: &str| Error::Parameter {
        parameter,
        value: "0".to_owned(),
        reason: reason.to_owned(),
    };
    if request.max_tokens == Some(0) {
        let reason = "an answer has at least one token; leave it out for no limit";
        return Err(refuse("with_max_tokens", reason));
    }
    if request.n == 0 {
        return Err(refuse("with_n", "there is at least one answer"));
    }
    if request.n > shared.slots {
        return Err(EngineError::TooManyChoices {
            n: request.n,
            slots: shared.slots,
        }
        .into());
    }
    Ok(())
}

fn check_prompt(prompt: &[Token], shared: &Shared) -> Result<()> {
    let Some(n_ctx) = shared.n_ctx_per_request else {
        return Err(EngineError::EncodesOnly.into());
    };
    if prompt.is_empty() {
        return Err(EngineError::EmptyPrompt.into());
    }
    // The first token of the answer takes no room: it need not be computed.
    if prompt.len() > n_ctx {
        return Err(EngineError::PromptTooLong {
            n_prompt: prompt.len(),
            n_ctx,
        }
        .into());
    }
    check_tokens(prompt, shared)
}

/// Whether the vocabulary has these tokens.
fn check_tokens(tokens: &[Token], shared: &Shared) -> Result<()> {
    let vocab = shared.model.vocab();
    vocab.require()?;
    let n_tokens = vocab.n_tokens();
    let known = |token: &&Token| u32::try_from(token.0).is_ok_and(|number| number < n_tokens);
    match tokens.iter().find(|token| !known(token)) {
        Some(&token) => Err(VocabError::NoToken { token, n_tokens }.into()),
        None => Ok(()),
    }
}

fn sampler(request: &Request, shared: &Shared, choice: u32) -> Result<Sampler> {
    let vocab = shared.model.vocab();
    let mut chain = SamplerChain::new();
    if !request.logit_bias.is_empty() {
        chain = chain.logit_bias(&vocab, &request.logit_bias);
    }
    match &request.grammar {
        None => {}
        Some(Grammar::Gbnf { grammar, root }) => chain = chain.grammar(&vocab, grammar, root),
        #[cfg(feature = "llguidance")]
        Some(Grammar::JsonSchema(schema)) => {
            chain = chain.json_schema(shared.json_guide()?, schema);
        }
    }
    let sampler = call(&*request.sampler, chain, seed_of(request.seed, choice))?;
    sampler.check_model(&shared.model)?;
    Ok(sampler)
}

/// Runs code of the request's maker, on the thread that submits it.
fn call(make: &MakeSampler, chain: SamplerChain, seed: Seed) -> Result<Sampler> {
    let mut panic = None;
    catch_panic(&mut panic, || make(chain, seed)).unwrap_or_else(|| {
        Err(Error::CallbackPanicked {
            callback: "sampler",
            message: panic.unwrap_or_default(),
        })
    })
}

/// Each answer's own seed.
fn seed_of(seed: Seed, choice: u32) -> Seed {
    match seed {
        // The last number is none that a seed can be.
        Seed::Fixed(first) if choice > 0 => {
            let number = (u64::from(first) + u64::from(choice)) % u64::from(u32::MAX);
            Seed::Fixed(number as u32)
        }
        seed => seed,
    }
}

#[cfg(test)]
mod tests {
    use super::{Seed, seed_of};

    #[test]
    fn answers_have_seeds_of_their_own() {
        assert_eq!(seed_of(Seed::Fixed(7), 0), Seed::Fixed(7));
        assert_eq!(seed_of(Seed::Fixed(7), 2), Seed::Fixed(9));
        assert_eq!(seed_of(Seed::Fixed(u32::MAX - 1), 1), Seed::Fixed(0));
        assert_eq!(seed_of(Seed::Fixed(u32::MAX), 0), Seed::Fixed(u32::MAX));
        assert_eq!(seed_of(Seed::Random, 3), Seed::Random);
    }
}
