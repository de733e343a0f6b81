//! Grammars that llama.cpp's parser or sampler would not survive.

use std::ptr;

use llama_sys as sys;

mod support;
use support::{Failure, Model, gguf, guarded, model_params};

fn vocabulary() -> (tempfile::TempDir, Model) {
    let (dir, path) = support::moe_model();
    let params = sys::llama_model_params {
        vocab_only: true,
        ..model_params()
    };
    let model = Model::load(&path, &params).expect("the test model's vocabulary loads");
    (dir, model)
}

fn sampler(model: &Model, grammar: &[u8]) -> Result<(), Failure> {
    let grammar = std::ffi::CString::new(grammar).expect("no NUL");
    let root = gguf::c_string("root");
    let mut sampler = ptr::null_mut();
    guarded(|error| {
        // SAFETY: a live vocabulary, NUL-terminated texts, an out-parameter of this frame.
        unsafe {
            sys::llama_shim_sampler_init_grammar(
                sys::llama_model_get_vocab(model.0),
                grammar.as_ptr(),
                root.as_ptr(),
                &mut sampler,
                error,
            )
        }
    })?;
    // SAFETY: owned.
    unsafe { sys::llama_sampler_free(sampler) }
    Ok(())
}

#[test]
#[cfg(not(feature = "system"))]
fn grammars_that_would_fill_the_memory_are_refused() {
    let (_dir, model) = vocabulary();
    for grammar in [
        // The parser makes rules until 2 - 5 of them are there.
        "root ::= \"a\"{5,2}",
        "root ::= (\"a\"{ 5 , # at most\n 2 })",
        "root ::= (\"a\"{3,0})",
        // Left-recursive past a rule that is empty by way of another, with something to match
        // each time around.
        "root ::= maybe root \"x\" | \"y\"\nmaybe ::= other\nother ::= \"z\" |",
        "root ::= a\na ::= (\"z\"?) b \"x\" | \"y\"\nb ::= (\"z\"*) a",
    ] {
        let failure = sampler(&model, grammar.as_bytes()).expect_err(grammar);
        assert_eq!(
            failure.status,
            sys::LLAMA_SHIM_INVALID_ARGUMENT,
            "{grammar}: {}",
            failure.text
        );
    }
    // Numbers in order, and recursion that leaves nothing to match, are no reason.
    for grammar in [
        "root ::= \"a\"{2,5} \"b\"{3,} \"c\"{4} \"d\"{0,0}",
        "root ::= \"a\"{002,10}",
        "root ::= \"{5,2}\" [{5,2}] # {5,2}",
        "root ::= ((\"a\"*)*)* \"b\"",
        "root ::= blank root | \"y\"\nblank ::= [ ]*",
        "root ::= \"(\" root \")\" | \"\"",
    ] {
        if let Err(failure) = sampler(&model, grammar.as_bytes()) {
            panic!("{grammar}: {}", failure.text);
        }
    }
}

#[test]
fn nesting_cannot_hide_from_the_limit() {
    let (_dir, model) = vocabulary();
    let deep = "(".repeat(200_000);
    // What comes before the parentheses looks like the begin of a text, and is the end of one:
    // the parser takes the quote after an incomplete character for a part of it.
    for start in [
        &b"root ::= "[..],
        b"root ::= \"\xC3\" x \"",
        b"root ::= <\\>",
    ] {
        let grammar = [start, deep.as_bytes()].concat();
        let failure = sampler(&model, &grammar).expect_err("it is too deep");
        assert_eq!(
            failure.status,
            sys::LLAMA_SHIM_INVALID_ARGUMENT,
            "{}",
            failure.text
        );
        assert!(failure.text.contains("parentheses"), "{}", failure.text);
    }
}
