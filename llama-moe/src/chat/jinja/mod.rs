//! Jinja templates as Hugging Face's models carry them, run by `minijinja`.
//!
//! The template comes out of a model file that somebody else made. It is run on a thread
//! with a stack of known size, and within limits of work, memory, nesting and output.

mod clock;
mod json;
mod scan;

use std::fmt;
use std::io;
use std::panic;
use std::thread;
use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::error::ChatError;
#[cfg(feature = "measure")]
pub(crate) use clock::strftime;

/// The name that the engine knows the template by.
const NAME: &str = "chat template";

/// Several times what a template needs at its worst within the limits, unoptimised: see
/// the tests. It takes memory only as far as it is used.
const STACK: usize = 128 << 20;
/// How deep macros and recursive loops may call each other, in the engine's own count:
/// about 8 for a macro.
const MAX_RECURSION: usize = 250;
/// Units of work (`minijinja`'s fuel: about an instruction, or 64 bytes of data) that a
/// template has for a start, for each message, and for each byte of the conversation.
const FUEL: u64 = 1_000_000;
const FUEL_PER_MESSAGE: u64 = 1_000;
const FUEL_PER_BYTE: u64 = 1;
/// Bytes of a prompt.
const MAX_OUTPUT: usize = 64 << 20;
/// Values in values, of what a template assigns.
const MAX_DEPTH: usize = 64;
/// Digits of a number in a format text: it may be a width.
const MAX_WIDTH_DIGITS: usize = 3;

/// A compiled template.
#[derive(Debug)]
pub(super) struct Jinja {
    environment: Environment<'static>,
}

impl Jinja {
    /// Compiles a template.
    pub(super) fn compile(source: &str) -> Result<Self, ChatError> {
        on_own_stack(|| {
            let prepared = scan::prepare(source)?;
            let mut environment = environment().map_err(|error| explain(&error))?;
            environment
                .add_template_owned(NAME, prepared)
                .map_err(|error| explain(&error))?;
            Ok(Self { environment })
        })
    }

    /// Runs the template with `variables`. `n_messages` is how many of them are messages;
    /// `now` is what `strftime_now` tells.
    pub(super) fn render(
        &self,
        variables: &serde_json::Value,
        n_messages: usize,
        now: SystemTime,
    ) -> Result<String, ChatError> {
        let bytes = measure(variables)?;
        let fuel = FUEL
            .saturating_add(FUEL_PER_MESSAGE.saturating_mul(n_messages as u64))
            .saturating_add(FUEL_PER_BYTE.saturating_mul(bytes as u64));
        on_own_stack(|| {
            let mut environment = self.environment.clone();
            environment.set_fuel(Some(fuel));
            environment.add_function("strftime_now", move |format: String| {
                clock::strftime(now, &format)
                    .map_err(|reason| Error::new(ErrorKind::InvalidOperation, reason))
            });
            let mut output = Output(Vec::new());
            environment
                .get_template(NAME)
                .and_then(|template| {
                    template
                        .render_captured_to(Value::from(Serde(variables)), &mut output)
                        .map(drop)
                })
                .map_err(|error| explain(&error))?;
            String::from_utf8(output.0).map_err(|error| ChatError::Template {
                line: None,
                reason: error.to_string(),
            })
        })
    }
}

/// What templates can use beside the language itself.
fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()?,
    );
    environment.set_recursion_limit(MAX_RECURSION);
    environment.add_filter("tojson", json::tojson);
    let namespace = namespace_type()?;
    environment.add_filter(
        scan::ASSIGNED_FILTER,
        move |state: &State<'_, '_>, value: Value, to_attribute: bool| {
            check_assigned(state, &value, to_attribute, namespace)?;
            Ok::<_, Error>(value)
        },
    );
    environment.add_function("raise_exception", |reason: String| {
        Err::<Value, _>(
            Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Refusal(reason)),
        )
    });
    environment.set_unknown_method_callback(|state, value, method, args| {
        // The engine makes the text before it counts it, as wide as it was asked to.
        if method == "format" && value.as_str().is_some_and(has_wide_number) {
            return Err(limit(format!(
                "{MAX_WIDTH_DIGITS} digits in a format's width"
            )));
        }
        unknown_method_callback(state, value, method, args)
    });
    Ok(environment)
}

/// The name of the type of namespaces, which the engine keeps to itself.
fn namespace_type() -> Result<&'static str, Error> {
    let namespace = minijinja::functions::namespace(None)?;
    Ok(namespace
        .as_object()
        .map_or("", |object| object.type_name()))
}

/// Looks through a value that a `set` tag assigns. What is in a namespace must not contain
/// a namespace or a `loop`, which could lead back to it, and no value may be so deep that
/// dropping or printing it overflows the stack.
fn check_assigned(
    state: &State<'_, '_>,
    value: &Value,
    to_attribute: bool,
    namespace: &str,
) -> Result<(), Error> {
    let mut open = vec![(value.clone(), 0)];
    let mut seen = 0_u64;
    while let Some((value, depth)) = open.pop() {
        seen += 1;
        if seen.is_multiple_of(4) {
            state.consume_fuel(1)?;
        }
        if depth > MAX_DEPTH {
            return Err(limit(format!("{MAX_DEPTH} values in values")));
        }
        let Some(object) = value.as_object() else {
            continue;
        };
        let inside = to_attribute || depth > 0;
        if inside && (value.kind() == ValueKind::Plain || object.type_name() == namespace) {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                "a namespace can only hold plain values, no loops and no other namespaces",
            ));
        }
        match value.kind() {
            ValueKind::Seq => open.extend(value.try_iter()?.map(|item| (item, depth + 1))),
            ValueKind::Iterable | ValueKind::Map => {
                for item in value.try_iter()? {
                    let held = value.get_item(&item).unwrap_or_default();
                    open.extend([(item, depth + 1), (held, depth + 1)]);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn has_wide_number(text: &str) -> bool {
    text.split(|letter: char| !letter.is_ascii_digit())
        .any(|digits| digits.len() > MAX_WIDTH_DIGITS)
}

/// The bytes of the texts in `value`; refuses what is nested deeper than JSON files are.
fn measure(value: &serde_json::Value) -> Result<usize, ChatError> {
    const MAX_JSON_DEPTH: usize = 128;
    let mut bytes = 0;
    let mut open = vec![(value, 0)];
    while let Some((value, depth)) = open.pop() {
        if depth > MAX_JSON_DEPTH {
            return Err(ChatError::TemplateLimit {
                limit: format!("{MAX_JSON_DEPTH} values in values"),
            });
        }
        match value {
            serde_json::Value::String(text) => bytes += text.len(),
            serde_json::Value::Array(items) => {
                bytes += items.len();
                open.extend(items.iter().map(|item| (item, depth + 1)));
            }
            serde_json::Value::Object(map) => {
                bytes += map.keys().map(|key| key.len() + 1).sum::<usize>();
                open.extend(map.values().map(|item| (item, depth + 1)));
            }
            _ => {}
        }
    }
    Ok(bytes)
}

/// Runs `work` with a stack that does not depend on the caller's.
fn on_own_stack<T: Send>(
    work: impl FnOnce() -> Result<T, ChatError> + Send,
) -> Result<T, ChatError> {
    let failed = |reason: String| ChatError::Template { line: None, reason };
    thread::scope(|scope| {
        let worker = thread::Builder::new()
            .name(NAME.to_owned())
            .stack_size(STACK)
            .spawn_scoped(scope, || {
                // The engine's state is dropped with the panic.
                panic::catch_unwind(panic::AssertUnwindSafe(work))
            })
            .map_err(|error| failed(format!("there is no thread to run it on: {error}")))?;
        match worker.join() {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Err(failed("the template engine panicked".to_owned())),
        }
    })
}

/// The prompt, up to its limit.
struct Output(Vec<u8>);

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT {
            return Err(io::Error::other(Limit(format!(
                "{MAX_OUTPUT} bytes of prompt"
            ))));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the template said to `raise_exception`.
#[derive(Debug)]
struct Refusal(String);

/// Which limit was reached.
#[derive(Debug)]
struct Limit(String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}
impl std::error::Error for Limit {}

fn limit(limit: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, "a limit is reached").with_source(Limit(limit))
}

/// The engine's error as ours.
fn explain(error: &Error) -> ChatError {
    let mut reason = error.to_string();
    let mut line = error.line();
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(this) = cause {
        if let Some(Refusal(reason)) = this.downcast_ref() {
            return ChatError::Refused {
                reason: reason.clone(),
            };
        }
        if let Some(Limit(limit)) = find_limit(this) {
            return ChatError::TemplateLimit {
                limit: limit.clone(),
            };
        }
        if let Some(inner) = this.downcast_ref::<Error>() {
            if inner.kind() == ErrorKind::OutOfFuel {
                return ChatError::TemplateLimit {
                    limit: "the work that a conversation of this size can take".to_owned(),
                };
            }
            // The innermost place is where it happened.
            line = inner.line().or(line);
        }
        if !std::ptr::eq(this, error as &dyn std::error::Error) {
            reason = format!("{reason}: {this}");
        }
        cause = this.source();
    }
    ChatError::Template { line, reason }
}

/// A limit, also where the writer's `io::Error` wraps it.
fn find_limit<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Limit> {
    error.downcast_ref().or_else(|| {
        error
            .downcast_ref::<io::Error>()
            .and_then(|error| error.get_ref()?.downcast_ref())
    })
}
