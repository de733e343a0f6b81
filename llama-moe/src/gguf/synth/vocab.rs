//! A vocabulary of any size, which llama.cpp takes as a byte-level BPE one.
//!
//! Every text can be spelt in it: the 256 bytes are tokens, and a few merges make pairs of
//! letters one token, so that a token of English is about two characters long, where one of
//! a real vocabulary has four or five. The rest are made-up words ` w0`, ` w1`, … that stand
//! in for the many tokens of a real one: a model answers with them, but no text is split
//! into them.

use crate::gguf::Value;

/// Frequent pairs, the most frequent first. `Ġ` is how byte-level BPE writes a space.
const MERGES: [(&str, &str); 32] = [
    ("Ġ", "t"),
    ("h", "e"),
    ("i", "n"),
    ("Ġ", "a"),
    ("e", "r"),
    ("o", "n"),
    ("r", "e"),
    ("Ġ", "s"),
    ("a", "t"),
    ("e", "n"),
    ("o", "r"),
    ("Ġt", "he"),
    ("Ġ", "w"),
    ("Ġ", "o"),
    ("e", "s"),
    ("i", "s"),
    ("i", "t"),
    ("Ġ", "c"),
    ("a", "n"),
    ("a", "l"),
    ("n", "d"),
    ("o", "u"),
    ("Ġ", "f"),
    ("Ġ", "p"),
    ("in", "g"),
    ("e", "d"),
    ("Ġ", "b"),
    ("Ġ", "m"),
    ("a", "r"),
    ("l", "e"),
    ("a", "s"),
    ("l", "l"),
];

/// The end of a text, and the marks of a message.
const CONTROL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

/// The fewest tokens of a vocabulary.
pub(super) const MIN: u32 = 256 + MERGES.len() as u32 + CONTROL.len() as u32;

/// `llama_token_type`.
const NORMAL: i32 = 1;
const CONTROL_TYPE: i32 = 3;

const CHAT_TEMPLATE: &str = "{% for message in messages %}\
    <|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n\
    {% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// The metadata of a vocabulary of `n` tokens, at least [`MIN`].
pub(super) fn metadata(n: u32) -> Vec<(String, Value)> {
    let n_words = n.saturating_sub(MIN);
    let end_of_text = 256 + MERGES.len() as u32 + n_words;
    let texts = (0..=u8::MAX)
        .map(|byte| character(byte).to_string())
        .chain(MERGES.iter().map(|(left, right)| format!("{left}{right}")))
        .chain((0..n_words).map(|word| format!("Ġw{word}")))
        .chain(CONTROL.map(str::to_owned));
    let types = (0..end_of_text)
        .map(|_| NORMAL)
        .chain(CONTROL.map(|_| CONTROL_TYPE));
    let merges = MERGES.iter().map(|(left, right)| format!("{left} {right}"));
    let end_of_message = end_of_text + 2;
    [
        ("model", Value::Text("gpt2".to_owned())),
        ("pre", Value::Text("gpt-2".to_owned())),
        ("tokens", Value::Array(texts.map(Value::Text).collect())),
        ("token_type", Value::Array(types.map(Value::I32).collect())),
        ("merges", Value::Array(merges.map(Value::Text).collect())),
        ("bos_token_id", Value::U32(end_of_text)),
        ("eos_token_id", Value::U32(end_of_text)),
        ("eot_token_id", Value::U32(end_of_message)),
        ("padding_token_id", Value::U32(end_of_text)),
        ("add_bos_token", Value::Bool(false)),
    ]
    .into_iter()
    .map(|(key, value)| (format!("tokenizer.ggml.{key}"), value))
    .chain([(
        "tokenizer.chat_template".to_owned(),
        Value::Text(CHAT_TEMPLATE.to_owned()),
    )])
    .collect()
}

/// The character that byte-level BPE writes a byte as: itself where it is printable and no
/// space, else the next one from U+0100 on.
fn character(byte: u8) -> char {
    fn is_printable(byte: u8) -> bool {
        matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)
    }
    if is_printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&byte| !is_printable(byte)).count();
    char::from_u32(0x100 + before as u32).unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_size_has_so_many_tokens_and_each_once() {
        for n in [MIN, MIN + 1, 32_000, 201_088] {
            let keys = metadata(n);
            let get = |key: &str| {
                let key = format!("tokenizer.ggml.{key}");
                let found = keys.iter().find(|(name, _)| *name == key);
                found.unwrap().1.clone()
            };
            let tokens = get("tokens");
            let texts: HashSet<_> = tokens.elements().iter().map(Value::as_str).collect();
            assert_eq!(tokens.elements().len(), n as usize);
            assert_eq!(texts.len(), n as usize);
            assert_eq!(get("token_type").elements().len(), n as usize);
            let id = |key| get(key).as_u64().unwrap() as usize;
            let text = |key| tokens.elements()[id(key)].as_str().unwrap().to_owned();
            assert_eq!(text("eos_token_id"), "<|endoftext|>");
            assert_eq!(text("eot_token_id"), "<|im_end|>");
            for merge in get("merges").elements() {
                let (left, right) = merge.as_str().unwrap().split_once(' ').unwrap();
                let whole = format!("{left}{right}");
                assert!(
                    [left, right, &whole]
                        .iter()
                        .all(|part| texts.contains(&Some(part)))
                );
            }
        }
    }

    #[test]
    fn a_byte_is_written_as_gpt_2_does() {
        assert_eq!(character(b'a'), 'a');
        assert_eq!(character(b' '), 'Ġ');
        assert_eq!(character(b'\n'), 'Ċ');
        assert_eq!(character(0xad), 'Ń');
    }
}
