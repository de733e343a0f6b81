//! Loading the model, and what is told about it.

use std::fs;
use std::io;

use common::{MoeCacheReport, PlacementReport, PlanReport, Result, moe_cache_size};
use llama_moe::engine::{DraftParams, Engine, EngineParams};
use llama_moe::gguf::Header;
use llama_moe::{Backend, ChatTemplate, Model, Picture, Plan, Token, Vocab, VocabType};

use crate::openai::unix_time;
use crate::state::{App, ChatForm, Served};
use crate::tools::Format;
use crate::{Args, ServeArgs, tell};

/// Loads the model and starts its engine.
pub fn load(args: &Args, app: &App) -> Result<Served> {
    let backend = Backend::init()?;
    let slots = args.serve.slots.get();
    let kv_unified = !args.serve.no_kv_unified;
    let context = args.context.clone().shared_by(slots, kv_unified);
    // Before there is a plan, for it to see what is left.
    let draft = draft(args, &backend)?;
    let plan = args
        .vram
        .plan(&backend, &args.model, &context, &args.moe_cache)?;
    let cache_size = moe_cache_size(plan.as_ref(), &args.moe_cache);
    if plan.as_ref().is_some_and(Plan::is_moe_cache_left_out) {
        let message = "no cache of experts: all experts that could be cached are on devices";
        tell(io::stderr(), format_args!("{message}"));
    }
    let watch = |share| app.set_loaded(share);
    let (model, plan) = match plan {
        None => {
            let params = args.moe_cache.model_params(args.model.params(&backend)?);
            (args.model.load_watched(&backend, params, watch)?, None)
        }
        Some(plan) => {
            let report = PlanReport::of(&plan, None);
            let preview = plan.preview().clone();
            let model = args.model.load_watched(&backend, plan.into(), watch)?;
            model.placement()?.verify(&preview)?;
            (model, Some(report))
        }
    };

    let mut params = EngineParams::default()
        .with_slots(slots)
        .with_queue(args.serve.queue())
        .with_context(context.params(&model).with_moe_cache_size(cache_size))
        .with_kv_unified(kv_unified)
        .with_n_ctx_per_request(context.n_ctx(&model));
    if let Some(draft) = draft {
        params = params.with_draft(draft);
    }
    let engine = Engine::new(&model, params)?;
    let placement = PlacementReport::of(&model)?;
    let picture = match &placement {
        None => None,
        Some(_) => {
            let header = Header::read(model.path())?;
            let picture = Picture::of_placement(&model.placement()?, &header);
            Some(match engine.moe_cache() {
                Some(layout) => picture.with_moe_cache(layout).svg(),
                None => picture.svg(),
            })
        }
    };
    let moe_cache = engine.moe_cache();
    let moe_cache = moe_cache.map(|layout| MoeCacheReport::of(layout, Some(&model)));
    Ok(Served {
        id: name(&args.serve, &model),
        created: unix_time(),
        longest_piece: longest_piece(&model.vocab())?,
        vocab: model.vocab(),
        chat: chat_form(&args.serve, &model)?,
        engine,
        placement,
        moe_cache,
        plan,
        picture,
        model,
    })
}

fn draft(args: &Args, backend: &Backend) -> Result<Option<DraftParams>> {
    let Some(path) = &args.serve.draft_model else {
        return Ok(None);
    };
    let params = args.model.params_beside(backend)?;
    let loaded = Model::load(backend, path, params);
    let model = loaded.map_err(|error| format!("--draft-model {}: {error}", path.display()))?;
    let params = DraftParams::new(&model);
    Ok(Some(match args.serve.draft_tokens {
        None => params,
        Some(n) => params.with_n_draft(n),
    }))
}

fn name(args: &ServeArgs, model: &Model) -> String {
    let stem = || model.path().file_stem().unwrap_or_default();
    let alias = args.alias.clone();
    alias.unwrap_or_else(|| stem().to_string_lossy().into_owned())
}

fn longest_piece(vocab: &Vocab) -> Result<Option<usize>> {
    if !matches!(vocab.vocab_type(), VocabType::Bpe | VocabType::Spm) {
        return Ok(None);
    }
    let ids = 0..i32::try_from(vocab.n_tokens())?;
    let mut longest = None;
    for id in ids {
        longest = longest.max(Some(vocab.piece(Token(id), true)?.len()));
    }
    Ok(longest)
}

/// How conversations are written down. A model without a template can still complete and embed;
/// a template that was named has to be one.
fn chat_form(args: &ServeArgs, model: &Model) -> Result<Result<ChatForm, String>> {
    let source = match &args.chat_template {
        Some(path) => {
            let name = path.display();
            let read = fs::read_to_string(path);
            Some(read.map_err(|error| format!("--chat-template {name}: {error}"))?)
        }
        None => model.chat_template(None),
    };
    let Some(source) = source else {
        let message = "the model has no chat template; start the server with --chat-template FILE";
        return Ok(Err(message.to_owned()));
    };
    let vocab = model.vocab();
    let text = |token: Option<Token>| -> Result<Option<String>> {
        Ok(token
            .map(|token| vocab.token(token))
            .transpose()?
            .map(|info| info.text))
    };
    let (bos, eos) = (text(vocab.bos())?, text(vocab.eos())?);
    let template = ChatTemplate::jinja(&source, bos.as_deref(), eos.as_deref());
    match (template, &args.chat_template) {
        (Ok(template), _) => Ok(Ok(ChatForm {
            template,
            format: Format::of(&source),
            has_developer: source.contains("developer"),
        })),
        (Err(error), Some(path)) => {
            Err(format!("--chat-template {}: {error}", path.display()).into())
        }
        (Err(error), None) => Ok(Err(error.to_string())),
    }
}
