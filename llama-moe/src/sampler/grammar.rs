//! Samplers that keep to a grammar.

use super::stage::Stage;
use super::{SamplerChain, SamplerError};
use crate::error::{Error, FailureKind, Result};
use crate::ffi::{Failure, Regex, SamplerHandle, c_string};
use crate::model::{Token, Vocab};

impl SamplerChain {
    /// Rules out the tokens with which the text would leave a grammar in GBNF, llama.cpp's
    /// form of BNF, that begins with the rule `root`.
    ///
    /// llama.cpp follows all readings of the text so far at a time. A grammar of which a text can
    /// be read in more ways with each character, such as
    /// `root ::= "a" root "b" | "a" root "c"`, takes twice the time and memory for each: do not
    /// take grammars from people you do not know.
    ///
    /// Looks at every candidate. Put it before samplers that keep only a few, which might
    /// keep none that the grammar allows.
    ///
    /// Rests on `llama_sampler_init_grammar`.
    #[doc(alias = "--grammar")]
    pub fn grammar(self, vocab: &Vocab, grammar: &str, root: &str) -> Self {
        self.stage(|chain| {
            chain.use_vocab(vocab)?;
            check_text(grammar)?;
            let text = c_string("grammar", grammar)?;
            let root = c_string("grammar's root", root)?;
            SamplerHandle::grammar(vocab.model().handle(), &text, &root)
                .map(Stage::Grammar)
                .map_err(|failure| refused(failure, "llama_sampler_init_grammar"))
        })
    }

    /// As [`grammar`](Self::grammar), from the point on where one of these patterns is found
    /// in the text accepted so far, or one of these tokens is accepted; before, everything
    /// is allowed.
    ///
    /// Patterns are regular expressions of `std::regex`, searched for anywhere. The
    /// grammar's text begins with the first group that matched, or with the match. A
    /// pattern cannot repeat without bound (`*`, `+`): std::regex could overflow the stack
    /// on a long text.
    ///
    /// Rests on `llama_sampler_init_grammar_lazy_patterns`.
    pub fn grammar_lazy(
        self,
        vocab: &Vocab,
        grammar: &str,
        root: &str,
        patterns: &[&str],
        tokens: &[Token],
    ) -> Self {
        self.stage(|chain| {
            chain.use_vocab(vocab)?;
            check_text(grammar)?;
            if patterns.is_empty() && tokens.is_empty() {
                return Err(SamplerError::NoTrigger.into());
            }
            for &token in tokens {
                vocab.check(token)?;
            }
            let text = c_string("grammar", grammar)?;
            let root = c_string("grammar's root", root)?;
            let mut triggers = Vec::with_capacity(patterns.len());
            for &pattern in patterns {
                let trigger = c_string("trigger pattern", pattern)?;
                Regex::new(&trigger).map_err(|failure| SamplerError::TriggerPattern {
                    pattern: pattern.to_owned(),
                    reason: failure.reason,
                })?;
                triggers.push(trigger);
            }
            SamplerHandle::grammar_lazy(vocab.model().handle(), &text, &root, &triggers, tokens)
                .map(Stage::Grammar)
                .map_err(|failure| refused(failure, "llama_sampler_init_grammar_lazy_patterns"))
        })
    }
}

/// llama.cpp takes an empty grammar for one that allows everything.
fn check_text(grammar: &str) -> Result<(), SamplerError> {
    if grammar.is_empty() {
        return Err(SamplerError::Grammar {
            reason: "it is empty, and would allow everything".to_owned(),
        });
    }
    Ok(())
}

fn refused(failure: Failure, call: &'static str) -> Error {
    match failure.kind {
        FailureKind::OutOfMemory | FailureKind::Unsupported => failure.of(call),
        _ => SamplerError::Grammar {
            reason: failure.reason,
        }
        .into(),
    }
}
