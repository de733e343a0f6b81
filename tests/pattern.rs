//! Patterns for tensor names: what is refused, and that what is accepted means the same to
//! llama.cpp's loader and to Rust's `regex`.

use llama_moe::{Pattern, PatternError, TensorOverrides};
use proptest::prelude::*;

fn refused(pattern: &str) -> PatternError {
    Pattern::new(pattern).expect_err(pattern)
}

#[test]
fn unusable_patterns_say_why() {
    assert_eq!(refused(""), PatternError::Empty);
    assert!(matches!(
        refused("a\0b"),
        PatternError::Nul { position: 1, .. }
    ));
    assert!(matches!(
        refused("blk.é"),
        PatternError::NotAscii { position: 4, .. }
    ));
    assert!(matches!(refused("("), PatternError::Invalid { .. }));
    assert!(matches!(refused("[z-a]"), PatternError::Invalid { .. }));
    assert!(matches!(refused("*"), PatternError::Invalid { .. }));
    assert!(matches!(refused("a{2,1}"), PatternError::Invalid { .. }));
    let long = "a".repeat(5000);
    assert!(matches!(
        refused(&long),
        PatternError::TooLong { length: 5000, .. }
    ));
    // Deep enough to overflow the stack of a compiler that recurses.
    let deep = format!("{}a{}", "(".repeat(2000), ")".repeat(2000));
    assert!(matches!(refused(&deep), PatternError::Invalid { .. }));
}

#[test]
fn two_meanings_are_none() {
    for (pattern, position) in [
        (r"\Ablk", 0),
        (r"exps\z", 4),
        (r"\p{L}", 0),
        ("[a[b]]", 2),
        ("[]a]", 0),
        ("[^]a]", 0),
        ("[a-z&&b]", 4),
        ("[a--b]", 2),
        (r"[\b]", 1),
    ] {
        match refused(pattern) {
            PatternError::Ambiguous { position: at, .. } => assert_eq!(at, position, "{pattern}"),
            other => panic!("{pattern}: {other:?}"),
        }
    }
    for pattern in [
        r"[[:digit:]]+",
        r"[a\[b]",
        r"[a-]",
        r"[-a]",
        r"[a&b]",
        r"\.ffn_(up|down|gate|gate_up)_(ch|)exps",
        r"blk\.(?!0\.)\d+\.ffn",
        r"\bffn_up\b",
    ] {
        Pattern::new(pattern).expect(pattern);
    }
}

#[test]
fn a_tensor_s_name_matches_itself_alone() {
    let pattern = Pattern::tensor("blk.1.ffn_up.weight").unwrap();
    assert!(pattern.is_match("blk.1.ffn_up.weight"));
    for other in [
        "blk.11.ffn_up.weight",
        "blk.1.ffn_up.weights",
        "blk.1_ffn_up.weight",
        "",
    ] {
        assert!(!pattern.is_match(other), "{other}");
    }
    assert_eq!(Pattern::tensor("").unwrap_err(), PatternError::Empty);
}

#[test]
fn rules_in_text_that_are_none() {
    for (text, says) in [
        ("", "no '='"),
        ("exps", "no '='"),
        ("=CPU", "before"),
        ("exps=", "after"),
        ("exps=CPU,", "no '='"),
        ("(=CPU", "no ECMAScript"),
    ] {
        let error = TensorOverrides::new()
            .with_override_str(text)
            .expect_err(text);
        assert!(error.to_string().contains(says), "{text:?}: {error}");
    }
}

/// Pieces that patterns for tensor names are made of, and pieces that make trouble.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-z0-9_]{1,4}",
        2 => Just(r"\.".to_owned()),
        1 => Just(".".to_owned()),
        1 => Just(r"\d".to_owned()),
        1 => Just(r"\w".to_owned()),
        1 => Just(r"\b".to_owned()),
        1 => "[\\^$]",
        1 => r"\[\^?[a-z]-?[&~\[\]a-z-]{0,3}\]",
        1 => r"\\[a-zA-Z<>/]",
        1 => "[a-z][*+?]",
        1 => r"[a-z]\{[0-2](,[3-4]?)?\}",
        1 => "\\([a-z]{0,2}\\|[a-z]{0,2}\\)",
    ]
}

fn pattern() -> impl Strategy<Value = String> {
    prop::collection::vec(piece(), 1..5).prop_map(|pieces| pieces.concat())
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "blk\\.[0-9]{1,2}\\.ffn_(up|down|gate)(_exps)?\\.(weight|bias)",
        "[a-z0-9_.&~<>/-]{0,12}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn accepted_patterns_mean_the_same_in_both_worlds(
        pattern in pattern(),
        names in prop::collection::vec(name(), 8),
    ) {
        let (Ok(ours), Ok(rust)) = (Pattern::new(&*pattern), regex::Regex::new(&pattern)) else {
            return Ok(());
        };
        for name in names {
            prop_assert_eq!(ours.is_match(&name), rust.is_match(&name), "{} in {:?}", &pattern, name);
        }
    }
}
