//! `/v1/completions`: texts that are gone on with, without a conversation.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::future::{FutureExt, TryFutureExt, ready};
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use llama_moe::engine::{Engine, EngineError, Event, Request, Timings, Usage};
use llama_moe::{Error, FinishReason, Token};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::timeout_at;

use super::error::{ApiError, ApiResult};
use super::generation::{Generation, Settings};
use super::logprobs::CompletionLogprobs;
use super::reply::word;
use super::stream as sse;
use super::usage::{ApiTimings, ApiUsage};
use super::{Input, new_id, unix_time};
use crate::body::Body;
use crate::state::{App, Ready, Served, blocking};

/// Likeliest tokens that can be told for each token.
const MAX_LOGPROBS: usize = 20;

/// The fields of a request that only completions have.
#[derive(Debug, Deserialize)]
struct CompletionFields {
    prompt: Input,
    logprobs: Option<usize>,
    echo: Option<bool>,
    suffix: Option<Value>,
    best_of: Option<u32>,
}

/// A request, checked.
struct Prepared {
    /// The tokens of each prompt.
    prompts: Vec<Vec<Token>>,
    settings: Settings,
    /// The likeliest tokens that are told for each token.
    logprobs: Option<usize>,
    /// Prompts that are with the engine at a time.
    in_flight: usize,
    streams: bool,
}

/// The events of all prompts, each with the index of its prompt, as they come.
type Events = BoxStream<'static, (usize, ApiResult<Event>)>;

/// Goes on with texts.
pub async fn complete(
    State(app): State<Arc<App>>,
    Ready(served): Ready,
    body: Body,
) -> ApiResult<Response> {
    let (prepared, answers) = {
        let served = Arc::clone(&served);
        blocking(move || prepare(&app, &served, &body)).await?
    };
    let streams = prepared.streams;
    let events = submit_all(&served.engine, prepared).await?;
    if streams {
        Ok(sse::response(answers.stream(events)))
    } else {
        answers.whole(events).await
    }
}

fn prepare(app: &App, served: &Served, body: &Body) -> ApiResult<(Prepared, Answers)> {
    let generation: Generation = body.parse()?;
    let fields: CompletionFields = body.parse()?;
    served.check_model(generation.model.as_deref())?;
    let settings = generation.settle(served, &app.limits)?;
    let n = settings.n;
    let echoes = fields.echo.unwrap_or(false);
    if fields.suffix.is_some_and(|suffix| !suffix.is_null()) {
        return Err(ApiError::field("suffix", "this server does not fill gaps"));
    }
    if fields.best_of.is_some_and(|best_of| best_of != n) {
        return Err(ApiError::field("best_of", "all answers are given: use n"));
    }
    if fields.logprobs.is_some_and(|top| top > MAX_LOGPROBS) {
        let message = format!("it is at most {MAX_LOGPROBS}");
        return Err(ApiError::field("logprobs", message));
    }
    if echoes && fields.logprobs.is_some() {
        let message = "the tokens of a prompt are not told; leave out echo or logprobs";
        return Err(ApiError::field("echo", message));
    }
    let (slots, queue) = (served.engine.slots() as usize, app.limits.queue);
    let (n_prompts, most) = (fields.prompt.len(), slots.saturating_add(queue));
    if n_prompts > most {
        let message = format!(
            "{n_prompts} texts, but a request has {most} at most, as many as the server's slots \
             and queue"
        );
        return Err(ApiError::field("prompt", message));
    }
    let prompts = prompts(served, fields.prompt)?;
    let echo = |tokens: &Vec<Token>| -> ApiResult<String> {
        Ok(served.vocab.detokenize_lossy(tokens, true, true)?)
    };
    let echo = if echoes {
        prompts.iter().map(echo).collect::<ApiResult<_>>()?
    } else {
        vec![String::new(); n_prompts]
    };
    let answers = Answers {
        id: new_id("cmpl-"),
        created: unix_time(),
        model: served.id.clone(),
        n: n as usize,
        includes_usage: generation.includes_usage(),
        choices: choices(&echo, n, fields.logprobs.is_some()),
        n_open: n_prompts,
        usage: ApiUsage::default(),
        timings: None,
    };
    let prepared = Prepared {
        prompts,
        in_flight: in_flight(slots, queue, n as usize),
        settings,
        logprobs: fields.logprobs,
        streams: generation.streams(),
    };
    Ok((prepared, answers))
}

/// The tokens of the prompts, all of which have to fit before the first is computed.
fn prompts(served: &Served, input: Input) -> ApiResult<Vec<Vec<Token>>> {
    let n_ctx = served.n_ctx();
    let prompts = input.tokens(&served.vocab, "prompt", |text| {
        served.check_length(text, n_ctx)?;
        Ok(Request::text(&served.vocab, text)?.prompt().to_vec())
    })?;
    let too_long = prompts.iter().position(|prompt| prompt.len() > n_ctx);
    if let Some(index) = too_long {
        let error = EngineError::PromptTooLong {
            n_prompt: prompts[index].len(),
            n_ctx,
        };
        let error = ApiError::from(Error::from(error));
        return Err(error.with_param(format!("prompt[{index}]")));
    }
    Ok(prompts)
}

/// Prompts of one request that are with the engine at a time: as many as there are slots for, and
/// no more than half of the queue, so that others find room there.
fn in_flight(slots: usize, queue: usize, n: usize) -> usize {
    (slots / n.max(1)).min(queue / 2).max(1)
}

/// Submits the first prompt, which is refused if there is no room. The others follow as those
/// before them end.
async fn submit_all(engine: &Engine, prepared: Prepared) -> ApiResult<Events> {
    let in_flight = prepared.in_flight;
    let (n, deadline) = (prepared.settings.n, prepared.settings.deadline);
    let settings = Arc::new((prepared.settings, prepared.logprobs));
    let request = move |prompt| {
        let (settings, logprobs) = &*settings;
        let request = settings.request(prompt);
        match logprobs {
            Some(top) => request.with_logprobs(*top),
            None => request,
        }
    };
    let mut prompts = prepared.prompts.into_iter();
    // There is one at least, and an empty one would be refused.
    let first = prompts.next().unwrap_or_default();
    let first = {
        let (engine, request) = (engine.clone(), request.clone());
        blocking(move || Ok(engine.submit(request(first))?)).await?
    };
    let first = first.map_err(ApiError::from).boxed();
    let engine = engine.clone();
    let others = stream::iter(prompts).map(move |prompt| {
        let (engine, request) = (engine.clone(), request.clone());
        submit_later(engine, move || request(prompt), n, deadline)
            .try_flatten_stream()
            .boxed()
    });
    let events = stream::once(ready(first)).chain(others).enumerate();
    let events = events.map(|(prompt, events)| events.map(move |event| (prompt, event)).boxed());
    Ok(events.flatten_unordered(in_flight).boxed())
}

/// Submits a request for `n` answers once there is room for it. If there is none before its
/// deadline, which the engine does not see to while it waits, they end as in the queue.
async fn submit_later(
    engine: Engine,
    request: impl FnOnce() -> Request + Send + 'static,
    n: u32,
    deadline: Option<Instant>,
) -> ApiResult<BoxStream<'static, ApiResult<Event>>> {
    let start = Instant::now();
    let mut submitted = Box::pin(async move { engine.submit_async(request()).await });
    // The first step checks the request and makes its samplers, which takes a while with a large
    // grammar; the rest is waiting.
    let (submitted, first) = blocking(move || {
        let first = submitted.as_mut().now_or_never();
        Ok((submitted, first))
    })
    .await?;
    let events = match (first, deadline) {
        (Some(events), _) => events,
        (None, None) => submitted.await,
        (None, Some(deadline)) => match timeout_at(deadline.into(), submitted).await {
            Ok(events) => events,
            Err(_) => return Ok(stream::iter(late(n, start.elapsed()).map(Ok)).boxed()),
        },
    };
    Ok(events?.map_err(ApiError::from).boxed())
}

/// The events of a request whose time was over before there was room for it.
fn late(n: u32, waited: Duration) -> impl Iterator<Item = Event> + Send {
    let finish = |choice| Event::Finish {
        choice,
        reason: FinishReason::Deadline,
    };
    let mut timings = Timings::default();
    (timings.queued, timings.total) = (waited, waited);
    let done = Event::Done {
        usage: Usage::default(),
        timings,
    };
    (0..n).map(finish).chain([done])
}

/// The response of several prompts, in pieces or whole.
struct Answers {
    id: String,
    created: u64,
    model: String,
    n: usize,
    includes_usage: bool,
    choices: Vec<Choice>,
    /// Prompts whose answers are not over.
    n_open: usize,
    usage: ApiUsage,
    /// Of the prompt that was done last.
    timings: Option<ApiTimings>,
}

#[derive(Default)]
struct Choice {
    text: String,
    logprobs: Option<CompletionLogprobs>,
    finish_reason: Option<&'static str>,
}

#[derive(Serialize)]
struct ApiCompletion<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<ApiChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<ApiUsage>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timings: Option<ApiTimings>,
}

#[derive(Serialize)]
struct ApiChoice {
    index: usize,
    text: String,
    logprobs: Option<CompletionLogprobs>,
    finish_reason: Option<&'static str>,
}

/// The answers before they begin, `n` to each prompt.
fn choices(echo: &[String], n: u32, logprobs: bool) -> Vec<Choice> {
    let choices = echo.iter().flat_map(|echo| {
        (0..n).map(move |_| Choice {
            text: echo.clone(),
            logprobs: logprobs.then(CompletionLogprobs::default),
            finish_reason: None,
        })
    });
    choices.collect()
}

impl Answers {
    /// Takes an event of the prompt with this index, and returns the answer it is about.
    fn take(&mut self, prompt: usize, event: Event) -> Option<usize> {
        let at = |choice: u32| prompt * self.n + choice as usize;
        match event {
            Event::Text {
                choice,
                text,
                logprobs,
                ..
            } => {
                let index = at(choice);
                let choice = self.choices.get_mut(index)?;
                choice.text.push_str(&text);
                if let Some(all) = &mut choice.logprobs {
                    all.extend(&logprobs);
                }
                Some(index)
            }
            Event::Finish { choice, reason } => {
                let index = at(choice);
                self.choices.get_mut(index)?.finish_reason = Some(word(&reason));
                Some(index)
            }
            Event::Done { usage, timings } => {
                self.n_open = self.n_open.saturating_sub(1);
                self.usage.add(&usage);
                self.timings = Some(ApiTimings::of(&timings, &usage));
                None
            }
            _ => None,
        }
    }

    fn object(
        &self,
        choices: Vec<ApiChoice>,
        usage: Option<Option<ApiUsage>>,
    ) -> ApiCompletion<'_> {
        let is_end = usage.flatten().is_some();
        ApiCompletion {
            id: &self.id,
            object: "text_completion",
            created: self.created,
            model: &self.model,
            choices,
            usage,
            timings: self.timings.filter(|_| is_end),
        }
    }

    /// The events of the response. An error is the last one, and ends the other answers too.
    fn stream(
        self,
        events: Events,
    ) -> impl stream::Stream<Item = Vec<axum::response::sse::Event>> + Send + 'static {
        stream::unfold(Some((self, events)), |state| async move {
            let (mut answers, mut events) = state?;
            let (prompt, event) = events.next().await?;
            Some(match event {
                Ok(event) => (answers.pieces(prompt, event), Some((answers, events))),
                Err(error) => (vec![sse::error(&error)], None),
            })
        })
    }

    fn pieces(&mut self, prompt: usize, event: Event) -> Vec<axum::response::sse::Event> {
        let mut pieces = Vec::new();
        let changed = self.take(prompt, event);
        let usage = self.includes_usage.then_some(None);
        if let Some(index) = changed
            && let Some(choice) = self.choices.get_mut(index)
        {
            let choice = ApiChoice {
                index,
                text: std::mem::take(&mut choice.text),
                logprobs: choice.logprobs.as_mut().map(CompletionLogprobs::take),
                finish_reason: choice.finish_reason,
            };
            pieces.push(sse::event(&self.object(vec![choice], usage)));
        }
        if self.n_open == 0 {
            if self.includes_usage {
                let usage = Some(Some(self.usage));
                pieces.push(sse::event(&self.object(Vec::new(), usage)));
            }
            pieces.push(sse::done());
        }
        pieces
    }

    async fn whole(mut self, mut events: Events) -> ApiResult<Response> {
        while let Some((prompt, event)) = events.next().await {
            self.take(prompt, event?);
        }
        let choices = std::mem::take(&mut self.choices);
        let choices = choices
            .into_iter()
            .enumerate()
            .map(|(index, choice)| ApiChoice {
                index,
                text: choice.text,
                logprobs: choice.logprobs,
                finish_reason: choice.finish_reason,
            });
        let usage = Some(Some(self.usage));
        Ok(axum::Json(self.object(choices.collect(), usage)).into_response())
    }
}

#[cfg(test)]
mod tests {
    use common::bundled_model;
    use llama_moe::engine::EngineParams;
    use llama_moe::{Backend, ContextParams, Model, ModelParams};

    use super::*;

    #[test]
    fn a_request_leaves_room_for_others() {
        assert_eq!(in_flight(4, 64, 1), 4);
        assert_eq!(in_flight(4, 64, 2), 2);
        assert_eq!(in_flight(4, 64, 3), 1);
        assert_eq!(in_flight(8, 6, 1), 3);
        assert_eq!(in_flight(4, 1, 1), 1);
    }

    #[tokio::test]
    async fn a_prompt_that_waits_for_room_ends_with_its_time() {
        let backend = Backend::init().unwrap();
        let model = Model::load(&backend, bundled_model(), ModelParams::default()).unwrap();
        let context = ContextParams::default().with_n_ctx(50_000);
        let params = EngineParams::default().with_slots(1).with_queue(1);
        let engine = Engine::new(&model, params.with_context(context)).unwrap();
        let vocab = model.vocab();
        let ends = (0..vocab.n_tokens() as i32).map(Token);
        let ends: Vec<_> = ends.filter(|&token| vocab.is_eog(token)).collect();
        let request = move || {
            let ends = ends.iter().map(|&token| (token, f32::NEG_INFINITY));
            Request::new(vec![Token(300)]).with_logit_bias(ends)
        };
        // One has the slot, and one the queue, for longer than the third may wait.
        let running = engine.submit(request()).unwrap();
        while engine.stats().slots_busy == 0 {
            tokio::task::yield_now().await;
        }
        let queued = engine.submit(request()).unwrap();
        let deadline = Instant::now() + Duration::from_millis(100);
        let late = submit_later(engine.clone(), request, 2, Some(deadline));
        let events: Vec<_> = late.await.unwrap().collect().await;
        assert!(Instant::now() >= deadline);
        assert_eq!(engine.stats().requests_queued, 1);
        let reasons = events.iter().flatten().filter_map(|event| match event {
            Event::Finish { choice, reason } => Some((*choice, word(reason))),
            _ => None,
        });
        assert_eq!(reasons.collect::<Vec<_>>(), [(0, "length"), (1, "length")]);
        assert!(matches!(events.last(), Some(Ok(Event::Done { .. }))));
        drop((running, queued));
    }

    #[test]
    fn an_error_ends_the_stream() {
        let answers = Answers {
            id: "cmpl-1".to_owned(),
            created: 0,
            model: "model".to_owned(),
            n: 1,
            includes_usage: false,
            choices: choices(&[String::new(), String::new()], 1, false),
            n_open: 2,
            usage: ApiUsage::default(),
            timings: None,
        };
        let text = || {
            Ok(Event::Text {
                choice: 0,
                text: "a".to_owned(),
                is_reasoning: false,
                tokens: Vec::new(),
                logprobs: Vec::new(),
            })
        };
        let error = Err(ApiError::internal("it failed"));
        let events = stream::iter([(0, text()), (1, error), (0, text())]);
        // The other answer would go on for ever.
        let events = events.chain(stream::pending()).boxed();
        let pieces = answers.stream(events).collect::<Vec<_>>().now_or_never();
        let pieces = pieces.expect("the stream has ended");
        assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1]);
        assert!(format!("{:?}", pieces[1]).contains("it failed"));
    }
}
