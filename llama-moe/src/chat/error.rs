//! What can go wrong in a chat.

/// Why a chat cannot go on, or a prompt cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// The model came without a chat template.
    #[error(
        "the model has no chat template; choose one of llama.cpp's with \
         ChatTemplate::builtin, or give your own to ChatTemplate::jinja"
    )]
    NoTemplate,

    /// llama.cpp has no built-in template of this name.
    #[error("there is no built-in chat template '{name}'; there are: {}", available.join(", "))]
    UnknownBuiltin {
        /// The name that was asked for.
        name: String,
        /// The names that exist.
        available: Vec<String>,
    },

    /// A built-in template can only format roles and contents.
    #[error("the built-in chat template '{name}' has no place for {what}; use a Jinja template")]
    BuiltinLacks {
        /// The template's name.
        name: String,
        /// What the conversation has: "tools", "tool calls".
        what: &'static str,
    },

    /// The template has a mistake, or does something that the engine cannot do.
    #[error("the chat template fails{}: {reason}", line.map(|n| format!(" in line {n}")).unwrap_or_default())]
    Template {
        /// The line of the template, from 1, where it is known.
        line: Option<usize>,
        /// The engine's own words.
        reason: String,
    },

    /// The template refused the conversation (`raise_exception`), such as a system message
    /// that the model was not trained with.
    #[error("the chat template refuses the conversation: {reason}")]
    Refused {
        /// The template's own words.
        reason: String,
    },

    /// The template, or what it was given, went beyond a limit that keeps it from using up
    /// the machine.
    #[error("the chat template goes beyond the limit of {limit}")]
    TemplateLimit {
        /// The limit, in words.
        limit: String,
    },

    /// A variable of the template cannot be set: the chat sets it.
    #[error("the template's variable '{name}' is set by the chat itself")]
    ReservedVariable {
        /// The variable.
        name: String,
    },

    /// A stop string is empty: everything would end with it.
    #[error("a stop string is empty")]
    EmptyStopString,

    /// The template makes nothing of the conversation.
    #[error("the chat template makes an empty prompt of the conversation")]
    EmptyPrompt,

    /// The conversation does not fit into the context. Nothing has been computed.
    #[error(
        "the prompt has {n_prompt} tokens, but the context only {n_ctx}; make a larger context, \
         or choose Overflow::Shift to leave out the oldest turns"
    )]
    PromptTooLong {
        /// Tokens of the prompt, after everything was left out that could be.
        n_prompt: usize,
        /// Tokens that the context holds.
        n_ctx: usize,
    },

    /// The memory cannot move positions, as [`Overflow::Shift`](crate::Overflow::Shift) needs.
    #[error("this model's memory cannot be shifted; choose Overflow::Error")]
    CannotShift,
}
