//! `/v1/chat/completions`

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};
use llama_moe::engine::{self, Request};
use llama_moe::{Error, RenderOptions, Result, SamplerError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::{ApiError, ApiResult};
use super::generation::Generation;
use super::logprobs::ChatLogprobs;
use super::message::{ApiMessage, messages};
use super::reply::{Output, Replies};
use super::response_format::ResponseFormat;
use super::stream as sse;
use super::tool::{ToolFields, Tools};
use super::usage::{ApiTimings, ApiUsage};
use super::{new_id, unix_time};
use crate::body::Body;
use crate::state::{App, Ready, Served, blocking};
use crate::tools::{Call, Forced, Format, Part};

/// Likeliest tokens that can be told for each token.
const MAX_TOP_LOGPROBS: usize = 20;

/// The fields of a request that only chats have.
#[derive(Debug, Deserialize)]
struct ChatFields {
    messages: Vec<ApiMessage>,
    response_format: Option<ResponseFormat>,
    logprobs: Option<bool>,
    top_logprobs: Option<usize>,
    reasoning_effort: Option<String>,
    /// Not of the OpenAI API: variables of the template.
    chat_template_kwargs: Option<BTreeMap<String, Value>>,
}

/// A request, ready for the engine, and how to read its answers.
struct Prepared {
    request: Request,
    /// The field that a schema comes from.
    schema_field: &'static str,
    replies: Replies,
    streams: bool,
    includes_usage: bool,
    logprobs: bool,
    n: u32,
}

/// Answers a conversation.
pub async fn complete(
    State(app): State<Arc<App>>,
    Ready(served): Ready,
    body: Body,
) -> ApiResult<Response> {
    let prepared = {
        let served = Arc::clone(&served);
        blocking(move || prepare(&app, &served, &body)).await?
    };
    let engine = served.engine.clone();
    let Prepared {
        request,
        schema_field,
        ..
    } = prepared;
    let submit = move || {
        engine.submit(request).map_err(|error| match error {
            Error::Sampler(SamplerError::JsonSchema { .. }) => {
                ApiError::from(error).with_param(schema_field)
            }
            error => error.into(),
        })
    };
    let events = blocking(submit).await?;
    let chunks = Chunks {
        id: new_id("chatcmpl-"),
        created: unix_time(),
        model: served.id.clone(),
        includes_usage: prepared.includes_usage,
        replies: prepared.replies,
        n_calls: vec![0; prepared.n as usize],
    };
    if prepared.streams {
        Ok(chunks.stream(events, prepared.n))
    } else {
        chunks.whole(events, prepared.n, prepared.logprobs).await
    }
}

fn prepare(app: &App, served: &Served, body: &Body) -> ApiResult<Prepared> {
    let generation: Generation = body.parse()?;
    let fields: ChatFields = body.parse()?;
    let tools = body.parse::<ToolFields>()?.read()?;
    served.check_model(generation.model.as_deref())?;
    let chat = served.chat()?;

    let forced = constraint(&fields, &tools, chat.format)?;
    let messages = messages(fields.messages, chat.has_developer)?;
    let mut options = RenderOptions::default().with_tools(tools.json);
    if let Some(effort) = fields.reasoning_effort {
        options = options.with_variable("reasoning_effort", effort);
    }
    for (name, value) in fields.chat_template_kwargs.into_iter().flatten() {
        options = options.with_variable(name, value);
    }
    let text = chat.template.render(&messages, &options)?;
    served.check_length(&text, served.n_ctx())?;
    let prefix = forced.as_ref().map_or("", |forced| &forced.prefix);
    let tokens = chat
        .template
        .tokenize_rendered(&served.vocab, &(text.clone() + prefix))?;

    let settings = generation.settle(served, &app.limits)?;
    let n = settings.n;
    let mut request = settings.request(tokens);
    let has_tools = !tools.known.is_empty();
    let format = chat.format;
    let needs = format.is_some_and(|format| format.needs_control_tokens(has_tools));
    request = request.with_special_tokens(needs);
    if chat.format != Some(Format::Harmony) && forced.is_none() {
        let is_open = text.trim_end().ends_with("<think>");
        request = request.with_reasoning_tags("<think>", "</think>", is_open);
    }
    if let Some(forced) = &forced {
        if generation.grammar.is_some() {
            let message = "there is a schema that the answer has to have already";
            return Err(ApiError::field("grammar", message));
        }
        request = request.with_json_schema(forced.schema.clone());
    }
    let logprobs = fields.logprobs.unwrap_or(false);
    match fields.top_logprobs {
        Some(top) if top > MAX_TOP_LOGPROBS => {
            let message = format!("{top}, but it is at most {MAX_TOP_LOGPROBS}");
            return Err(ApiError::field("top_logprobs", message));
        }
        Some(_) if !logprobs => {
            return Err(ApiError::field("top_logprobs", "it needs logprobs"));
        }
        top if logprobs => request = request.with_logprobs(top.unwrap_or(0)),
        _ => {}
    }
    Ok(Prepared {
        request,
        schema_field: match tools.required {
            Some(_) => "tools",
            None => "response_format",
        },
        replies: Replies::new(n, chat.format, &tools.known, tools.parallel, prefix),
        streams: generation.streams(),
        includes_usage: generation.includes_usage(),
        logprobs,
        n,
    })
}

/// What the answer has to be, by the tools or by the format that is asked for.
fn constraint(
    fields: &ChatFields,
    tools: &Tools,
    format: Option<Format>,
) -> ApiResult<Option<Forced>> {
    let schema = match fields.response_format.clone() {
        Some(format) => format.schema()?,
        None => None,
    };
    if !tools.known.is_empty() {
        let Some(format) = format else {
            let message = "the model's chat template has no place for tools, or has calls written \
                           in a form that this server does not know";
            return Err(ApiError::field("tools", message));
        };
        if schema.is_some() {
            let message = "an answer that has to have a schema cannot call tools; leave out one \
                           of the two, or set tool_choice to 'none'";
            return Err(ApiError::field("response_format", message));
        }
        let Some(required) = &tools.required else {
            return Ok(None);
        };
        return match Forced::new(format, required) {
            Some(forced) => Ok(Some(forced)),
            None => {
                let message = "this model can be made to call one function, not one of several; \
                               name it";
                Err(ApiError::field("tool_choice", message))
            }
        };
    }
    Ok(schema.map(|schema| Forced {
        prefix: match format {
            Some(Format::Harmony) => "<|channel|>final<|message|>".to_owned(),
            _ => String::new(),
        },
        schema,
    }))
}

/// The response of one request, in pieces or whole.
struct Chunks {
    id: String,
    created: u64,
    model: String,
    includes_usage: bool,
    replies: Replies,
    /// Calls of each answer so far.
    n_calls: Vec<usize>,
}

#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<ChunkChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<ApiUsage>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timings: Option<ApiTimings>,
}

#[derive(Serialize)]
struct ChunkChoice {
    index: u32,
    delta: Delta,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<&'static str>,
}

#[derive(Default, Serialize)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[DeltaCall; 1]>,
}

#[derive(Serialize)]
struct DeltaCall {
    index: usize,
    #[serde(flatten)]
    call: ApiCall,
}

#[derive(Serialize)]
struct ApiCall {
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    function: ApiFunction,
}

#[derive(Serialize)]
struct ApiFunction {
    name: String,
    arguments: String,
}

impl ApiCall {
    fn of(call: Call) -> Self {
        Self {
            id: new_id("call_"),
            kind: "function",
            function: ApiFunction {
                name: call.name,
                arguments: call.arguments,
            },
        }
    }
}

// ---- in pieces -------------------------------------------------------------------------

impl Chunks {
    fn stream(
        mut self,
        events: impl Stream<Item = Result<engine::Event>> + Send + 'static,
        n: u32,
    ) -> Response {
        let opening = (0..n).map(|index| {
            let delta = Delta {
                role: Some("assistant"),
                content: Some(String::new()),
                ..Delta::default()
            };
            self.chunk(vec![choice(index, delta)], None)
        });
        let opening = stream::iter([opening.collect()]);
        let rest = StreamExt::map(events, move |event| self.events(event));
        sse::response(opening.chain(rest))
    }

    fn events(&mut self, event: Result<engine::Event>) -> Vec<axum::response::sse::Event> {
        let outputs = match event {
            Ok(event) => self.replies.take(event),
            Err(error) => return vec![sse::error(&error.into())],
        };
        let mut events = Vec::new();
        for output in outputs {
            match output {
                Output::Part {
                    choice: index,
                    part,
                    logprobs,
                } => {
                    let delta = part.map_or_else(Delta::default, |part| self.delta(index, part));
                    let mut choice = choice(index, delta);
                    choice.logprobs = (!logprobs.is_empty()).then(|| ChatLogprobs::of(&logprobs));
                    events.push(self.chunk(vec![choice], None));
                }
                Output::Finish {
                    choice: index,
                    reason,
                } => {
                    let mut choice = choice(index, Delta::default());
                    choice.finish_reason = Some(reason);
                    events.push(self.chunk(vec![choice], None));
                }
                Output::Done { usage, timings } => {
                    if self.includes_usage {
                        let timings = ApiTimings::of(&timings, &usage);
                        let mut sum = ApiUsage::default();
                        sum.add(&usage);
                        events.push(self.chunk(Vec::new(), Some((sum, timings))));
                    }
                    events.push(sse::done());
                }
            }
        }
        events
    }

    fn delta(&mut self, index: u32, part: Part) -> Delta {
        let mut delta = Delta::default();
        match part {
            Part::Content(text) => delta.content = Some(text),
            Part::Reasoning(text) => delta.reasoning_content = Some(text),
            Part::Call(call) => {
                let n_calls = self.n_calls.get_mut(index as usize);
                let call = DeltaCall {
                    index: n_calls.as_deref().copied().unwrap_or(0),
                    call: ApiCall::of(call),
                };
                if let Some(n) = n_calls {
                    *n += 1;
                }
                delta.tool_calls = Some([call]);
            }
        }
        delta
    }

    fn chunk(
        &self,
        choices: Vec<ChunkChoice>,
        end: Option<(ApiUsage, ApiTimings)>,
    ) -> axum::response::sse::Event {
        sse::event(&Chunk {
            id: &self.id,
            object: "chat.completion.chunk",
            created: self.created,
            model: &self.model,
            choices,
            // Where it is asked for, all chunks have it, and all but the last have none.
            usage: self.includes_usage.then_some(end.map(|(usage, _)| usage)),
            timings: end.map(|(_, timings)| timings),
        })
    }
}

fn choice(index: u32, delta: Delta) -> ChunkChoice {
    ChunkChoice {
        index,
        delta,
        logprobs: None,
        finish_reason: None,
    }
}

// ---- whole -----------------------------------------------------------------------------

#[derive(Serialize)]
struct Whole {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<WholeChoice>,
    usage: ApiUsage,
    #[serde(skip_serializing_if = "Option::is_none")]
    timings: Option<ApiTimings>,
}

#[derive(Serialize)]
struct WholeChoice {
    index: u32,
    message: WholeMessage,
    logprobs: Option<ChatLogprobs>,
    finish_reason: &'static str,
}

#[derive(Serialize)]
struct WholeMessage {
    role: &'static str,
    /// Null for a message that only calls tools.
    content: Option<String>,
    refusal: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    reasoning_content: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ApiCall>,
}

impl Chunks {
    async fn whole(
        mut self,
        mut events: impl Stream<Item = Result<engine::Event>> + Unpin,
        n: u32,
        logprobs: bool,
    ) -> ApiResult<Response> {
        let mut whole = Whole {
            id: self.id,
            object: "chat.completion",
            created: self.created,
            model: self.model,
            choices: (0..n)
                .map(|index| WholeChoice::new(index, logprobs))
                .collect(),
            usage: ApiUsage::default(),
            timings: None,
        };
        while let Some(event) = StreamExt::next(&mut events).await {
            for output in self.replies.take(event?) {
                whole.add(output);
            }
        }
        for choice in &mut whole.choices {
            let message = &mut choice.message;
            if !message.tool_calls.is_empty() && message.content.as_deref() == Some("") {
                message.content = None;
            }
        }
        Ok(axum::Json(whole).into_response())
    }
}

impl Whole {
    fn add(&mut self, output: Output) {
        match output {
            Output::Part {
                choice,
                part,
                logprobs,
            } => {
                if let Some(choice) = self.choices.get_mut(choice as usize) {
                    part.into_iter().for_each(|part| choice.message.add(part));
                    if let Some(all) = &mut choice.logprobs {
                        all.extend(&logprobs);
                    }
                }
            }
            Output::Finish { choice, reason } => {
                if let Some(choice) = self.choices.get_mut(choice as usize) {
                    choice.finish_reason = reason;
                }
            }
            Output::Done { usage, timings } => {
                self.usage.add(&usage);
                self.timings = Some(ApiTimings::of(&timings, &usage));
            }
        }
    }
}

impl WholeChoice {
    fn new(index: u32, logprobs: bool) -> Self {
        Self {
            index,
            message: WholeMessage {
                role: "assistant",
                content: Some(String::new()),
                refusal: None,
                reasoning_content: String::new(),
                tool_calls: Vec::new(),
            },
            logprobs: logprobs.then(ChatLogprobs::default),
            finish_reason: "length",
        }
    }
}

impl WholeMessage {
    fn add(&mut self, part: Part) {
        match part {
            Part::Content(text) => self.content.get_or_insert_default().push_str(&text),
            Part::Reasoning(text) => self.reasoning_content.push_str(&text),
            Part::Call(call) => self.tool_calls.push(ApiCall::of(call)),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use llama_moe::FinishReason;
    use llama_moe::engine::{Event, Timings, Usage};
    use serde_json::json;

    use super::*;
    use crate::tools::tests::weather;

    /// The body of the response to an answer that calls two tools.
    async fn two_calls(streams: bool, parallel: bool) -> String {
        let call = |city| {
            let call = json!({"name": "weather", "arguments": {"city": city}});
            format!("<tool_call>{call}</tool_call>\n")
        };
        let text = Event::Text {
            choice: 0,
            text: call("Oslo") + &call("Rome"),
            is_reasoning: false,
            tokens: Vec::new(),
            logprobs: Vec::new(),
        };
        let finish = Event::Finish {
            choice: 0,
            reason: FinishReason::EndOfGeneration,
        };
        let done = Event::Done {
            usage: Usage::default(),
            timings: Timings::default(),
        };
        let chunks = Chunks {
            id: "chatcmpl-1".to_owned(),
            created: 0,
            model: "model".to_owned(),
            includes_usage: false,
            replies: Replies::new(1, Some(Format::Tagged), &[weather()], parallel, ""),
            n_calls: vec![0],
        };
        let events = stream::iter([text, finish, done].map(Ok));
        let response = if streams {
            chunks.stream(events, 1)
        } else {
            chunks.whole(events, 1, false).await.unwrap()
        };
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    fn arguments(call: &Value) -> &str {
        call["function"]["arguments"].as_str().unwrap()
    }

    const CITIES: [&str; 2] = [r#"{"city":"Oslo"}"#, r#"{"city":"Rome"}"#];

    #[tokio::test]
    async fn several_calls_are_told_whole() {
        for (parallel, expected) in [(true, &CITIES[..]), (false, &CITIES[..1])] {
            let body = two_calls(false, parallel).await;
            let body: Value = serde_json::from_str(&body).unwrap();
            let choice = &body["choices"][0];
            assert_eq!(choice["finish_reason"], "tool_calls");
            assert_eq!(choice["message"]["content"], Value::Null);
            let calls = choice["message"]["tool_calls"].as_array().unwrap();
            let told: Vec<&str> = calls.iter().map(arguments).collect();
            assert_eq!(told, expected);
            let ids: std::collections::BTreeSet<_> =
                calls.iter().map(|c| c["id"].as_str()).collect();
            assert_eq!(ids.len(), expected.len());
        }
    }

    #[tokio::test]
    async fn several_calls_are_told_one_after_the_other() {
        for (parallel, expected) in [(true, &CITIES[..]), (false, &CITIES[..1])] {
            let body = two_calls(true, parallel).await;
            let data = body.lines().filter_map(|line| line.strip_prefix("data: "));
            let events: Vec<Value> = data.filter_map(|d| serde_json::from_str(d).ok()).collect();
            let choices = events.iter().map(|event| &event["choices"][0]);
            let calls: Vec<&Value> = choices
                .filter_map(|choice| choice["delta"]["tool_calls"].as_array())
                .flatten()
                .collect();
            let told: Vec<&str> = calls.iter().map(|call| arguments(call)).collect();
            assert_eq!(told, expected);
            for (index, call) in calls.iter().enumerate() {
                assert_eq!(call["index"], index);
            }
            let last = &events.last().unwrap()["choices"][0];
            assert_eq!(last["finish_reason"], "tool_calls");
        }
    }
}
