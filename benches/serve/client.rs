//! A client of the completions API that takes the time.

use std::error;
use std::io::{BufRead, BufReader, Lines};
use std::time::{Duration, Instant};

use serde_json::Value;
use ureq::{Agent, BodyReader};

type Result<T> = std::result::Result<T, Box<dyn error::Error + Send + Sync>>;

/// Longer than any answer takes: a server that hangs is an error, not a wait for ever.
const TIMEOUT: Duration = Duration::from_secs(600);

/// A client. Each of its requests has a connection of its own: llama.cpp's server closes some
/// that could be used again, and a client learns of it by a failed request.
pub struct Client {
    agent: Agent,
    base: String,
}

/// What came of a request.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// From sending the request to the first text.
    pub ttft: Duration,
    pub prompt_tokens: u64,
    /// Those of them that the server did not compute; 0 if it does not say.
    pub cached_tokens: u64,
    pub completion_tokens: u64,
}

/// Server-sent events of a running answer, until `[DONE]`. Dropped before that, the connection
/// is closed.
pub struct Events {
    lines: Lines<BufReader<BodyReader<'static>>>,
    is_done: bool,
}

impl Client {
    pub fn new(base: &str) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .max_idle_connections(0)
            .timeout_global(Some(TIMEOUT))
            .build();
        Self {
            agent: config.into(),
            base: base.to_owned(),
        }
    }

    /// The status and the body at a path.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        let mut response = self.agent.get(self.url(path)).call()?;
        let body = response.body_mut().read_to_string()?;
        Ok((response.status().as_u16(), body))
    }

    /// Starts a streamed answer.
    pub fn stream(&self, path: &str, body: &Value) -> Result<Events> {
        let request = self.agent.post(self.url(path));
        let request = request.header("Content-Type", "application/json");
        let mut response = request.send(body.to_string())?;
        if response.status() != 200 {
            let body = response.body_mut().read_to_string()?;
            return Err(format!("{path}: {}: {body}", response.status()).into());
        }
        let body = response.into_body().into_reader();
        Ok(Events {
            lines: BufReader::new(body).lines(),
            is_done: false,
        })
    }

    /// Reads a streamed completion to its end.
    pub fn complete(&self, body: &Value) -> Result<Answer> {
        let start = Instant::now();
        let mut ttft = None;
        let mut usage = Value::Null;
        for event in self.stream("/v1/completions", body)? {
            let mut event = event?;
            if event["choices"][0]["text"] != "" && event["choices"][0]["text"].is_string() {
                ttft.get_or_insert_with(|| start.elapsed());
            }
            if event["usage"].is_object() {
                usage = event["usage"].take();
            }
        }
        let count = |value: &Value, of: &str| {
            value
                .as_u64()
                .ok_or_else(|| format!("the answer's usage does not tell {of}"))
        };
        Ok(Answer {
            ttft: ttft.ok_or("an answer without a text")?,
            prompt_tokens: count(&usage["prompt_tokens"], "prompt_tokens")?,
            cached_tokens: usage["prompt_tokens_details"]["cached_tokens"]
                .as_u64()
                .unwrap_or(0),
            completion_tokens: count(&usage["completion_tokens"], "completion_tokens")?,
        })
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }
}

impl Iterator for Events {
    type Item = Result<Value>;

    fn next(&mut self) -> Option<Result<Value>> {
        loop {
            let line = match self.lines.next() {
                Some(Ok(line)) => line,
                Some(Err(error)) => return Some(Err(error.into())),
                None if self.is_done => return None,
                None => {
                    self.is_done = true;
                    return Some(Err("the stream ended without [DONE]".into()));
                }
            };
            let Some(data) = line.strip_prefix("data:") else {
                continue;
            };
            let data = data.trim();
            if data == "[DONE]" {
                self.is_done = true;
                continue;
            }
            return Some(match serde_json::from_str::<Value>(data) {
                Ok(event) if event["error"].is_null() => Ok(event),
                Ok(event) => Err(event["error"].to_string().into()),
                Err(error) => Err(format!("{error}: {data}").into()),
            });
        }
    }
}

/// A number of a text in Prometheus' format, by its name with labels.
pub fn metric(text: &str, name: &str) -> Result<f64> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = value.ok_or_else(|| format!("no {name} among the metrics"))?;
    Ok(value.trim().parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        let text = "# HELP time Time\ntime{on=\"other\"} 1.5\ntime{on=\"others\"} 3\ntimes 4\n";
        assert_eq!(metric(text, "time{on=\"other\"}").unwrap(), 1.5);
        assert!(metric(text, "time").is_err());
    }
}
