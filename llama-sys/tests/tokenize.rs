//! Texts that a vocabulary's pattern takes for one long match: `std::regex` recurses once per
//! character of it, further than the stack of an ordinary thread goes.

use llama_sys as sys;

mod support;
use support::{Model, gguf, guarded, model_params};

/// Vocabularies that llama.cpp splits by `std::regex`, at least in part.
const PATTERNS: [&str; 24] = [
    "afmoe",
    "bailingmoe",
    "chameleon",
    "deepseek-coder",
    "deepseek-llm",
    "deepseek-v3",
    "default",
    "exaone-moe",
    "falcon",
    "gpt-4o",
    "granite-embed-multi-97m",
    "jais-2",
    "minicpm5",
    "minimax-m2",
    "poro-chat",
    "seed-coder",
    "spark2_5",
    "starcoder",
    "superbpe",
    "tekken",
    "tiny_aya",
    "ufakzeka",
    "viking",
    "youtu",
];

fn n_tokens(model: &Model, text: &str) -> usize {
    let mut n_tokens = 0;
    guarded(|error| {
        // SAFETY: a live vocabulary, a text with its length, no room for tokens.
        unsafe {
            sys::llama_shim_tokenize(
                sys::llama_model_get_vocab(model.0),
                text.as_ptr().cast(),
                text.len() as i32,
                std::ptr::null_mut(),
                0,
                false,
                false,
                &mut n_tokens,
                error,
            )
        }
    })
    .expect("tokens");
    n_tokens as usize
}

#[test]
fn long_matches_do_not_overflow_the_stack() {
    // Letters, marks and spaces of several kinds; a sentence without an end, which is one match
    // for exaone-moe; slashes at the ends of lines, which are one for gpt-4o and tekken.
    let units = [
        "a",
        "A",
        "aB",
        " ",
        "\n",
        "-",
        "中",
        "a\u{301}",
        "the expert ",
        "\u{3000} ",
        "/\n",
    ];
    let texts = units.map(|unit| unit.repeat((32 << 10) / unit.len()));
    let dir = tempfile::tempdir().expect("a scratch folder");
    let params = sys::llama_model_params {
        vocab_only: true,
        ..model_params()
    };
    for pattern in PATTERNS {
        let path = dir.path().join(pattern);
        gguf::Writer::bpe(pattern).write(&path);
        let model = Model::load(&path, &params).expect("a vocabulary");
        for text in &texts {
            // A token for each byte; that the call returns at all is the rest of the test.
            assert_eq!(n_tokens(&model, text), text.len(), "{pattern}");
        }
    }
}
