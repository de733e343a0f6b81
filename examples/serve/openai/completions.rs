//! `/v1/completions`: texts that are gone on with, without a conversation.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use llama_moe::engine::{Event, Request};
use llama_moe::{Result, Token};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::{ApiError, ApiResult};
use super::generation::Generation;
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

/// A request, ready for the engine.
struct Prepared {
    requests: Vec<Request>,
    /// The text of each prompt, where answers begin with it.
    echo: Vec<String>,
    n: u32,
    logprobs: bool,
    streams: bool,
    includes_usage: bool,
}

/// Goes on with texts.
pub async fn complete(
    State(app): State<Arc<App>>,
    Ready(served): Ready,
    body: Body,
) -> ApiResult<Response> {
    let mut prepared = {
        let served = Arc::clone(&served);
        blocking(move || prepare(&app, &served, &body)).await?
    };
    let engine = served.engine.clone();
    let requests = std::mem::take(&mut prepared.requests);
    // The first is refused if there is no room, and the others wait for theirs.
    let mut requests = requests.into_iter();
    let mut streams = Vec::new();
    if let Some(first) = requests.next() {
        let engine = engine.clone();
        streams.push(blocking(move || Ok(engine.submit(first)?)).await?);
    }
    for request in requests {
        streams.push(engine.submit_async(request).await?);
    }
    let answers = Answers::new(&prepared, &served.id, streams.len());
    let events = stream::select_all(
        streams
            .into_iter()
            .enumerate()
            .map(|(index, events)| StreamExt::map(events, move |event| (index, event))),
    );
    if prepared.streams {
        Ok(sse::response(answers.stream(events)))
    } else {
        answers.whole(events).await
    }
}

fn prepare(app: &App, served: &Served, body: &Body) -> ApiResult<Prepared> {
    let generation: Generation = body.parse()?;
    let fields: CompletionFields = body.parse()?;
    served.check_model(generation.model.as_deref())?;
    let n = generation.choices(served.engine.slots())?;
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
    let prompts = fields.prompt.tokens(&served.vocab, "prompt", |text| {
        served.check_length(text, served.n_ctx())?;
        Ok(Request::text(&served.vocab, text)?.prompt().to_vec())
    })?;
    let echo = |tokens: &Vec<Token>| -> ApiResult<String> {
        Ok(served.vocab.detokenize_lossy(tokens, true, true)?)
    };
    let echo = if echoes {
        prompts.iter().map(echo).collect::<ApiResult<_>>()?
    } else {
        vec![String::new(); prompts.len()]
    };
    let requests = prompts.into_iter().map(|prompt| {
        let mut request = generation.apply(Request::new(prompt), served, &app.limits)?;
        if let Some(top) = fields.logprobs {
            request = request.with_logprobs(top);
        }
        Ok(request)
    });
    Ok(Prepared {
        requests: requests.collect::<ApiResult<_>>()?,
        echo,
        n,
        logprobs: fields.logprobs.is_some(),
        streams: generation.streams(),
        includes_usage: generation.includes_usage(),
    })
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

impl Answers {
    fn new(prepared: &Prepared, model: &str, n_prompts: usize) -> Self {
        let n = prepared.n as usize;
        let choices = prepared.echo.iter().flat_map(|echo| {
            (0..n).map(move |_| Choice {
                text: echo.clone(),
                logprobs: prepared.logprobs.then(CompletionLogprobs::default),
                finish_reason: None,
            })
        });
        Self {
            id: new_id("cmpl-"),
            created: unix_time(),
            model: model.to_owned(),
            n,
            includes_usage: prepared.includes_usage,
            choices: choices.collect(),
            n_open: n_prompts,
            usage: ApiUsage::default(),
            timings: None,
        }
    }

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

    fn stream(
        mut self,
        events: impl stream::Stream<Item = (usize, Result<Event>)> + Send + 'static,
    ) -> impl stream::Stream<Item = Vec<axum::response::sse::Event>> + Send + 'static {
        events.map(move |(prompt, event)| match event {
            Ok(event) => self.pieces(prompt, event),
            Err(error) => vec![sse::error(&error.into())],
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

    async fn whole(
        mut self,
        mut events: impl stream::Stream<Item = (usize, Result<Event>)> + Unpin,
    ) -> ApiResult<Response> {
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
