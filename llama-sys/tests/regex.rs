//! The loader's own regular expressions: `std::regex`, ECMAScript.

use std::ptr;

use llama_sys as sys;

mod support;
use support::{Failure, gguf::c_string, guarded};

/// A compiled pattern, freed on drop.
struct Pattern(*mut sys::llama_shim_regex);

impl Pattern {
    fn new(pattern: &str) -> Result<Self, Failure> {
        let pattern = c_string(pattern);
        let mut regex = ptr::null_mut();
        guarded(|error| {
            // SAFETY: a NUL-terminated pattern, out-parameters of this frame.
            unsafe { sys::llama_shim_regex_new(pattern.as_ptr(), &mut regex, error) }
        })?;
        Ok(Self(regex))
    }

    fn search(&self, text: &str) -> Option<std::ops::Range<usize>> {
        let text = c_string(text);
        let (mut matched, mut begin, mut end) = (false, 0, 0);
        guarded(|error| {
            // SAFETY: a live pattern, a NUL-terminated text.
            unsafe {
                sys::llama_shim_regex_search(
                    self.0,
                    text.as_ptr(),
                    &mut matched,
                    &mut begin,
                    &mut end,
                    error,
                )
            }
        })
        .expect("a search");
        matched.then_some(begin..end)
    }
}

impl Drop for Pattern {
    fn drop(&mut self) {
        // SAFETY: owned.
        unsafe { sys::llama_shim_regex_free(self.0) }
    }
}

#[test]
fn a_search_is_the_loaders() {
    let experts = Pattern::new(r"\.ffn_(up|down|gate|gate_up)_(ch|)exps").expect("a pattern");
    assert_eq!(experts.search("blk.3.ffn_gate_exps.weight"), Some(5..19));
    assert!(experts.search("blk.3.ffn_gate_up_exps.weight").is_some());
    assert!(experts.search("blk.3.ffn_gate_inp.weight").is_none());
    assert!(experts.search("blk.3.ffn_up_shexp.weight").is_none());
    // Unanchored, and ECMAScript: `.` is any character.
    assert_eq!(
        Pattern::new("k.1")
            .expect("a pattern")
            .search("blk.1.attn_q.weight"),
        Some(2..5)
    );
}

#[test]
fn the_librarys_message_arrives() {
    for pattern in ["blk\\.(0|1", "[a", "a{2,1}", "*a", "\\"] {
        let Err(failure) = Pattern::new(pattern) else {
            panic!("{pattern} compiles")
        };
        assert_eq!(
            failure.status,
            sys::LLAMA_SHIM_EXCEPTION,
            "{pattern}: {}",
            failure.text
        );
        let (ours, theirs) = failure.text.split_once(": ").expect("two parts");
        assert_eq!(ours, "not a valid regular expression");
        assert!(theirs.len() > 10, "{pattern}: {theirs}");
    }
    // Every C++ library has words of its own; this one is in all of them.
    let Err(failure) = Pattern::new("(") else {
        panic!("it compiles")
    };
    assert!(
        failure.text.to_lowercase().contains("mismatched"),
        "{}",
        failure.text
    );
}

#[test]
fn patterns_that_would_exhaust_the_stack_are_refused() {
    let deep = "(".repeat(10_000) + &")".repeat(10_000);
    let long = "a?".repeat(50_000);
    let repeated = "(a{100}){100}";
    for pattern in [deep.as_str(), long.as_str(), repeated] {
        let Err(failure) = Pattern::new(pattern) else {
            panic!("it compiles")
        };
        assert_eq!(
            failure.status,
            sys::LLAMA_SHIM_INVALID_ARGUMENT,
            "{}",
            failure.text
        );
    }
    // What is let through fits the 2 MiB stack of a thread: returning at all is the test.
    let text = "a".repeat(sys::LLAMA_SHIM_REGEX_MAX_TEXT as usize);
    let linear = Pattern::new("(abc|a)*z").expect("a pattern within the limits");
    assert!(linear.search(&text).is_none());
    for pattern in ["(a|b|c)*d", "(a?)*b", "((a|aa)+)?z"] {
        if let Ok(regex) = Pattern::new(pattern) {
            let text = text.clone();
            let length = text.len().min(20); // the last pattern takes exponential time
            assert!(regex.search(&text[..length]).is_none());
        }
    }
}

#[test]
fn the_largest_patterns_fit_the_stack_of_a_thread() {
    let text = "a".repeat(sys::LLAMA_SHIM_REGEX_MAX_TEXT as usize);
    for atom in [
        "a?", "(a)?", "(?=a)", "(a|b)?", "[ab]?", "a*", "(a*)?", "(b|a)*", "a",
    ] {
        // The largest number of atoms that is not refused.
        let (mut largest, mut refused) = (0, sys::LLAMA_SHIM_REGEX_MAX_LENGTH as usize + 1);
        while refused - largest > 1 {
            let n = (largest + refused) / 2;
            match Pattern::new(&atom.repeat(n)) {
                Ok(_) => largest = n,
                Err(failure) => {
                    assert_eq!(failure.status, sys::LLAMA_SHIM_INVALID_ARGUMENT, "{atom}");
                    refused = n;
                }
            }
        }
        assert!(largest > 16, "{atom}: only {largest} are allowed");
        let pattern = Pattern::new(&atom.repeat(largest)).expect("a pattern within the limits");
        // Returning at all is the test: these match from the start, or nowhere.
        let expected = if atom == "a" { None } else { Some(0) };
        let found = pattern.search(&text).map(|range| range.start);
        assert_eq!(found, expected, "{largest} of {atom}");
    }
}
