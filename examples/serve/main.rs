//! A server with the OpenAI API on one model: chats, completions, embeddings, tools.
//!
//! ```text
//! cargo run --release --example serve --features engine
//! curl http://127.0.0.1:8080/v1/chat/completions -H 'Content-Type: application/json' \
//!     -d '{"messages": [{"role": "user", "content": "How do I keep the experts on the CPU?"}]}'
//! ```
//!
//! It is a program around [`llama_moe::engine`], which does the work: every handler makes a
//! request of what the client sent, submits it, and writes down the events that come back.

mod auth;
mod body;
mod connection;
mod health;
mod host;
mod load;
mod metrics;
mod openai;
mod page;
mod placement;
mod routes;
mod server;
mod signals;
mod state;
mod tokenize;
mod tools;

use std::fmt;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use axum::http::HeaderValue;
use clap::Parser;
use common::{
    Bytes, ContextArgs, LogArgs, ModelArgs, MoeCacheArgs, Result, VramArgs, describe_moe_cache_use,
};
use llama_moe::engine::Engine;
use routes::Origins;
use signals::Signals;
use state::{App, Limits};
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

/// Threads for connections. Computing is what takes the time, and that is elsewhere.
const WORKERS: usize = 2;
/// Threads for what takes longer, such as tokenising a long text.
const BLOCKING: usize = 8;
/// How long such a thread stays without work. So few are not worth ending, and while they stay,
/// the system's clocks tell what each of them has used.
const KEEP_BLOCKING: Duration = Duration::from_secs(3600);

/// How long the engine may take to end, once what it computes is cut short: a device that does not
/// answer, such as a worker of RPC that hangs, never does.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Requests that may wait for each slot, unless it is said.
const QUEUE_PER_SLOT: usize = 16;

/// Serve a model with the OpenAI API
#[derive(Clone, Parser)]
struct Args {
    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    vram: VramArgs,

    #[command(flatten)]
    context: ContextArgs,

    #[command(flatten)]
    moe_cache: MoeCacheArgs,

    #[command(flatten)]
    serve: ServeArgs,

    #[command(flatten)]
    log: LogArgs,
}

#[derive(Clone, clap::Args)]
#[command(next_help_heading = "Server")]
struct ServeArgs {
    /// The address to listen on; 0.0.0.0 for all of this machine
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    host: String,

    /// The port to listen on; 0 for any that is free
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    port: u16,

    /// Answers that are generated at a time; each has room for --ctx tokens
    #[arg(long, value_name = "N", default_value = "4")]
    slots: NonZeroU32,

    /// Give each slot a part of the KV cache of its own
    ///
    /// Faster where many slots are busy; but what is free in one is of no use to another.
    #[arg(long)]
    no_kv_unified: bool,

    /// Requests that may wait for a slot; more are refused [default: 16 for each slot]
    #[arg(long, value_name = "N")]
    queue: Option<NonZeroUsize>,

    /// A smaller model of the same vocabulary that guesses what comes next; a GGUF file
    ///
    /// Answers stay what they are. They are faster where reading weights takes the time, with few
    /// answers at a time: docs/serving.md tells more.
    #[arg(long, visible_alias = "model-draft", value_name = "PATH")]
    draft_model: Option<PathBuf>,

    /// Tokens of an answer that it guesses at a time, up to 15 [default: 4]
    #[arg(
        long,
        value_name = "N",
        requires = "draft_model",
        value_parser = clap::value_parser!(u32).range(1..=15)
    )]
    draft_tokens: Option<u32>,

    /// How long answers may go on after the signal to end
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    grace: u32,

    /// A key that clients have to show; may be repeated [default: no key is asked for]
    #[arg(
        long,
        value_name = "KEY",
        env = "LLAMA_MOE_API_KEY",
        hide_env_values = true,
        value_parser = clap::builder::NonEmptyStringValueParser::new()
    )]
    api_key: Vec<String>,

    /// Sites whose pages may read answers, such as https://example.org, or * for all
    #[arg(long, value_name = "ORIGIN,...", value_delimiter = ',')]
    cors: Vec<String>,

    /// The longest body of a request
    #[arg(long, value_name = "BYTES", default_value = "4MiB")]
    max_body: Bytes,

    /// The most tokens of one answer [default: as many as the context has room for]
    #[arg(long, value_name = "N")]
    max_tokens: Option<NonZeroU32>,

    /// The longest time of a request, waiting included; answers end there
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<NonZeroU32>,

    /// Take grammars in GBNF from requests
    ///
    /// For clients that you know: llama.cpp follows all readings of what a grammar allows at a
    /// time, and a few words of one with too many of them can hold the server up without end.
    /// JSON schemas have their limits, and are always taken.
    #[arg(long)]
    grammars: bool,

    /// A Jinja template for chats [default: the model's]
    #[arg(long, value_name = "FILE")]
    chat_template: Option<PathBuf>,

    /// The name that clients ask for the model by [default: the file's, without .gguf]
    #[arg(long, value_name = "NAME")]
    alias: Option<String>,
}

impl ServeArgs {
    /// Requests that may wait for a slot.
    fn queue(&self) -> usize {
        let per_slot = QUEUE_PER_SLOT.saturating_mul(self.slots.get() as usize);
        self.queue.map_or(per_slot, NonZeroUsize::get)
    }
}

fn main() -> ExitCode {
    common::exit_code(run(Args::parse()))
}

fn run(args: Args) -> Result<()> {
    args.log.init()?;
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING)
        .thread_keep_alive(KEEP_BLOCKING)
        .enable_all()
        .build()?;
    let result = runtime.block_on(serve(args));
    // A load that hangs, as on a disk that does not answer, is not waited for.
    runtime.shutdown_background();
    result
}

async fn serve(args: Args) -> Result<()> {
    let origins = origins(&args.serve.cors)?;
    let mut signals = Signals::new()?;
    let (listener, address) = listen(&args.serve).await?;
    let app = Arc::new(App::new(
        limits(&args.serve),
        args.serve.api_key.clone(),
        local_name(&args.serve, address),
    ));
    let grace = Duration::from_secs(args.serve.grace.into());
    let (stop, stopped) = oneshot::channel();
    let router = routes::routes(Arc::clone(&app), origins);
    let server = server::serve(listener, router, async {
        // Dropped or sent, it is time.
        let _ = stopped.await;
    });
    let server = tokio::spawn(server);
    tell(io::stdout(), format_args!("listening on http://{address}"));

    let load = {
        let app = Arc::clone(&app);
        spawn_blocking(move || load::load(&args, &app).map_err(|error| error.to_string()))
    };
    tokio::pin!(load);
    let loaded = tokio::select! {
        loaded = &mut load => loaded,
        () = signals.next() => {
            app.stop_loading();
            // What it comes to does not matter any more, but it should be over before the
            // program is.
            tokio::select! {
                _ = load => {}
                () = signals.next() => {}
            }
            return Ok(());
        }
    };
    let served = loaded??;
    let engine = served.engine.clone();
    let id = served.id.clone();
    app.serve(served);
    tell(io::stdout(), format_args!("serving {id}"));

    signals.next().await;
    let _ = stop.send(());
    tell(
        io::stderr(),
        format_args!("finishing what is being answered; once more to end at once"),
    );
    let ended = tokio::select! {
        ended = server => ended.map_err(Into::into),
        () = signals.next() => Ok(()),
        () = sleep(grace) => {
            let message = "--grace is over; ending what is still being answered";
            tell(io::stderr(), format_args!("{message}"));
            Ok(())
        }
    };
    // Ends what may still run.
    let engine_ended = stop_engine(engine.clone())?;
    tokio::select! {
        _ = engine_ended => {}
        () = signals.next() => {}
        () = sleep(STOP_TIMEOUT) => {
            let message = "the engine does not end; leaving it";
            tell(io::stderr(), format_args!("{message}"));
        }
    }
    // As the engine left them after its last step, however it ended.
    if let Some(stats) = engine.stats().moe_cache {
        let line = describe_moe_cache_use(&stats.total());
        tell(io::stderr(), format_args!("cache of experts: {line}"));
    }
    ended
}

/// Stops the engine, on a thread of its own: those for what takes longer may all have work, and
/// this has no end where a device does not answer. Ready when it has stopped.
fn stop_engine(engine: Engine) -> io::Result<oneshot::Receiver<()>> {
    let (sender, ended) = oneshot::channel();
    thread::Builder::new()
        .name("stop".to_owned())
        .spawn(move || {
            engine.stop();
            // Nobody may wait any more.
            let _ = sender.send(());
        })?;
    Ok(ended)
}

/// Writes a line. Nobody may be there to read it, and answers go on all the same.
fn tell(mut to: impl Write, line: fmt::Arguments<'_>) {
    let _ = writeln!(to, "{line}");
}

/// The name that the server listens by, if it is for this machine only and lets in anybody who
/// reaches it.
fn local_name(args: &ServeArgs, address: SocketAddr) -> Option<String> {
    let is_open = args.api_key.is_empty() && address.ip().is_loopback();
    is_open.then(|| args.host.clone())
}

async fn listen(args: &ServeArgs) -> Result<(TcpListener, SocketAddr)> {
    let (host, port) = (args.host.as_str(), args.port);
    let listener = TcpListener::bind((host, port))
        .await
        .map_err(|error| format!("--host {host} --port {port}: {error}"))?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

fn limits(args: &ServeArgs) -> Limits {
    let seconds = |n: NonZeroU32| Duration::from_secs(n.get().into());
    Limits {
        max_body: usize::try_from(args.max_body.0).unwrap_or(usize::MAX),
        max_tokens: args.max_tokens.map(NonZeroU32::get),
        deadline: args.timeout.map(seconds),
        queue: args.queue(),
        grammars: args.grammars,
    }
}

fn origins(cors: &[String]) -> Result<Option<Origins>> {
    if cors.is_empty() {
        return Ok(None);
    }
    if cors == ["*"] {
        return Ok(Some(Origins::Any));
    }
    let origins = cors.iter().map(|text| {
        let origin = origin(text);
        origin.map_err(|error| format!("--cors {text}: {error}").into())
    });
    Ok(Some(Origins::These(origins.collect::<Result<_>>()?)))
}

/// A site as browsers write it: in small letters, without the port that is meant anyhow.
fn origin(text: &str) -> Result<HeaderValue> {
    if text == "*" {
        return Err("it means all sites; leave out the others".into());
    }
    let text = text.to_ascii_lowercase();
    let (name, port) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(name), _) => (name, ":443"),
        (None, Some(name)) => (name, ":80"),
        (None, None) => ("", ""),
    };
    if name.is_empty() {
        return Err("a site is http:// or https:// and a name".into());
    }
    if name.contains(['/', '?', '#']) {
        return Err("a site ends with its name or port; leave out what follows".into());
    }
    let site = text.strip_suffix(port).unwrap_or(&text);
    Ok(HeaderValue::from_str(site)?)
}

#[cfg(test)]
mod tests {
    use super::origin;

    #[test]
    fn sites_are_written_as_browsers_write_them() {
        for (text, site) in [
            ("https://example.org", "https://example.org"),
            ("https://Example.ORG", "https://example.org"),
            ("HTTPS://example.org:443", "https://example.org"),
            ("http://example.org:80", "http://example.org"),
            ("http://example.org:443", "http://example.org:443"),
            ("https://example.org:8443", "https://example.org:8443"),
            ("http://[::1]:80", "http://[::1]"),
        ] {
            assert_eq!(origin(text).unwrap(), site, "{text}");
        }
        for text in ["https://", "ftp://example.org", "example.org", "*"] {
            assert!(origin(text).is_err(), "{text}");
        }
    }
}
