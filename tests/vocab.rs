//! Text to tokens and tokens to text, on SentencePiece and byte-level BPE vocabularies.

use std::sync::LazyLock;

use llama_moe::{Error, Model, ModelParams, Token, TokenAttr, Vocab, VocabError, VocabType};
use proptest::prelude::*;

mod support;
use support::gguf::GgufWriter;
use support::layouts::{self, vocabulary_only};
use support::{backend, on_cpu};

const BYTE: Token = Token(layouts::TOKEN_BYTE);
const BOS: Token = Token(layouts::TOKEN_BOS);
const EOS: Token = Token(layouts::TOKEN_EOS);
const IM_START: Token = Token(layouts::TOKEN_IM_START);
const IM_END: Token = Token(layouts::TOKEN_IM_END);

fn load(file: &GgufWriter) -> Model {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vocabulary.gguf");
    file.write(&path);
    Model::load(&backend(), &path, on_cpu().with_vocab_only(true)).expect("a vocabulary")
}

fn spm() -> Vocab {
    static MODEL: LazyLock<Model> = LazyLock::new(|| load(&vocabulary_only()));
    MODEL.vocab()
}

/// How GPT-2 writes a byte.
fn byte_character(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&byte| !printable(byte)).count() as u32;
    char::from_u32(256 + before).expect("a character")
}

/// The bytes, words that begin with a space, and an end, split as `pre` says. llama.cpp
/// takes spaces before punctuation away for `default` and leaves them for `qwen2`.
fn bpe(pre: &str) -> Model {
    let mut tokens: Vec<String> = (0..=255).map(|byte| byte_character(byte).into()).collect();
    let mut merges = Vec::new();
    for word in ["the", "'s", "'re", "'ve", ".", ",", "?", "\u{e9}"] {
        let mut merged = String::from(byte_character(b' '));
        for &byte in word.as_bytes() {
            let next = byte_character(byte);
            merges.push(format!("{merged} {next}"));
            merged.push(next);
            if !tokens.contains(&merged) {
                tokens.push(merged.clone());
            }
        }
    }
    merges.sort();
    merges.dedup();
    let mut kinds = vec![1; tokens.len()];
    tokens.push("<|end|>".to_owned());
    kinds.push(3);
    let end = tokens.len() as u32 - 1;
    let mut file = vocabulary_only();
    file.string("tokenizer.ggml.model", "gpt2")
        .string("tokenizer.ggml.pre", pre)
        .strings("tokenizer.ggml.tokens", &tokens)
        .strings("tokenizer.ggml.merges", &merges)
        .i32s("tokenizer.ggml.token_type", &kinds);
    for key in ["bos", "eos", "eot"] {
        file.u32(&format!("tokenizer.ggml.{key}_token_id"), end);
    }
    for key in ["scores", "unknown_token_id"] {
        file.remove(&format!("tokenizer.ggml.{key}"));
    }
    load(&file)
}

fn cleaning() -> Vocab {
    static MODEL: LazyLock<Model> = LazyLock::new(|| bpe("default"));
    MODEL.vocab()
}

fn verbatim() -> Vocab {
    static MODEL: LazyLock<Model> = LazyLock::new(|| bpe("qwen2"));
    MODEL.vocab()
}

/// WordPiece, which takes spaces away too.
fn wpm() -> Vocab {
    static MODEL: LazyLock<Model> = LazyLock::new(|| {
        let mut file = vocabulary_only();
        // WordPiece has no tokens for bytes.
        let kinds = layouts::vocabulary()
            .into_iter()
            .map(|token| match token.kind {
                layouts::TokenKind::Byte => layouts::TokenKind::Normal as i32,
                kind => kind as i32,
            });
        file.string("tokenizer.ggml.model", "bert")
            .i32s("tokenizer.ggml.token_type", &kinds.collect::<Vec<_>>())
            .u32("tokenizer.ggml.cls_token_id", layouts::TOKEN_BOS as u32)
            .u32(
                "tokenizer.ggml.seperator_token_id",
                layouts::TOKEN_EOS as u32,
            );
        load(&file)
    });
    MODEL.vocab()
}

fn text(vocab: &Vocab, tokens: &[Token]) -> String {
    vocab.detokenize_lossy(tokens, false, false).unwrap()
}

#[test]
fn what_the_vocabulary_says_of_itself() {
    let vocab = spm();
    assert_eq!(vocab.vocab_type(), VocabType::Spm);
    assert_eq!(vocab.n_tokens() as usize, layouts::vocabulary().len());
    assert_eq!(vocab.bos(), Some(BOS));
    assert_eq!(vocab.eos(), Some(EOS));
    assert_eq!(vocab.eot(), Some(IM_END));
    assert_eq!(vocab.nl(), Some(Token(BYTE.0 + 10)));
    assert_eq!(vocab.mask(), None);
    assert_eq!(vocab.fim_prefix(), None);
    assert_eq!(vocab.decoder_start(), None);
    assert!(vocab.adds_bos() && !vocab.adds_eos() && !vocab.adds_sep());
    assert_eq!(vocab.suppress_tokens(), []);
    assert!(vocab.is_eog(EOS) && vocab.is_eog(IM_END) && !vocab.is_eog(BOS));
    assert!(!vocab.is_eog(Token(-1)) && !vocab.is_eog(Token(i32::MAX)));

    let verbatim = verbatim();
    assert_eq!(verbatim.vocab_type(), VocabType::Bpe);
    assert!(!vocab.is_same(&verbatim) && vocab.is_same(&vocab.clone()));
}

#[test]
fn what_it_says_of_tokens() {
    let vocab = spm();
    for (id, token) in layouts::vocabulary().iter().enumerate() {
        let info = vocab.token(Token(id as i32)).unwrap();
        assert_eq!(info.text, token.text);
        assert_eq!(info.score, token.score);
        let attr = match token.kind {
            layouts::TokenKind::Normal => TokenAttr::NORMAL,
            layouts::TokenKind::Unknown => TokenAttr::UNKNOWN,
            layouts::TokenKind::Control => TokenAttr::CONTROL,
            layouts::TokenKind::Byte => TokenAttr::BYTE,
            layouts::TokenKind::Unused => TokenAttr::UNUSED,
        };
        assert!(info.attr.contains(attr), "{token:?} {:?}", info.attr);
        assert_eq!(info.is_control, attr == TokenAttr::CONTROL);
        assert_eq!(info.is_eog, vocab.is_eog(Token(id as i32)));
    }
    assert_eq!(vocab.piece(Token(BYTE.0 + 255), false).unwrap(), [255]);
    assert!(vocab.piece(IM_START, false).unwrap().is_empty());
    assert_eq!(vocab.piece(IM_START, true).unwrap(), b"<|im_start|>");
}

#[test]
fn text_becomes_tokens_and_text_again() {
    let texts = [
        "",
        " ",
        "the expert",
        "  two  spaces ",
        "the\0router\0",
        "naïve 日本語 🦀",
        "\n\t\r",
        "<|im_start|>",
        "\u{0}",
    ];
    for vocab in [spm(), verbatim()] {
        for text in texts {
            let tokens = vocab.tokenize(text, false, false).unwrap();
            let back = vocab.detokenize(&tokens, false, false).unwrap();
            assert_eq!(
                String::from_utf8(back).unwrap(),
                text,
                "{vocab:?} {tokens:?}"
            );
        }
    }
}

#[test]
fn special_tokens_are_added_and_found_only_when_asked_for() {
    let vocab = spm();
    let plain = vocab.tokenize("the", false, false).unwrap();
    let added = vocab.tokenize("the", true, false).unwrap();
    assert_eq!(added.split_first(), Some((&BOS, plain.as_slice())));

    let text = "<|im_start|>the<|im_end|>";
    let tokens = vocab.tokenize(text, true, true).unwrap();
    assert_eq!(tokens[..2], [BOS, IM_START]);
    assert_eq!(tokens.last(), Some(&IM_END));
    let spelt = vocab.tokenize(text, false, false).unwrap();
    assert!(!spelt.contains(&IM_START), "{spelt:?}");

    let shown = vocab.detokenize_lossy(&tokens, false, true).unwrap();
    assert_eq!(shown.replace(' ', ""), "<s><|im_start|>the<|im_end|>");
    let removed = vocab.detokenize_lossy(&tokens, true, true).unwrap();
    assert_eq!(removed.replace(' ', ""), text);
}

#[test]
fn long_texts() {
    // More tokens than the first guess has room for would be tried again.
    let vocab = spm();
    let long = "a".repeat(2 << 20);
    let tokens = vocab.tokenize(&long, false, false).unwrap();
    assert!(tokens.len() > 1 << 20);
    assert_eq!(text(&vocab, &tokens), long);

    // One byte more than llama.cpp can count. Untouched memory is zero, and NUL is text.
    let huge = String::from_utf8(vec![0; 1 << 31]).unwrap();
    let error = vocab.tokenize(&huge, false, false).unwrap_err();
    assert!(
        matches!(error, Error::Vocab(VocabError::TooLong { length, .. }) if length == 1 << 31),
        "{error:?}"
    );
}

#[test]
fn numbers_that_are_no_tokens() {
    let vocab = spm();
    let n_tokens = vocab.n_tokens();
    for number in [-1, i32::MIN, n_tokens as i32, i32::MAX] {
        let token = Token(number);
        let expected = VocabError::NoToken { token, n_tokens };
        let errors = [
            vocab.token(token).unwrap_err(),
            vocab.piece(token, true).unwrap_err(),
            vocab.detokenize(&[BYTE, token], false, false).unwrap_err(),
            vocab.detokenizer().push(token).unwrap_err(),
        ];
        for error in errors {
            assert!(
                matches!(&error, Error::Vocab(found) if *found == expected),
                "{error:?}"
            );
            assert!(error.to_string().contains(&number.to_string()));
        }
    }
    // It is left out, and the text goes on.
    let mut detokenizer = vocab.detokenizer();
    assert!(detokenizer.push(Token(-1)).is_err());
    assert_eq!(detokenizer.push(Token(BYTE.0 + 65)).unwrap(), "A");
}

#[test]
fn a_model_without_a_vocabulary() {
    let mut file = vocabulary_only();
    file.string("tokenizer.ggml.model", "no_vocab");
    let vocab = load(&file).vocab();
    assert_eq!(vocab.vocab_type(), VocabType::None);
    assert_eq!(vocab.bos(), None);
    assert!(!vocab.is_eog(Token(0)));
    let errors = [
        vocab.token(Token(0)).unwrap_err(),
        vocab.piece(Token(0), false).unwrap_err(),
        vocab.tokenize("text", true, true).unwrap_err(),
        vocab.detokenize(&[], false, false).unwrap_err(),
        vocab.detokenizer().push(Token(0)).unwrap_err(),
    ];
    for error in errors {
        assert!(
            matches!(error, Error::Vocab(VocabError::NoVocabulary)),
            "{error:?}"
        );
    }
}

#[test]
fn a_special_token_that_the_model_wants_but_does_not_have() {
    let mut file = vocabulary_only();
    // Out of range, which llama.cpp ignores with a warning, and then has none.
    file.bool("tokenizer.ggml.add_eos_token", true)
        .string("tokenizer.ggml.model", "gpt2")
        .string("tokenizer.ggml.pre", "qwen2")
        .strings::<&str>("tokenizer.ggml.merges", &["a b"])
        .remove("tokenizer.ggml.eos_token_id")
        .u32("tokenizer.ggml.eos_token_id", 1 << 20);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vocabulary.gguf");
    file.write(&path);
    let params = ModelParams::default()
        .with_devices([])
        .with_vocab_only(true);
    let Ok(model) = Model::load(&backend(), &path, params) else {
        return; // Also an answer: what matters is that it is no crash.
    };
    let vocab = model.vocab();
    if vocab.eos().is_none() {
        assert!(vocab.tokenize("a", true, false).is_err());
    }
    assert!(vocab.tokenize("a", false, false).is_ok());
}

/// Pushes all tokens and checks on the way that what came out so far is whole
/// characters of the text to be.
fn streamed(vocab: &Vocab, tokens: &[Token], special: bool) -> String {
    let whole = vocab.detokenize_lossy(tokens, false, special).unwrap();
    let mut detokenizer = vocab.detokenizer().with_special(special);
    let mut streamed = String::new();
    for &token in tokens {
        streamed += &detokenizer.push(token).unwrap();
        assert!(
            whole.starts_with(&streamed),
            "{streamed:?} of {whole:?}: {tokens:?}"
        );
    }
    streamed + &detokenizer.finish().unwrap()
}

#[test]
fn a_character_comes_with_its_last_byte() {
    for vocab in [spm(), verbatim()] {
        // A token of each byte, whatever the vocabulary calls it.
        let byte = |byte: u8| {
            let ids = (0..vocab.n_tokens() as i32).map(Token);
            let mut found = ids.filter(|&token| vocab.piece(token, false).unwrap() == [byte]);
            found.next().expect("a token of each byte")
        };
        let mut detokenizer = vocab.detokenizer();
        let crab = "🦀".as_bytes();
        for &part in &crab[..3] {
            assert_eq!(detokenizer.push(byte(part)).unwrap(), "");
        }
        assert_eq!(detokenizer.push(byte(crab[3])).unwrap(), "🦀");
        // What cannot become a character does not hold up the text, nor get lost.
        assert_eq!(detokenizer.push(byte(0xf0)).unwrap(), "");
        assert_eq!(detokenizer.push(byte(b'a')).unwrap(), "\u{fffd}a");
        assert_eq!(detokenizer.push(byte(0xc3)).unwrap(), "");
        assert_eq!(detokenizer.finish().unwrap(), "\u{fffd}");
    }
}

#[test]
fn words_come_at_once() {
    for vocab in [spm(), verbatim(), cleaning()] {
        let tokens = vocab.tokenize("the the the", false, false).unwrap();
        let mut detokenizer = vocab.detokenizer();
        let parts: Vec<String> = tokens
            .iter()
            .map(|&token| detokenizer.push(token).unwrap())
            .collect();
        assert_eq!(parts.concat(), "the the the");
        assert_eq!(parts.last().map(String::as_str), Some(" the"));
        assert_eq!(detokenizer.finish().unwrap(), "");
    }
}

#[test]
fn only_the_first_space_goes() {
    let vocab = spm();
    let tokens = vocab.tokenize("the", false, false).unwrap();
    let twice = [tokens.clone(), tokens].concat();
    assert_eq!(streamed(&vocab, &twice, false), "the the");
    // After a control token it is not the first word any more, as llama.cpp has it.
    let after = [vec![BOS], twice].concat();
    assert_eq!(streamed(&vocab, &after, false), " the the");
}

#[test]
fn spaces_before_punctuation() {
    let vocab = cleaning();
    for (text, cleaned) in [
        ("a ? b : c", "a? b : c"),
        ("it 's we 're you 've", "it's we're you've"),
        ("a ' b", "a'b"),
        ("so 'x ", "so 'x "),
        ("no . ' , ", "no. ', "),
    ] {
        let tokens = vocab.tokenize(text, false, false).unwrap();
        assert_eq!(streamed(&vocab, &tokens, false), cleaned);
        let mut kept = vocab.detokenizer().with_spaces_kept(true);
        let parts = tokens.iter().map(|&token| kept.push(token).unwrap());
        let kept_text: String = parts.collect();
        assert_eq!(kept_text + &kept.finish().unwrap(), text);
        assert_eq!(streamed(&verbatim(), &tokens, false), text);
    }
}

/// Every short text of the characters that decide about spaces, a token for each.
#[test]
fn every_way_of_putting_spaces() {
    let vocab = cleaning();
    let characters = b" '.srea";
    let mut texts: Vec<Vec<Token>> = vec![Vec::new()];
    for _ in 0..5 {
        let longer = texts.iter().flat_map(|text| {
            let with = |&byte| [text.as_slice(), &[Token(i32::from(byte))]].concat();
            characters.iter().map(with)
        });
        texts = longer.collect();
        for tokens in &texts {
            assert_eq!(
                streamed(&vocab, tokens, false),
                text(&vocab, tokens),
                "{tokens:?}"
            );
        }
    }
}

proptest! {
    #[test]
    fn streamed_text_is_the_whole_text(
        numbers in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
        special: bool,
    ) {
        for vocab in [spm(), verbatim(), cleaning(), wpm()] {
            let n_tokens = vocab.n_tokens() as usize;
            let tokens: Vec<Token> =
                numbers.iter().map(|number| Token(number.index(n_tokens) as i32)).collect();
            let whole = vocab.detokenize_lossy(&tokens, false, special).unwrap();
            prop_assert_eq!(streamed(&vocab, &tokens, special), whole, "{:?} {:?}", vocab, tokens);
        }
    }

    #[test]
    fn any_text_comes_back(text: String) {
        for vocab in [spm(), verbatim()] {
            let tokens = vocab.tokenize(&text, false, false).unwrap();
            prop_assert_eq!(&vocab.detokenize_lossy(&tokens, false, false).unwrap(), &text);
        }
    }
}
