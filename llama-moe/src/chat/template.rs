//! From messages to the text of a prompt.

use std::time::SystemTime;

use serde_json::{Map, Value};

use super::builtin;
use super::error::ChatError;
use super::jinja::Jinja;
use super::message::Message;
use crate::error::Result;
use crate::model::{Model, Token, Vocab};

/// How a model wants a conversation written down.
///
/// Models carry a Jinja template for this, which [`jinja`](Self::jinja) runs
/// as Hugging Face's `transformers` does: blocks trimmed, `raise_exception`,
/// `strftime_now`, `tojson` and Python's methods at hand. llama.cpp itself runs no
/// templates, but has some common ones [built in](Self::builtin).
///
/// A template is part of a file that somebody else made. It cannot reach anything but
/// the conversation, and one that loops or grows without end is stopped:
/// [`ChatError::TemplateLimit`].
///
/// ```
/// use llama_moe::{ChatTemplate, Message, RenderOptions};
///
/// let template = ChatTemplate::jinja(
///     "{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}\
///      {% if add_generation_prompt %}[assistant] {% endif %}",
///     None,
///     None,
/// )?;
/// let prompt = template.render(&[Message::user("Hello")], &RenderOptions::default())?;
/// assert_eq!(prompt, "[user] Hello\n[assistant] ");
/// # Ok::<(), llama_moe::Error>(())
/// ```
#[derive(Debug)]
pub struct ChatTemplate(Kind);

#[derive(Debug)]
enum Kind {
    Jinja {
        template: Box<Jinja>,
        bos: String,
        eos: String,
    },
    Builtin(String),
}

/// What a template is told beside the messages.
#[derive(Clone, Debug, PartialEq)]
pub struct RenderOptions {
    add_generation_prompt: bool,
    tools: Vec<Value>,
    documents: Vec<Value>,
    variables: Map<String, Value>,
    now: Option<SystemTime>,
}

impl Default for RenderOptions {
    fn default() -> Self {
        Self {
            add_generation_prompt: true,
            tools: Vec::new(),
            documents: Vec::new(),
            variables: Map::new(),
            now: None,
        }
    }
}

impl RenderOptions {
    /// Whether the prompt ends with the beginning of the assistant's next message; true
    /// unless set.
    #[must_use]
    pub fn with_add_generation_prompt(mut self, yes: bool) -> Self {
        self.add_generation_prompt = yes;
        self
    }

    /// The tools that the model may call, each in the JSON form of the OpenAI API:
    /// `{"type": "function", "function": {"name", "description", "parameters"}}`.
    #[must_use]
    pub fn with_tools(mut self, tools: impl IntoIterator<Item = Value>) -> Self {
        self.tools = tools.into_iter().collect();
        self
    }

    /// Documents for models that answer from them, in the form that the template asks for.
    #[must_use]
    pub fn with_documents(mut self, documents: impl IntoIterator<Item = Value>) -> Self {
        self.documents = documents.into_iter().collect();
        self
    }

    /// A variable of the template's own, such as `enable_thinking` or `reasoning_effort`.
    #[must_use]
    #[doc(alias = "--chat-template-kwargs")]
    pub fn with_variable(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    /// The time that `strftime_now` tells, in UTC; the time of rendering unless set.
    #[must_use]
    pub fn with_now(mut self, now: SystemTime) -> Self {
        self.now = Some(now);
        self
    }

    /// As [`with_now`](Self::with_now), unless a time is set.
    pub(super) fn or_now(mut self, now: SystemTime) -> Self {
        self.now.get_or_insert(now);
        self
    }
}

impl ChatTemplate {
    /// The model's own template, the one that it names no other for.
    ///
    /// Rests on `llama_model_chat_template`.
    ///
    /// # Errors
    /// [`ChatError::NoTemplate`] if it came without one, [`ChatError::Template`] if that one
    /// has a mistake.
    pub fn of(model: &Model) -> Result<Self> {
        let source = model.chat_template(None).ok_or(ChatError::NoTemplate)?;
        let vocab = model.vocab();
        let text = |token: Option<Token>| -> Result<Option<String>> {
            token.map(|token| Ok(vocab.token(token)?.text)).transpose()
        };
        let (bos, eos) = (text(vocab.bos())?, text(vocab.eos())?);
        Self::jinja(&source, bos.as_deref(), eos.as_deref())
    }

    /// A Jinja template. `bos` and `eos` are the texts of the tokens that begin and end a
    /// sequence; the template knows them as `bos_token` and `eos_token`.
    ///
    /// # Errors
    /// [`ChatError::Template`] with the line of a mistake, [`ChatError::TemplateLimit`] if
    /// it is too large.
    #[doc(alias = "--chat-template")]
    pub fn jinja(source: &str, bos: Option<&str>, eos: Option<&str>) -> Result<Self> {
        Ok(Self(Kind::Jinja {
            template: Box::new(Jinja::compile(source)?),
            bos: bos.unwrap_or_default().to_owned(),
            eos: eos.unwrap_or_default().to_owned(),
        }))
    }

    /// One of the templates that are built into llama.cpp, by its name there, such as
    /// `chatml` or `llama3`. They write down roles and contents, and nothing else: tools
    /// and variables are errors when rendering.
    ///
    /// Rests on `llama_chat_apply_template`.
    ///
    /// # Errors
    /// [`ChatError::UnknownBuiltin`], with the names that there are.
    pub fn builtin(name: &str) -> Result<Self> {
        let available = builtin::names();
        if !available.iter().any(|known| known == name) {
            return Err(ChatError::UnknownBuiltin {
                name: name.to_owned(),
                available,
            }
            .into());
        }
        Ok(Self(Kind::Builtin(name.to_owned())))
    }

    /// The names that [`builtin`](Self::builtin) knows.
    ///
    /// Rests on `llama_chat_builtin_templates`.
    #[must_use]
    pub fn builtin_names() -> Vec<String> {
        builtin::names()
    }

    /// The prompt for a conversation.
    ///
    /// # Errors
    /// [`ChatError::Refused`] if the template does not accept the conversation,
    /// [`ChatError::Template`] if it fails, [`ChatError::TemplateLimit`] if it takes too
    /// much, [`ChatError::ReservedVariable`] for a variable that is not free,
    /// [`ChatError::BuiltinLacks`] if a built-in template is told more than it can write.
    pub fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<String> {
        match &self.0 {
            Kind::Jinja { template, bos, eos } => {
                let variables = variables(messages, options, bos, eos)?;
                let now = options.now.unwrap_or_else(SystemTime::now);
                Ok(template.render(&variables, messages.len(), now)?)
            }
            Kind::Builtin(name) => builtin::render(name, messages, options),
        }
    }

    /// The prompt for a conversation as tokens, ready for a [`Batch`](crate::Batch): what a
    /// [`Chat`](crate::Chat) computes.
    ///
    /// Control tokens are found in the text. The token that begins a text is put before it
    /// once, where the vocabulary wants it, whether the template writes it or not.
    ///
    /// Rests on `llama_tokenize`.
    ///
    /// # Errors
    /// As [`render`](Self::render) and [`Vocab::tokenize`]; [`ChatError::EmptyPrompt`] if the
    /// template makes nothing of the conversation.
    pub fn tokenize(
        &self,
        vocab: &Vocab,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<Vec<Token>> {
        let text = self.render(messages, options)?;
        self.tokenize_rendered(vocab, &text)
    }

    /// The tokens of what [`render`](Self::render) returned.
    pub fn tokenize_rendered(&self, vocab: &Vocab, text: &str) -> Result<Vec<Token>> {
        let mut tokens = vocab.tokenize(text, false, true)?;
        // Most templates write the token themselves, and twice would be once too often.
        if vocab.adds_bos() && tokens.first().copied() != vocab.bos() {
            tokens.splice(0..0, vocab.bos());
        }
        if tokens.is_empty() {
            return Err(ChatError::EmptyPrompt.into());
        }
        Ok(tokens)
    }
}

impl RenderOptions {
    pub(super) fn adds_generation_prompt(&self) -> bool {
        self.add_generation_prompt
    }

    /// What is set that only a Jinja template can use.
    pub(super) fn jinja_only(&self) -> Option<&'static str> {
        if !self.tools.is_empty() {
            Some("tools")
        } else if !self.documents.is_empty() {
            Some("documents")
        } else if !self.variables.is_empty() {
            Some("variables")
        } else {
            None
        }
    }
}

/// The variables of a template. As in `transformers`, tools and documents that were not
/// given are none.
fn variables(
    messages: &[Message],
    options: &RenderOptions,
    bos: &str,
    eos: &str,
) -> Result<Value, ChatError> {
    let mut variables = Map::new();
    let messages = messages.iter().map(Message::to_json).collect();
    variables.insert("messages".to_owned(), Value::Array(messages));
    variables.insert(
        "add_generation_prompt".to_owned(),
        options.add_generation_prompt.into(),
    );
    variables.insert("bos_token".to_owned(), bos.into());
    variables.insert("eos_token".to_owned(), eos.into());
    for (name, list) in [("tools", &options.tools), ("documents", &options.documents)] {
        let value = if list.is_empty() {
            Value::Null
        } else {
            Value::Array(list.clone())
        };
        variables.insert(name.to_owned(), value);
    }
    for (name, value) in &options.variables {
        if variables.contains_key(name) {
            return Err(ChatError::ReservedVariable { name: name.clone() });
        }
        variables.insert(name.clone(), value.clone());
    }
    Ok(Value::Object(variables))
}
