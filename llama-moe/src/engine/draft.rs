//! The draft: a smaller model that guesses what the engine's model will say.

use super::drafter::Drafter;
use super::error::EngineError;
use crate::context::{AbortToken, Context, ContextParams};
use crate::error::{Error, Result};
use crate::model::{Model, Token, TokenAttr, Vocab};
use crate::placement::MoeCacheError;

/// Tokens of answers in a step that drafts, at most, guessed ones included: it is not to take much
/// longer than a step without.
pub(super) const STEP_TOKENS: usize = 16;

/// Tokens of a draft unless set.
const DEFAULT_N_DRAFT: u32 = 4;

/// A smaller model that guesses what an engine's model will say, and how it does.
///
/// It has the same vocabulary, and a memory of its own.
///
/// ```no_run
/// use llama_moe::engine::{DraftParams, Engine, EngineParams};
/// use llama_moe::{Backend, Model, ModelParams};
///
/// let backend = Backend::init()?;
/// let model = Model::load(&backend, "Qwen3-32B-Q4_K_M.gguf", ModelParams::default())?;
/// let draft = Model::load(&backend, "Qwen3-0.6B-Q8_0.gguf", ModelParams::default())?;
/// let draft = DraftParams::new(&draft).with_n_draft(6);
/// let engine = Engine::new(&model, EngineParams::default().with_draft(draft))?;
/// # Ok::<(), llama_moe::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct DraftParams {
    model: Model,
    n_draft: u32,
    context: Option<ContextParams>,
}

impl DraftParams {
    /// Drafts of this model.
    #[doc(alias = "--model-draft")]
    pub fn new(model: &Model) -> Self {
        Self {
            model: model.clone(),
            n_draft: DEFAULT_N_DRAFT,
            context: None,
        }
    }

    /// Tokens that are guessed of an answer at a time, from 1 to 15; 4 unless set. They are fewer
    /// where several answers are generated, and where the last guesses were wrong.
    #[doc(alias = "--draft-max")]
    pub fn with_n_draft(mut self, n: u32) -> Self {
        self.n_draft = n;
        self
    }

    /// The draft's context. Unless set: the defaults, with the sizes and threads of the
    /// engine's.
    ///
    /// The engine itself says how many sequences and outputs there are, that they share a buffer,
    /// that layers with sliding-window attention keep all positions, and which abort token the
    /// context looks at. A cache of experts is refused: [`MoeCacheError::Draft`].
    pub fn with_context(mut self, context: ContextParams) -> Self {
        self.context = Some(context);
        self
    }

    /// Whether an engine for this model can work with it.
    pub(super) fn check(&self, model: &Model) -> Result<()> {
        if !(1..STEP_TOKENS as u32).contains(&self.n_draft) {
            return Err(Error::Parameter {
                parameter: "with_n_draft",
                value: self.n_draft.to_string(),
                reason: format!("it is a number from 1 to {}", STEP_TOKENS - 1),
            });
        }
        let has_cache = |context: &ContextParams| context.moe_cache_size() > 0;
        if self.context.as_ref().is_some_and(has_cache) {
            return Err(MoeCacheError::Draft.into());
        }
        if self.model.has_encoder() {
            return Err(EngineError::DraftEncodes.into());
        }
        for (model, whose) in [(model, "model"), (&self.model, "draft")] {
            if model.is_recurrent() || model.is_hybrid() {
                return Err(EngineError::DraftNotTakenBack { whose }.into());
            }
        }
        check_vocabularies(&model.vocab(), &self.model.vocab())
    }

    /// The draft with a context for as many answers as the engine's has.
    pub(super) fn drafter(&self, context: &Context, abort: &AbortToken) -> Result<Drafter> {
        let given = self.context.clone().unwrap_or_else(|| {
            let (n_threads, n_threads_batch) = context.n_threads();
            ContextParams::default()
                .with_n_ctx(context.n_ctx())
                .with_n_batch(context.n_batch())
                .with_n_ubatch(context.n_ubatch())
                .with_n_threads(n_threads)
                .with_n_threads_batch(n_threads_batch)
        });
        let slots = context.n_seq_max();
        let params = given
            .with_n_seq_max(slots)
            .with_n_outputs_max(slots)
            .with_kv_unified(true)
            .with_swa_full(true)
            .with_embeddings(false)
            .with_abort_token(abort.clone());
        Drafter::new(
            &self.model,
            params,
            &context.model().vocab(),
            self.n_draft as usize,
        )
    }
}

/// Whether a token means the same to both. Vocabularies of one family can be padded to different
/// sizes.
fn check_vocabularies(model: &Vocab, draft: &Vocab) -> Result<()> {
    if draft.is_same(model) {
        return Ok(());
    }
    if draft.vocab_type() != model.vocab_type() {
        let (own, other) = (draft.vocab_type(), model.vocab_type());
        return Err(differ(format!("its type is {own:?}, not {other:?}")));
    }
    for (name, own, other) in [
        ("beginning of a text", draft.bos(), model.bos()),
        ("end of a text", draft.eos(), model.eos()),
    ] {
        if own != other {
            let (own, other) = (shown(own), shown(other));
            return Err(differ(format!("its {name} is {own}, not {other}")));
        }
    }
    let n_common = model.n_tokens().min(draft.n_tokens());
    for token in (0..).map(Token).take(n_common as usize) {
        let (own, other) = (draft.token(token)?.text, model.token(token)?.text);
        if own != other {
            return Err(differ(format!(
                "its token {token} is {own:?}, not {other:?}"
            )));
        }
    }
    for vocab in [model, draft] {
        let tokens = (0..).map(Token).take(vocab.n_tokens() as usize);
        for token in tokens.skip(n_common as usize) {
            let info = vocab.token(token)?;
            if !info.attr.contains(TokenAttr::UNUSED) {
                let (own, other) = (draft.n_tokens(), model.n_tokens());
                let sizes = format!("it has {own} tokens, not {other}");
                let text = info.text;
                return Err(differ(format!(
                    "{sizes}, and token {token}, {text:?}, is in use"
                )));
            }
        }
    }
    Ok(())
}

fn differ(difference: String) -> Error {
    EngineError::DraftVocabulary { difference }.into()
}

fn shown(token: Option<Token>) -> String {
    token.map_or_else(|| "none".to_owned(), |token| token.to_string())
}
