//! Samplers that keep to a JSON schema.

use std::fmt;
use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Map, Value};

use super::candidates::Candidates;
use super::custom::CustomSampler;
use super::stage::Stage;
use super::{SamplerChain, SamplerError};
use crate::error::Result;
use crate::ffi::catch_panic;
use crate::model::{Token, Vocab};

/// How deep a schema can be nested. It is read recursively, and JSON that was parsed is no
/// deeper.
const MAX_DEPTH: usize = 128;

/// What can be between the parts of a JSON text: some models would otherwise never end it.
const WHITE_SPACE: &str = r"[\x20\x0A\x0D\x09]{1,40}";

/// What JSON schemas are compiled with for a vocabulary: its tokens in the form of a tree.
///
/// Made once for a model, which takes a moment, and then as cheap to clone as the model.
///
/// ```no_run
/// use llama_moe::{Backend, JsonGuide, Model, ModelParams, SamplerChain};
/// use serde_json::json;
///
/// let backend = Backend::init()?;
/// let model = Model::load(&backend, "gpt-oss-20b.gguf", ModelParams::default())?;
/// let guide = JsonGuide::new(&model.vocab())?;
/// let schema = json!({
///     "type": "object",
///     "properties": { "city": { "type": "string" }, "degrees": { "type": "integer" } },
///     "required": ["city", "degrees"],
///     "additionalProperties": false,
/// });
/// let sampler = SamplerChain::new().json_schema(&guide, &schema).temp(0.7).dist(42)?;
/// # Ok::<(), llama_moe::Error>(())
/// ```
///
/// Rests on the crate [`llguidance`].
#[derive(Clone)]
pub struct JsonGuide {
    factory: Arc<ParserFactory>,
    vocab: Vocab,
}

impl JsonGuide {
    /// For the vocabulary of a model.
    ///
    /// # Errors
    /// [`VocabError`](crate::VocabError) if there is no vocabulary;
    /// [`SamplerError::JsonSchema`] if it has no token that ends a generation.
    pub fn new(vocab: &Vocab) -> Result<Self> {
        vocab.require()?;
        let n_tokens = vocab.n_tokens();
        let mut words = Vec::with_capacity(n_tokens as usize);
        let mut ends = Vec::new();
        for id in 0..n_tokens {
            let token = Token(id as i32);
            if vocab.is_eog(token) {
                ends.push(id);
            }
            words.push(word(vocab, token)?);
        }
        let Some(&end) = ends.first() else {
            let reason = "the vocabulary has no token that ends a generation".to_owned();
            return Err(SamplerError::JsonSchema { reason }.into());
        };
        let factory = guarded(|| {
            let info = TokRxInfo::new(n_tokens, end);
            let tree = TokTrie::from(&info, &words).with_eos_tokens(&ends);
            let tokens: TokEnv = Arc::new(ApproximateTokEnv::new(tree));
            let mut factory = ParserFactory::new_simple(&tokens).map_err(|e| e.to_string())?;
            factory.quiet();
            factory.limits_mut().verbose_errors = false;
            Ok(factory)
        })?;
        Ok(Self {
            factory: Arc::new(factory),
            vocab: vocab.clone(),
        })
    }

    /// A matcher that is at the beginning of a text of this schema.
    fn matcher(&self, schema: &Value) -> Result<Matcher, SamplerError> {
        if depth(schema) > MAX_DEPTH {
            let reason = format!("it is nested more than {MAX_DEPTH} deep");
            return Err(SamplerError::JsonSchema { reason });
        }
        let grammar = TopLevelGrammar::from_json_schema(with_white_space(schema));
        guarded(|| {
            let parser = self.factory.create_parser(grammar);
            let matcher = Matcher::new(parser);
            matcher.get_error().map_or(Ok(matcher), Err)
        })
    }
}

impl SamplerChain {
    /// Rules out the tokens with which the text would not become JSON of this schema. A text
    /// that is complete ends with the next token.
    ///
    /// Looks at every candidate. Put it before samplers that keep only a few, which might keep
    /// none that the schema allows.
    ///
    /// The crate [`llguidance`] says what of JSON Schema it knows; what it does not know is an
    /// error, and nothing is left out. `$ref` is followed within the schema only.
    #[doc(alias = "--json-schema")]
    pub fn json_schema(self, guide: &JsonGuide, schema: &Value) -> Self {
        self.stage(|chain| {
            chain.use_vocab(&guide.vocab)?;
            let matcher = guide.matcher(schema)?;
            Ok(Stage::Rust(Box::new(JsonSchema { matcher })))
        })
    }
}

/// Where in a JSON text a generation is.
struct JsonSchema {
    matcher: Matcher,
}

impl CustomSampler for JsonSchema {
    fn name(&self) -> &str {
        "json-schema"
    }

    fn apply(&mut self, candidates: &mut Candidates) {
        match self.matcher.compute_mask_or_eos() {
            Ok(allowed) => candidates.retain(|candidate| {
                u32::try_from(candidate.token.0).is_ok_and(|id| allowed.is_allowed(id))
            }),
            // Nothing is left, and the chain names this sampler.
            Err(error) => {
                tracing::error!("the JSON schema cannot go on: {error}");
                candidates.truncate(0);
            }
        }
    }

    fn accept(&mut self, token: Token) {
        // A token that was not allowed leaves the matcher in an error, which the next
        // `apply` tells.
        let id = u32::try_from(token.0).unwrap_or(u32::MAX);
        if !self.matcher.is_stopped() {
            let _ = self.matcher.consume_token(id);
        }
    }

    fn reset(&mut self) {
        // It can only fail if it has failed already, which the next `apply` tells.
        let _ = self.matcher.reset();
    }

    fn try_clone(&self) -> Option<Box<dyn CustomSampler>> {
        let matcher = self.matcher.deep_clone();
        Some(Box::new(Self { matcher }))
    }
}

/// A token's bytes, in the tree's form: what has no text of its own is marked by a byte
/// that no text has.
fn word(vocab: &Vocab, token: Token) -> Result<Vec<u8>> {
    const MARK: u8 = TokTrie::SPECIAL_TOKEN_MARKER;
    let bytes = vocab.piece(token, false)?;
    if !bytes.is_empty() {
        // The byte itself would be taken for the mark; it is in no JSON text either.
        let is_mark = bytes[0] == MARK;
        return Ok(if is_mark { Vec::new() } else { bytes });
    }
    let name = vocab.piece(token, true)?;
    Ok([&[MARK], name.as_slice()].concat())
}

/// The schema with a bound for white space, unless it has such options itself.
fn with_white_space(schema: &Value) -> Value {
    const OPTIONS: &str = "x-guidance";
    let mut schema = schema.clone();
    if let Value::Object(object) = &mut schema
        && !object.contains_key(OPTIONS)
    {
        let mut options = Map::new();
        options.insert("whitespace_pattern".to_owned(), WHITE_SPACE.into());
        object.insert(OPTIONS.to_owned(), Value::Object(options));
    }
    schema
}

/// How deep a value is nested, as far as it matters.
fn depth(value: &Value) -> usize {
    let mut deepest = 0;
    let mut open = vec![(value, 1)];
    while let Some((value, depth)) = open.pop() {
        deepest = deepest.max(depth);
        if depth > MAX_DEPTH {
            break;
        }
        match value {
            Value::Array(items) => open.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(items) => open.extend(items.values().map(|item| (item, depth + 1))),
            _ => {}
        }
    }
    deepest
}

/// Runs code that says it may panic on what it does not expect.
fn guarded<T>(code: impl FnOnce() -> Result<T, String>) -> Result<T, SamplerError> {
    let mut panic = None;
    catch_panic(&mut panic, code)
        .unwrap_or_else(|| Err(panic.unwrap_or_default()))
        .map_err(|reason| SamplerError::JsonSchema { reason })
}

impl fmt::Debug for JsonGuide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonGuide")
            .field("vocab", &self.vocab)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{MAX_DEPTH, depth, with_white_space};

    #[test]
    fn depth_is_counted_without_recursion() {
        assert_eq!(depth(&json!(1)), 1);
        assert_eq!(depth(&json!({"a": [1, {"b": 2}]})), 4);
        let deep = (0..MAX_DEPTH + 50).fold(Value::Null, |inner, _| json!([inner]));
        assert!(depth(&deep) > MAX_DEPTH);
    }

    #[test]
    fn a_schemas_own_options_stay() {
        let own = json!({"type": "object", "x-guidance": {"whitespace_flexible": false}});
        assert_eq!(with_white_space(&own), own);
        assert_ne!(with_white_space(&json!({})), json!({}));
        assert_eq!(with_white_space(&json!(true)), json!(true));
    }
}
