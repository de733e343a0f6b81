//! A chat with a model in the terminal, or one reply for a script.
//!
//! ```text
//! cargo run --release --example chat
//! cargo run --release --example chat -- --prompt "How do I keep the experts on the CPU?" --json
//! cargo run --release --example chat --features cuda -- --model gpt-oss-20b.gguf --cpu-moe
//! ```

mod command;
mod reply;
mod report;
mod session;
mod stats;

use std::io::{self, Write};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use common::{
    ContextArgs, Interrupt, LogArgs, ModelArgs, MoeCacheArgs, Result, SamplingArgs, VramArgs,
    moe_cache_size, write_placement_svg,
};
use llama_moe::{Backend, ChatError, ChatParams, ChatTemplate, Error, Model};
use report::Report;

/// Chat with a model whose experts live where you put them
#[derive(Parser)]
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
    sampling: SamplingArgs,

    #[command(flatten)]
    chat: ChatArgs,

    #[command(flatten)]
    log: LogArgs,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Chat")]
struct ChatArgs {
    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,

    /// One of llama.cpp's own templates, such as chatml [default: the model's]
    #[arg(long, value_name = "NAME")]
    chat_template: Option<String>,

    /// The most tokens of one reply [default: as many as the context has room for]
    #[arg(short = 'n', long, value_name = "N")]
    max_tokens: Option<NonZeroU32>,

    /// Write a picture of where the tensors are: layers by roles, area by bytes, colour by
    /// memory
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,

    /// Ask one question, print the reply, and end
    #[arg(short, long, value_name = "TEXT")]
    prompt: Option<String>,

    /// With --prompt: one JSON object on stdout, and nothing else
    ///
    /// Its fields: reply; model (path, description); prompt_tokens, of which the context
    /// still held reused_tokens; generated_tokens; ttft_ms, the time to the first token;
    /// time_per_output_token_ms, the mean between two tokens; finish, why the reply ended
    /// ("end", "stop", "length", "context full", "aborted"); seed; placement (load_mode;
    /// memory, with the bytes of each buffer type; rules, with the tensors of each;
    /// misplaced); moe_cache, the cache of experts (size, bytes, enough, groups, not_cached,
    /// hit_rate, hits, misses, uploaded_bytes); llama_cpp, its version. What does not apply is null.
    #[arg(long, requires = "prompt")]
    json: bool,
}

fn main() -> ExitCode {
    common::exit_code(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    args.log.init()?;
    let backend = Backend::init()?;
    let plan = args
        .vram
        .plan(&backend, &args.model, &args.context, &args.moe_cache)?;
    let cache_size = moe_cache_size(plan.as_ref(), &args.moe_cache);
    let model = match plan {
        None => {
            let params = args.moe_cache.model_params(args.model.params(&backend)?);
            args.model.load_with(&backend, params)?
        }
        Some(plan) => {
            writeln!(io::stderr(), "{plan}\n")?;
            let preview = plan.preview().clone();
            let model = args.model.load_with(&backend, plan.into())?;
            model.placement()?.verify(&preview)?;
            model
        }
    };
    if let Some(path) = &args.chat.svg {
        write_placement_svg(&model, cache_size, path)?;
    }
    let sampler = args.sampling.sampler(&model.vocab())?;
    let seed = sampler.seed();
    let interrupt = Interrupt::new()?;
    let params = params(args, &model, cache_size, &interrupt)?.with_sampler(sampler);
    let mut chat = model.chat(params)?;
    match &args.chat.prompt {
        None => session::run(&mut chat, &interrupt),
        Some(prompt) if args.chat.json => {
            let (text, stats) = reply::collect(&mut chat, prompt, &interrupt)?;
            let report = Report::new(&mut chat, &text, &stats, seed)?;
            Ok(writeln!(
                io::stdout(),
                "{}",
                serde_json::to_string(&report)?
            )?)
        }
        Some(prompt) => reply::stream(&mut chat, prompt, &interrupt),
    }
}

fn params(
    args: &Args,
    model: &Model,
    cache_size: u64,
    interrupt: &Interrupt,
) -> Result<ChatParams> {
    let context = args.context.params(model).with_moe_cache_size(cache_size);
    let mut params = ChatParams::default()
        .with_context(context.with_abort_token(interrupt.token()))
        .with_template(template(args.chat.chat_template.as_deref(), model)?);
    if let Some(system) = &args.chat.system {
        params = params.with_system(system);
    }
    if let Some(n) = args.chat.max_tokens {
        params = params.with_max_tokens(n.get());
    }
    Ok(params)
}

fn template(name: Option<&str>, model: &Model) -> Result<ChatTemplate> {
    if let Some(name) = name {
        return Ok(ChatTemplate::builtin(name)?);
    }
    ChatTemplate::of(model).map_err(|error| match error {
        Error::Chat(ChatError::NoTemplate) => format!(
            "the model has no chat template; --chat-template names one of llama.cpp's: {}",
            ChatTemplate::builtin_names().join(", ")
        )
        .into(),
        error => error.into(),
    })
}
